"""A finished campaign and everybody who might look at it; every way to look at it, and to change it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql as pgsql

from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import CampaignPlan, Scorer
from chimera.v1.evaluation_pb2 import Pairing
from tests.support.campaigns import (
    assistant_models,
    collected,
    finished,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.library import new_team
from tests.support.workers import until
from tests.support.world import Organisation, Person, Refused, World

__all__ = ["draft", "scene"]

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
        await collected(core)
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
