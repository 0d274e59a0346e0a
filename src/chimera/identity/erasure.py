"""Erasure: a person asks to be forgotten, and after a time of grace is.

What stays: the row with its id, without a name, because others' work refers to it, and the leaves of
the log. What goes: address, names, password, factor, devices, sessions' whereabouts, keys, links to
accounts elsewhere, and the values in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimera import mail
from chimera.audit.erasure import erase_subject
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.identity.powers import check_not_last_operator


@dataclass(frozen=True, slots=True)
class Due:
    """Somebody whose time of grace is over."""

    user_id: str
    org_id: str | None
    org_ids: list[str]


SOLE_ADMIN_OF = sql(list, "SELECT identity.sole_admin_of()")

REQUEST_ERASURE = sql(
    datetime,
    """
    UPDATE identity.users
       SET erase_at = COALESCE(erase_at, clock_timestamp() + make_interval(days => %(grace_days)s))
     WHERE id = %(user_id)s
    RETURNING erase_at
    """,
)

CANCEL_ERASURE = sql(
    Nothing,
    """
    UPDATE identity.users SET erase_at = NULL
     WHERE id = %(user_id)s AND erase_at IS NOT NULL AND erased_at IS NULL
    """,
)

LIST_DUE = sql(
    Due,
    """
    SELECT id AS user_id, home_org_id AS org_id, identity.organisations_of(id)::text[] AS org_ids
      FROM identity.users
     WHERE erase_at <= clock_timestamp() AND erased_at IS NULL
     ORDER BY erase_at LIMIT 100
    """,
)

FIND_EMAIL = sql(
    str,
    """
    SELECT email FROM identity.users
     WHERE id = %(user_id)s AND erase_at <= clock_timestamp() AND erased_at IS NULL FOR NO KEY UPDATE
    """,
)

# In the order of their keys' tables; each is safe to run again.
ERASE_USER = sql(
    Nothing,
    """
    UPDATE identity.users
       SET email = 'erased-' || id || '@erased.invalid', username = 'erased-' || id, display_name = '',
           picture_url = '', password_hash = NULL, password_changed_at = NULL, preferences = '{}',
           metadata = '{}', totp_sealed = NULL, totp_confirmed_at = NULL, email_verified_at = NULL,
           last_login_at = NULL, failed_login_attempts = 0, locked_until = NULL, is_superuser = false,
           state = 'disabled', authz_epoch = authz_epoch + 1, erased_at = clock_timestamp(),
           deleted_at = COALESCE(deleted_at, clock_timestamp())
     WHERE id = %(user_id)s
    """,
)

ERASE_SESSIONS = sql(
    Nothing,
    """
    UPDATE identity.sessions
       SET is_active = false, ended_reason = 'erased', ended_at = COALESCE(ended_at, clock_timestamp()),
           ip_address = NULL, user_agent = '', device_info = '{}'
     WHERE user_id = %(user_id)s
    """,
)

ERASE_REFRESH_TOKENS = sql(
    Nothing, "DELETE FROM identity.refresh_tokens WHERE user_id = %(user_id)s"
)

ERASE_API_KEYS = sql(
    Nothing,
    """
    UPDATE identity.api_keys
       SET is_active = false, name = '', metadata = '{}', source_networks = '{}', last_used_ip = NULL
     WHERE user_id = %(user_id)s
    """,
)

ERASE_DEVICES = sql(Nothing, "DELETE FROM identity.devices WHERE user_id = %(user_id)s")

ERASE_RECOVERY_CODES = sql(
    Nothing, "DELETE FROM identity.recovery_codes WHERE user_id = %(user_id)s"
)

ERASE_HISTORY = sql(Nothing, "DELETE FROM identity.password_history WHERE user_id = %(user_id)s")

ERASE_TOKENS = sql(Nothing, "DELETE FROM identity.one_time_tokens WHERE user_id = %(user_id)s")

ERASE_TEAMS = sql(Nothing, "DELETE FROM identity.team_members WHERE user_id = %(user_id)s")

# Who somebody is elsewhere.
ERASE_LINKS = sql(Nothing, "DELETE FROM identity.linked_identities WHERE user_id = %(user_id)s")

ERASE_REGISTRATIONS = sql(
    Nothing, "DELETE FROM identity.registrations WHERE lower(email) = lower(%(email)s)"
)

ERASE_INVITATIONS = sql(
    Nothing,
    """
    UPDATE identity.invitations
       SET email = 'erased@erased.invalid', code_hash = NULL,
           revoked_at = COALESCE(revoked_at, clock_timestamp())
     WHERE email = lower(%(email)s)
    """,
)

OF_THE_PERSON = (
    ERASE_USER,
    ERASE_SESSIONS,
    ERASE_REFRESH_TOKENS,
    ERASE_API_KEYS,
    ERASE_DEVICES,
    ERASE_RECOVERY_CODES,
    ERASE_HISTORY,
    ERASE_TOKENS,
    ERASE_TEAMS,
    ERASE_LINKS,
)


async def request_erasure(core: Core, tx: Tx) -> datetime:
    """When it will be; asking again changes nothing.

    Raises NotReady(LAST_ADMIN) naming organisations that would be left without an administrator, or
    for the last operator.
    """
    user_id = tx.call.caller.user_id
    # First, for it is held: of two who are each other's only successor, one asks in vain.
    await check_not_last_operator(tx, user_id)
    left_alone = await tx.one(SOLE_ADMIN_OF)
    if left_alone:
        names = ", ".join(left_alone)
        raise NotReady("LAST_ADMIN", f"Make somebody else an administrator first, in: {names}.")
    erase_at = await tx.one(
        REQUEST_ERASURE, user_id=user_id, grace_days=core.settings.erasure_grace_days
    )
    assert erase_at is not None
    await mail.ask(tx, "security_notice", user_id=user_id, what="erasure_asked")
    record(
        tx,
        "erasure.request",
        "user",
        user_id,
        new={"erase_at": erase_at.isoformat()},
        severity=Severity.WARNING,
        kind=Kind.SECURITY,
    )
    return erase_at


async def cancel_erasure(tx: Tx) -> None:
    """Raises NotReady(ERASURE_NOT_REQUESTED)."""
    user_id = tx.call.caller.user_id
    if not await tx.run(CANCEL_ERASURE, user_id=user_id):
        raise NotReady("ERASURE_NOT_REQUESTED", "Nobody has asked to erase this account.")
    record(tx, "erasure.cancel", "user", user_id, kind=Kind.SECURITY)


async def list_due(tx: Tx) -> list[Due]:
    """For a worker."""
    return await tx.all(LIST_DUE)


async def erase_person(tx: Tx, user_id: str) -> bool:
    """For a worker, in the person's home organisation; False when it was taken back or is done."""
    email = await tx.one(FIND_EMAIL, user_id=user_id)
    if email is None:
        return False
    for statement in OF_THE_PERSON:
        await tx.run(statement, user_id=user_id)
    await tx.run(ERASE_REGISTRATIONS, email=email)
    await tx.run(ERASE_INVITATIONS, email=email)
    await erase_subject(tx, user_id)  # what the log holds of the person
    record(tx, "user.erase", "user", user_id, severity=Severity.WARNING, kind=Kind.SECURITY)
    return True
