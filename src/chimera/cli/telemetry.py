"""`chimera telemetry`: sending a file of events, watching them arrive, and keeping the books."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import WRONG_USE, Failure

app = typer.Typer(
    help="Send events, watch them, dead letters, reconciling.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
BATCH_EVENTS = 1000
Ids = Annotated[list[str], typer.Argument(metavar="DEAD_LETTER_ID...")]


@app.command()
def send(
    file: Annotated[Path, typer.Argument(help="One event as JSON a line; - for standard input.")],
    producer: Annotated[str, typer.Option(help="Who sends.")] = "chimera-cli",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Send a file of events. Sending the same file again changes nothing."""
    from chimera.v1.telemetry_pb2 import (
        EventBatch,
        EventRows,
        RecordEventsRequest,
        RecordEventsResponse,
    )

    accepted = bad = known = first = 0
    with connected(server, api_key) as client:
        for number, (events, batch_id) in enumerate(_batches(_lines(file))):
            batch = EventBatch(producer=producer, batch_id=batch_id, rows=EventRows(events=events))
            answer = client.call(RecordEventsRequest(batch=batch), RecordEventsResponse)
            receipt = answer.receipt
            first = number * BATCH_EVENTS + 1
            accepted += receipt.accepted
            bad += receipt.dead_lettered + receipt.refused
            known += receipt.is_repeated
            for error in receipt.errors:
                kept = "kept as a dead letter" if error.is_kept else "refused"
                typer.echo(
                    f"event {first + error.index}: {error.field} {error.message} ({kept})", err=True
                )
    repeated = f", {known} batches were known already" if known else ""
    typer.echo(f"{accepted} events accepted, {bad} not{repeated}")
    if bad:
        raise typer.Exit(1)


def _lines(file: Path) -> Iterator[bytes]:
    try:
        if str(file) == "-":
            yield from sys.stdin.buffer
        else:
            with file.open("rb") as lines:
                yield from lines
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", WRONG_USE) from None


def _batches(lines: Iterable[bytes]) -> Iterator[tuple[list[Any], str]]:
    """(events, id) of batches; the id follows from all lines up to their end."""
    from google.protobuf.json_format import Parse, ParseError

    from chimera.v1.telemetry_pb2 import TelemetryEvent

    so_far = hashlib.blake2b(digest_size=16)
    events: list[Any] = []
    for number, line in enumerate(lines, start=1):
        so_far.update(line)
        if not line.strip():
            continue
        try:
            events.append(Parse(line, TelemetryEvent()))
        except (ParseError, UnicodeDecodeError) as error:
            raise Failure(f"line {number} is not an event: {error}", WRONG_USE) from None
        if len(events) == BATCH_EVENTS:
            yield events, str(UUID(bytes=so_far.digest(), version=4))
            events = []
    if events:
        yield events, str(UUID(bytes=so_far.digest(), version=4))


