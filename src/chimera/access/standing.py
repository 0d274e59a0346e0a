"""What somebody may do now who is not there: for work that was asked for earlier."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from chimera.access.explaining import FIND_KEY, FIND_PERSON, held_of
from chimera.call import Call, Caller
from chimera.faults import Denied
from chimera.identity.decisions import Circumstances, decide
from chimera.identity.things import find_thing
from chimera.pools import Database
from chimera.v1.options_pb2 import Permission


async def standing_of(
    db: Database,
    *,
    org_id: str,
    user_id: str,
    api_key_id: str,
    permission: int,
    thing: tuple[str, str],
) -> Caller:
    """The caller they would be, with the permission about the thing (noun, id). Conditions on an
    address or on a fresh sign-in do not hold. api_key_id: empty for none.

    Raises Denied: ACCOUNT_DISABLED, API_KEY_NOT_ACTIVE, PERMISSION_MISSING.
    """
    now = datetime.now(UTC)
    whose = {"org_id": org_id, "user_id": user_id}
    async with db.begin(Call.by_worker("standing_of", org_id, seconds=10)) as tx:
        person = await tx.one(FIND_PERSON, **whose)
        key = None
        if api_key_id:
            key = await tx.one(FIND_KEY, **whose, api_key_id=api_key_id, at=now)
    if person is None or person.state != "active":
        raise Denied("ACCOUNT_DISABLED", "Who asked for it is not an active member any more.")
    if api_key_id and (key is None or not key.is_usable):
        raise Denied(
            "API_KEY_NOT_ACTIVE", "The API key it was asked for with is not valid any more."
        )
    held = held_of(person, key)
    seen = Circumstances(at=now, address="", signed_in_at=None)
    caller = Caller(
        "api_key" if api_key_id else "user",
        org_id=org_id,
        user_id=user_id,
        api_key_id=api_key_id,
        role=person.role,
        permissions=held.now(seen) | {permission},
        held=held,
    )
    async with db.begin(Call(caller, "standing_of", time.monotonic() + 10)) as tx:
        about = await find_thing(tx, *thing)
    decision = decide(held, permission, Circumstances(now, "", None, things=(about,)))
    if not decision.is_allowed:
        name = Permission.Name(permission).removeprefix("PERMISSION_")
        unmet = ", ".join([*decision.barriers, *decision.unmet])
        said = f" without conditions ({unmet})" if unmet else ""
        raise Denied("PERMISSION_MISSING", f"Who asked for it does not hold {name}{said} any more.")
    return caller
