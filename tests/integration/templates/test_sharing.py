"""Who sees a template, level by level and operation by operation, and who may change what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chimera.embedded.stack import StackUrls
from tests.support.campaigns import assistant_models
from tests.support.library import HELLO, ask, new_team, new_template, told
from tests.support.world import Person, Refused, World

NOT_FOUND = ("NOT_FOUND", "TEMPLATE_NOT_FOUND")
READ_ONLY = ("PERMISSION_DENIED", "TEMPLATE_READ_ONLY")


async def can_do(person: Person, template_id: str, models: list[str]) -> set[str]:
    """The operations of a reader that succeed. What is refused is not there, in every one of them."""
    t = person.templates

    async def listed() -> bool:
        found = (await t.ListTemplates(page_size=1000)).templates
        return template_id in [template.id for template in found]

    async def searched(**request: Any) -> bool:
        found = (await t.SearchTemplates(**request)).hits
        return template_id in [hit.template.id for hit in found]

    async def used() -> bool:
        campaign = await person.campaigns.CreateCampaign(
            name=f"use {template_id} {person.user_id}",
            plan={
                "prompts": [{"template_id": template_id, "rows": [{"name": "x"}]}],
                "techniques": [{"steps": [{"technique": "plain"}]}],
                "targets": [{"model_id": model} for model in models],
                "scorer": {"kind": "contains", "params": {"text": "x"}},
            },
        )
        try:
            await person.campaigns.PreviewCampaign(campaign_id=campaign.campaign.id)
        except Refused as refused:
            # Whoever sees the template is told of the key that is missing, which comes later.
            if refused.reason == "PROVIDER_KEY_MISSING":
                return True
            raise
        return True

    operations = {
        "get": t.GetTemplate(template_id=template_id),
        "version": t.GetTemplateVersion(template_id=template_id),
        "labels": t.ListTemplateLabels(template_id=template_id),
        "render": t.RenderTemplate(template_id=template_id, values={"name": "x"}),
        "dry render": t.DryRenderTemplate(template_id=template_id, values={"name": "x"}),
        "rate": t.RateTemplate(template_id=template_id, rating=4),
        "fork": t.ForkTemplate(template_id=template_id),
        "campaign": used(),
    }
    done = set()
    for name, call in operations.items():
        try:
            await call
            done.add(name)
        except Refused as refused:
            assert (refused.code, refused.reason) == NOT_FOUND, name
    if await listed():
        done.add("list")
    if await searched(query="zebra"):
        done.add("search")
    if await searched(query=""):
        done.add("browse")
    return done


ALL = {
    "get", "version", "labels", "render", "dry render", "rate", "fork", "campaign", "list",
    "search", "browse",
}  # fmt: skip


async def test_each_level_is_seen_by_exactly_its_people_in_every_operation(
    world: World, stack: StackUrls
) -> None:
    """Olivia makes one template of each level; Tina is in her team, Peter in her organisation, Gus in
    another. Sally and the people of Sally's team were given the private one."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    names = ("olivia", "tina", "peter", "sally", "tom")
    people = {name: await acme.person(name) for name in names}
    people["gus"] = await globex.person("gus")
    olivia = people["olivia"]
    models = {
        "acme": await assistant_models(acme.admin, stack.assistant_url, ["guard-none"]),
        "globex": await assistant_models(globex.admin, stack.assistant_url, ["guard-none"]),
    }
    team = new_team(world, acme, olivia, people["tina"])
    other_team = new_team(world, acme, people["tom"])

    async def made(level: str, **more: str) -> str:
        template = await new_template(
            olivia, title=f"zebra {level}", sharing_level=f"SHARING_LEVEL_{level}", **more
        )
        return str(template.id)

    private, given = await made("PRIVATE"), await made("PRIVATE")
    teams, everyones = await made("TEAM", team_id=team), await made("ORGANISATION")
    public = await made("ORGANISATION")
    await olivia.templates.ChangeTemplateState(template_id=public, state="TEMPLATE_STATE_PUBLISHED")
    await acme.admin.templates.SetTemplatePublic(template_id=public, is_public=True)
    for who in ({"user_id": people["sally"].user_id}, {"team_id": other_team}):
        await olivia.templates.ShareTemplate(
            template_id=given, permission="SHARE_PERMISSION_VIEW", **who
        )

    inside = {"olivia", "tina", "peter", "sally", "tom"}
    expected = {
        private: {"olivia"},
        given: {"olivia", "sally", "tom"},
        teams: {"olivia", "tina"},
        everyones: inside,
        public: inside | {"gus"},
    }
    for template_id, readers in expected.items():
        for name, person in people.items():
            where = "globex" if name == "gus" else "acme"
            done = await can_do(person, template_id, models[where])
            assert done == (ALL if name in readers else set()), (name, template_id)


