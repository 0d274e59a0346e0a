"""Plans as they are stored, with what is sealed in them opened."""

from __future__ import annotations

from chimera.core import open_core
from chimera.rows import struct_dict
from chimera.v1.campaigns_pb2 import CampaignPlan
from tests.support.workers import Stage


async def stored_plan(stage: Stage, campaign_id: str) -> CampaignPlan:
    """Of a campaign. No value that is opened may stand beside its seal."""
    row = (
        await stage.books.rows(
            "SELECT plan, org_id FROM campaigns.campaigns WHERE id = %(id)s", id=campaign_id
        )
    )[0]
    body = bytes(row["plan"])
    plan = CampaignPlan.FromString(body)
    async with open_core(stage.settings, "worker") as core:
        seals = core.row_seals.of(str(row["org_id"]))
        for source in plan.prompts:
            sealed = [struct_dict(values) for values in source.rows]
            clear = seals.opened(source.template_id, sealed)
            for place, values in enumerate(clear):
                for name, value in values.items():
                    assert value == sealed[place][name] or str(value).encode() not in body, name
                source.rows[place].update(values)
    return plan
