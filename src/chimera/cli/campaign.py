"""`chimera campaign`: run a plan file, watch a run, read its results, write its report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import FAILED, WRONG_USE, Failure

if TYPE_CHECKING:
    from rich.console import Console

    from chimera.cli.plan_file import PlanFile, PromptPart
    from chimera.client import Client
    from chimera.v1.campaigns_pb2 import Campaign, CampaignPlan, Run, SuiteUse
    from chimera.v1.evaluation_pb2 import CompareRunsResponse

app = typer.Typer(
    help="Run campaigns and read their results.", no_args_is_help=True, rich_markup_mode=None
)
RunId = Annotated[str, typer.Argument(metavar="RUN_ID")]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Plan file, .yaml or .json.")],
    name: Annotated[str, typer.Option(help="Instead of the file's name.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Launch, and do not watch.")] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Create a campaign from a plan file, launch it and watch it.

    `chimera campaign example` prints a file to begin from; everything it may hold is described at
    the top of chimera/cli/plan_file.py. Exit code 0 when the run completed.
    """
    from chimera.cli.plan_file import read_plan

    plan = read_plan(file)
    with connected(server, api_key) as client:
        launched = launch(client, create(client, plan, name).id)
        typer.echo(
            f"run {launched.id}: {launched.cells_total} cells, plan {launched.plan_hash[:16]}"
        )
        if not detach:
            _watch_to_the_end(client, launched.id, "")


@app.command()
def example() -> None:
    """Print a plan file that runs on the embedded assistant, to begin from."""
    from chimera.cli.plan_file import EXAMPLE

    typer.echo(EXAMPLE.read_text("utf-8"), nl=False)


