"""Export: everything held about a person as one JSON document, without secrets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from chimera.audit import personal as audit
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.campaigns import personal as campaigns
from chimera.core import Core
from chimera.faults import Exhausted
from chimera.federation import personal as federation
from chimera.identity import personal as identity
from chimera.providers import personal as providers
from chimera.templates import personal as templates
from chimera.v1.options_pb2 import Access

# In each of the person's organisations.
PARTS = (
    identity.personal_data,
    federation.personal_data,
    templates.personal_data,
    campaigns.personal_data,
    providers.personal_data,
    audit.personal_data,
)


async def export_person(core: Core, call: Call) -> bytes:
    """Of the caller. Reads each organisation as a member of it sees it.

    Raises Exhausted(SERVER_BUSY) when it is too large for one answer.
    """
    user_id = call.caller.user_id
    own = replace(call, access=Access())
    async with core.db.begin(call) as tx:
        document: dict[str, Any] = {
            "exported_at": datetime.now(UTC),
            **await identity.person(tx, user_id),
            "organisations": await identity.own_organisations(tx),
        }
        record(
            tx,
            "privacy.export",
            "user",
            user_id,
            severity=Severity.NOTICE,
            kind=Kind.ACCESS,
        )
    for organisation in document["organisations"]:
        there = replace(own.caller, org_id=organisation["id"], role=organisation["role"])
        async with core.db.begin(replace(own, caller=there)) as tx:
            for part in PARTS:
                organisation |= await part(tx, user_id)
    text = orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2)
    if len(text) > core.settings.message_bytes_max - 10_000:
        raise Exhausted(
            "SERVER_BUSY", "There is more than fits one answer; ask your administrator for it."
        )
    return text
