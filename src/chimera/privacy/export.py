"""Export: everything held about a person as JSON, without secrets, in as many parts as it takes.

A part says with its token where the next one goes on: in which list of which organisation, after how
many rows (lists grow at their end), and for the log, which is long, after which event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from chimera.audit import personal as audit
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.campaigns import personal as campaigns
from chimera.core import Core
from chimera.db import Tx
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
)
# Clients refuse messages above 4 MB unless told otherwise.
PART_BYTES = 3_000_000
EVENTS_AT_ONCE = 5_000


@dataclass(slots=True)
class Place:
    """Where a part begins: a list of an organisation (or of none), the rows of it that were given, and
    the last event that was. Empty: at the start."""

    org_id: str = ""
    name: str = ""
    given: int = 0
    event_id: str = ""


@dataclass(slots=True)
class Part:
    """One answer under construction."""

    begins: Place
    bytes_max: int
    document: dict[str, Any] = field(default_factory=dict)
    used: int = 0
    goes_on: Place | None = None

    def add(self, into: dict[str, Any], org_id: str, name: str, rows: Sequence[Any]) -> bool:
        """A list, from where this part begins; False when it is full."""
        begins = self.begins
        if begins.name:
            if (begins.org_id, begins.name) != (org_id, name):
                return True  # given before
            begins.name = ""
        start, begins.given = begins.given, 0
        kept = into.setdefault(name, [])
        for number, row in enumerate(rows[start:], start):
            if not self._fits(kept, row):
                self.goes_on = Place(org_id, name, number)
                return False
        return True

    def add_events(self, into: dict[str, Any], org_id: str, events: Sequence[Any]) -> bool:
        """The same, in the order of the log."""
        kept = into.setdefault("audit_events", [])
        for event in events:
            if not self._fits(kept, event):
                self.goes_on = Place(org_id, "audit_events", event_id=self.begins.event_id)
                return False
            self.begins.event_id = str(event["id"])
        return True

    def _fits(self, kept: list[Any], row: Any) -> bool:
        text = orjson.dumps(row, default=str)
        if self.used and self.used + len(text) > min(PART_BYTES, self.bytes_max):
            return False
        if len(text) > self.bytes_max:
            text = orjson.dumps({"id": row.get("id"), "left_out_bytes": len(text)}, default=str)
        kept.append(orjson.Fragment(text))
        self.used += len(text) + 1
        return True


async def export_person(core: Core, call: Call, page_token: str = "") -> tuple[bytes, str]:
    """Of the caller: one part, and the token of the next. Reads each organisation as a member of it
    sees it. Raises Invalid(PAGE_TOKEN_INVALID)."""
    user_id = call.caller.user_id
    purpose = f"export {user_id}"
    begins = Place(*core.pages.open(purpose, page_token)) if page_token else Place()
    part = Part(begins, core.settings.message_bytes_max - 100_000)
    part.document["exported_at"] = datetime.now(UTC)
    async with core.db.begin(call) as tx:
        person = await identity.person(tx, user_id)
        organisations = await identity.own_organisations(tx)
        record(tx, "privacy.export", "user", user_id, severity=Severity.NOTICE, kind=Kind.ACCESS)
    user = person.pop("user")
    if not page_token:
        part.document["user"] = user
    await _fill(core, call, part, person, organisations)
    part.document["is_last_part"] = part.goes_on is None
    text = orjson.dumps(part.document, default=str)
    place = part.goes_on
    if place is None:
        return text, ""
    position = [place.org_id, place.name, place.given, place.event_id]
    return text, core.pages.seal(purpose, position)


async def _fill(
    core: Core,
    call: Call,
    part: Part,
    person: dict[str, Any],
    organisations: list[dict[str, Any]],
) -> None:
    if not part.begins.org_id:
        for name, rows in person.items():
            if not part.add(part.document, "", name, rows):
                return
    own = replace(call, access=Access())
    part.document["organisations"] = []
    for organisation in sorted(organisations, key=lambda one: str(one["id"])):
        org_id = str(organisation["id"])
        if org_id < part.begins.org_id:
            continue
        if org_id > part.begins.org_id:
            part.begins = Place(org_id)  # also when the one before was left meanwhile
        part.document["organisations"].append(organisation)
        there = replace(own.caller, org_id=org_id, role=organisation["role"])
        async with core.db.begin(replace(own, caller=there)) as tx:
            if not await _add_organisation(tx, part, organisation, user_id=call.caller.user_id):
                return


async def _add_organisation(
    tx: Tx, part: Part, organisation: dict[str, Any], *, user_id: str
) -> bool:
    org_id = tx.call.caller.org_id
    if part.begins.name != "audit_events":
        for read in PARTS:
            for name, rows in (await read(tx, user_id)).items():
                if not part.add(organisation, org_id, name, rows):
                    return False
    while True:
        events = await audit.personal_events(
            tx, user_id, after=part.begins.event_id, limit=EVENTS_AT_ONCE
        )
        if not part.add_events(organisation, org_id, events):
            return False
        if len(events) < EVENTS_AT_ONCE:
            return True
