"""Suites of techniques: built in and an organisation's own, versioned, and expanded into plans."""

from __future__ import annotations

import json

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chimera.v1.campaigns_pb2 import CampaignPlan, TechniqueChain, TechniqueStep
from chimera.v1.suites_pb2 import Suite
from tests.support.workers import Books, Stage
from tests.support.world import Person, Refused, World


def chain(*steps: str, name: str = "", **params: object) -> TechniqueChain:
    made = TechniqueChain(name=name, steps=[TechniqueStep(technique=step) for step in steps])
    if params:
        made.steps[0].params.update(params)  # type: ignore[arg-type]  # plain values
    return made


def names(chains: object) -> list[str]:
    return [one.name or "+".join(s.technique for s in one.steps) for one in chains]  # type: ignore[attr-defined]  # a repeated field


async def updated(person: Person, suite: Suite, *paths: str, **more: str) -> Suite:
    answer = await person.suites.UpdateSuite(
        suite=suite, update_mask=FieldMask(paths=paths), **more
    )
    found: Suite = answer.suite
    return found


async def refused(awaitable: object) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        await awaitable  # type: ignore[misc]  # a call of a stub
    return caught.value.code, caught.value.reason


async def test_a_suite_has_versions_that_never_change(world: World) -> None:
    """Made, renamed, given other chains, deleted and brought back; each step in the log."""
    acme = await world.organisation("acme")
    olivia, paul = await acme.person("olivia"), await acme.person("paul")
    made = (
        await olivia.suites.CreateSuite(
            name="Ours", description="What we try first.", chains=[chain("plain"), chain("base64")]
        )
    ).suite
    assert (made.version_number, names(made.chains)) == (1, ["plain", "base64"])
    renamed = await updated(
        paul, Suite(id=made.id, name="Ours too"), "name", etag=made.etag
    )  # a colleague's
    assert (renamed.name, renamed.version_number) == ("Ours too", 1)
    same = await updated(olivia, Suite(id=made.id, chains=made.chains), "chains")
    assert same.version_number == 1  # the same chains are the version that is there
    deeper = [chain("caesar", name="shifted", shift=5), chain("rot13", "base64")]
    second = await updated(olivia, Suite(id=made.id, chains=deeper), "chains", change_note="deeper")
    assert (second.version_number, names(second.chains)) == (2, ["shifted", "rot13+base64"])
    first = (await paul.suites.GetSuite(suite_id=made.id, version_number=1)).suite
    assert (names(first.chains), first.content_hash) == (["plain", "base64"], made.content_hash)
    versions = (await olivia.suites.ListSuiteVersions(suite_id=made.id)).versions
    assert [(v.version_number, v.chain_count, v.change_note) for v in versions] == [
        (2, 2, "deeper"),
        (1, 2, ""),
    ]
    await olivia.suites.DeleteSuite(suite_id=made.id, etag=second.etag)
    assert not (await olivia.suites.ListSuites()).suites
    listed = (await olivia.suites.ListSuites(show_deleted=True)).suites
    assert [(s.id, s.version_number) for s in listed] == [(made.id, 2)] and not listed[0].chains
    back = (await paul.suites.UndeleteSuite(suite_id=made.id)).suite
    assert not back.HasField("deleted_at")
    actions = await Books(world.settings).actions(made.id)
    assert set(actions) == {"suite.create", "suite.delete", "suite.undelete", "suite.update"}


async def test_the_catalogue_names_its_sources(world: World) -> None:
    """Transformations and scorers, each with what it does and where it comes from."""
    olivia = await (await world.organisation("acme")).person("olivia")
    techniques = (await olivia.campaigns.ListTechniques()).techniques
    scorers = (await olivia.campaigns.ListScorers()).scorers
    assert len(techniques) >= 40 and len(scorers) >= 20
    for one in (*techniques, *scorers):
        assert one.title and one.description and one.source, one.name


