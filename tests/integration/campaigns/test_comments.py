"""What people say about campaigns, runs and cells."""

from __future__ import annotations

import json
from typing import Any

from chimera.core import open_core
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import CampaignPlan
from tests.support.collaboration import (
    Scene,
)
from tests.support.library import ask, told
from tests.support.world import Person
from workers.tasks.identity import erase_people


async def test_people_talk_about_campaigns_runs_and_cells(scene: Scene) -> None:
    """Threads of one level, newest first; who wrote it changes it, they or an admin take it out; where
    something was said, answers stay."""
    await scene.show("private")
    olivia, peter, sally = (scene.people[name] for name in ("olivia", "peter", "sally"))
    for person in (peter, sally):
        await scene.share("comment", user_id=person.user_id)
    campaign, run = {"campaign_id": scene.campaign_id}, {"run_id": scene.run_id}

    async def says(person: Person, text: str, **place: Any) -> Any:
        made = await person.collaboration.CreateComment(**campaign, **place, text=text)
        return made.comment

    async def heard(**which: Any) -> list[str]:
        return [
            one.text
            for one in (await sally.collaboration.ListComments(**campaign, **which)).comments
        ]

    on_run = await says(peter, "the run", **run)
    on_cell = await says(sally, "this cell", **run, cell_no=0)
    replies = [await says(peter, f"reply {n}", reply_to=on_cell.id) for n in range(3)]
    assert (replies[0].run_id, replies[0].cell_no) == (scene.run_id, 0)
    assert await heard() == ["this cell", "the run", "look at this"]
    assert await heard(**run) == ["this cell", "the run"]
    assert await heard(**run, cell_no=0) == ["this cell"]
    assert await heard(reply_to=on_cell.id) == ["reply 0", "reply 1", "reply 2"]
    page = await sally.collaboration.ListComments(**campaign, page_size=2)
    more = await sally.collaboration.ListComments(
        **campaign, page_size=2, page_token=page.next_page_token
    )
    assert [one.text for one in [*page.comments, *more.comments]] == await heard()
    assert [one.reply_count for one in page.comments] == [3, 0]

    edit = {**campaign, "comment_id": on_run.id, "text": "the whole run"}
    edited = (await peter.collaboration.EditComment(**edit)).comment
    assert edited.text == "the whole run" and edited.HasField("edited_at")
    not_yours = ("PERMISSION_DENIED", "COMMENT_NOT_YOURS")
    assert await told(olivia.collaboration.EditComment(**edit)) == not_yours
    taking_out = {**campaign, "comment_id": on_run.id}
    assert await told(sally.collaboration.DeleteComment(**taking_out)) == not_yours
    await olivia.collaboration.DeleteComment(**taking_out)
    gone = ("NOT_FOUND", "COMMENT_NOT_FOUND")
    assert await told(peter.collaboration.EditComment(**edit)) == gone
    assert await told(peter.collaboration.DeleteComment(**taking_out)) == gone
    await sally.collaboration.DeleteComment(**campaign, comment_id=on_cell.id)
    assert await heard() == ["", "look at this"], "an answered one leaves its place"
    for reply in replies:
        await peter.collaboration.DeleteComment(**campaign, comment_id=reply.id)
    assert await heard() == ["look at this"]

    other = (await olivia.campaigns.CreateCampaign(name="other", plan=CampaignPlan())).campaign
    talk = olivia.collaboration.CreateComment
    first = await says(olivia, "first")
    second = await says(olivia, "second", reply_to=first.id)
    bad = ("INVALID_ARGUMENT", "FIELD_INVALID")
    for fields, answer in (
        ({**campaign, "cell_no": 0}, bad),
        ({**campaign, "reply_to": second.id}, bad),
        ({**campaign, "reply_to": first.id, **run}, bad),
        ({**campaign, "reply_to": on_cell.id}, gone),
        ({**campaign, **run, "cell_no": 10**6}, ("NOT_FOUND", "EXECUTION_NOT_FOUND")),
        ({"campaign_id": other.id, **run}, ("NOT_FOUND", "RUN_NOT_FOUND")),
        ({"campaign_id": other.id, "reply_to": first.id}, gone),
    ):
        assert await told(talk(**fields, text="?")) == answer, fields
    logged = ask(
        scene.world, "SELECT count(*) FROM audit.pending WHERE fields::text LIKE '%%the whole%%'"
    )
    assert logged == [(0,)], "the log does not keep what people say"


async def test_a_person_takes_along_what_they_said_and_is_forgotten(
    scene: Scene, settings: Settings
) -> None:
    """The export holds comments, verdicts, shares, ratings and links, also of what is not theirs to see
    any more; erased, the thread keeps its place and says nothing, though they left before."""
    olivia, peter = scene.people["olivia"], scene.people["peter"]
    await scene.show("private")
    await scene.share("edit", user_id=peter.user_id)
    campaign = {"campaign_id": scene.campaign_id}
    said = await peter.collaboration.CreateComment(**campaign, text="peter was here")
    await olivia.collaboration.CreateComment(**campaign, reply_to=said.comment.id, text="so?")
    await peter.evaluation.OverrideVerdict(
        run_id=scene.run_id, cell_no=1, is_successful=True, reason="peter thinks so"
    )
    await peter.templates.RateTemplate(template_id=scene.template_id, rating=4, review="good")
    ask(
        scene.world,
        """
        INSERT INTO identity.linked_identities (id, org_id, user_id, provider_name, issuer, subject)
        VALUES (gen_random_uuid(), %(org)s, %(user)s, 'hub', 'https://hub.example', '42')
        """,
        org=scene.acme.id,
        user=peter.user_id,
    )
    shares = (await olivia.collaboration.ListCampaignShares(**campaign)).shares
    given = json.loads((await olivia.privacy.ExportMyData()).document)["organisations"][0]
    assert [one["id"] for one in given["campaign_shares"]] == [shares[0].id]
    ask(scene.world, "UPDATE campaigns.shares SET expires_at = now() - interval '1 second'")
    await olivia.templates.UpdateTemplate(
        template={"id": scene.template_id, "sharing_level": "SHARING_LEVEL_PRIVATE"},
        update_mask={"paths": ["sharing_level"]},
    )
    held = json.loads((await peter.privacy.ExportMyData()).document)["organisations"][0]
    assert [one["text"] for one in held["campaign_comments"]] == ["peter was here"]
    assert [one["reason"] for one in held["verdicts"]] == ["peter thinks so"]
    assert [one["permission"] for one in held["campaign_shares"]] == ["edit"]
    assert [one["review"] for one in held["template_ratings"]] == ["good"]
    assert [one["subject"] for one in held["linked_identities"]] == ["42"]

    ask(
        scene.world,
        "UPDATE identity.users SET erase_at = now() - interval '1 second' WHERE id = %(id)s",
        id=peter.user_id,
    )
    await scene.acme.admin.organisations.RemoveMember(user_id=peter.user_id)
    async with open_core(settings, "worker") as core:
        await erase_people({"core": core})
        await erase_people({"core": core})
    comments = (await olivia.collaboration.ListComments(**campaign)).comments
    assert [(one.text, one.reply_count) for one in comments] == [("", 1), ("look at this", 0)]
    left = ask(scene.world, "SELECT count(*) FROM campaigns.comments WHERE text LIKE 'peter%%'")
    assert left == [(0,)]
    assert not (await olivia.collaboration.ListCampaignShares(**campaign)).shares
