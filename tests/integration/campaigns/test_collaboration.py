"""Who sees a campaign and all that belongs to it, level by level; what each share allows; comments and
labels. One finished run serves most of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql as pgsql

from chimera.call import NOBODY
from chimera.campaigns.analytics.collecting import collect
from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import CampaignPlan, Scorer
from chimera.v1.collaboration_pb2 import CampaignLevel
from chimera.v1.evaluation_pb2 import Pairing
from tests.support.campaigns import (
    assistant_models,
    finished,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.library import ask, new_team, told
from tests.support.workers import until
from tests.support.world import Organisation, Person, Refused, World
from workers.tasks.identity import erase_people

NO_CAMPAIGN = ("NOT_FOUND", "CAMPAIGN_NOT_FOUND")
TOO_LOW = ("PERMISSION_DENIED", "CAMPAIGN_LEVEL_TOO_LOW")
LEVELS = ("view", "comment", "edit", "execute", "admin")


class Scene:
    """Olivia's finished campaign, and everybody who might look at it: Tina is in her team, Peter in her
    organisation, Sally and Tom's team may be given it, Ada administrates, Gus is elsewhere."""

    def __init__(self, world: World, acme: Organisation, people: dict[str, Person]) -> None:
        self.world, self.acme, self.people = world, acme, people
        self.campaign_id = self.run_id = self.scoring_id = self.template_id = ""
        self.team = self.other_team = ""
        self.plan = CampaignPlan()

    async def show(self, visibility: str) -> None:
        """Olivia, or for everybody's eyes an administrator, says who sees it."""
        mine = self.people["olivia"]
        public = {"campaign_id": self.campaign_id, "is_public": visibility == "public"}
        await self.acme.admin.collaboration.SetCampaignPublic(**public)
        if visibility != "public":
            await mine.campaigns.UpdateCampaign(
                campaign={
                    "id": self.campaign_id,
                    "visibility": f"CAMPAIGN_VISIBILITY_{visibility.upper()}",
                    "team_id": self.team if visibility == "team" else "",
                },
                update_mask={"paths": ["visibility", "team_id"]},
            )

    async def share(self, permission: str, **whom: str) -> Any:
        answer = await self.people["olivia"].collaboration.ShareCampaign(
            campaign_id=self.campaign_id, permission=f"CAMPAIGN_LEVEL_{permission.upper()}", **whom
        )
        return answer.share

    def rows_seen(
        self, person: Person, org_id: str, *, role: str = "user"
    ) -> dict[str, tuple[int, int]]:
        """By table of the campaigns' schema: rows that PostgreSQL shows the person, of all there are."""
        url = self.world.settings.database_url.get_secret_value()
        settings = {"app.org_id": org_id, "app.user_id": person.user_id, "app.role": role}
        seen = {}
        with psycopg.connect(url) as connection:
            tables = connection.execute(
                """
                SELECT c.relname FROM pg_class c
                 WHERE c.relnamespace = 'campaigns'::regnamespace AND c.relkind IN ('r', 'p')
                   AND NOT c.relispartition AND has_table_privilege('chimera_app', c.oid, 'SELECT')
                """
            ).fetchall()
            for (table,) in tables:
                count = pgsql.SQL("SELECT count(*) FROM campaigns.{}").format(
                    pgsql.Identifier(table)
                )
                connection.execute("RESET ROLE")
                [there] = connection.execute(count).fetchone() or [0]
                for name, value in settings.items():
                    connection.execute("SELECT set_config(%s, %s, true)", [name, value])
                connection.execute("SET LOCAL ROLE chimera_app")
                [found] = connection.execute(count).fetchone() or [0]
                seen[table] = (found, there)
        return seen


