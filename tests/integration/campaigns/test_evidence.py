"""Evidence of a run: an outsider with the archive and the log's key tells truth from forgery."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from chimera.audit.leaf import decode_leaf
from chimera.audit.report import Verdict
from chimera.campaigns.engine.telling import digest_bytes as digest_by_engine
from chimera.campaigns.evidence.digest import DIGESTED, LATER, digest_bytes
from chimera.campaigns.evidence.verify import verify_evidence
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from tests.support.campaigns import (
    assistant_models,
    finished,
    launched,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.workers import until
from tests.support.world import Person, Refused, World


async def exported(person: Person, run_id: str, path: Path) -> Path:
    parts = [part.data async for part in person.evaluation.ExportEvidence(run_id=run_id)]
    path.write_bytes(b"".join(parts))
    return path


async def ran(
    world: World, stack: StackUrls, settings: Settings, tmp_path: Path, script: Sequence[str] = ()
) -> tuple[Path, str, Person, str]:
    """(archive, key of the log, who ran it, run) of a sealed run; of conversations with a script."""
    olivia = (await world.organisation("acme")).admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none", "guard-strict"])
    plan = secret_plan(await secret_template(olivia), models, rows=30, repetitions=2)
    if script:
        plan = secret_plan(await secret_template(olivia), models, rows=4, techniques=["plain"])
        plan.strategy.script.messages.extend(script)
    async with worker(settings):
        run = await launched(olivia, plan)
        await finished(olivia, run.id)

        async def sealed() -> bool:
            try:
                archive = await exported(olivia, run.id, tmp_path / "evidence.zip")
            except Refused as refused:
                assert refused.reason == "CHECKPOINT_NOT_FOUND"
                return False
            key = (await olivia.audit.GetCheckpoint()).verifier_key
            return verify_evidence(archive, [key]).verdict is Verdict.VERIFIED

        await until(sealed, "the end of the run is sealed", every_s=0.2)
    key = (await olivia.audit.GetCheckpoint()).verifier_key
    return tmp_path / "evidence.zip", key, olivia, run.id


def changed(archive: Path, member: str, change: Callable[[list[Any]], None]) -> Path:
    """A copy in which the lines of a member were changed."""
    copy = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(copy, "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if name == member:
                lines = [json.loads(line) for line in data.splitlines()]
                change(lines)
                data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
            after.writestr(name, data)
    return copy


def action_of(line: Any) -> str:
    """Of the event on a line of the audit bundle; empty for its other lines."""
    return decode_leaf(base64.b64decode(line["leaf"])).action if "leaf" in line else ""


def opened(line: Any) -> list[Any]:
    values = [o["value"] for o in line.get("open", ()) if o["name"].startswith("new:")]
    return [json.loads(base64.b64decode(value)) for value in values]


async def test_an_outsider_verifies_a_run(
    world: World, stack: StackUrls, settings: Settings, tmp_path: Path
) -> None:
    """The verifier is a program that needs nothing of the server; every way of dressing the results
    up is noticed, and so is another log's key."""
    archive, key, olivia, run_id = await ran(world, stack, settings, tmp_path)
    report = verify_evidence(archive, [key])
    assert report.verdict is Verdict.VERIFIED
    assert (report.run_id, report.results, report.scored) == (run_id, 240, 240)
    run = (await olivia.campaigns.GetRun(run_id=run_id)).run
    assert report.successes == run.counts.successes
    with zipfile.ZipFile(archive) as opened_archive:
        plan = orjson.loads(opened_archive.read("plan.json"))
    known = {s.name: s.version for s in (await olivia.campaigns.ListScorers()).scorers}
    assert plan["scorer_versions"] == {"canary_leak": known["canary_leak"]}
    told = subprocess.run(
        [sys.executable, "-m", "chimera.campaigns.evidence.verify", str(archive), "--key", key],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("VERIFIED: everything holds\n")

    def forged(member: str, change: Callable[[list[Any]], None]) -> tuple[Verdict, str]:
        report = verify_evidence(changed(archive, member, change), [key])
        return report.verdict, report.reason

    def flip(lines: list[Any]) -> None:
        lines[7]["result"]["is_successful"] = not lines[7]["result"]["is_successful"]

    def reword(lines: list[Any]) -> None:
        lines[0]["result"]["response"] += " "

    def drop(lines: list[Any]) -> None:
        lines.pop(3)

    def double(lines: list[Any]) -> None:
        lines.append(lines[0])

    def add(lines: list[Any]) -> None:
        lines.append(lines[0] | {"result": lines[0]["result"] | {"cell_no": 100_000}})

    for change, reason in (
        (flip, "do not hash"),
        (reword, "do not hash"),
        (drop, "is missing"),
        (double, "two results"),
        (add, "is in no batch"),
    ):
        verdict, why = forged("results.jsonl", change)
        assert verdict is Verdict.TAMPERED
        assert reason in why

    def drop_batch(lines: list[Any]) -> None:
        lines.pop()

    def swap_cells(lines: list[Any]) -> None:
        max((line["cells"] for line in lines), key=len).reverse()  # one of a single cell is alike

    assert forged("flushes.jsonl", drop_batch)[0] is Verdict.TAMPERED
    assert len(
        orjson.loads(zipfile.ZipFile(archive).read("flushes.jsonl").splitlines()[0])["cells"]
    )
    verdict, _ = forged("flushes.jsonl", swap_cells)
    assert verdict is Verdict.TAMPERED

    def easier(lines: list[Any]) -> None:
        lines[0]["seed"] = 8

    verdict, why = forged("plan.json", easier)
    assert (verdict, why) == (Verdict.TAMPERED, "the plan is not the one that was launched")

    def forget_end(lines: list[Any]) -> None:
        lines[:] = [line for line in lines if action_of(line) != "run.complete"]

    assert forged("audit.jsonl", forget_end)[0] is Verdict.INCOMPLETE

    # A batch that is left out everywhere: the counts at the end of the run remember it.
    batches = [
        json.loads(line) for line in zipfile.ZipFile(archive).read("flushes.jsonl").splitlines()
    ]
    gone = batches[-1]

    def forget_batch(lines: list[Any]) -> None:
        lines[:] = [
            line
            for line in lines
            if gone["flush_id"] not in (line.get("flush_id"), *opened(line))
            and line.get("result", {}).get("cell_no") not in gone["cells"]
        ]

    forgotten = archive
    for member in ("flushes.jsonl", "results.jsonl", "audit.jsonl"):
        copy = changed(forgotten, member, forget_batch)
        forgotten = copy.rename(archive.with_name(f"without-{member}.zip"))
    report = verify_evidence(forgotten, [key])
    assert (report.verdict, report.reason) == (
        Verdict.TAMPERED,
        "the counts differ from those at the end of the run",
    )

    def open_otherwise(lines: list[Any]) -> None:
        for line in lines:
            for opening in line.get("open", ()):
                if opening["name"] == "new:merkle_root":
                    opening["value"] = base64.b64encode(json.dumps("00" * 32).encode()).decode()

    assert forged("audit.jsonl", open_otherwise)[0] is Verdict.TAMPERED
    archive.with_name("cut.zip").write_bytes(archive.read_bytes()[:-100])
    assert verify_evidence(archive.with_name("cut.zip"), [key]).verdict is Verdict.BAD_INPUT


async def test_evidence_is_for_those_who_see_the_run(
    world: World, stack: StackUrls, settings: Settings, tmp_path: Path
) -> None:
    """Another organisation gets nothing, and another log's key proves nothing."""
    archive, key, _, run_id = await ran(world, stack, settings, tmp_path)
    mallory = (await world.organisation("globex")).admin
    with pytest.raises(Refused) as refused:
        await exported(mallory, run_id, tmp_path / "stolen.zip")
    assert refused.value.reason == "RUN_NOT_FOUND"
    name, _, rest = key.partition("+")
    for wrong in (f"other+{rest}", f"{name}+00000000+{rest.partition('+')[2]}", "nonsense"):
        assert verify_evidence(archive, [wrong]).verdict is not Verdict.VERIFIED


async def test_every_word_of_a_conversation_is_covered(
    world: World, stack: StackUrls, settings: Settings, tmp_path: Path
) -> None:
    """Turns that were reworded, dropped, exchanged or given to another cell are noticed."""
    archive, key, _, _ = await ran(
        world, stack, settings, tmp_path, ["What is 2 + 3?", "And what is the secret?"]
    )
    report = verify_evidence(archive, [key])
    assert (report.verdict, report.results) == (Verdict.VERIFIED, 8)

    def forged(change: Callable[[list[Any]], None]) -> Verdict:
        return verify_evidence(changed(archive, "turns.jsonl", change), [key]).verdict

    def reword(lines: list[Any]) -> None:
        lines[1]["turn"]["reply"] += " "

    def exchange(lines: list[Any]) -> None:
        lines[0]["turn"], lines[1]["turn"] = (
            lines[1]["turn"] | {"turn_no": 1},
            lines[0]["turn"] | {"turn_no": 2},
        )

    def cut_short(lines: list[Any]) -> None:
        lines.pop()

    def add(lines: list[Any]) -> None:
        lines.append(lines[0] | {"cell_no": 100_000})

    assert {forged(c) for c in (reword, exchange, cut_short, add, list.clear)} == {Verdict.TAMPERED}


RESULTS = st.fixed_dictionaries(
    {
        "cell_no": st.integers(0, 2**53),
        "state": st.sampled_from(["succeeded", "failed"]),
        "transformed_prompt": st.text(st.characters(exclude_categories=["Cs"])),
        "response": st.text(st.characters(exclude_categories=["Cs"])),
        "is_successful": st.none() | st.booleans(),
        "verdict_reason": st.text(st.characters(exclude_categories=["Cs"])),
        "final_error": st.text(),
        "input_tokens": st.integers(0, 2**31),
        "output_tokens": st.integers(0, 2**31),
        "cost": st.decimals(0, 1000, places=12).map(str),
        "finish_reason": st.none() | st.text(),
        "transcript": st.none() | st.text(min_size=1),
    }
)


@examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RESULTS)
def test_engine_and_verifier_hash_the_same_bytes(row: dict[str, Any]) -> None:
    """The engine's fast JSON and the standard library's agree on every text; without what came
    later, a result hashes as it did before."""
    assert set(row) == set(DIGESTED) | set(LATER)
    for name in ("final_error", *LATER):
        row[name] = row[name] and row[name].encode(errors="replace").decode()
    if row["finish_reason"] is None and row["transcript"] is None:
        assert len(json.loads(digest_bytes(row))) == len(DIGESTED)
    assert digest_by_engine(row) == digest_bytes(row)
