"""Circuits: one for each model an organisation sends to, the same for all workers.

    closed --10 failures in a row--> open --retry_at--> half open --success--> closed
                                      ^------------------- failure --'

Failures in a row are counted over the whole cluster. Half open means that one call is out to see;
whoever takes it does so in the transaction that commits the call, so there is never a second one,
and when its worker is lost the next may go after `probe_until`. People may hold a circuit open or
closed, an organisation's own or, as operators, that of all (circuit_holds); held open by either, it is.
All of it is in PostgreSQL and its clock alone counts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson

from chimera.db import Nothing, Tx, sql

FAILURES_TO_OPEN = 10
OPEN_FIRST_S, OPEN_MAX_S = 0.5, 30.0
# A circuit that opens again so soon after it closed waits longer than it did before.
RELAPSE_S = 30.0


@dataclass(slots=True)
class Signs:
    """What calls to a model said since the last report. failures: of the target itself; latencies in
    ms, of those that answered; in_a_row: failures since the last answer."""

    model_id: str
    calls: int = 0
    answers: int = 0
    failures: int = 0
    rate_limited: int = 0
    in_a_row: int = 0
    latency_ms_sum: int = 0
    latency_ms_max: int = 0
    error_kind: str = ""

    def answered(self, latency_ms: int) -> None:
        self.calls += 1
        self.answers += 1
        self.in_a_row = 0
        self.latency_ms_sum += latency_ms
        self.latency_ms_max = max(self.latency_ms_max, latency_ms)

    def failed(self, error_kind: str) -> None:
        self.calls += 1
        self.failures += 1
        self.in_a_row += 1
        self.error_kind = error_kind

    def refused(self, error_kind: str, *, is_rate: bool) -> None:
        """The target is there and will not answer this: for its rate, the key, or the request."""
        self.calls += 1
        self.rate_limited += is_rate
        self.in_a_row = 0
        self.error_kind = error_kind

    def add(self, later: Signs) -> None:
        """Those of another lane of the same model."""
        self.in_a_row = later.in_a_row if later.is_alive else self.in_a_row + later.in_a_row
        self.calls += later.calls
        self.answers += later.answers
        self.failures += later.failures
        self.rate_limited += later.rate_limited
        self.latency_ms_sum += later.latency_ms_sum
        self.latency_ms_max = max(self.latency_ms_max, later.latency_ms_max)
        self.error_kind = later.error_kind or self.error_kind

    @property
    def is_alive(self) -> bool:
        """Whether anything came back that was no failure."""
        return self.calls > self.failures


# Points are of ten seconds. Rows in the order of their keys; counts are the cluster's.
NOTE_SIGNS = sql(
    dict,
    """
    WITH s AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(signs)s::json) AS s (
            model_id uuid, calls int, answers int, failures int, rate_limited int, in_a_row int,
            latency_ms_sum bigint, latency_ms_max int, error_kind text, is_alive boolean)
    ), points AS (
        INSERT INTO providers.health_points AS p
            (org_id, model_id, at, calls, failures, rate_limited, latency_ms_sum, latency_ms_max)
        SELECT %(org_id)s::uuid, model_id,
               to_timestamp(floor(extract(epoch FROM clock_timestamp()) / 10) * 10),
               calls, failures, rate_limited, latency_ms_sum, latency_ms_max
          FROM s ORDER BY model_id
            ON CONFLICT (org_id, model_id, at) DO UPDATE
           SET calls = p.calls + EXCLUDED.calls, failures = p.failures + EXCLUDED.failures,
               rate_limited = p.rate_limited + EXCLUDED.rate_limited,
               latency_ms_sum = p.latency_ms_sum + EXCLUDED.latency_ms_sum,
               latency_ms_max = greatest(p.latency_ms_max, EXCLUDED.latency_ms_max)
    )
    INSERT INTO providers.circuits AS c
        (org_id, model_id, state, consecutive_failures, response_time_ms, last_error_kind,
         last_ok_at, last_failed_at, last_checked_at)
    SELECT %(org_id)s::uuid, model_id, 'closed', in_a_row,
           latency_ms_sum::float8 / NULLIF(answers, 0), error_kind,
           CASE WHEN answers > 0 THEN clock_timestamp() END,
           CASE WHEN failures > 0 THEN clock_timestamp() END, clock_timestamp()
      FROM s ORDER BY model_id
        ON CONFLICT (org_id, model_id) DO UPDATE
       SET consecutive_failures = EXCLUDED.consecutive_failures + CASE WHEN (
               SELECT s.is_alive FROM s WHERE s.model_id = c.model_id) THEN 0 ELSE c.consecutive_failures END,
           response_time_ms = COALESCE(EXCLUDED.response_time_ms, c.response_time_ms),
           last_error_kind = COALESCE(NULLIF(EXCLUDED.last_error_kind, ''), c.last_error_kind),
           last_ok_at = COALESCE(EXCLUDED.last_ok_at, c.last_ok_at),
           last_failed_at = COALESCE(EXCLUDED.last_failed_at, c.last_failed_at),
           last_checked_at = EXCLUDED.last_checked_at, xid = pg_current_xact_id()
    RETURNING model_id, state, forced, consecutive_failures
    """,
)

OPEN = sql(
    Nothing,
    """
    UPDATE providers.circuits
       SET state = 'open', cause = %(cause)s, opened_count = opened_count + 1,
           openings = CASE WHEN changed_at > clock_timestamp() - make_interval(secs => %(relapse_s)s)
                      THEN openings + 1 ELSE 1 END,
           open_until = clock_timestamp() + make_interval(secs => least(%(max_s)s::float8,
               %(first_s)s::float8 * 4 ^ CASE
                   WHEN changed_at > clock_timestamp() - make_interval(secs => %(relapse_s)s)
                   THEN least(openings, 10) ELSE 0 END) * %(jitter)s::float8),
           opened_at = clock_timestamp(), changed_at = clock_timestamp(), xid = pg_current_xact_id()
     WHERE org_id = %(org_id)s AND model_id = %(model_id)s AND state = 'closed' AND forced = ''
    """,
)


async def note_signs(tx: Tx, signs: Sequence[Signs]) -> None:
    """Adds what calls said to the health of their models and opens the circuits of those that have
    failed too often in a row."""
    ordered = sorted(signs, key=lambda each: each.model_id)
    rows = [{**asdict(each), "is_alive": each.is_alive} for each in ordered]
    org_id = tx.call.caller.org_id
    found = await tx.all(NOTE_SIGNS, org_id=org_id, signs=orjson.dumps(rows).decode())
    causes = {each.model_id: each.error_kind for each in signs}
    for row in sorted(found, key=lambda row: row["model_id"]):
        failed = row["consecutive_failures"] >= FAILURES_TO_OPEN
        if failed and row["state"] == "closed" and not row["forced"]:
            await tx.run(
                OPEN,
                org_id=org_id,
                model_id=row["model_id"],
                cause=causes[row["model_id"]],
                relapse_s=RELAPSE_S,
                first_s=OPEN_FIRST_S,
                max_s=OPEN_MAX_S,
                jitter=random.uniform(0.9, 1.1),
            )


@dataclass(frozen=True, slots=True)
class Stand:
    """A circuit and the limits of a credential as a drive has to obey them, now.

    wait_s: until the next call may go out to see. down_s: for how long nothing came back, 0 while
    closed or held by people.
    """

    model_no: int
    state: str
    forced: str
    cause: str
    wait_s: float
    down_s: float
    requests_per_minute: int
    tokens_per_minute: int

    @property
    def lets_pass(self) -> bool:
        return self.forced == "closed" or (self.state == "closed" and self.forced != "open")


LIST_STANDS = sql(
    Stand,
    """
    SELECT m.model_no::int - 1 AS model_no, COALESCE(c.state, 'closed') AS state,
           providers.held(c.forced, h.forced) AS forced, COALESCE(c.cause, '') AS cause,
           COALESCE(extract(epoch FROM CASE c.state WHEN 'open' THEN c.open_until
                       WHEN 'half_open' THEN c.probe_until END - clock_timestamp()), 0)::float8 AS wait_s,
           CASE WHEN c.state <> 'closed' AND providers.held(c.forced, h.forced) = ''
                THEN COALESCE(extract(epoch FROM clock_timestamp() - greatest(c.opened_at, %(since)s::timestamptz)), 0) ELSE 0
                END::float8 AS down_s,
           COALESCE(l.requests_per_minute, p.requests_per_minute) AS requests_per_minute,
           COALESCE(l.tokens_per_minute, p.tokens_per_minute) AS tokens_per_minute
      FROM unnest(%(models)s::uuid[], %(providers)s::uuid[], %(keys)s::uuid[])
           WITH ORDINALITY AS m (model_id, provider_id, key_id, model_no)
      JOIN providers.providers p ON p.id = m.provider_id
      LEFT JOIN providers.circuits c ON c.org_id = %(org_id)s AND c.model_id = m.model_id
      LEFT JOIN providers.circuit_holds h ON h.model_id = m.model_id
      LEFT JOIN providers.rate_limits l ON l.provider_key_id = m.key_id
     ORDER BY m.model_no
    """,
)


async def list_stands(
    tx: Tx,
    models: Sequence[str],
    providers: Sequence[str],
    keys: Sequence[str | None],
    *,
    since: datetime | None = None,
) -> list[Stand]:
    """How models with their providers and keys stand, model_no counted from 0. What was down before
    `since` is only counted from then on."""
    rows = await tx.all(
        LIST_STANDS,
        org_id=tx.call.caller.org_id,
        models=list(models),
        providers=list(providers),
        keys=list(keys),
        since=since,
    )
    return rows


TAKE_PROBE = sql(
    int,
    """
    UPDATE providers.circuits
       SET state = 'half_open', probe_no = probe_no + 1, changed_at = clock_timestamp(),
           probe_until = clock_timestamp() + make_interval(secs => %(within_s)s),
           xid = pg_current_xact_id()
     WHERE org_id = %(org_id)s AND model_id = %(model_id)s AND forced = ''
       AND CASE state WHEN 'open' THEN open_until <= clock_timestamp()
                      WHEN 'half_open' THEN probe_until <= clock_timestamp() ELSE false END
    RETURNING probe_no
    """,
)


async def take_probe(tx: Tx, model_id: str, *, within_s: float) -> int | None:
    """The right to send one call through an open circuit, and its number; None when it is not due
    or somebody else has it. After `within_s` without `end_probe` it is somebody else's."""
    return await tx.one(
        TAKE_PROBE, org_id=tx.call.caller.org_id, model_id=model_id, within_s=within_s
    )