@app.command()
def watch(
    run_id: RunId,
    cursor: Annotated[str, typer.Option(help="Begin after what was seen before.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Watch a run until it is over, and print its results. Exit code 0 when it completed."""
    with connected(server, api_key) as client:
        _watch_to_the_end(client, run_id, cursor)


@app.command()
def results(
    run_id: RunId,
    cell: Annotated[
        int | None,
        typer.Option(
            min=0, help="One cell instead, by number: what was sent and said, turn by turn."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, and texts whole.")] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Print the rates of a run by technique and by target, or one of its cells."""
    from chimera.cli.cells import print_cell
    from chimera.cli.watching import print_results
    from chimera.v1.campaigns_pb2 import GetRunSummaryRequest, GetRunSummaryResponse

    with connected(server, api_key) as client:
        if cell is not None:
            told = client.read_cell(run_id, cell)
            print_json(told) if as_json else print_cell(told, _console())
            return
        summary = client.call(GetRunSummaryRequest(run_id=run_id), GetRunSummaryResponse)
    print_json(summary) if as_json else print_results(summary, _console())


def print_json(message: Any) -> None:
    from google.protobuf.json_format import MessageToJson

    typer.echo(MessageToJson(message, preserving_proto_field_name=True))


@app.command()
def report(
    run_id: RunId,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False)] = Path("report.html"),
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Write a run's report: one HTML page that needs nothing else."""
    from chimera.report import write_report

    with connected(server, api_key) as client:
        try:
            size_bytes = write_report(client, run_id, output)
        except OSError as error:
            raise Failure(f"{output}: {error.strerror}") from None
    typer.echo(f"wrote {output} ({size_bytes / 1000:.0f} kB)")


@app.command()
def evidence(
    run_id: RunId,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False)] = Path("evidence.zip"),
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Write a run's evidence: one archive that an outsider verifies offline with
    `chimera campaign verify`."""
    with connected(server, api_key) as client:
        size_bytes = write_evidence(client, run_id, output)
    typer.echo(f"wrote {output} ({size_bytes / 1000:.0f} kB)")


@app.command()
def verify(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", exists=True, dir_okay=False)],
    key: Annotated[list[str], typer.Option(help="Public key of the log; may be repeated.")],
) -> None:
    """Verify a run's evidence offline. Exit codes as `chimera audit verify`: 0 verified, 1 tampered,
    2 incomplete, 3 not an archive of evidence or not signed by a given key."""
    from chimera.campaigns.evidence.verify import main as verify_main

    raise typer.Exit(verify_main([str(archive), *(part for one in key for part in ("--key", one))]))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST_RUN_ID")],
    second: Annotated[str, typer.Argument(metavar="SECOND_RUN_ID")],
    across_targets: Annotated[
        bool, typer.Option("--across-targets", help="Each run has one target; compare those.")
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Compare two runs cell by cell: which verdicts flipped, and whether that is more than chance."""
    from chimera.v1.evaluation_pb2 import CompareRunsRequest, CompareRunsResponse, Pairing

    pairing = Pairing(first_run_id=first, second_run_id=second, across_targets=across_targets)
    with connected(server, api_key) as client:
        compared = client.call(CompareRunsRequest(pairing=pairing), CompareRunsResponse)
    print_comparison(compared, _console())


def print_comparison(compared: CompareRunsResponse, console: Console) -> None:
    """Pairs by their verdicts, by technique, with the paired test."""
    from rich.table import Table

    table = Table("technique", "both", "only first", "only second", "neither", "difference", "p")
    rows = [(part.technique, part.test) for part in compared.by_technique]
    for name, test in [*rows, ("all", compared.test)]:
        counts = test.counts
        difference = f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]"
        table.add_row(
            name,
            *(str(n) for n in (counts.both, counts.only_first, counts.only_second, counts.neither)),
            difference if test.HasField("p_value") else "",
            f"{test.p_value:.4f}" if test.HasField("p_value") else "",
        )
    console.print(table)
    if compared.first_unpaired or compared.second_unpaired:
        console.print(
            f"without a scored partner: {compared.first_unpaired} of the first, "
            f"{compared.second_unpaired} of the second"
        )


def write_evidence(client: Client, run_id: str, path: Path) -> int:
    """Streams a run's evidence into a file; its size in bytes. Raises ApiError, Failure."""
    from chimera.v1.evaluation_pb2 import ExportEvidenceRequest, ExportEvidenceResponse

    size_bytes = 0
    try:
        with path.open("wb") as file:
            for part in client.stream(ExportEvidenceRequest(run_id=run_id), ExportEvidenceResponse):
                size_bytes += file.write(part.data)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    return size_bytes


@app.command()
def techniques(server: Server = "", api_key: ApiKey = "") -> None:
    """List the built-in techniques with their parameters."""
    from chimera.v1.campaigns_pb2 import ListTechniquesRequest, ListTechniquesResponse

    with connected(server, api_key) as client:
        found = client.call(ListTechniquesRequest(), ListTechniquesResponse)
    _print_catalogue(found.techniques)


@app.command()
def scorers(server: Server = "", api_key: ApiKey = "") -> None:
    """List the built-in scorers with their parameters."""
    from chimera.v1.campaigns_pb2 import ListScorersRequest, ListScorersResponse

    with connected(server, api_key) as client:
        found = client.call(ListScorersRequest(), ListScorersResponse)
    _print_catalogue(found.scorers)


def _print_catalogue(rows: Iterable[Any]) -> None:
    from rich.table import Table

    table = Table("name", "parameters", "what it does")
    for row in rows:
        table.add_row(row.name, ", ".join(p.name for p in row.parameters), row.description)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _watch_to_the_end(client: Client, run_id: str, cursor: str) -> None:
    from rich.console import Console

    from chimera.cli.watching import follow, print_results, state_word
    from chimera.v1.campaigns_pb2 import GetRunSummaryRequest, GetRunSummaryResponse, RunState

    run = follow(client, run_id, Console(stderr=True), cursor)
    print_results(
        client.call(GetRunSummaryRequest(run_id=run_id), GetRunSummaryResponse), _console()
    )
    if run.state != RunState.RUN_STATE_COMPLETED:
        typer.echo(f"the run {state_word(run)}: {run.state_reason}", err=True)
        raise typer.Exit(FAILED)


# --- from a plan file to a run --------------------------------------------------------------------


def create(client: Client, plan: PlanFile, name: str = "") -> Campaign:
    """A draft campaign with this plan; makes the templates it needs. Raises ApiError, Failure."""
    from chimera.client import Taken
    from chimera.v1.campaigns_pb2 import CreateCampaignRequest, CreateCampaignResponse

    request = CreateCampaignRequest(
        name=name or plan.name,
        description=plan.description,
        objective=plan.objective,
        plan=_campaign_plan(client, plan),
    )
    try:
        return client.call(request, CreateCampaignResponse).campaign
    except Taken:
        raise Failure(
            f"there is a campaign called {request.name!r} already; choose another --name"
        ) from None


def launch(client: Client, campaign_id: str) -> Run:
    """Raises ApiError."""
    from chimera.v1.campaigns_pb2 import LaunchCampaignRequest, LaunchCampaignResponse

    request = LaunchCampaignRequest(campaign_id=campaign_id)
    return client.call(request, LaunchCampaignResponse).run


def _campaign_plan(client: Client, plan: PlanFile) -> CampaignPlan:
    from chimera.v1.campaigns_pb2 import CampaignPlan, PromptSource, Target

    models = _models(client)
    unknown = [name for name in plan.models() if name not in models]
    if unknown:
        known = ", ".join(sorted(models)) or "none"
        raise Failure(f"there is no target {unknown[0]!r}; known targets: {known}", WRONG_USE)
    message = CampaignPlan(
        techniques=plan.chains(),
        targets=[Target(model_id=models[name]) for name in plan.targets],
        repetitions=plan.repetitions,
        scorer=plan.scorer.message(models),
        generation=plan.generation_message(),
        limits=plan.limits_message(),
        seed=plan.seed,
        strategy=plan.strategy_message(models),
    )
    for part in plan.prompts:
        template_id = part.template_id or _template(client, part)
        source = PromptSource(
            template_id=template_id,
            version_number=part.version,
            dataset_id=_dataset(client, part.dataset) if part.dataset else "",
            dataset_version=part.dataset_version,
        )
        for row in part.rows:
            source.rows.add().update(row)
        message.prompts.append(source)
    if plan.suites:
        message.suites.extend(_suites(client, plan.suites))
    return message


def _dataset(client: Client, name: str) -> str:
    from chimera.v1.datasets_pb2 import ListDatasetsRequest, ListDatasetsResponse

    for page in client.pages(ListDatasetsRequest(page_size=1000), ListDatasetsResponse):
        for dataset in page.datasets:
            if dataset.name.lower() == name.lower():
                return dataset.id
    raise Failure(f"there is no dataset {name!r}", WRONG_USE)


def _suites(client: Client, names: Sequence[str]) -> list[SuiteUse]:
    """Suites by name: built in, or the organisation's own."""
    from chimera.v1.campaigns_pb2 import SuiteUse
    from chimera.v1.suites_pb2 import (
        ListBuiltInSuitesRequest,
        ListBuiltInSuitesResponse,
        ListSuitesRequest,
        ListSuitesResponse,
    )

    built_in = client.call(ListBuiltInSuitesRequest(), ListBuiltInSuitesResponse)
    known = {suite.name: SuiteUse(built_in=suite.name) for suite in built_in.suites}
    for page in client.pages(ListSuitesRequest(page_size=1000), ListSuitesResponse):
        known |= {suite.name: SuiteUse(suite_id=suite.id) for suite in page.suites}
    if unknown := [name for name in names if name not in known]:
        shown = ", ".join(sorted(known))
        raise Failure(f"there is no suite {unknown[0]!r}; known suites: {shown}", WRONG_USE)
    return [known[name] for name in names]


def _models(client: Client) -> dict[str, str]:
    """`provider/model` -> id."""
    from chimera.v1.providers_pb2 import (
        ListModelsRequest,
        ListModelsResponse,
        ListProvidersRequest,
        ListProvidersResponse,
    )

    providers = {
        provider.id: provider.name
        for page in client.pages(ListProvidersRequest(page_size=1000), ListProvidersResponse)
        for provider in page.providers
    }
    return {
        f"{providers[model.provider_id]}/{model.name}": model.id
        for page in client.pages(ListModelsRequest(page_size=1000), ListModelsResponse)
        for model in page.models
        if model.provider_id in providers
    }


def _template(client: Client, part: PromptPart) -> str:
    """A template with this content; one made from the same content before is used again."""
    from chimera.v1.templates_pb2 import (
        CreateTemplateRequest,
        CreateTemplateResponse,
        ListTemplatesRequest,
        ListTemplatesResponse,
    )

    request = CreateTemplateRequest(
        title=part.title or "From a plan file",
        messages=part.prompt_messages(),
        variables=part.variables(),
    )
    tag = _content_tag(request)
    found = client.call(ListTemplatesRequest(tag=tag, page_size=1), ListTemplatesResponse)
    # With later versions it is no longer what the tag says.
    if found.templates and found.templates[0].version_number == 1:
        return found.templates[0].id
    request.tags.append(tag)
    return client.call(request, CreateTemplateResponse).template.id


def _content_tag(request: Any) -> str:
    import hashlib

    return f"plan:{hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()[:32]}"