async def test_reading_is_not_changing(world: World) -> None:
    """A share to view, and a public template of others, are read-only; edit writes; admin hands on."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    gus = await globex.person("gus")
    template = await new_template(olivia, sharing_level="SHARING_LEVEL_PRIVATE")
    to_peter: dict[str, Any] = {"template_id": template.id, "user_id": peter.user_id}

    def changes(person: Person) -> list[Any]:
        t = person.templates
        return [
            t.CreateTemplateVersion(template_id=template.id, **HELLO),
            t.UpdateTemplate(
                template={"id": template.id, "title": "theirs"}, update_mask={"paths": ["title"]}
            ),
            t.MoveTemplateLabel(template_id=template.id, name="production", version_number=1),
            t.ChangeTemplateState(template_id=template.id, state="TEMPLATE_STATE_REVIEW"),
        ]

    await olivia.templates.ShareTemplate(**to_peter, permission="SHARE_PERMISSION_VIEW")
    assert [await told(change) for change in changes(peter)] == [READ_ONLY] * 4

    await olivia.templates.ShareTemplate(**to_peter, permission="SHARE_PERMISSION_EDIT")
    for change in changes(peter):
        await change
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    sharing = peter.templates.ShareTemplate(**to_peter, permission="SHARE_PERMISSION_ADMIN")
    assert await told(sharing) == denied
    assert await told(peter.templates.DeleteTemplate(template_id=template.id)) == denied

    await olivia.templates.ShareTemplate(**to_peter, permission="SHARE_PERMISSION_ADMIN")
    shares = (await peter.templates.ListTemplateShares(template_id=template.id)).shares
    assert [share.user_id for share in shares] == [peter.user_id]
    await peter.templates.UnshareTemplate(template_id=template.id, share_id=shares[0].id)
    assert await told(peter.templates.GetTemplate(template_id=template.id)) == NOT_FOUND

    await olivia.templates.UpdateTemplate(
        template={"id": template.id, "sharing_level": "SHARING_LEVEL_ORGANISATION"},
        update_mask={"paths": ["sharing_level"]},
    )
    await olivia.templates.ChangeTemplateState(
        template_id=template.id, state="TEMPLATE_STATE_PUBLISHED"
    )
    await acme.admin.templates.SetTemplatePublic(template_id=template.id, is_public=True)
    assert [await told(change) for change in changes(gus)] == [READ_ONLY] * 4
    assert (await gus.templates.ListTemplateShares(template_id=template.id)).shares == []


async def test_a_share_ends_at_its_moment_without_anybody_doing_anything(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    template = await new_template(olivia, sharing_level="SHARING_LEVEL_PRIVATE")
    request = {
        "template_id": template.id,
        "user_id": peter.user_id,
        "permission": "SHARE_PERMISSION_VIEW",
        "expires_at": datetime.now(UTC) + timedelta(days=1),
    }
    await olivia.templates.ShareTemplate(**request)
    await peter.templates.GetTemplate(template_id=template.id)
    # A day later.
    ask(world, "UPDATE templates.shares SET expires_at = now() - interval '1 second'")
    assert await told(peter.templates.GetTemplate(template_id=template.id)) == NOT_FOUND
    assert not (await peter.templates.SearchTemplates(query="greeting")).hits
    past = olivia.templates.ShareTemplate(
        **{**request, "expires_at": datetime.now(UTC) - timedelta(days=1)}
    )
    assert await told(past) == ("INVALID_ARGUMENT", "FIELD_INVALID")


async def test_who_leaves_the_team_loses_what_the_team_sees(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, tina = await acme.person("olivia"), await acme.person("tina")
    team = new_team(world, acme, olivia, tina)
    template = await new_template(olivia, sharing_level="SHARING_LEVEL_TEAM", team_id=team)
    await tina.templates.GetTemplate(template_id=template.id)
    ask(world, "DELETE FROM identity.team_members WHERE user_id = %(id)s", id=tina.user_id)
    assert await told(tina.templates.GetTemplate(template_id=template.id)) == NOT_FOUND


@pytest.mark.parametrize(
    "fields",
    [
        {"sharing_level": "SHARING_LEVEL_PUBLIC"},
        {"sharing_level": "SHARING_LEVEL_TEAM"},
        {"sharing_level": "SHARING_LEVEL_PRIVATE", "team_id": "018f0000-0000-7000-8000-000000000000"},
    ],
)  # fmt: skip
async def test_a_level_that_makes_no_sense_is_refused(world: World, fields: dict[str, str]) -> None:
    """Public is a step of its own; a team is one of one's own."""
    olivia = await (await world.organisation("acme")).person("olivia")
    assert await told(new_template(olivia, **fields)) == ("INVALID_ARGUMENT", "FIELD_INVALID")