END_PROBE = sql(
    Nothing,
    """
    UPDATE providers.circuits
       SET state = CASE WHEN %(is_ok)s THEN 'closed' ELSE 'open' END,
           cause = CASE WHEN %(is_ok)s THEN '' ELSE %(cause)s END,
           consecutive_failures = CASE WHEN %(is_ok)s THEN 0 ELSE consecutive_failures END,
           openings = openings + CASE WHEN %(is_ok)s THEN 0 ELSE 1 END,
           opened_count = opened_count + CASE WHEN %(is_ok)s THEN 0 ELSE 1 END,
           opened_at = CASE WHEN %(is_ok)s THEN NULL ELSE opened_at END,
           open_until = CASE WHEN %(is_ok)s THEN NULL ELSE clock_timestamp() + make_interval(secs =>
               least(%(max_s)s::float8, %(first_s)s::float8 * 4 ^ least(openings, 10))
               * %(jitter)s::float8) END,
           probe_until = NULL, changed_at = clock_timestamp(), xid = pg_current_xact_id()
     WHERE org_id = %(org_id)s AND model_id = %(model_id)s AND state = 'half_open'
       AND probe_no = %(probe_no)s
    """,
)

GIVE_PROBE_BACK = sql(
    Nothing,
    """
    UPDATE providers.circuits
       SET state = 'open', open_until = clock_timestamp(), probe_until = NULL,
           changed_at = clock_timestamp(), xid = pg_current_xact_id()
     WHERE org_id = %(org_id)s AND model_id = %(model_id)s AND state = 'half_open'
       AND probe_no = %(probe_no)s
    """,
)


async def end_probe(tx: Tx, model_id: str, probe_no: int, *, failure: str | None) -> None:
    """What a probe found: `failure` is the kind of its error, empty when something came back, None
    when it was never sent. Nothing happens when the probe was given up meanwhile."""
    of = {"org_id": tx.call.caller.org_id, "model_id": model_id, "probe_no": probe_no}
    if failure is None:
        await tx.run(GIVE_PROBE_BACK, **of)
        return
    await tx.run(
        END_PROBE,
        **of,
        is_ok=not failure,
        cause=failure,
        first_s=OPEN_FIRST_S,
        max_s=OPEN_MAX_S,
        jitter=random.uniform(0.9, 1.1),
    )
