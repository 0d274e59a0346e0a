"""Campaigns are found by their labels."""

from __future__ import annotations

from typing import Any

from tests.support.collaboration import (
    Scene,
)
from tests.support.library import told
from tests.support.world import Person


async def test_campaigns_are_found_by_their_labels(draft: Scene) -> None:
    """All of several; counted for what one sees; written one way."""
    olivia, peter = draft.people["olivia"], draft.people["peter"]
    labels = (["env=prod", "Red Team"], ["env=prod"], ["red team", "secret"])
    ids = []
    for number, chosen in enumerate(labels):
        level = "PRIVATE" if number == 2 else "ORGANISATION"
        made = await olivia.campaigns.CreateCampaign(
            name=f"labelled {number}", labels=chosen, visibility=f"CAMPAIGN_VISIBILITY_{level}"
        )
        ids.append(made.campaign.id)
    assert list(made.campaign.labels) == ["red-team", "secret"]

    async def found(person: Person, *chosen: str) -> list[str]:
        return [c.id for c in (await person.campaigns.ListCampaigns(labels=chosen)).campaigns]

    assert await found(olivia, "red team") == [ids[2], ids[0]]
    assert await found(peter, "red-team") == [ids[0]]
    assert await found(peter, "env=prod", "red-team") == [ids[0]]
    assert await found(peter, "secret") == []
    plain = (await peter.campaigns.ListCampaigns(page_size=1)).campaigns
    assert list(plain[0].labels) == ["env=prod"]

    async def counts(person: Person, **page: Any) -> list[tuple[str, int]]:
        answer = await person.collaboration.ListCampaignLabels(**page)
        rows = [(one.label, one.campaigns) for one in answer.labels]
        if answer.next_page_token:
            rows += await counts(person, **{**page, "page_token": answer.next_page_token})
        return rows

    assert await counts(olivia) == [("env=prod", 2), ("red-team", 2), ("secret", 1)]
    assert await counts(olivia, page_size=1) == await counts(olivia)
    assert await counts(peter) == [("env=prod", 2), ("red-team", 1)]
    changed = await peter.collaboration.LabelCampaign(
        campaign_id=ids[1], add=["done", "done"], remove=["ENV=prod"]
    )
    assert list(changed.campaign.labels) == ["done"]
    many = [f"l{n}" for n in range(50)]
    too_many = peter.collaboration.LabelCampaign(campaign_id=ids[1], add=many)
    assert await told(too_many) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    await olivia.campaigns.DeleteCampaign(campaign_id=ids[0])
    assert await counts(peter) == [("done", 1)]
