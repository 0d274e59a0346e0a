"""`chimera demo`: the whole product on this machine, once, from an empty folder to verified results.

What must stay true: it exits with 0 only if every check held, it leaves no process behind, and it
touches nothing outside `<home>/demo`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from chimera.cli.connection import home_folder
from chimera.cli.failure import FAILED, Failure

if TYPE_CHECKING:
    from rich.console import Console

    from chimera.cli.plan_file import PlanFile
    from chimera.client import Client
    from chimera.v1.campaigns_pb2 import GetRunSummaryResponse, Run

# Of the conversations: who is led, and by whom.
LED, ATTACKER = "assistant/guard-instructed", "assistant/attacker-steps"
# Sealing and telemetry run once a second.
SETTLE_S = 30.0
# Kept when everything held; the data is not.
KEPT = ("report.html", "conversations.html", "audit.jsonl", "evidence.zip", "logs")


def demo() -> None:
    """Run a real campaign here, verify it, and stop everything.

    Starts engines, server and worker under <home>/demo (CHIMERA_HOME, default .chimera), attacks
    five guarded models with ten techniques, prints rates with their intervals, lets an attacker model
    lead one of them step by step and compares that with asking directly, verifies the evidence and the
    audit log, writes HTML reports. Exit code 0 only if everything held.
    """
    from rich.console import Console

    from chimera.cli.installation import Installation, require_engines

    started_s = time.monotonic()
    require_engines()
    home = home_folder() / "demo"
    for name in [name for name in os.environ if name.startswith("CHIMERA_")]:
        del os.environ[name]  # settings of another installation
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    console = Console(highlight=False)
    _clear(home)
    environment = {"CHIMERA_DRAIN_S": "2", "CHIMERA_LOG_LEVEL": "info"}
    installation = Installation(home, durable=False, environment=environment)
    try:
        checks = _show(installation, _Steps(console), console)
    except Exception:
        console.print(f"The logs are in {home / 'logs'}", soft_wrap=True)
        raise
    console.print()
    for what, held, facts in checks:
        mark = "[green]✓[/green]" if held else "[red]✗[/red]"
        console.print(f"{mark} {what}: {facts}", soft_wrap=True)
    if not all(held for _what, held, _facts in checks):
        console.print(f"[red]Not everything held.[/red] Data and logs: {home}", soft_wrap=True)
        raise typer.Exit(FAILED)
    for path in home.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    console.print(f"\nReport: {home / 'report.html'}", soft_wrap=True)
    console.print(f"Conversations: {home / 'conversations.html'}", soft_wrap=True)
    console.print(f"Audit log: {home / 'audit.jsonl'}", soft_wrap=True)
    console.print(f"Evidence: {home / 'evidence.zip'}", soft_wrap=True)
    console.print(
        f"Everything held, in {time.monotonic() - started_s:.1f} s. Nothing runs any more."
    )


Check = tuple[str, bool, str]


def _leave(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


class _Steps:
    """Lines that say what was done and how long it took."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        began_s = time.monotonic()
        with self.console.status(f"{what} ..."):
            yield
        self.console.print(f"[green]✓[/green] {what} [dim]{time.monotonic() - began_s:.1f} s[/dim]")


