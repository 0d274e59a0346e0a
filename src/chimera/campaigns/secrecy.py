"""Secret values in the rows of plans: kept sealed to be sent, never shown again.

Whoever reads a campaign sees MASK in place of the values of secret variables, and of all values of a
template that they do not see. A plan that comes back with masks keeps the stored values, row by row,
and only where the rest of the row is as it was: else a value could end up in another row, or with
another template.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from google.protobuf.struct_pb2 import Struct, Value

from chimera.campaigns.plan import MASK
from chimera.db import Tx
from chimera.faults import Invalid, Violation
from chimera.row_seals import MARK, RowSeals, Seals
from chimera.rows import struct_dict
from chimera.templates.secrecy import list_secrets
from chimera.v1.campaigns_pb2 import Campaign, CampaignPlan

Secrets = Mapping[str, frozenset[str]]


async def shown(tx: Tx, campaign: Campaign) -> Campaign:
    """The same message, fit to be seen."""
    if any(source.rows for source in campaign.plan.prompts):
        _mask(campaign.plan, await _secrets_of(tx, campaign.plan))
    return campaign


async def holds_secrets(tx: Tx, plan: CampaignPlan) -> bool:
    """Whether its rows hold values that are not shown."""
    seen = CampaignPlan()
    seen.CopyFrom(plan)
    _mask(seen, await _secrets_of(tx, seen))
    return seen != plan


async def restore_masked(tx: Tx, plan: CampaignPlan, stored: CampaignPlan | None = None) -> None:
    """Puts stored values in the place of their masks. Raises Invalid(SECRET_MASKED) for a mask that
    stands for nothing that is stored."""
    _refuse_sealed(plan)
    masked = [
        (source_no, row_no)
        for source_no, source in enumerate(plan.prompts)
        for row_no, row in enumerate(source.rows)
        if any(value.string_value == MASK for value in row.fields.values())
    ]
    if not masked:
        return
    seen = CampaignPlan()
    if stored is not None:
        seen.CopyFrom(stored)
        _mask(seen, await _secrets_of(tx, seen))
    secrets = await _secrets_of(tx, plan)
    for source_no, row_no in masked:
        source = plan.prompts[source_no]
        row = source.rows[row_no]
        kept = None if stored is None else _row_at(stored, source_no, row_no)
        if not any(
            value.string_value == MASK
            and (_is_secret(secrets, source.template_id, name) or _is_sealed_in(kept, name))
            for name, value in row.fields.items()
        ):
            continue  # a text that looks like a mask
        before = _row_at(seen, source_no, row_no)
        if before != row or seen.prompts[source_no].template_id != source.template_id:
            field = f"plan.prompts[{source_no}].rows[{row_no}]"
            said = (
                f"{MASK} stands for a stored value only in a row that is otherwise as it was; "
                "give the value again"
            )
            raise Invalid(
                "SECRET_MASKED",
                f"{field}: {said}",
                violations=[Violation(field, said, "SECRET_MASKED")],
            )
        assert kept is not None
        row.CopyFrom(kept)


async def seal_rows(tx: Tx, plan: CampaignPlan, row_seals: RowSeals) -> None:
    """Seals what is not to be shown, before the plan is stored."""
    if not any(source.rows for source in plan.prompts):
        return
    secrets = await _secrets_of(tx, plan)
    await asyncio.to_thread(_seal, plan, secrets, row_seals.of(tx.call.caller.org_id))


def _seal(plan: CampaignPlan, secrets: Secrets, seals: Seals) -> None:
    for source in plan.prompts:
        names = secrets.get(source.template_id)
        for row in source.rows:
            for name in list(row.fields) if names is None else names & row.fields.keys():
                if not _is_sealed(row.fields[name]):
                    value = struct_dict(row)[name]
                    row[name] = seals.seal(source.template_id, name, value)


def _refuse_sealed(plan: CampaignPlan) -> None:
    """A sealed value that was read somewhere (in evidence, say) would open wherever it is put."""
    for source_no, source in enumerate(plan.prompts):
        for row_no, row in enumerate(source.rows):
            for name, value in row.fields.items():
                if _is_sealed(value):
                    field = f"plan.prompts[{source_no}].rows[{row_no}].{name}"
                    said = f"must not have a member {MARK}"
                    violation = Violation(field, said, "FIELD_INVALID")
                    raise Invalid("FIELD_INVALID", f"{field}: {said}", violations=[violation])


def _is_sealed(value: Value) -> bool:
    return value.WhichOneof("kind") == "struct_value" and MARK in value.struct_value.fields


def _is_sealed_in(row: Struct | None, name: str) -> bool:
    return row is not None and name in row.fields and _is_sealed(row.fields[name])


async def _secrets_of(tx: Tx, plan: CampaignPlan) -> Secrets:
    return await list_secrets(tx, {s.template_id for s in plan.prompts if s.rows})


def _is_secret(secrets: Secrets, template_id: str, name: str) -> bool:
    names = secrets.get(template_id)
    return names is None or name in names


def _mask(plan: CampaignPlan, secrets: Secrets) -> None:
    for source in plan.prompts:
        names = secrets.get(source.template_id)
        for row in source.rows:
            for name in list(row.fields):
                if names is None or name in names or _is_sealed(row.fields[name]):
                    row[name] = MASK


def _row_at(plan: CampaignPlan, source_no: int, row_no: int) -> Struct | None:
    if source_no >= len(plan.prompts) or row_no >= len(plan.prompts[source_no].rows):
        return None
    return plan.prompts[source_no].rows[row_no]