async def test_what_suites_refuse(world: World) -> None:
    """Names that are taken, chains that cannot be used, stale etags, viewers, strangers."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    create, chains = olivia.suites.CreateSuite, [chain("plain")]
    made = (await create(name="Ours", chains=chains)).suite
    for taken in ("OURS", "Smoke"):  # another's, a built-in one's
        assert await refused(create(name=taken, chains=chains)) == (
            "ALREADY_EXISTS",
            "SUITE_NAME_TAKEN",
        )
    bad = create(name="bad", chains=[chain("telepathy")])
    assert await refused(bad) == ("INVALID_ARGUMENT", "TECHNIQUE_UNKNOWN")
    twice = create(name="twice", chains=[chain("plain"), chain("plain")])
    assert (await refused(twice))[1] == "TECHNIQUE_PARAMETER_INVALID"
    await updated(olivia, Suite(id=made.id, description="new"), "description")
    stale = updated(olivia, Suite(id=made.id, name="x"), "name", etag=made.etag)
    assert await refused(stale) == ("ABORTED", "ETAG_MISMATCH")
    masked = updated(olivia, Suite(id=made.id), "version_number")
    assert (await refused(masked))[1] == "UPDATE_MASK_INVALID"
    vera = await acme.person("vera", role="viewer")
    assert (await vera.suites.GetSuite(suite_id=made.id)).suite.name == "Ours"
    assert (await refused(vera.suites.DeleteSuite(suite_id=made.id)))[0] == "PERMISSION_DENIED"
    mallory = (await world.organisation("globex")).admin
    assert (await refused(mallory.suites.GetSuite(suite_id=made.id)))[1] == "SUITE_NOT_FOUND"
    assert not (await mallory.suites.ListSuites()).suites
    assert (await mallory.suites.CreateSuite(name="Ours", chains=chains)).suite.id != made.id
    built_in = (await vera.suites.ListBuiltInSuites()).suites
    assert {"smoke", "encodings", "obfuscations", "framings", "scripts"} <= {
        suite.name for suite in built_in
    }


async def test_a_plan_names_suites_and_the_launch_pins_them(stage: Stage) -> None:
    """The plan's own chains first, then those of the suites, each once; what the suite becomes later
    changes nothing, and the frozen plan says which version it was."""
    olivia, plan = stage.olivia, await stage.plan(rows=1, techniques=["base64"])
    ours = (
        await olivia.suites.CreateSuite(
            name="ours", chains=[chain("base64"), chain("caesar", name="shifted", shift=5)]
        )
    ).suite
    plan.suites.add(suite_id=ours.id)
    plan.suites.add(built_in="smoke")
    run = await stage.launched(plan)
    assert list(run.technique_names) == ["base64", "shifted", "plain", "rot13", "leetspeak"]
    assert run.cells_total == 5
    frozen = json.loads(bytes(await stage.books.value("SELECT plan FROM campaigns.run_plans")))
    assert [(pin["name"], pin["version_number"]) for pin in frozen["suites"]] == [
        ("ours", 1),
        ("smoke", 1),
    ]
    assert frozen["suites"][0] == {
        "name": "ours",
        "suite_id": ours.id,
        "version_number": 1,
        "content_hash": ours.content_hash,
    }
    other = [chain("caesar", name="shifted", shift=9)]
    await updated(olivia, Suite(id=ours.id, chains=other), "chains")

    async def launch(name: str, *suites: dict[str, object]) -> None:
        again = CampaignPlan()
        again.CopyFrom(plan)
        del again.suites[:]
        for suite in suites:
            again.suites.add(**suite)
        await stage.launched(again, name)

    await launch("old version", {"suite_id": ours.id, "version_number": 1})
    clash = launch("clash", {"suite_id": ours.id, "version_number": 1}, {"suite_id": ours.id})
    assert (await refused(clash))[1] == "TECHNIQUE_PARAMETER_INVALID"
    unknown = launch("unknown", {"built_in": "smoke", "version_number": 99})
    assert await refused(unknown) == ("NOT_FOUND", "SUITE_NOT_FOUND")
    await olivia.suites.DeleteSuite(suite_id=ours.id)
    deleted = launch("deleted", {"suite_id": ours.id, "version_number": 1})
    assert (await refused(deleted))[1] == "SUITE_NOT_FOUND"
