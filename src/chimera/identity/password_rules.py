"""New passwords: what a person's organisations ask of them, and putting them in place.

Somebody of several organisations is held to the strictest rule of each. A password is never the
present one again, nor one of the last few where an organisation says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimera.call import Call
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, Violation
from chimera.identity.one_time import spend_others
from chimera.identity.passwords import (
    CHARACTERS_MIN,
    CHARACTERS_MIN_FACTOR,
    Hasher,
    check_password,
)
from chimera.ids import new_id
from chimera.pools import Database

# Kept, so that an organisation that begins to ask has something to compare with.
HISTORY_KEPT = 10


@dataclass(frozen=True, slots=True, repr=False)
class Rules:
    """The strictest of all organisations of a person, and the hashes not to use again."""

    characters_min: int
    classes_min: int
    history: int
    has_second_factor: bool
    password_hash: str | None
    old_hashes: list[str]


@dataclass(frozen=True, slots=True)
class OrganisationsRules:
    """Of one organisation, for somebody who is about to join it."""

    characters_min: int
    classes_min: int


FIND_RULES = sql(Rules, "SELECT * FROM identity.password_rules(%(user_id)s)")

FIND_ORGANISATION_RULES = sql(
    OrganisationsRules, "SELECT * FROM identity.organisation_rules(%(org_id)s)"
)

SET_PASSWORD = sql(
    datetime,
    """
    WITH old AS (
        SELECT id, password_hash FROM identity.users WHERE id = %(user_id)s FOR NO KEY UPDATE
    ), kept AS (
        INSERT INTO identity.password_history (id, user_id, password_hash)
        SELECT %(history_id)s::uuid, id, password_hash FROM old WHERE password_hash IS NOT NULL
    )
    UPDATE identity.users u
       SET password_hash = %(password_hash)s, password_changed_at = clock_timestamp(),
           failed_login_attempts = 0, locked_until = NULL
      FROM old WHERE u.id = old.id
    RETURNING u.password_changed_at
    """,
)

PRUNE_HISTORY = sql(
    Nothing,
    """
    DELETE FROM identity.password_history
     WHERE user_id = %(user_id)s
       AND id NOT IN (SELECT id FROM identity.password_history WHERE user_id = %(user_id)s
                       ORDER BY replaced_at DESC LIMIT %(kept)s)
    """,
)


async def rules_of(db: Database, call: Call, user_id: str) -> Rules:
    """Raises NotFound(USER_NOT_FOUND)."""
    async with db.look(call) as tx:
        rules = await tx.one(FIND_RULES, user_id=user_id)
    if rules is None:
        raise NotFound("USER_NOT_FOUND", f"There is no user {user_id}.")
    return rules


async def check_joining(db: Database, call: Call, org_id: str, password: str, *names: str) -> None:
    """For a first password, in the organisation that is joined (or made: no rules of its own yet).
    Raises Invalid(PASSWORD_TOO_WEAK)."""
    async with db.look(call) as tx:
        rules = await tx.one(FIND_ORGANISATION_RULES, org_id=org_id)
    check_password(
        password,
        names=names,
        characters_min=max(CHARACTERS_MIN, rules.characters_min if rules else 0),
        classes_min=rules.classes_min if rules else 0,
    )


async def hash_new_password(hasher: Hasher, rules: Rules, password: str, *names: str) -> str:
    """The hash of a password that the rules allow.

    Costs one Argon2 for each hash it is compared with. Raises Invalid: PASSWORD_TOO_WEAK,
    PASSWORD_USED_BEFORE; Exhausted(SERVER_BUSY).
    """
    floor = CHARACTERS_MIN_FACTOR if rules.has_second_factor else CHARACTERS_MIN
    check_password(
        password,
        names=names,
        characters_min=max(floor, rules.characters_min),
        classes_min=rules.classes_min,
    )
    for stored in (rules.password_hash, *rules.old_hashes):
        if stored is not None and await hasher.verify(stored, password):
            message = "This password was used before; choose another."
            raise Invalid(
                "PASSWORD_USED_BEFORE", message, violations=[Violation("password", message)]
            )
    return await hasher.hash(password)


async def set_password(tx: Tx, user_id: str, password_hash: str) -> None:
    """Puts it in place, keeps the old one's hash, lifts locks, and ends logins that are half-way,
    links to choose a password, and a change of address that somebody asked for."""
    await tx.one(SET_PASSWORD, user_id=user_id, password_hash=password_hash, history_id=new_id())
    await tx.run(PRUNE_HISTORY, user_id=user_id, kept=HISTORY_KEPT)
    await spend_others(tx, user_id, "login", "password_reset", "email_change")
