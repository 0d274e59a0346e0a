"""The monitor: reads the log once, in its order, counts it by day, and holds it against the rules.

What must stay true: counting, findings, mails asked for and the watermark move in one transaction,
so that each event counts exactly once, whatever crashes. Log order is commit order (the sealer's
lock), so the position in the log is all the memory it needs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from chimera import mail
from chimera.audit.configuration import CONTACTS, RULES
from chimera.audit.operations import LOG_SIZE
from chimera.audit.rules import SUBJECT_MAX, Rule, Seen, network_of, rules_for
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id

BATCH = 1000
BUCKETS = 6  # a window slides in steps of a sixth of it
MAILED = frozenset({"warning", "error", "critical"})

TAKE_WATERMARK = sql(
    int,
    """
    INSERT INTO audit.watermarks AS w (name, log_index) VALUES ('monitor', 0)
    ON CONFLICT (name) DO UPDATE SET log_index = w.log_index RETURNING log_index
    """,
)
MOVE_WATERMARK = sql(
    Nothing, "UPDATE audit.watermarks SET log_index = %(log_index)s WHERE name = 'monitor'"
)
READ_EVENTS = sql(
    dict,
    """
    SELECT id, log_index, org_id, occurred_at, actor_id, action, entity, entity_id, outcome, severity,
           facts->>'kind' AS kind, facts->>'api_key_id' AS api_key_id, fields
      FROM audit.events
     WHERE log_index >= %(low)s AND log_index < %(high)s
     ORDER BY log_index LIMIT %(limit)s
    """,
)
READ_SETTINGS = sql(
    dict,
    """
    SELECT org_id, key, value FROM audit.configuration
     WHERE org_id = ANY(%(org_ids)s::uuid[]) AND key IN ('security_rules', 'security_contacts')
    """,
)
COUNT_DAYS = sql(
    Nothing,
    """
    INSERT INTO audit.daily AS d (org_id, day, action, severity, outcome, actor_id, events)
    SELECT * FROM unnest(%(org_ids)s::uuid[], %(days)s::date[], %(actions)s::text[],
                         %(severities)s::text[], %(outcomes)s::text[], %(actor_ids)s::uuid[],
                         %(events)s::bigint[])
    ON CONFLICT (org_id, day, action, severity, outcome, actor_id)
    DO UPDATE SET events = d.events + EXCLUDED.events
    """,
)
COUNT_SIGNALS = sql(
    int,
    """
    WITH counted AS (
        INSERT INTO audit.rule_counts AS c (org_id, rule, subject, bucket, events)
        VALUES (%(org_id)s, %(rule)s, %(subject)s, %(bucket)s, %(events)s)
        ON CONFLICT (org_id, rule, subject, bucket) DO UPDATE SET events = c.events + EXCLUDED.events
        RETURNING events
    )
    SELECT (SELECT events FROM counted) + COALESCE(sum(events), 0)::bigint
      FROM audit.rule_counts
     WHERE org_id IS NOT DISTINCT FROM %(org_id)s::uuid AND rule = %(rule)s
       AND subject = %(subject)s AND bucket > %(oldest)s AND bucket < %(bucket)s
    """,
)
FORGET_SIGNALS = sql(
    Nothing,
    """
    DELETE FROM audit.rule_counts
     WHERE org_id IS NOT DISTINCT FROM %(org_id)s::uuid AND rule = %(rule)s AND subject = %(subject)s
    """,
)
FORGET_OLD_SIGNALS = sql(
    Nothing, "DELETE FROM audit.rule_counts WHERE bucket < now() - interval '2 days'"
)
REMEMBER_NETWORK = sql(
    dict,
    """
    WITH known AS (
        SELECT count(*) AS networks FROM audit.key_networks WHERE api_key_id = %(api_key_id)s
    ), added AS (
        INSERT INTO audit.key_networks (org_id, api_key_id, network)
        VALUES (%(org_id)s, %(api_key_id)s, %(network)s) ON CONFLICT DO NOTHING RETURNING 1
    )
    SELECT networks, EXISTS (SELECT FROM added) AS is_new FROM known
    """,
)
INSERT_FINDING = sql(
    Nothing,
    """
    INSERT INTO audit.findings (id, org_id, rule, severity, subject, summary, events, event_id,
                                log_index, occurred_at)
    VALUES (%(id)s, %(org_id)s, %(rule)s, %(severity)s, %(subject)s, %(summary)s, %(events)s,
            %(event_id)s, %(log_index)s, %(occurred_at)s)
    """,
)


async def watch_over(core: Core) -> int:
    """Takes the next events of the log, at most BATCH; returns how many. core: of the role worker."""
    async with core.db.begin(Call.by_worker("audit.monitor")) as tx:
        low = await tx.one(TAKE_WATERMARK) or 0
        size = await tx.one(LOG_SIZE) or 0
        if size <= low:
            return 0
        rows = await tx.all(READ_EVENTS, low=low, high=size, limit=BATCH)
        if rows:
            await _count_days(tx, rows)
            await _Batch(tx, rows).judge()
        # Below `size` nothing is sealed any more; what is not there was dropped.
        upto = rows[-1]["log_index"] + 1 if len(rows) == BATCH else size
        await tx.run(MOVE_WATERMARK, log_index=upto)
    return len(rows)


async def forget_old_signals(core: Core) -> None:
    """Counts that no window reaches any more."""
    async with core.db.begin(Call.by_worker("audit.monitor")) as tx:
        await tx.run(FORGET_OLD_SIGNALS)


async def _count_days(tx: Tx, rows: list[dict[str, Any]]) -> None:
    counts = Counter(
        (
            row["org_id"],
            row["occurred_at"].astimezone(UTC).date(),
            row["action"],
            row["severity"],
            row["outcome"],
            row["actor_id"],
        )
        for row in rows
    )
    # In one order everywhere, or two transactions could wait for each other.
    keys = sorted(counts, key=lambda key: tuple(map(str, key)))
    columns = list(zip(*keys, strict=True))
    await tx.run(
        COUNT_DAYS,
        org_ids=list(columns[0]),
        days=list(columns[1]),
        actions=list(columns[2]),
        severities=list(columns[3]),
        outcomes=list(columns[4]),
        actor_ids=list(columns[5]),
        events=[counts[key] for key in keys],
    )


@dataclass(slots=True)
class _Signal:
    rule: Rule
    row: dict[str, Any]  # the last event of it
    count: int = 0


class _Batch:
    """Some events of the log, and what the rules say of them."""

    def __init__(self, tx: Tx, rows: list[dict[str, Any]]) -> None:
        self.tx, self.rows = tx, rows
        self.rules: dict[str | None, list[Rule]] = {}
        self.contacts: dict[str, list[str]] = {}
        self.signals: dict[tuple[str | None, str, str, datetime], _Signal] = {}

    async def judge(self) -> None:
        await self._read_settings()
        for row in self.rows:
            seen = _seen(row)
            for rule in self.rules[row["org_id"]]:
                self._note(rule, rule.subject_of(seen), row)
            if seen.api_key_id and seen.ip:
                await self._key_used(seen, row)
        for (org_id, _rule, subject, bucket), signal in self.signals.items():
            await self._count(org_id, subject, bucket, signal)

    async def _read_settings(self) -> None:
        org_ids = {row["org_id"] for row in self.rows}
        parameters: dict[str, Any] = {}
        known = [org_id for org_id in org_ids if org_id]
        for row in await self.tx.all(READ_SETTINGS, org_ids=known):
            if row["key"] == RULES:
                parameters[row["org_id"]] = row["value"]
            elif row["key"] == CONTACTS:
                self.contacts[row["org_id"]] = row["value"]
        for org_id in org_ids:
            self.rules[org_id] = rules_for(parameters.get(org_id, {}))

    def _note(self, rule: Rule, subject: str, row: dict[str, Any]) -> None:
        if not subject:
            return
        step_s = max(1, rule.window_s // BUCKETS)
        seconds = int(row["occurred_at"].timestamp()) // step_s * step_s
        bucket = datetime.fromtimestamp(seconds, UTC)
        key = (row["org_id"], rule.name, subject[:SUBJECT_MAX], bucket)
        signal = self.signals.setdefault(key, _Signal(rule, row))
        signal.row, signal.count = row, signal.count + 1

    async def _key_used(self, seen: Seen, row: dict[str, Any]) -> None:
        """The first network of a key is its own; each further one is news."""
        rule = next(
            (r for r in self.rules[row["org_id"]] if r.name == "key_from_new_network"), None
        )
        network = network_of(seen.ip)
        if rule is None or not network or not row["org_id"]:
            return
        known = await self.tx.one(
            REMEMBER_NETWORK, org_id=row["org_id"], api_key_id=seen.api_key_id, network=network
        )
        if known and known["is_new"] and known["networks"]:
            self._note(rule, seen.api_key_id, row)

    async def _count(
        self, org_id: str | None, subject: str, bucket: datetime, signal: _Signal
    ) -> None:
        rule, count = signal.rule, signal.count
        if rule.threshold > 1:
            total = await self.tx.one(
                COUNT_SIGNALS,
                org_id=org_id,
                rule=rule.name,
                subject=subject,
                bucket=bucket,
                events=count,
                oldest=bucket - timedelta(seconds=rule.window_s),
            )
            count = total or 0
            if count < rule.threshold:
                return
            # The next finding about the same subject takes as many events again.
            await self.tx.run(FORGET_SIGNALS, org_id=org_id, rule=rule.name, subject=subject)
        row = signal.row
        finding_id = new_id()
        await self.tx.run(
            INSERT_FINDING,
            id=finding_id,
            org_id=org_id,
            rule=rule.name,
            severity=rule.severity,
            subject=subject,
            summary=rule.summary.format(count=count, subject=subject, action=row["action"]),
            events=count,
            event_id=row["id"],
            log_index=row["log_index"],
            occurred_at=row["occurred_at"],
        )
        if org_id and rule.severity in MAILED:
            for number in range(len(self.contacts.get(org_id, []))):
                await mail.ask(
                    self.tx, "security_finding", finding_id=finding_id, contact_no=number
                )


def _seen(row: dict[str, Any]) -> Seen:
    return Seen(
        action=row["action"],
        entity=row["entity"],
        entity_id=row["entity_id"],
        outcome=row["outcome"],
        kind=row["kind"] or "",
        actor_id=row["actor_id"] or "",
        api_key_id=row["api_key_id"] or "",
        values={item["name"]: item["value"] for item in row["fields"] if "value" in item},
    )


# --- mails ------------------------------------------------------------------------------------------

FIND_LETTER = sql(
    dict,
    """
    SELECT f.severity, f.rule, f.summary, f.occurred_at, f.log_index, f.event_id,
           c.value AS contacts
      FROM audit.findings f
      JOIN audit.configuration c ON c.org_id = f.org_id AND c.key = 'security_contacts'
     WHERE f.id = %(finding_id)s
    """,
)


async def write_finding(core: Core, _org_id: str | None, args: dict[str, Any]) -> mail.Mail | None:
    """The mail about a finding; None when there is nobody any more to tell."""
    async with core.db.begin(Call.by_worker("audit.mail")) as tx:
        row = await tx.one(FIND_LETTER, finding_id=args["finding_id"])
    number = args["contact_no"]
    if row is None or number >= len(row["contacts"]):
        return None
    at = row["occurred_at"].astimezone(UTC).isoformat(timespec="seconds")
    text = (
        f"{row['summary']}.\n\nRule: {row['rule']} ({row['severity']})\nAt: {at}\n"
        f"Event: {row['event_id']}, number {row['log_index']} of the log\n"
        f"Finding: {args['finding_id']}\n\nLook at it and acknowledge it there: "
        f"{core.settings.public_url}\n"
    )
    subject = f"[{row['severity']}] {row['summary']}"[:200]
    return mail.Mail(row["contacts"][number], " ".join(subject.split()), text)
