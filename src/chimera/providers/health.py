"""Health of providers and models as people read it: now and over time (as it changes: watching.py).

An organisation sees what its own calls said and what probes said of the providers it may use. How
others fare with a provider of the installation is not told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, Violation
from chimera.paging import Pages
from chimera.v1.health_pb2 import (
    CircuitState,
    HealthPoint,
    HealthState,
    HealthWindow,
    ListHealthHistoryRequest,
    ListHealthHistoryResponse,
    ListProviderHealthRequest,
    ModelHealth,
    Probe,
    ProbeResult,
    ProviderHealth,
)
from chimera.v1.providers_pb2 import Provider

WINDOWS_S = (60, 300, 3600)
POINT_S = 10
KEPT = timedelta(days=2)
POINTS_MAX = 1000
DEGRADED_FAILURES = 3
DEGRADED_RATE = 0.9
DOWN_PROBES = 3

LIST_PROVIDERS = sql(
    ProviderHealth,
    """
    SELECT id AS provider_id, name AS provider, org_id IS NULL AS is_platform_provided
      FROM providers.providers
     WHERE (org_id IS NULL OR org_id = %(org_id)s::uuid) AND deleted_at IS NULL
       AND (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s))
       AND (%(after_id)s::uuid IS NULL OR id > %(after_id)s)
     ORDER BY id LIMIT %(limit)s
    """,
    prepare=False,
)

LIST_PROBES = sql(
    Probe,
    """
    SELECT provider_id, is_enabled, interval_s,
           -- Of a provider of the installation the key is its operators' business.
           CASE WHEN org_id IS NOT NULL THEN provider_key_id END AS provider_key_id,
           is_ok, consecutive_failures, response_time_ms, last_error_kind, last_ok_at, last_checked_at
      FROM providers.probes
     WHERE (org_id IS NULL OR org_id = %(org_id)s::uuid) AND provider_id = ANY(%(ids)s::uuid[])
    """,
)

LIST_MODELS = sql(
    dict,
    """
    SELECT m.provider_id, m.id AS model_id, m.name AS model, c.state,
           providers.held(c.forced, h.forced) AS forced,
           c.consecutive_failures, c.response_time_ms, c.last_error_kind, c.last_ok_at,
           c.last_failed_at, c.last_checked_at, w.calls, w.failures, w.rate_limited, w.latency_ms_sum
      FROM providers.circuits c
      JOIN providers.models m ON m.id = c.model_id
      LEFT JOIN providers.circuit_holds h ON h.model_id = c.model_id
     CROSS JOIN LATERAL (
        SELECT array_agg(calls ORDER BY s) AS calls, array_agg(failures ORDER BY s) AS failures,
               array_agg(rate_limited ORDER BY s) AS rate_limited,
               array_agg(latency_ms_sum ORDER BY s) AS latency_ms_sum
          FROM (SELECT s, COALESCE(sum(p.calls), 0)::bigint AS calls,
                       COALESCE(sum(p.failures), 0)::bigint AS failures,
                       COALESCE(sum(p.rate_limited), 0)::bigint AS rate_limited,
                       COALESCE(sum(p.latency_ms_sum), 0)::bigint AS latency_ms_sum
                  FROM unnest(%(windows)s::int[]) AS s
                  LEFT JOIN providers.health_points p
                         ON p.org_id = c.org_id AND p.model_id = c.model_id
                        AND p.at > clock_timestamp() - make_interval(secs => s + %(point_s)s::int)
                 GROUP BY s) AS sums
     ) w
     WHERE c.org_id = %(org_id)s::uuid AND m.provider_id = ANY(%(ids)s::uuid[])
     ORDER BY m.id
    """,
)


async def get_provider_health(tx: Tx, provider_id: str) -> ProviderHealth:
    """Raises NotFound(PROVIDER_NOT_FOUND)."""
    found = await health_of(tx, [provider_id])
    if not found:
        raise NotFound("PROVIDER_NOT_FOUND", "There is no such provider.")
    return found[0]


async def list_provider_health(
    tx: Tx, pages: Pages, request: ListProviderHealthRequest
) -> tuple[list[ProviderHealth], str]:
    """A page by provider id, and the token of the next."""
    size, after = pages.page(request)
    rows = await health_of(tx, None, after_id=after[0] if after else None, limit=size + 1)
    return rows[:size], pages.next_token(request, rows, size, "provider_id")


async def add_health(tx: Tx, providers: Sequence[Provider]) -> None:
    """Fills in how providers are now, as far as the caller's organisation may know."""
    by_id = {
        health.provider_id: health for health in await health_of(tx, [p.id for p in providers])
    }
    for provider in providers:
        health = by_id.get(provider.id)
        if health is None:
            continue
        provider.health_state, provider.is_healthy = health.state, health.is_healthy
        provider.consecutive_failures = health.consecutive_failures
        provider.last_error_kind = health.last_error_kind
        if health.HasField("last_checked_at"):
            provider.last_checked_at.CopyFrom(health.last_checked_at)
        if health.HasField("response_time_ms"):
            provider.response_time_ms = health.response_time_ms
        if health.HasField("success_rate"):
            provider.success_rate = health.success_rate