@pytest.fixture
async def draft(world: World, stack: StackUrls) -> Scene:
    """The people, and a campaign of Olivia's that nobody launched."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    names = ("olivia", "tina", "peter", "sally", "tom")
    made = await asyncio.gather(*(acme.person(name) for name in names))
    people = dict(zip(names, made, strict=True))
    people |= {"ada": acme.admin, "gus": await globex.person("gus")}
    scene = Scene(world, acme, people)
    olivia = people["olivia"]
    scene.team = new_team(world, acme, olivia, people["tina"])
    scene.other_team = new_team(world, acme, people["tom"])
    models = await assistant_models(acme.admin, stack.assistant_url, ["guard-none"])
    provider = (await olivia.providers.ListProviders()).providers[0]
    for person in (olivia, people["peter"]):
        await person.providers.CreateProviderKey(
            provider_id=provider.id, name="own", secret="sk-assistant-0123456789", is_default=True
        )
    scene.template_id = await secret_template(olivia)
    scene.plan = secret_plan(scene.template_id, models)
    campaign = await olivia.campaigns.CreateCampaign(name="hers", plan=scene.plan)
    scene.campaign_id = campaign.campaign.id
    return scene


@pytest.fixture
async def scene(draft: Scene, settings: Settings) -> Scene:
    """Launched and finished; judged by a person, by another scorer, and talked about."""
    olivia, campaign_id = draft.people["olivia"], draft.campaign_id
    async with worker(settings):
        run = (await olivia.campaigns.LaunchCampaign(campaign_id=campaign_id)).run
        await finished(olivia, run.id)
        scorer = Scorer(kind="refusal")
        again = await olivia.evaluation.RescoreRun(run_id=run.id, scorer=scorer, name="again")

        async def judged() -> bool:
            answer = await olivia.evaluation.GetScoring(scoring_id=again.scoring.id)
            return bool(answer.scoring.answers)

        await until(judged, "the scoring has verdicts")
    async with open_core(settings, "worker") as core:
        await collect(core)
    draft.run_id, draft.scoring_id = run.id, again.scoring.id
    await olivia.evaluation.OverrideVerdict(
        run_id=run.id, cell_no=0, is_successful=True, reason="it is one"
    )
    await olivia.collaboration.CreateComment(campaign_id=campaign_id, text="look at this")
    return draft


def reads(person: Person, scene: Scene) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every way to look at the campaign or at what belongs to it."""
    run, campaign = {"run_id": scene.run_id}, {"campaign_id": scene.campaign_id}
    c, e = person.campaigns, person.evaluation

    def first(stream: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: anext(aiter(stream))

    return {
        "get": lambda: c.GetCampaign(**campaign),
        "runs": lambda: c.ListRuns(**campaign),
        "run": lambda: c.GetRun(**run),
        "summary": lambda: c.GetRunSummary(**run),
        "executions": lambda: c.ListExecutions(**run),
        "execution": lambda: c.GetExecution(**run, cell_no=0),
        "watch": first(c.WatchRun(**run, include_executions=True)),
        "compare": lambda: e.CompareRuns(
            pairing=Pairing(first_run_id=scene.run_id, second_run_id=scene.run_id)
        ),
        "overrides": lambda: e.ListOverrides(**run),
        "scorings": lambda: e.ListScorings(**run),
        "scoring": lambda: e.GetScoring(scoring_id=scene.scoring_id),
        "verdicts": lambda: e.ListVerdicts(scoring_id=scene.scoring_id),
        "export": first(e.ExportResults(**run, format=1)),
        "windows": lambda: person.analytics.ListWindows(**campaign, grain=1),
        "analysis": lambda: person.analytics.AnalyseRun(**run),
        "cost": lambda: person.costs.CompareCost(**run),
        "comments": lambda: person.collaboration.ListComments(**campaign),
        "shares": lambda: person.collaboration.ListCampaignShares(**campaign),
        "level": lambda: person.collaboration.GetCampaignAccess(**campaign),
    }


async def seen_by(person: Person, scene: Scene) -> set[str]:
    """The ways that succeed; the others answer as if there were no such thing."""
    done = set()
    for name, call in reads(person, scene).items():
        try:
            await call()
            done.add(name)
        except Refused as refused:
            assert refused.code == "NOT_FOUND", (name, str(refused))
    listed = (await person.campaigns.ListCampaigns(page_size=1000)).campaigns
    elsewhere = (await person.campaigns.ListCampaigns(public_elsewhere=True)).campaigns
    if scene.campaign_id in [campaign.id for campaign in [*listed, *elsewhere]]:
        done.add("list")
    return done


async def test_each_visibility_is_seen_by_exactly_its_people_in_everything(scene: Scene) -> None:
    """By every RPC, and by PostgreSQL itself, table by table: all rows, or none."""
    people, acme = scene.people, scene.acme
    everything = {*reads(people["olivia"], scene), "list"}
    inside = set(people) - {"gus"}
    stages: dict[str, set[str]] = {
        "private": {"olivia", "ada"},
        "team": {"olivia", "ada", "tina"},
        "organisation": inside,
        "public": inside | {"gus"},
    }
    usages = {"template_id": scene.template_id}
    for visibility, readers in stages.items():
        await scene.show(visibility)
        for name, person in people.items():
            expected = everything if name in readers else set()
            assert await seen_by(person, scene) == expected, (visibility, name)
            org_id = "" if name == "gus" else acme.id
            if org_id and name != "ada":
                rows = scene.rows_seen(person, org_id)
                wrong = {
                    table: counts
                    for table, counts in rows.items()
                    if counts[0] != (counts[1] if name in readers else 0)
                }
                assert not wrong, (
                    f"{visibility}, {name}: (seen, there) of {wrong}; a table of a campaign or run"
                    " needs the policy `seen`, see 0030_sharing.sql"
                )
                used = (await person.templates.ListTemplateUsages(**usages)).usages
                assert bool(used) is (name in readers), (visibility, name)
    rows = scene.rows_seen(people["olivia"], acme.id)
    full = {"campaigns", "runs", "run_plans", "run_money", "shards", "attempts", "executions", "flushes",
            "tallies", "overrides", "scorings", "verdicts", "windows", "comments"}  # fmt: skip
    assert full <= {table for table, (_, there) in rows.items() if there}
    await scene.show("private")
    operator = scene.rows_seen(people["gus"], NOBODY, role="operator")
    seen = {table for table, (found, _) in operator.items() if found}
    assert seen == {"runs", "shards", "attempts"}, "operators see that there is work, not what"
    await scene.show("public")
    # What is said inside the organisation stays there.
    gus = people["gus"].collaboration
    assert not (await gus.ListComments(campaign_id=scene.campaign_id)).comments
    assert not (await gus.ListCampaignShares(campaign_id=scene.campaign_id)).shares
    assert (await gus.GetCampaignAccess(campaign_id=scene.campaign_id)).level == 1
    update = people["gus"].campaigns.UpdateCampaign(
        campaign={"id": scene.campaign_id, "name": "his"}, update_mask={"paths": ["name"]}
    )
    assert await told(update) == TOO_LOW


def changes(person: Person, scene: Scene) -> dict[str, tuple[str, Callable[[], Awaitable[Any]]]]:
    """By name: the level it takes, and the call. The run is over, so what passes may be told so."""
    run, campaign = {"run_id": scene.run_id}, {"campaign_id": scene.campaign_id}
    c, k, e = person.campaigns, person.collaboration, person.evaluation

    def update(**fields: Any) -> Awaitable[Any]:
        given = {"id": scene.campaign_id, **fields}
        return c.UpdateCampaign(campaign=given, update_mask={"paths": [*fields]})

    async def deleted() -> None:
        await c.DeleteCampaign(**campaign)
        await c.UndeleteCampaign(**campaign)

    return {
        "get": ("view", lambda: c.GetCampaign(**campaign)),
        "comment": ("comment", lambda: k.CreateComment(**campaign, text="so?")),
        "update": ("edit", lambda: update(description="new")),
        "label": ("edit", lambda: k.LabelCampaign(**campaign, add=["seen"])),
        "override": (
            "edit",
            lambda: e.OverrideVerdict(**run, cell_no=1, is_successful=False, reason="no"),
        ),
        "withdraw": ("edit", lambda: e.WithdrawOverride(**run, cell_no=1)),
        "launch": ("execute", lambda: c.LaunchCampaign(**campaign)),
        "pause": ("execute", lambda: c.PauseCampaign(**campaign)),
        "resume": ("execute", lambda: c.ResumeCampaign(**campaign)),
        "cancel": ("execute", lambda: c.CancelCampaign(**campaign)),
        "tune": ("execute", lambda: c.TuneRun(**run, concurrency=2)),
        "rescore": ("execute", lambda: e.RescoreRun(**run, scorer=Scorer(kind="refusal"))),
        "visibility": ("admin", lambda: update(visibility="CAMPAIGN_VISIBILITY_PRIVATE")),
        "share": (
            "admin",
            lambda: k.ShareCampaign(**campaign, user_id=scene.people["tina"].user_id, permission=1),
        ),
        "delete": ("admin", deleted),
    }


async def allowed(person: Person, scene: Scene) -> set[str]:
    """What the campaign's level lets the person do."""
    done = set()
    for name, (_, call) in changes(person, scene).items():
        try:
            await call()
        except Refused as refused:
            if (refused.code, refused.reason) in (TOO_LOW, NO_CAMPAIGN) or (
                refused.reason == "RUN_NOT_FOUND"
            ):
                continue
            assert refused.code == "FAILED_PRECONDITION", (name, str(refused))
        done.add(name)
    return done


async def test_each_share_allows_exactly_its_level(scene: Scene) -> None:
    """To a person and to a team, on a private campaign. Changing a share changes what it allows, and
    taking it back takes everything, at once."""
    await scene.show("private")
    peter, tom = scene.people["peter"], scene.people["tom"]
    takes = {name: level for name, (level, _) in changes(peter, scene).items()}
    assert await allowed(peter, scene) == set()
    for number, level in enumerate(LEVELS, start=1):
        share = await scene.share(level, user_id=peter.user_id)
        expected = {name for name, least in takes.items() if LEVELS.index(least) < number}
        assert await allowed(peter, scene) == expected, level
        held = (await peter.collaboration.GetCampaignAccess(campaign_id=scene.campaign_id)).level
        assert CampaignLevel.Name(held) == f"CAMPAIGN_LEVEL_{level.upper()}"
        assert share.shared_by == scene.people["olivia"].user_id and share.HasField("shared_at")
        await scene.share(level, team_id=scene.other_team)
        assert await allowed(tom, scene) == expected, f"team, {level}"
    assert await allowed(scene.people["ada"], scene) == set(takes), "an administrator may all"

    shared = (await peter.campaigns.ListCampaigns(shared_with_me=True)).campaigns
    assert [campaign.id for campaign in shared] == [scene.campaign_id]
    assert not (await scene.people["olivia"].campaigns.ListCampaigns(shared_with_me=True)).campaigns
    shares = (await peter.collaboration.ListCampaignShares(campaign_id=scene.campaign_id)).shares
    by_user = {share.user_id: share.id for share in shares}
    taking = {"campaign_id": scene.campaign_id, "share_id": by_user[peter.user_id]}
    await peter.collaboration.UnshareCampaign(**taking)
    assert await seen_by(peter, scene) == set()
    assert await allowed(peter, scene) == set()
    again = scene.people["olivia"].collaboration.UnshareCampaign(**taking)
    assert await told(again) == ("NOT_FOUND", "SHARE_NOT_FOUND")
    actions = ask(
        scene.world,
        """
        SELECT facts->>'action', count(*) FROM audit.pending
         WHERE facts->>'action' IN ('campaign.share', 'campaign.unshare', 'campaign.label', 'comment.create')
         GROUP BY 1
        """,
    )
    # Five levels, twice; and Peter, Tom and Ada as admins shared it with Tina.
    assert dict(actions)["campaign.share"] >= 13
    assert {"campaign.unshare", "campaign.label", "comment.create"} <= dict(actions).keys()


async def test_the_role_must_allow_it_too(draft: Scene) -> None:
    """A viewer with an ADMIN share still changes nothing; an API key only within its scopes."""
    draft.run_id = draft.campaign_id  # nobody gets as far as looking for it
    vera = await draft.acme.person("vera", role="viewer")
    await draft.show("private")
    await draft.share("admin", user_id=vera.user_id)
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    for name, (level, call) in changes(vera, draft).items():
        if level != "view":
            assert await told(call()) == denied, name
    await vera.campaigns.GetCampaign(campaign_id=draft.campaign_id)
    # A key for reading, of an administrator, does not reach what is private to others.
    key = await draft.acme.admin.identity.CreateApiKey(
        name="read", scopes=["PERMISSION_CAMPAIGN_READ"]
    )
    reader = draft.acme.admin.holding(key.secret)
    get = reader.campaigns.GetCampaign(campaign_id=draft.campaign_id)
    assert await told(get) == NO_CAMPAIGN
    public = {"campaign_id": draft.campaign_id, "is_public": True}
    assert await told(draft.people["olivia"].collaboration.SetCampaignPublic(**public)) == denied


async def test_a_share_ends_at_its_moment_also_in_the_middle(scene: Scene) -> None:
    """An expired share is no share: nothing is seen, nothing done, and whoever leaves the team has
    lost what the team sees. Nobody is given what nobody is."""
    await scene.show("private")
    peter, tom, olivia = (scene.people[name] for name in ("peter", "tom", "olivia"))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    share = {"campaign_id": scene.campaign_id, "permission": CampaignLevel.CAMPAIGN_LEVEL_EXECUTE}
    await olivia.collaboration.ShareCampaign(**share, user_id=peter.user_id, expires_at=tomorrow)
    await olivia.collaboration.ShareCampaign(**share, team_id=scene.other_team)
    assert len(await seen_by(peter, scene)) == len(await seen_by(tom, scene)) > 15
    # A day later.
    ask(
        scene.world,
        "UPDATE campaigns.shares SET expires_at = now() - interval '1 second' WHERE user_id IS NOT NULL",
    )
    assert await seen_by(peter, scene) == await allowed(peter, scene) == set()
    assert not any(found for found, _ in scene.rows_seen(peter, scene.acme.id).values())
    ask(scene.world, "DELETE FROM identity.team_members WHERE user_id = %(id)s", id=tom.user_id)
    assert await seen_by(tom, scene) == await allowed(tom, scene) == set()

    bad = ("INVALID_ARGUMENT", "FIELD_INVALID")
    past = datetime.now(UTC) - timedelta(days=1)
    gus = scene.people["gus"].user_id
    for whom in (
        {"user_id": peter.user_id, "expires_at": past},
        {"user_id": gus},
        {"team_id": scene.campaign_id},
        {},
        {"user_id": peter.user_id, "team_id": scene.other_team},
    ):
        assert await told(olivia.collaboration.ShareCampaign(**share, **whom)) == bad, whom
    for fields, answer in (
        ({"visibility": "CAMPAIGN_VISIBILITY_PUBLIC"}, bad),
        ({"visibility": "CAMPAIGN_VISIBILITY_TEAM"}, bad),
        ({"visibility": "CAMPAIGN_VISIBILITY_PRIVATE", "team_id": scene.team}, bad),
        (
            {"visibility": "CAMPAIGN_VISIBILITY_TEAM", "team_id": scene.other_team},
            ("NOT_FOUND", "TEAM_NOT_FOUND"),
        ),
    ):
        made = olivia.campaigns.CreateCampaign(name="senseless", **fields)
        assert await told(made) == answer, fields


async def test_the_books_count_what_is_not_shared_any_more(
    draft: Scene, settings: Settings
) -> None:
    """Peter launched a campaign that was taken from him: he sees nothing of it, and his usage, his
    budget and the reconciliation know of every call."""
    olivia, peter, admin = draft.people["olivia"], draft.people["peter"], draft.acme.admin
    await draft.show("private")
    share = await draft.share("execute", user_id=peter.user_id)
    async with worker(settings):
        run = (await peter.campaigns.LaunchCampaign(campaign_id=draft.campaign_id)).run
        await finished(peter, run.id)
    await olivia.collaboration.UnshareCampaign(campaign_id=draft.campaign_id, share_id=share.id)
    assert await told(peter.campaigns.GetRun(run_id=run.id)) == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert (await peter.usage.QueryUsage()).totals.requests == 4
    budget = {"scope": {"kind": 2}, "period": 1, "limits": {"requests_max": 100}}
    await peter.budgets.SetBudget(**budget)
    remaining = (await peter.budgets.GetRemaining()).remaining
    assert [one.requests_settled for one in remaining] == [4]
    for person in (admin, peter):
        try:
            books = await person.usage.ReconcileUsage()
        except Refused as refused:
            assert person is peter and refused.reason == "PERMISSION_MISSING"
        else:
            assert not books.discrepancies and books.compared


async def test_what_is_deleted_stays_shared_and_comes_back_so(draft: Scene) -> None:
    """Only admins of it delete and bring back; other organisations see no deleted campaign."""
    olivia, peter, gus = (draft.people[name] for name in ("olivia", "peter", "gus"))
    campaign = {"campaign_id": draft.campaign_id}
    await draft.share("execute", user_id=peter.user_id)
    assert await told(peter.campaigns.DeleteCampaign(**campaign)) == TOO_LOW
    await draft.show("public")
    await gus.campaigns.GetCampaign(**campaign)
    await olivia.campaigns.DeleteCampaign(**campaign)
    assert await told(gus.campaigns.GetCampaign(**campaign)) == NO_CAMPAIGN
    for filters in ({}, {"shared_with_me": True}):
        assert not (await peter.campaigns.ListCampaigns(**filters)).campaigns
        assert (await peter.campaigns.ListCampaigns(**filters, show_deleted=True)).campaigns
    for gone in (
        peter.campaigns.PauseCampaign(**campaign),
        peter.collaboration.LabelCampaign(**campaign, add=["x"]),
        peter.collaboration.CreateComment(**campaign, text="gone?"),
        olivia.collaboration.ShareCampaign(**campaign, user_id=peter.user_id, permission=1),
    ):
        assert await told(gone) == NO_CAMPAIGN
    assert await told(peter.campaigns.UndeleteCampaign(**campaign)) == TOO_LOW
    await olivia.campaigns.UndeleteCampaign(**campaign)
    shared = (await peter.campaigns.ListCampaigns(shared_with_me=True)).campaigns
    assert [one.id for one in shared] == [draft.campaign_id]
    await gus.campaigns.GetCampaign(**campaign)


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


async def test_a_person_takes_along_what_they_said_and_is_forgotten(
    scene: Scene, settings: Settings
) -> None:
    """The export holds comments, verdicts, shares, ratings and links, also of what is not theirs to see
    any more; erased, the thread keeps its place and says nothing."""
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
    async with open_core(settings, "worker") as core:
        await erase_people({"core": core})
        await erase_people({"core": core})
    comments = (await olivia.collaboration.ListComments(**campaign)).comments
    assert [(one.text, one.reply_count) for one in comments] == [("", 1), ("look at this", 0)]
    left = ask(scene.world, "SELECT count(*) FROM campaigns.comments WHERE text LIKE 'peter%%'")
    assert left == [(0,)]
    assert not (await olivia.collaboration.ListCampaignShares(**campaign)).shares