def _clear(home: Path) -> None:
    """Ends what a killed demo left, and removes its data. Failure while another one runs."""
    from chimera.embedded.supervisor import sweep

    run = home / "run"
    if not run.exists():
        return
    with (run / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another demo runs in {home}") from None
        sweep(run)
        shutil.rmtree(home)


def _show(installation: Any, steps: _Steps, console: Console) -> list[Check]:
    """Everything between starting and stopping; what was checked."""
    from chimera.cli.assistant import register_assistant
    from chimera.cli.campaign import create, launch
    from chimera.cli.installation import first_administrator
    from chimera.cli.plan_file import EXAMPLE, read_plan
    from chimera.cli.watching import follow, print_results
    from chimera.client import Client
    from chimera.v1.campaigns_pb2 import GetRunSummaryRequest, GetRunSummaryResponse

    try:
        with steps.step("engines ready: PostgreSQL, Redis, ClickHouse, a guarded assistant"):
            installation.__enter__()
        with steps.step("databases migrated"):
            installation.migrate()
        with steps.step("organisation, administrator and API key made"):
            made = first_administrator(installation)
            if made is None:
                raise Failure("the demo's database is not empty")
        with steps.step("worker and server started"):
            installation.start_worker()
            installation.start_server()
        with Client(installation.server, made["api_key"]) as client:
            with steps.step("provider, models, prices, templates and campaign made over gRPC"):
                register_assistant(client, installation.assistant_url)
                plan = read_plan(EXAMPLE)
                run = launch(client, create(client, plan).id)
            console.print(f"\nRun {run.id}:\n{_shape(run)}", soft_wrap=True)
            run = follow(client, run.id, console)
            console.print()
            summary = client.call(GetRunSummaryRequest(run_id=run.id), GetRunSummaryResponse)
            print_results(summary, console)
            console.print()
            direct, led, compared = _led_step_by_step(client, plan, steps, console)
            return [
                _counted(summary),
                compared,
                _audited(client, run, installation.home / "audit.jsonl", steps),
                _proven(client, run, installation.home / "evidence.zip", steps),
                _measured(client, [run, direct, led], steps),
                _reported(client, run, installation.home / "report.html", steps),
                _reported(client, led, installation.home / "conversations.html", steps),
            ]
    finally:
        with steps.step("everything stopped"):
            installation.stack.stop()


def _shape(run: Run) -> str:
    return (
        f"{run.prompt_count} prompts x {len(run.technique_names)} techniques x "
        f"{len(run.target_names)} targets x {run.repetitions} repetitions = {run.cells_total} cells"
    )


def _led_step_by_step(
    client: Client, plan: PlanFile, steps: _Steps, console: Console
) -> tuple[Run, Run, Check]:
    """The same questions to one model, asked directly and led up to by an attacker model; which cells
    flipped, and one of the conversations."""
    from chimera.cli.campaign import create, launch, print_comparison
    from chimera.cli.cells import print_cell
    from chimera.cli.plan_file import CrescendoPart, StrategyPart
    from chimera.v1.evaluation_pb2 import CompareRunsRequest, CompareRunsResponse, Pairing

    asked = plan.model_copy(
        update={"name": "Asked directly", "techniques": ["plain"], "targets": [LED]}
    )
    crescendo = StrategyPart(crescendo=CrescendoPart(attacker=ATTACKER, turns_max=5))
    talked = asked.model_copy(update={"name": "Led step by step", "strategy": crescendo})
    with steps.step(f"{LED} asked directly, and led step by step by {ATTACKER}"):
        runs = [launch(client, create(client, one).id) for one in (asked, talked)]
        for run in runs:
            for item in client.watch(run.id):
                run.CopyFrom(item.run)
    direct, led = runs
    pairing = Pairing(first_run_id=direct.id, second_run_id=led.id)
    compared = client.call(CompareRunsRequest(pairing=pairing), CompareRunsResponse)
    console.print("\nThe same cells, asked directly (first) and led step by step (second):")
    print_comparison(compared, console)
    leak = _first_success(client, led)
    if leak is not None:
        print_cell(client.read_cell(led.id, leak), console)
        console.print()
    counts = compared.test.counts
    pairs = counts.both + counts.only_first + counts.only_second + counts.neither
    held = (
        direct.counts.scored == led.counts.scored == pairs == led.cells_total > 0
        and bool(led.seats)
        and (counts.both + counts.only_second == 0 or leak is not None)
    )
    facts = (
        f"{pairs} pairs, {counts.only_second} succeeded only when led and {counts.only_first} only "
        f"directly, p = {compared.test.p_value:.3f}"
    )
    return direct, led, ("conversations", held, facts)


def _first_success(client: Client, run: Run) -> int | None:
    from chimera.v1.campaigns_pb2 import ListExecutionsRequest, ListExecutionsResponse

    request = ListExecutionsRequest(run_id=run.id, is_successful=True, page_size=1)
    found = client.call(request, ListExecutionsResponse).executions
    return found[0].cell_no if found else None


# --- the checks -----------------------------------------------------------------------------------


def _counted(summary: GetRunSummaryResponse) -> Check:
    """Every cell has exactly one result, and what was booked is what the results cost."""
    from decimal import Decimal

    from chimera.cli.watching import money, state_word
    from chimera.v1.campaigns_pb2 import RunState

    run, counts = summary.run, summary.run.counts
    by_target = sum(row.rate.scored + row.rate.failed for row in summary.by_target)
    held = (
        run.state == RunState.RUN_STATE_COMPLETED
        and counts.scored == counts.recorded == run.cells_total == by_target
        and Decimal(counts.booked_usd) == Decimal(counts.cost_usd) > 0
        and sum(Decimal(row.rate.cost_usd) for row in summary.by_target) == Decimal(counts.cost_usd)
    )
    facts = (
        f"{state_word(run)}, {counts.scored} of {run.cells_total} cells scored once each, "
        f"${money(counts.cost_usd)} booked"
    )
    return "results", held, facts


def _audited(client: Client, run: Run, bundle: Path, steps: _Steps) -> Check:
    """The exported log holds the run from launch to end, and the offline verifier accepts it."""
    from chimera.audit.report import Verdict
    from chimera.cli.audit import export, verify_file

    with steps.step("audit log sealed, exported and verified offline"):
        ended = _eventually(lambda: _is_sealed(client, run))
        key = export(client, bundle)
        report = verify_file(bundle, [key])
    if report.verdict is not Verdict.VERIFIED:
        return "audit log", False, str(report)
    facts = (
        f"verified, {report.size} entries, root {(report.root or b'').hex()[:16]}…, "
        f"signed by {', '.join(report.signed_by)}"
    )
    return "audit log", ended and bool(report.signed_by), facts


def _proven(client: Client, run: Run, archive: Path, steps: _Steps) -> Check:
    """An outsider with the archive and the log's key can check every result of the run."""
    from chimera.audit.report import Verdict
    from chimera.campaigns.evidence.verify import verify_evidence
    from chimera.cli.campaign import write_evidence
    from chimera.v1.audit_pb2 import GetCheckpointRequest, GetCheckpointResponse

    with steps.step("evidence of the run exported and verified offline"):
        size_bytes = write_evidence(client, run.id, archive)
        key = client.call(GetCheckpointRequest(), GetCheckpointResponse).verifier_key
        report = verify_evidence(archive, [key])
    held = report.verdict is Verdict.VERIFIED and report.results == run.cells_total
    if not held:
        return "evidence", False, report.reason
    facts = f"verified, {report.results} results in {report.batches} batches, {size_bytes / 1000:.0f} kB"
    return "evidence", held, facts


def _is_sealed(client: Client, run: Run) -> bool:
    """Whether the newest checkpoint covers the run's launch and its end."""
    from chimera.client import NotFound
    from chimera.v1.audit_pb2 import (
        GetCheckpointRequest,
        GetCheckpointResponse,
        ListAuditEventsRequest,
        ListAuditEventsResponse,
    )

    try:
        size = client.call(GetCheckpointRequest(), GetCheckpointResponse).size
    except NotFound:
        return False
    places = []
    for action, entity_id in (("campaign.launch", run.campaign_id), ("run.complete", run.id)):
        request = ListAuditEventsRequest(action=action, entity_id=entity_id)
        places += [e.log_index for e in client.call(request, ListAuditEventsResponse).events]
    return len(places) == 2 and max(places) < size


def _measured(client: Client, runs: Sequence[Run], steps: _Steps) -> Check:
    """Every result has become an event in the column store, and none is lost on the way."""
    from chimera.v1.telemetry_pb2 import (
        GetIngestStatusRequest,
        GetIngestStatusResponse,
        ListEventsRequest,
        ListEventsResponse,
    )

    def status() -> GetIngestStatusResponse:
        return client.call(GetIngestStatusRequest(), GetIngestStatusResponse)

    with steps.step("telemetry arrived in ClickHouse"):
        cells = sum(run.cells_total for run in runs)
        arrived = _eventually(lambda: status().stored >= cells and not status().waiting)
        found = status()
        newest = client.call(
            ListEventsRequest(page_size=1, workload_id=runs[0].id), ListEventsResponse
        ).events
    held = arrived and found.accepted == found.stored and not found.dead_lettered and bool(newest)
    facts = (
        f"{found.accepted} events accepted = {found.stored} stored + {found.dead_lettered} dead "
        f"letters, {found.waiting} waiting"
    )
    return "telemetry", held, facts


def _reported(client: Client, run: Run, path: Path, steps: _Steps) -> Check:
    from chimera.report import write_report

    with steps.step("report written"):
        size_bytes = write_report(client, run.id, path)
    return "report", size_bytes > 0, f"{size_bytes / 1000:.0f} kB, one page without scripts"


def _eventually(held: Callable[[], bool]) -> bool:
    """Asks until it holds, for at most SETTLE_S."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        if held():
            return True
        time.sleep(0.1)
    return False
