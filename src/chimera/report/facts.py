"""What a report tells about a run, read over the API in a bounded number of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from chimera.client import ApiError, Client
from chimera.v1.audit_pb2 import GetCheckpointRequest, GetCheckpointResponse
from chimera.v1.campaigns_pb2 import (
    Campaign,
    Execution,
    ExecutionState,
    GetCampaignRequest,
    GetCampaignResponse,
    GetRunSummaryRequest,
    GetRunSummaryResponse,
    ListExecutionsRequest,
    ListExecutionsResponse,
    RateByCell,
    Turn,
)

# Cells are numbered prompt by prompt, so the first ones hold every technique and target alike.
LATENCIES_MAX = 20_000
ERRORS_MAX = 5_000
EXAMPLES_MAX = 10
EXAMPLES_PER_TARGET = 3
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Cells without an answer, by what went wrong."""

    target_no: int
    state: str  # failed, parked
    kind: str
    count: int
    reason: str  # of one of them


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything on the page. `turns`: of those examples that are conversations, by cell. `latencies_ms`: by target_no, of answered cells; `sampled`: not of all
    of them. `errors_cut`: more errors than were read. `checkpoint`: None when the caller may not see
    the audit log or it has none."""

    campaign: Campaign
    summary: GetRunSummaryResponse
    latencies_ms: dict[int, list[int]]
    sampled: bool
    examples: list[Execution]
    turns: dict[int, list[Turn]]
    errors: list[ErrorGroup]
    errors_cut: bool
    checkpoint: GetCheckpointResponse | None
    made_at: datetime


def collect(client: Client, run_id: str) -> Facts:
    """Raises ApiError."""
    summary = client.call(GetRunSummaryRequest(run_id=run_id), GetRunSummaryResponse)
    run = summary.run
    request = GetCampaignRequest(campaign_id=run.campaign_id)
    campaign = client.call(request, GetCampaignResponse).campaign
    latencies: dict[int, list[int]] = {number: [] for number in range(len(run.target_names))}
    answered = _executions(client, run_id, state=ExecutionState.EXECUTION_STATE_SUCCEEDED)
    for one in islice(answered, LATENCIES_MAX):
        latencies[one.target_no].append(one.latency_ms)
    errors, errors_cut = _errors(client, run_id)
    examples = _examples(client, summary)
    return Facts(
        campaign=campaign,
        summary=summary,
        latencies_ms=latencies,
        sampled=run.counts.scored > LATENCIES_MAX,
        examples=examples,
        turns={
            one.cell_no: list(client.read_cell(run_id, one.cell_no).turns)
            for one in examples
            if one.turn_count
        },
        errors=errors,
        errors_cut=errors_cut,
        checkpoint=_checkpoint(client),
        made_at=datetime.now(UTC),
    )


def _executions(
    client: Client,
    run_id: str,
    *,
    state: ExecutionState,
    page_size: int = _PAGE,
    is_successful: bool | None = None,
    technique_no: int | None = None,
    target_no: int | None = None,
) -> Iterator[Execution]:
    request = ListExecutionsRequest(
        run_id=run_id,
        page_size=page_size,
        state=state,
        is_successful=is_successful,
        technique_no=technique_no,
        target_no=target_no,
    )
    for page in client.pages(request, ListExecutionsResponse):
        yield from page.executions


def _examples(client: Client, summary: GetRunSummaryResponse) -> list[Execution]:
    """Successful attacks, beginning with the target that resisted best and its most successful
    technique; a technique is shown again only when none is new."""
    found: list[Execution] = []
    for row in _telling_cells(summary)[:EXAMPLES_MAX]:
        executions = _executions(
            client,
            summary.run.id,
            state=ExecutionState.EXECUTION_STATE_SUCCEEDED,
            page_size=1,
            is_successful=True,
            technique_no=row.technique_no,
            target_no=row.target_no,
        )
        found += islice(executions, 1)
    return found


def _telling_cells(summary: GetRunSummaryResponse) -> list[RateByCell]:
    shown: set[int] = set()
    chosen: list[RateByCell] = []
    for target in sorted(summary.by_target, key=lambda row: row.rate.rate):
        cells = [
            row
            for row in summary.by_technique_and_target
            if row.target_no == target.target_no and row.rate.successes
        ]
        cells.sort(key=lambda row: (row.technique_no in shown, -row.rate.rate))
        chosen += cells[:EXAMPLES_PER_TARGET]
        shown |= {row.technique_no for row in cells[:EXAMPLES_PER_TARGET]}
    return chosen


def _errors(client: Client, run_id: str) -> tuple[list[ErrorGroup], bool]:
    """By state, target and kind, most first; whether there are more than were read."""
    counts: Counter[tuple[int, str, str]] = Counter()
    reasons: dict[tuple[int, str, str], str] = {}
    cut = False
    for state in (ExecutionState.EXECUTION_STATE_FAILED, ExecutionState.EXECUTION_STATE_PARKED):
        word = ExecutionState.Name(state).removeprefix("EXECUTION_STATE_").lower()
        rows = list(islice(_executions(client, run_id, state=state), ERRORS_MAX + 1))
        cut |= len(rows) > ERRORS_MAX
        for row in rows[:ERRORS_MAX]:
            key = (row.target_no, word, row.error_kind)
            counts[key] += 1
            reasons.setdefault(key, row.verdict_reason)
    groups = [
        ErrorGroup(*key, count=count, reason=reasons[key]) for key, count in counts.most_common()
    ]
    return groups, cut


def _checkpoint(client: Client) -> GetCheckpointResponse | None:
    try:
        return client.call(GetCheckpointRequest(), GetCheckpointResponse)
    except ApiError as error:
        if error.code in ("NOT_FOUND", "PERMISSION_DENIED"):
            return None
        raise
