"""Coming back: an account that belongs to no organisation any more is taken up by a mailed invitation.

Nobody can sign in to such an account or manage it, and its address stays taken. Who reads its mailbox
chooses a new password, as by a link for one. The inviting organisation is its home from then on, and
what the one before decided about it (disabled, deleted) is over.
"""

from __future__ import annotations

from dataclasses import dataclass

from chimera import mail
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import ANONYMOUS, Call
from chimera.db import Nothing, Tx, sql
from chimera.identity.calls import as_caller
from chimera.identity.departures import end_keys
from chimera.identity.organisations import LIST_OWN
from chimera.identity.password_rules import set_password
from chimera.identity.sessions import end_sessions, forget_devices
from chimera.identity.taking_over import take_over
from chimera.identity.users import INSERT_MEMBERSHIP, TAKEN
from chimera.pools import Database


@dataclass(frozen=True, slots=True)
class Unattached:
    """An account of no organisation, and whether its owner ever proved the mailbox."""

    user_id: str
    is_proven: bool


FIND_UNATTACHED = sql(Unattached, "SELECT * FROM identity.find_unattached(%(email)s)")

TAKE_UP = sql(
    Nothing,
    """
    UPDATE identity.users
       SET username = %(username)s, display_name = COALESCE(NULLIF(%(display_name)s, ''), display_name),
           state = 'active', deleted_at = NULL, home_org_id = %(org_id)s,
           email_verified_at = COALESCE(email_verified_at, clock_timestamp()),
           authz_epoch = authz_epoch + 1
     WHERE id = %(user_id)s AND lower(email) = lower(%(email)s) AND erased_at IS NULL
    """,
)


async def find_unattached(db: Database, call: Call, email: str) -> Unattached | None:
    """Whose the address is, if they belong nowhere."""
    async with db.look(as_caller(call, ANONYMOUS, audited=False)) as tx:
        return await tx.one(FIND_UNATTACHED, email=email)


async def take_up(
    tx: Tx,
    account: Unattached,
    *,
    email: str,
    username: str,
    display_name: str,
    password_hash: str,
) -> None:
    """The caller is the account's owner, in the organisation that invites them with their role there.
    Raises AlreadyExists(EMAIL_TAKEN) when they belong somewhere meanwhile; UniqueViolation: see
    users.taken."""
    caller, user_id = tx.call.caller, account.user_id
    await tx.run(INSERT_MEMBERSHIP, org_id=caller.org_id, user_id=user_id, role=caller.role)
    is_theirs = await tx.run(
        TAKE_UP,
        user_id=user_id,
        org_id=caller.org_id,
        email=email,
        username=username,
        display_name=display_name,
    )
    # The row is held now: of two invitations at once the second one sees the first.
    if not is_theirs or len(await tx.all(LIST_OWN, org_id=caller.org_id)) != 1:
        raise TAKEN["users_email"]
    await set_password(tx, user_id, password_hash)
    await end_sessions(tx, user_id, "password_reset")
    if not account.is_proven:
        await take_over(tx, user_id)
    await end_keys(tx, user_id)  # of a time when they belonged here before
    await forget_devices(tx)
    await mail.ask(tx, "security_notice", user_id=user_id, what="password_changed")
    record(tx, "password.reset", "user", user_id, severity=Severity.NOTICE, kind=Kind.SECURITY)
