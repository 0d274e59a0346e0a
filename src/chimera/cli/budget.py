"""`chimera budget` and `chimera usage`: what may be spent, what was, and whether the books hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import FAILED, WRONG_USE, Failure
from chimera.cli.tables import show

app = typer.Typer(
    help="Budgets: set, list, remaining, alerts.", no_args_is_help=True, rich_markup_mode=None
)
usage_app = typer.Typer(
    help="Usage by any dimension, and the proof of the books.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SCOPES = ("organisation", "user", "api-key", "provider-key", "campaign")
PERIODS = ("daily", "monthly")
DIMENSIONS = (
    "day", "month", "user", "provider", "model", "campaign", "run", "technique", "provider-key",
    "api-key",
)  # fmt: skip
BudgetId = Annotated[str, typer.Argument(metavar="BUDGET_ID")]


def _chosen(value: str, choices: tuple[str, ...], what: str) -> str:
    if value not in choices:
        raise Failure(f"{what} is one of: {', '.join(choices)}", WRONG_USE)
    return value.upper().replace("-", "_")


@app.command("set")
def set_(
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help=", ".join(SCOPES))],
    period: Annotated[str, typer.Argument(metavar="PERIOD", help="daily or monthly")],
    scope_id: Annotated[
        str, typer.Option("--id", help="Of the user, key or campaign; else your own.")
    ] = "",
    cost: Annotated[str, typer.Option("--cost", help="US dollars.")] = "",
    requests: Annotated[int, typer.Option("--requests", min=-1, show_default=False)] = -1,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Set the limits of a scope; what is not named is taken away."""
    from chimera.v1.budgets_pb2 import (
        BudgetLimits,
        BudgetScope,
        SetBudgetRequest,
        SetBudgetResponse,
    )

    if not cost and requests < 0:
        raise Failure("say how much: --cost, --requests or both", WRONG_USE)
    request = SetBudgetRequest(
        scope=BudgetScope(
            kind=f"BUDGET_SCOPE_KIND_{_chosen(scope, SCOPES, 'SCOPE')}",
            id=scope_id,
        ),
        period=f"BUDGET_PERIOD_{_chosen(period, PERIODS, 'PERIOD')}",
        limits=BudgetLimits(
            requests_max=requests if requests >= 0 else None, cost_usd_max=cost or None
        ),
    )
    with connected(server, api_key) as client:
        budget = client.call(request, SetBudgetResponse).budget
    typer.echo(f"budget {budget.id} is set")


