"""`chimera ops`: what operators look at and free on a bad day."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import WRONG_USE, Failure
from chimera.cli.tables import show, when

app = typer.Typer(
    help="Stuck shards, unknown attempts, outbox, kill switch.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RunId = Annotated[str, typer.Argument(metavar="RUN_ID")]
Size = Annotated[int, typer.Option("--size", min=1, help="How many at most.")]


@app.command()
def shards(size: Size = 100, server: Server = "", api_key: ApiKey = "") -> None:
    """List shards whose lease ran out and which nobody took over."""
    from chimera.v1.operations_pb2 import ListStuckShardsRequest, ListStuckShardsResponse

    with connected(server, api_key) as client:
        found = client.call(ListStuckShardsRequest(page_size=size), ListStuckShardsResponse)
    show(
        ("run", "shard", "cells", "owner", "fence", "lease ended"),
        (
            (
                s.run_id,
                s.shard_no,
                f"{s.first_cell} + {s.cells}",
                s.owner,
                s.fence,
                when(s.lease_until),
            )
            for s in found.shards
        ),
        "no stuck shards",
    )


@app.command()
def release(
    run_id: RunId,
    shard_no: Annotated[int, typer.Argument(metavar="SHARD_NO", min=0)],
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """End a stuck shard's lease now, so that a worker takes it over."""
    from chimera.v1.operations_pb2 import ReleaseShardRequest, ReleaseShardResponse

    with connected(server, api_key) as client:
        client.call(ReleaseShardRequest(run_id=run_id, shard_no=shard_no), ReleaseShardResponse)
    typer.echo(f"released shard {shard_no} of run {run_id}")


@app.command()
def attempts(
    run: Annotated[str, typer.Option(metavar="RUN_ID", help="Only of this run.")] = "",
    size: Size = 100,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """List attempts whose outcome nobody knows, booked at their worst cost."""
    from chimera.v1.operations_pb2 import ListUnknownAttemptsRequest, ListUnknownAttemptsResponse

    request = ListUnknownAttemptsRequest(page_size=size, run_id=run)
    with connected(server, api_key) as client:
        found = client.call(request, ListUnknownAttemptsResponse)
    show(
        ("run", "cell", "attempt", "worst cost $", "sent"),
        (
            (a.run_id, a.cell_no, a.attempt_no, a.worst_cost_usd, when(a.sent_at))
            for a in found.attempts
        ),
        "no unknown attempts",
    )


@app.command()
def outbox(
    dead: Annotated[bool, typer.Option("--dead", help="Only dead letters.")] = False,
    size: Size = 100,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """List work that was asked for and is not done."""
    from chimera.v1.operations_pb2 import ListOutboxRequest, ListOutboxResponse, OutboxState

    state = OutboxState.OUTBOX_STATE_DEAD if dead else OutboxState.OUTBOX_STATE_UNSPECIFIED
    with connected(server, api_key) as client:
        found = client.call(ListOutboxRequest(page_size=size, state=state), ListOutboxResponse)
    show(
        ("id", "task", "state", "rings", "asked for", "due", "last error"),
        (
            (
                row.id,
                row.task,
                OutboxState.Name(row.state).removeprefix("OUTBOX_STATE_").lower(),
                row.rings,
                when(row.created_at),
                when(row.due_at),
                row.last_error,
            )
            for row in found.rows
        ),
        "the outbox is empty",
    )


@app.command()
def retry(
    outbox_id: Annotated[str, typer.Argument(metavar="OUTBOX_ID")],
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Give a dead letter another set of tries."""
    from chimera.v1.operations_pb2 import RetryOutboxRequest, RetryOutboxResponse

    with connected(server, api_key) as client:
        row = client.call(RetryOutboxRequest(outbox_id=outbox_id), RetryOutboxResponse).row
    typer.echo(f"{row.task} {row.id} will be tried again")


@app.command("kill-switch")
def kill_switch(
    stop: Annotated[
        bool | None,
        typer.Option("--stop/--allow", show_default=False, help="Neither: show how it stands."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Recorded in the audit log; needed to change.")] = "",
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="For every organisation; operators only.")
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Show the kill switch, stop all sending at once, or allow it again."""
    from chimera.v1.operations_pb2 import (
        GetKillSwitchRequest,
        GetKillSwitchResponse,
        SetKillSwitchRequest,
        SetKillSwitchResponse,
    )

    if stop is not None and not reason:
        raise Failure("say why: --reason", WRONG_USE)
    with connected(server, api_key) as client:
        found: Any
        if stop is None:
            found = client.call(GetKillSwitchRequest(), GetKillSwitchResponse)
        else:
            request = SetKillSwitchRequest(
                sending_stopped=stop, reason=reason, everywhere=everywhere
            )
            found = client.call(request, SetKillSwitchResponse)
    for name in ("organisation", "installation"):
        switch = getattr(found, name)
        state = "sending is STOPPED" if switch.sending_stopped else "sending is allowed"
        since = f" since {when(switch.set_at)}: {switch.reason}" if switch.set_by else ""
        typer.echo(f"{name}: {state}{since}")
