"""Powers: what somebody may do to whom, and what has to be left when they are taken away.

What must stay true:
- Nobody grants or manages more than they may themselves, by whatever it is held.
- An organisation keeps an administrator who can work, and the installation an operator, also when
  two are taken away at once: who would lessen them holds HOLD_POWERS first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotReady
from chimera.identity.decisions import Held
from chimera.identity.roles import holdings_of, permissions_of
from chimera.v1.identity_pb2 import User
from chimera.v1.options_pb2 import Permission


@dataclass(frozen=True, slots=True)
class Powers:
    """By what somebody may do something in an organisation; `grants` as identity.find_grants."""

    role: str
    is_superuser: bool
    grants: list[dict[str, Any]]


LOCK_ORGANISATION = sql(
    Nothing, "SELECT FROM identity.organisations WHERE id = %(org_id)s FOR NO KEY UPDATE"
)

# As identity.set_superuser and identity.is_last_operator do. One lock for all, for who asks to be erased
# leaves several organisations, whose rows a caller in one of them cannot lock.
HOLD_POWERS = sql(Nothing, "SELECT pg_advisory_xact_lock(hashtext('identity.set_superuser'))")

IS_LAST_OPERATOR = sql(bool, "SELECT identity.is_last_operator(%(user_id)s)")

COUNT_OTHER_ADMINS = sql(
    int,
    """
    SELECT count(*)::int
      FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id
     WHERE m.org_id = %(org_id)s AND m.role = 'admin' AND m.user_id <> %(user_id)s
       AND u.state = 'active' AND u.deleted_at IS NULL AND u.erase_at IS NULL
    """,
)

FIND_POWERS = sql(
    Powers,
    """
    SELECT m.role, u.is_superuser, identity.find_grants(m.org_id, m.user_id) AS grants
      FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id
     WHERE m.org_id = %(org_id)s AND m.user_id = %(user_id)s
    """,
)


def check_may_grant(tx: Tx, role: str) -> None:
    """Raises Denied(PERMISSION_MISSING): nobody grants what they do not hold lastingly. A narrow API
    key, or an administrator until tomorrow, could otherwise make a lasting one."""
    caller = tx.call.caller
    if not caller.is_operator and not permissions_of(role) <= caller.lasting:
        raise Denied("PERMISSION_MISSING", f"The role {role} allows more than this caller may do.")


async def may_invite(tx: Tx, user_id: str, role: str) -> bool:
    """Whether somebody could still invite to a role as `check_may_grant` has it: grants end, too."""
    powers = await tx.one(FIND_POWERS, org_id=tx.call.caller.org_id, user_id=user_id)
    if powers is None or powers.is_superuser:
        return powers is not None
    held = Held(user_id, holdings_of(powers.role, is_operator=False, grants=powers.grants))
    now, invites = datetime.now(UTC), Permission.PERMISSION_INVITATION_MANAGE
    return permissions_of(role) <= held.lasting and any(
        invites in holding.permissions and not holding.is_over(now) for holding in held.holdings
    )


async def check_may_manage(tx: Tx, user: User) -> None:
    """Raises Denied(PERMISSION_MISSING) for somebody who may do more than the caller lastingly may:
    by their role or a grant, be it on conditions, or as an operator whose account is managed here. A
    guest's mark is the installation's matter, the membership this organisation's."""
    caller = tx.call.caller
    powers = await tx.one(FIND_POWERS, org_id=caller.org_id, user_id=user.id)
    if powers is None or caller.is_operator:
        return
    is_operator = powers.is_superuser and user.is_managed_here
    held = holdings_of(powers.role, is_operator=is_operator, grants=powers.grants)
    if any(not holding.permissions <= caller.lasting for holding in held):
        raise Denied("PERMISSION_MISSING", "This user may do more than you may yourself.")


async def check_not_last_admin(tx: Tx, user_id: str) -> None:
    """Raises NotReady(LAST_ADMIN) unless somebody else administers the organisation. Holds until
    the end of the transaction; lock the organisation before its users."""
    org_id = tx.call.caller.org_id
    await tx.run(HOLD_POWERS)
    await tx.run(LOCK_ORGANISATION, org_id=org_id)
    if not await tx.one(COUNT_OTHER_ADMINS, org_id=org_id, user_id=user_id):
        raise NotReady(
            "LAST_ADMIN", "The organisation needs an administrator; make somebody else one first."
        )


async def check_not_last_operator(tx: Tx, user_id: str) -> None:
    """Raises NotReady(LAST_ADMIN) for the installation's only operator who can work. Holds
    HOLD_POWERS until the end of the transaction."""
    if await tx.one(IS_LAST_OPERATOR, user_id=user_id):
        raise NotReady(
            "LAST_ADMIN", "The installation needs an operator; make somebody else one first."
        )