@app.command("list")
def list_(
    size: Annotated[int, typer.Option("--size", min=1)] = 100,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """List budgets."""
    from chimera.v1.budgets_pb2 import ListBudgetsRequest, ListBudgetsResponse

    with connected(server, api_key) as client:
        found = client.call(ListBudgetsRequest(page_size=size), ListBudgetsResponse)
    show(
        ("id", "scope", "of", "period", "cost $", "requests", "own cost $", "own requests"),
        (
            (
                b.id,
                _word(b.scope, "kind"),
                b.scope.id,
                _word(b, "period"),
                *_limits(b.limits),
                *_limits(b.own_limits),
            )
            for b in found.budgets
        ),
        "no budgets",
    )


@app.command()
def delete(budget_id: BudgetId, server: Server = "", api_key: ApiKey = "") -> None:
    """Take a budget away."""
    from chimera.v1.budgets_pb2 import DeleteBudgetRequest, DeleteBudgetResponse

    with connected(server, api_key) as client:
        client.call(DeleteBudgetRequest(budget_id=budget_id), DeleteBudgetResponse)
    typer.echo(f"budget {budget_id} is gone")


@app.command()
def remaining(
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN_ID", help="Also its budgets.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Show what is left now of every budget your calls are under."""
    from chimera.v1.budgets_pb2 import GetRemainingRequest, GetRemainingResponse

    with connected(server, api_key) as client:
        found = client.call(GetRemainingRequest(campaign_id=campaign), GetRemainingResponse)
    show(
        ("scope", "of", "period", "until", "spent $", "held $", "left $", "requests", "left"),
        (
            (
                _word(r.scope, "kind"),
                r.scope.id,
                _word(r, "period"),
                f"{r.window_end.ToDatetime():%Y-%m-%d %H:%M}Z",
                r.cost_settled_usd,
                r.cost_held_usd,
                r.cost_left_usd if r.HasField("cost_left_usd") else "-",
                f"{r.requests_settled} + {r.requests_held}",
                r.requests_left if r.HasField("requests_left") else "-",
            )
            for r in found.remaining
        ),
        "no budgets",
    )


@app.command()
def alerts(
    unseen: Annotated[bool, typer.Option("--open", help="Only unacknowledged ones.")] = False,
    size: Annotated[int, typer.Option("--size", min=1)] = 100,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """List alerts, newest first."""
    from chimera.v1.budgets_pb2 import ListAlertsRequest, ListAlertsResponse

    with connected(server, api_key) as client:
        request = ListAlertsRequest(page_size=size, unacknowledged_only=unseen)
        found = client.call(request, ListAlertsResponse)
    show(
        ("id", "type", "scope", "of", "window", "triggered", "acknowledged by", "note"),
        (
            (
                a.id,
                _word(a, "alert_type"),
                _word(a.scope, "kind"),
                a.scope.id,
                a.window_start,
                f"{a.triggered_at.ToDatetime():%Y-%m-%d %H:%M:%S}Z",
                a.acknowledged_by or "-",
                a.note,
            )
            for a in found.alerts
        ),
        "no alerts",
    )


@app.command()
def acknowledge(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT_ID")],
    note: Annotated[str, typer.Option(help="Why it is all right.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Say that an alert was seen."""
    from chimera.v1.budgets_pb2 import AcknowledgeAlertRequest, AcknowledgeAlertResponse

    with connected(server, api_key) as client:
        client.call(AcknowledgeAlertRequest(alert_id=alert_id, note=note), AcknowledgeAlertResponse)
    typer.echo(f"alert {alert_id} is acknowledged")


@usage_app.command("report")
def report(
    by: Annotated[
        list[str] | None, typer.Option("--by", help=f"Any of: {', '.join(DIMENSIONS)}.")
    ] = None,
    first_day: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD")] = "",
    last_day: Annotated[str, typer.Option("--to", metavar="YYYY-MM-DD")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Sum up what was used, the last 30 days by default."""
    from chimera.v1.usage_pb2 import QueryUsageRequest, QueryUsageResponse

    dimensions = by or ["day"]
    names = [f"USAGE_DIMENSION_{_chosen(name, DIMENSIONS, '--by')}" for name in dimensions]
    request = QueryUsageRequest(
        first_day=first_day, last_day=last_day, group_by=names, page_size=1000
    )
    columns = [_column(name) for name in dimensions]
    rows: list[Any] = []
    with connected(server, api_key) as client:
        for page in client.pages(request, QueryUsageResponse):
            rows += page.rows
            totals = page.totals
    headings = ("requests", "input tokens", "output tokens", "cost $", "of it discarded $")
    show(
        (*dimensions, *headings),
        [
            *((*(getattr(row, column) for column in columns), *_sums(row.sums)) for row in rows),
            ("total", *([""] * (len(columns) - 1)), *_sums(totals)),
        ],
        "nothing was used",
    )


@usage_app.command("reconcile")
def reconcile(
    days: Annotated[int, typer.Option(min=1, help="How far back.")] = 40,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Count all books again. Exit code 1 when anything differs, in the last decimal."""
    from chimera.v1.usage_pb2 import ReconcileUsageRequest, ReconcileUsageResponse

    with connected(server, api_key) as client:
        found = client.call(ReconcileUsageRequest(days=days), ReconcileUsageResponse)
    if found.discrepancies:
        show(
            ("check", "what", "expected", "found"),
            ((d.check, d.subject, d.expected, d.found) for d in found.discrepancies),
            "",
        )
        raise Failure(f"{len(found.discrepancies)} sums differ", FAILED)
    typer.echo(f"the books hold: {found.compared} sums compared")


def _column(dimension: str) -> str:
    if dimension in ("day", "month"):
        return "day"
    if dimension in ("provider", "model", "technique"):
        return dimension
    return f"{dimension.replace('-', '_')}_id"


def _sums(sums: Any) -> Iterable[Any]:
    return (
        sums.requests,
        sums.input_tokens,
        sums.output_tokens,
        sums.cost_usd,
        sums.discarded_cost_usd,
    )


def _limits(limits: Any) -> Iterable[Any]:
    return (
        limits.cost_usd_max if limits.HasField("cost_usd_max") else "-",
        limits.requests_max if limits.HasField("requests_max") else "-",
    )


def _word(message: Any, field: str) -> str:
    """The short lower-case name of an enum field's value."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name: str = enum.values_by_number[getattr(message, field)].name
    return name.removeprefix(prefix).lower().replace("_", " ")