async def health_of(
    tx: Tx, ids: Sequence[str] | None, *, after_id: str | None = None, limit: int | None = None
) -> list[ProviderHealth]:
    """Of the providers named (None: all), by id."""
    org_id = tx.call.caller.org_id
    wanted = list(ids) if ids is not None else None
    rows = await tx.all(LIST_PROVIDERS, org_id=org_id, ids=wanted, after_id=after_id, limit=limit)
    named = [row.provider_id for row in rows]
    probes = {
        probe.provider_id: probe for probe in await tx.all(LIST_PROBES, org_id=org_id, ids=named)
    }
    models = defaultdict(list)
    for row in await tx.all(
        LIST_MODELS, org_id=org_id, ids=named, windows=list(WINDOWS_S), point_s=POINT_S
    ):
        models[row["provider_id"]].append(row)
    for health in rows:
        _fill(health, models[health.provider_id], probes.get(health.provider_id))
    return rows


def _fill(health: ProviderHealth, rows: Sequence[dict[str, object]], probe: Probe | None) -> None:
    """Models and probe, and what they make of the provider as a whole."""
    sums = [[0, 0, 0, 0] for _ in WINDOWS_S]
    for row in rows:
        health.models.append(_model_health(row, sums))
    health.windows.extend(
        _window(window_s, *counts) for window_s, counts in zip(WINDOWS_S, sums, strict=True)
    )
    window = health.windows[1]
    if window.HasField("success_rate"):
        health.success_rate = window.success_rate
    if window.HasField("response_time_ms"):
        health.response_time_ms = window.response_time_ms
    checks: list[ModelHealth | Probe] = [*health.models]
    if probe is not None:
        health.probe.CopyFrom(probe)
        checks.append(probe)
        if not health.HasField("response_time_ms") and probe.HasField("response_time_ms"):
            health.response_time_ms = probe.response_time_ms
    for check in checks:
        health.consecutive_failures = max(health.consecutive_failures, check.consecutive_failures)
        if check.last_checked_at.ToNanoseconds() >= health.last_checked_at.ToNanoseconds():
            health.last_checked_at.CopyFrom(check.last_checked_at)
            health.last_error_kind = check.last_error_kind or health.last_error_kind
        if check.last_ok_at.ToNanoseconds() > health.last_ok_at.ToNanoseconds():
            health.last_ok_at.CopyFrom(check.last_ok_at)
    health.state = _state_of(health, probe)
    health.is_healthy = health.state == HealthState.HEALTH_STATE_HEALTHY


def _model_health(row: dict[str, object], sums: list[list[int]]) -> ModelHealth:
    values = dict(row)
    counts: list[list[int]] = [
        values.pop(name)  # type: ignore[misc]  # arrays of the statement above
        for name in ("calls", "failures", "rate_limited", "latency_ms_sum")
    ]
    state, forced = str(values.pop("state")), str(values.pop("forced"))
    values.pop("provider_id")
    model = ModelHealth(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]  # columns are fields
    lets_pass = forced == "closed" or (state == "closed" and forced != "open")
    if lets_pass:
        model.circuit_state = CircuitState.CIRCUIT_STATE_CLOSED
    elif state == "half_open" and not forced:
        model.circuit_state = CircuitState.CIRCUIT_STATE_HALF_OPEN
    else:
        model.circuit_state = CircuitState.CIRCUIT_STATE_OPEN
    for number, window_s in enumerate(WINDOWS_S):
        each = [count[number] for count in counts]
        model.windows.append(_window(window_s, *each))
        sums[number] = [old + new for old, new in zip(sums[number], each, strict=True)]
    window = model.windows[1]
    if not lets_pass:
        model.state = HealthState.HEALTH_STATE_DOWN
    elif model.consecutive_failures >= DEGRADED_FAILURES or (
        window.HasField("success_rate") and window.success_rate < DEGRADED_RATE
    ):
        model.state = HealthState.HEALTH_STATE_DEGRADED
    elif model.HasField("last_ok_at"):
        model.state = HealthState.HEALTH_STATE_HEALTHY
    return model


def _window(
    window_s: int, calls: int, failures: int, rate_limited: int, latency_ms_sum: int
) -> HealthWindow:
    window = HealthWindow(
        window_s=window_s, calls=calls, failures=failures, rate_limited=rate_limited
    )
    if calls:
        window.success_rate = (calls - failures) / calls
    if calls > failures + rate_limited:
        window.response_time_ms = latency_ms_sum / (calls - failures - rate_limited)
    return window