@app.command()
def tail(
    event_type: Annotated[
        list[str] | None, typer.Option("--type", help="Only of this type.")
    ] = None,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN_ID", help="Only of this one.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Print events as they are accepted, one as JSON a line, until Ctrl-C."""
    from google.protobuf.json_format import MessageToJson

    from chimera.client import Busy, TimedOut, Unreachable
    from chimera.v1.telemetry_pb2 import EventFilter, WatchEventsRequest, WatchEventsResponse

    chosen = EventFilter(event_types=event_type or [], campaign_ids=[campaign] if campaign else [])
    cursor, tries = "", 0
    with connected(server, api_key) as client:
        while True:
            request = WatchEventsRequest(filter=chosen, cursor=cursor)
            try:
                for item in client.stream(request, WatchEventsResponse):
                    cursor, tries = item.cursor, 0
                    for event in item.events:
                        typer.echo(
                            MessageToJson(event, indent=None, preserving_proto_field_name=True)
                        )
                return
            except (Unreachable, TimedOut, Busy):
                # It goes on where it was; a server that stays away ends it.
                tries += 1
                if tries == 5:
                    raise


@app.command()
def status(server: Server = "", api_key: ApiKey = "") -> None:
    """Whether accepted = stored + dead, and how far behind the store is."""
    from chimera.v1.telemetry_pb2 import GetIngestStatusRequest, GetIngestStatusResponse

    with connected(server, api_key) as client:
        found = client.call(GetIngestStatusRequest(), GetIngestStatusResponse)
    typer.echo(
        f"accepted {found.accepted}, stored {found.stored}, dead {found.dead_lettered}"
        f" (of them {found.discarded} thrown away), waiting {found.waiting}"
    )
    if found.HasField("oldest_waiting_at"):
        typer.echo(f"the oldest waits since {found.oldest_waiting_at.ToJsonString()}")
    if found.HasField("verified_to"):
        typer.echo(f"compared with the store up to {found.verified_to.ToJsonString()}")


@app.command()
def reconcile(
    replace: Annotated[
        bool, typer.Option(help="Store anew what is there in part, twice or altered.")
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Have everything of the last days compared with the store again, the roll-ups too."""
    from chimera.v1.telemetry_pb2 import ReconcileTelemetryRequest, ReconcileTelemetryResponse

    with connected(server, api_key) as client:
        request = ReconcileTelemetryRequest(replace_differing=replace)
        client.call(request, ReconcileTelemetryResponse)
    typer.echo("asked for; a worker does it within a minute or so: chimera telemetry books")


@app.command()
def books(server: Server = "", api_key: ApiKey = "") -> None:
    """List what the reconciler found, by day and producer; exit code 1 when the store differs."""
    from chimera.v1.telemetry_pb2 import (
        ListReconciliationsRequest,
        ListReconciliationsResponse,
    )

    differs = False
    with connected(server, api_key) as client:
        for page in client.pages(ListReconciliationsRequest(), ListReconciliationsResponse):
            for r in page.reconciliations:
                differs |= bool(r.missing_batches or r.surplus_batches)
                typer.echo(
                    f"{r.day}  {r.producer}: accepted {r.accepted}, stored {r.stored}, dead"
                    f" {r.dead_lettered}, waiting {r.waiting}; found {r.found}, batches missing"
                    f" {r.missing_batches}, too many {r.surplus_batches}, sent anew"
                    f" {r.resent_batches}"
                )
    if differs:
        raise typer.Exit(1)


@app.command("dead-letters")
def dead_letters(server: Server = "", api_key: ApiKey = "") -> None:
    """List what could not be stored, newest first."""
    from chimera.v1.telemetry_pb2 import ListDeadLettersRequest, ListDeadLettersResponse

    with connected(server, api_key) as client:
        for page in client.pages(ListDeadLettersRequest(), ListDeadLettersResponse):
            for letter in page.dead_letters:
                what = f"event {letter.event_index}" if letter.HasField("event_index") else "batch"
                typer.echo(
                    f"{letter.id}  {letter.producer} {letter.batch_id} {what},"
                    f" {letter.events} events: {letter.reason}"
                )


@app.command()
def requeue(ids: Ids, server: Server = "", api_key: ApiKey = "") -> None:
    """Put dead letters back into the buffer."""
    from chimera.v1.telemetry_pb2 import RequeueDeadLettersRequest, RequeueDeadLettersResponse

    with connected(server, api_key) as client:
        request = RequeueDeadLettersRequest(dead_letter_ids=ids)
        answer = client.call(request, RequeueDeadLettersResponse)
    typer.echo(f"{answer.events} events wait again")


@app.command()
def discard(ids: Ids, server: Server = "", api_key: ApiKey = "") -> None:
    """Throw dead letters away; they stay counted as dead."""
    from chimera.v1.telemetry_pb2 import DiscardDeadLettersRequest, DiscardDeadLettersResponse

    with connected(server, api_key) as client:
        request = DiscardDeadLettersRequest(dead_letter_ids=ids)
        answer = client.call(request, DiscardDeadLettersResponse)
    typer.echo(f"{answer.events} events thrown away")
