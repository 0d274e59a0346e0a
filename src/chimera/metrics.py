"""What the processes count, for Prometheus; labels are closed sets."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RPC_SECONDS = Histogram(
    "chimera_rpc_seconds",
    "Time in the server, by method and status code",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
WATCHES_OPEN = Gauge("chimera_watches_open", "Streams that are open now")
AUDIT_REFUSALS_LOST = Counter(
    "chimera_audit_refusals_lost_total", "Denied or failed calls that could not be recorded"
)
OUTBOX_RELAYED = Counter("chimera_outbox_relayed_total", "Doorbells rung", ["task"])
TASKS = Counter("chimera_tasks_total", "Worker tasks by outcome", ["task", "outcome"])
EXECUTIONS = Counter("chimera_executions_total", "Cells recorded", ["state"])
ATTEMPTS = Counter("chimera_attempts_total", "Calls to targets by outcome", ["outcome"])
TICK_SECONDS = Histogram("chimera_tick_seconds", "One tick transaction of a drive")
TELEMETRY_EVENTS = Counter(
    "chimera_telemetry_events_total", "Events by what became of them", ["fate"]
)
TELEMETRY_DIFFERING = Gauge(
    "chimera_telemetry_differing_batches", "Batches of which the store has too few or too many"
)
AUDIT_SEALED = Counter("chimera_audit_sealed_total", "Audit events sealed")
PARTITIONS_REFUSED = Gauge(
    "chimera_partitions_refused", "Partitions that rows in a default partition keep from being made"
)
PENDING_AGE = Gauge("chimera_pending_age_seconds", "Age of the oldest waiting row", ["queue"])
USAGE_DISCREPANCIES = Gauge(
    "chimera_usage_discrepancies",
    "Sums that differ from what they sum up, at the last look",
    ["check"],
)
BUDGET_WAITS = Counter(
    "chimera_budget_waits_total", "Runs paused because a budget is spent", ["scope_kind"]
)
WEBHOOK_TRIES = Counter("chimera_webhook_tries_total", "Deliveries tried", ["response_class"])