def _state_of(health: ProviderHealth, probe: Probe | None) -> HealthState:
    """Down when nothing of it works, degraded when something does not."""
    known = [model.state for model in health.models if model.state]
    if probe is not None and probe.is_enabled and probe.HasField("is_ok"):
        failed = probe.consecutive_failures >= DOWN_PROBES
        if failed:
            return HealthState.HEALTH_STATE_DOWN
        known.append(
            HealthState.HEALTH_STATE_HEALTHY if probe.is_ok else HealthState.HEALTH_STATE_DEGRADED
        )
    if not known:
        return HealthState.HEALTH_STATE_UNSPECIFIED
    models = [model.state for model in health.models if model.state]
    if models and all(state == HealthState.HEALTH_STATE_DOWN for state in models):
        return HealthState.HEALTH_STATE_DOWN
    if any(state != HealthState.HEALTH_STATE_HEALTHY for state in known):
        return HealthState.HEALTH_STATE_DEGRADED
    return HealthState.HEALTH_STATE_HEALTHY


LIST_POINTS = sql(
    dict,
    """
    SELECT to_timestamp(floor(extract(epoch FROM p.at) / %(step_s)s::int) * %(step_s)s::int) AS at,
           sum(p.calls)::bigint AS calls, sum(p.failures)::bigint AS failures,
           sum(p.rate_limited)::bigint AS rate_limited,
           sum(p.latency_ms_sum)::bigint AS latency_ms_sum, max(p.latency_ms_max) AS latency_ms_max
      FROM providers.health_points p
     WHERE p.org_id = %(org_id)s::uuid AND p.at >= %(since)s
       AND p.model_id IN (SELECT m.id FROM providers.models m
                           WHERE m.provider_id = %(provider_id)s::uuid
                             AND (%(model_id)s::uuid IS NULL OR m.id = %(model_id)s))
     GROUP BY 1 ORDER BY 1 LIMIT %(limit)s
    """,
    prepare=False,
)


LIST_PROBE_RESULTS = sql(
    ProbeResult,
    """
    SELECT at, is_ok, response_time_ms, error_kind FROM providers.probe_results
     WHERE provider_id = %(provider_id)s::uuid AND at >= %(since)s
       AND (org_id IS NULL OR org_id = %(org_id)s::uuid)
     ORDER BY at DESC LIMIT %(limit)s
    """,
)


async def list_health_history(
    tx: Tx, request: ListHealthHistoryRequest
) -> ListHealthHistoryResponse:
    """Points oldest first, probes newest first. Raises NotFound(PROVIDER_NOT_FOUND), Invalid(FIELD_INVALID) for more than
    POINTS_MAX points."""
    await get_provider_health(tx, request.provider_id)
    now = datetime.now(UTC)
    asked = request.since.ToDatetime(UTC) if request.HasField("since") else now - timedelta(hours=1)
    since = max(asked, now - KEPT)
    step_s = -(-(request.step_s or 60) // POINT_S) * POINT_S
    if (now - since).total_seconds() / step_s > POINTS_MAX:
        violation = Violation("step_s", f"more than {POINTS_MAX} points", "FIELD_INVALID")
        raise Invalid(
            "FIELD_INVALID",
            f"step_s: the time since then has more than {POINTS_MAX} points; take longer ones.",
            violations=[violation],
        )
    rows = await tx.all(
        LIST_POINTS,
        org_id=tx.call.caller.org_id,
        provider_id=request.provider_id,
        model_id=request.model_id or None,
        since=since,
        step_s=step_s,
        limit=POINTS_MAX,
    )
    probes = await tx.all(
        LIST_PROBE_RESULTS,
        org_id=tx.call.caller.org_id,
        provider_id=request.provider_id,
        since=asked,
        limit=POINTS_MAX,
    )
    return ListHealthHistoryResponse(points=[_point(row) for row in rows], probes=probes)


def _point(row: dict[str, int]) -> HealthPoint:
    window = _window(0, row["calls"], row["failures"], row["rate_limited"], row["latency_ms_sum"])
    point = HealthPoint(
        at=row["at"],  # type: ignore[arg-type]  # a timestamptz is a datetime
        calls=window.calls,
        failures=window.failures,
        rate_limited=window.rate_limited,
        response_time_ms_max=row["latency_ms_max"],
    )
    for name in ("success_rate", "response_time_ms"):
        if window.HasField(name):
            setattr(point, name, getattr(window, name))
    return point


PURGE_POINTS = sql(
    Nothing, "DELETE FROM providers.health_points WHERE at < clock_timestamp() - interval '2 days'"
)
PURGE_PROBES = sql(
    Nothing, "DELETE FROM providers.probe_results WHERE at < clock_timestamp() - interval '7 days'"
)


# A model that is called again begins with a closed circuit, as it would after so long anyway. What
# people hold stays held.
PURGE_CIRCUITS = sql(
    Nothing,
    """
    DELETE FROM providers.circuits
     WHERE forced = '' AND GREATEST(changed_at, last_checked_at) < clock_timestamp() - interval '30 days'
    """,
)


async def purge_health(tx: Tx) -> None:
    """Drops history that nobody asks for any more: points after two days, probes after seven,
    circuits of models that were not called for thirty."""
    await tx.run(PURGE_POINTS)
    await tx.run(PURGE_PROBES)
    await tx.run(PURGE_CIRCUITS)