async def test_a_team_of_others_is_none(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    level = {
        "sharing_level": "SHARING_LEVEL_TEAM",
        "team_id": "018f0000-0000-7000-8000-000000000000",
    }
    assert await told(new_template(olivia, **level)) == ("NOT_FOUND", "TEAM_NOT_FOUND")


async def test_public_takes_a_permission_and_a_published_template(world: World) -> None:
    """Closed or taken back, it is gone for the others at once."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia, gus = await acme.person("olivia"), await globex.person("gus")
    template = await new_template(olivia)
    opening = {"template_id": template.id, "is_public": True}
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert await told(olivia.templates.SetTemplatePublic(**opening)) == denied
    refused = ("FAILED_PRECONDITION", "STATE_TRANSITION_REFUSED")
    assert await told(acme.admin.templates.SetTemplatePublic(**opening)) == refused
    state = {"template_id": template.id, "state": "TEMPLATE_STATE_PUBLISHED"}
    await olivia.templates.ChangeTemplateState(**state)
    await acme.admin.templates.SetTemplatePublic(**opening)
    assert (await gus.templates.GetTemplate(template_id=template.id)).template.title == "greeting"

    await olivia.templates.ChangeTemplateState(**{**state, "state": "TEMPLATE_STATE_ARCHIVED"})
    assert await told(gus.templates.GetTemplate(template_id=template.id)) == NOT_FOUND
    assert not (await gus.templates.SearchTemplates(query="greeting")).hits
    await acme.admin.templates.SetTemplatePublic(**{**opening, "is_public": False})
    assert (await olivia.templates.GetTemplate(template_id=template.id)).template.sharing_level == 3


async def test_what_is_published_was_reviewed_by_somebody_else(world: World) -> None:
    """Where the organisation wants it so. A new version takes it out of publication again."""
    acme = await world.organisation("acme")
    olivia, rita = await acme.person("olivia"), await acme.person("rita")
    rules = {"review_required": True, "other_reviewer_required": True}
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert await told(olivia.templates.SetTemplateReviewRules(rules=rules)) == denied
    await acme.admin.templates.SetTemplateReviewRules(rules=rules)
    assert (await olivia.templates.GetTemplateReviewRules()).rules.review_required

    template = await new_template(olivia)

    async def go(person: Person, state: str) -> Any:
        answer = await person.templates.ChangeTemplateState(
            template_id=template.id, state=f"TEMPLATE_STATE_{state}"
        )
        return answer.template

    refused = ("FAILED_PRECONDITION", "STATE_TRANSITION_REFUSED")
    assert await told(go(rita, "PUBLISHED")) == refused
    assert (await go(olivia, "REVIEW")).submitted_by == olivia.user_id
    assert await told(go(olivia, "PUBLISHED")) == refused
    assert (await go(rita, "PUBLISHED")).state == 3
    await rita.templates.CreateTemplateVersion(template_id=template.id, **HELLO)
    assert (await olivia.templates.GetTemplate(template_id=template.id)).template.state == 1
    await go(olivia, "REVIEW")
    # Rita wrote the newest version, Olivia submitted it.
    assert await told(go(rita, "PUBLISHED")) == refused
    await go(acme.admin, "PUBLISHED")
    assert await told(go(olivia, "REVIEW")) == refused


async def test_of_two_who_share_at_once_both_are_kept(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    template = await new_template(olivia, sharing_level="SHARING_LEVEL_PRIVATE")
    share = {
        "template_id": template.id,
        "user_id": peter.user_id,
        "permission": "SHARE_PERMISSION_VIEW",
    }
    both = await asyncio.gather(*(olivia.templates.ShareTemplate(**share) for _ in range(4)))
    assert len({answer.share.id for answer in both}) == 1
