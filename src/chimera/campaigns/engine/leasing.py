"""Leases on shards: fair claims, takeovers, and what a taken-over shard still has to do.

The fence of a shard grows with every claim; whoever holds a newer one wins. Only the database's
clock counts. Calls that a lost worker left as sent become unknown at their worst cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chimera.accounting.windows import Purse, Settled, move
from chimera.call import Call
from chimera.campaigns.conversations.turns import Ask, Turn
from chimera.campaigns.engine.seats import load_turns, move_seats
from chimera.db import Nothing, Statement, Tx, sql
from chimera.pools import Database

# After this many losses with a cell in flight it is sent alone, and after one more it is parked:
# a cell that kills its worker must not be mistaken for those that happened to fly with it.
ALONE_AFTER = 2
PARK_AFTER = 3


@dataclass(slots=True)
class Past:
    """What happened to a cell before this lease."""

    attempts: int = 0
    errors: int = 0
    unknown: int = 0
    lost_alone: bool = False
    step: int = 0  # of its order, for cells of a route
    last_model_no: int | None = None
    last_error: str = ""
    # Of a conversation: what is recorded, and what is asked next when it was worked out already.
    # The counts above, but for attempts, are then of what came after the last turn.
    turns: tuple[Turn, ...] = ()
    ask: Ask | None = None

    @property
    def poisonous(self) -> bool:
        return self.unknown >= PARK_AFTER and self.lost_alone

    @property
    def suspect(self) -> bool:
        return self.unknown >= ALONE_AFTER


@dataclass(slots=True)
class Lease:
    """A shard this drive may work on, and the cells of it that are still undecided."""

    run_id: str
    org_id: str
    shard_no: int
    fence: int
    first_cell: int
    cells: int
    wanted: list[int] | None = None  # of the cells in between, when it is not all of them
    todo: set[int] = field(default_factory=set)
    past: dict[int, Past] = field(default_factory=dict)

    @property
    def span(self) -> tuple[int, int]:
        """The first cell, and the one after the last."""
        return self.first_cell, self.first_cell + self.cells

    def holds(self, cell_no: int) -> bool:
        return self.first_cell <= cell_no < self.first_cell + self.cells


# Fair order: priority, then the organisation that was served longest ago, and of it the run that
# was. A drive that overslept its lease renews it or loses it; it must not take its own shard over,
# for it still has the cells in hand.
CLAIM = sql(
    dict,
    """
    WITH live AS MATERIALIZED (
        SELECT id, org_id, priority, concurrency, served_at,
               max(served_at) OVER (PARTITION BY org_id) AS org_served_at
          FROM campaigns.runs
         WHERE state = 'running' AND (%(run_id)s::uuid IS NULL OR id = %(run_id)s)
    ), chosen AS MATERIALIZED (
        SELECT s.run_id, s.shard_no
          FROM live r
         CROSS JOIN LATERAL (
            SELECT run_id, shard_no FROM campaigns.shards
             WHERE run_id = r.id AND state = 'open' AND lease_until < clock_timestamp()
               AND owner <> %(owner)s
             ORDER BY shard_no LIMIT 1 FOR UPDATE SKIP LOCKED
         ) s
         WHERE r.id <> ALL(%(driven)s::uuid[])
           -- No more drives than calls may be in flight.
           AND (%(run_id)s::uuid IS NOT NULL OR r.concurrency > (
                SELECT count(DISTINCT l.owner) FROM campaigns.shards l
                 WHERE l.run_id = r.id AND l.state = 'open' AND l.lease_until >= clock_timestamp()))
           AND NOT EXISTS (SELECT FROM ops.kill_switches k WHERE k.sending_stopped
                            AND (k.org_id IS NULL OR k.org_id = r.org_id))
         ORDER BY r.priority DESC, r.org_served_at, r.served_at, r.id
         LIMIT 1
    )
    UPDATE campaigns.shards s
       SET owner = %(owner)s, fence = s.fence + 1,
           lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
      FROM chosen c
     WHERE s.run_id = c.run_id AND s.shard_no = c.shard_no
    RETURNING s.run_id, s.org_id, s.shard_no, s.fence, s.first_cell, s.cells, s.wanted
    """,
    prepare=False,
)

# Of a run that is over: a shard whose worker never gave it back.
CLAIM_ABANDONED = sql(
    dict,
    """
    UPDATE campaigns.shards s SET owner = '', fence = s.fence + 1, lease_until = '-infinity'
     WHERE s.run_id = %(run_id)s AND s.shard_no = (
        SELECT shard_no FROM campaigns.shards
         WHERE run_id = %(run_id)s AND state = 'open' AND isfinite(lease_until)
           AND lease_until < clock_timestamp()
         ORDER BY shard_no LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING s.run_id, s.org_id, s.shard_no, s.fence, s.first_cell, s.cells, s.wanted
    """,
)

COUNT_LEASED = sql(
    int,
    """
    SELECT count(*) FROM campaigns.shards
     WHERE run_id = %(run_id)s AND state = 'open' AND isfinite(lease_until)
    """,
)

SERVED = sql(
    Nothing, "UPDATE campaigns.runs SET served_at = clock_timestamp() WHERE id = %(run_id)s"
)

LOSE = sql(
    dict,
    """
    WITH lost AS MATERIALIZED (
        SELECT cell_no, attempt_no FROM campaigns.attempts
         WHERE run_id = %(run_id)s AND cell_no >= %(first)s AND cell_no < %(end)s AND state = 'sent'
         ORDER BY cell_no, attempt_no FOR NO KEY UPDATE
    )
    UPDATE campaigns.attempts a
       SET state = 'unknown', cost = a.worst_cost
      FROM lost
     WHERE a.run_id = %(run_id)s AND a.cell_no = lost.cell_no AND a.attempt_no = lost.attempt_no
    RETURNING a.cell_no, a.attempt_no, a.worst_cost, a.worst_tokens, a.reserve, a.model_no, a.provider_key_id,
              (a.sent_at AT TIME ZONE 'UTC')::date AS sent_on
    """,
)

BOOK_WORST = sql(
    Nothing,
    """
    INSERT INTO providers.ledger
        (run_id, cell_no, attempt_no, org_id, user_id, model_id, price_version_id, kind, discarded,
         input_tokens, output_tokens, cost, sent_on, provider_key_id, technique_no)
    SELECT %(run_id)s::uuid, l.cell_no, l.attempt_no, %(org_id)s::uuid, %(user_id)s::uuid,
           l.model_id, l.price_version_id, 'worst', true, 0, 0, l.cost, l.sent_on, l.key_id,
           l.technique_no
      FROM unnest(%(cells)s::bigint[], %(attempts)s::int[], %(models)s::uuid[], %(prices)s::uuid[],
                  %(costs)s::numeric[], %(days)s::date[], %(keys)s::uuid[], %(techniques)s::int[])
           AS l (cell_no, attempt_no, model_id, price_version_id, cost, sent_on, key_id, technique_no)
     ORDER BY l.cell_no, l.attempt_no
    """,
)

SETTLE_WORST = sql(
    dict,
    """
    UPDATE campaigns.run_money
       SET settled = settled + %(cost)s::numeric,
           held = held - %(cost)s::numeric - %(reserve)s::numeric,
           tokens_settled = tokens_settled + %(tokens)s, tokens_held = tokens_held - %(tokens)s
     WHERE run_id = %(run_id)s
    RETURNING budgeted, clock_timestamp() AS at
    """,
)

FIND_PURSE = sql(
    dict,
    """
    SELECT org_id, launched_by AS user_id, campaign_id, COALESCE(api_key_id::text, '') AS api_key_id
      FROM campaigns.runs WHERE id = %(run_id)s
    """,
)

FIND_RECORDED: Statement[int] = sql(
    int,
    """
    SELECT cell_no FROM campaigns.executions
     WHERE run_id = %(run_id)s AND cell_no >= %(first)s AND cell_no < %(end)s
    """,
)

FIND_PAST = sql(
    dict,
    """
    SELECT cell_no, max(attempt_no) AS attempts,
           count(*) FILTER (WHERE state = 'settled' AND error_kind <> 'not_sent') AS errors,
           count(*) FILTER (WHERE state = 'unknown') AS unknown,
           COALESCE(bool_or(alone AND state = 'unknown'), false) AS lost_alone,
           (array_agg(model_no ORDER BY attempt_no DESC)
                FILTER (WHERE error_kind IS DISTINCT FROM 'not_sent'))[1] AS last_model_no,
           COALESCE((array_agg(error_kind ORDER BY attempt_no DESC)
                FILTER (WHERE error_kind IS DISTINCT FROM 'not_sent'))[1], '') AS last_error
      FROM campaigns.attempts
     WHERE run_id = %(run_id)s AND cell_no >= %(first)s AND cell_no < %(end)s
     GROUP BY cell_no
    """,
)

# Of conversations: how often the question that is next was asked in vain.
FIND_PAST_OF_TALKS = sql(
    dict,
    """
    SELECT a.cell_no, max(a.attempt_no) AS attempts,
           count(*) FILTER (WHERE a.state = 'settled' AND a.error_kind <> 'not_sent'
                              AND a.attempt_no > COALESCE(t.last_no, 0)) AS errors,
           count(*) FILTER (WHERE a.state = 'unknown' AND a.attempt_no > COALESCE(t.last_no, 0))
               AS unknown,
           COALESCE(bool_or(a.alone AND a.state = 'unknown' AND a.attempt_no > COALESCE(t.last_no, 0)),
                    false) AS lost_alone,
           (array_agg(a.model_no ORDER BY a.attempt_no DESC)
                FILTER (WHERE a.error_kind IS DISTINCT FROM 'not_sent'
                          AND a.attempt_no > COALESCE(t.last_no, 0)))[1] AS last_model_no,
           COALESCE((array_agg(a.error_kind ORDER BY a.attempt_no DESC)
                FILTER (WHERE a.error_kind IS DISTINCT FROM 'not_sent'
                          AND a.attempt_no > COALESCE(t.last_no, 0)))[1], '') AS last_error
      FROM campaigns.attempts a
      LEFT JOIN (SELECT cell_no, max(attempt_no) AS last_no FROM campaigns.turns
                  WHERE run_id = %(run_id)s AND cell_no >= %(first)s AND cell_no < %(end)s
                  GROUP BY cell_no) t ON t.cell_no = a.cell_no
     WHERE a.run_id = %(run_id)s AND a.cell_no >= %(first)s AND a.cell_no < %(end)s
     GROUP BY a.cell_no
    """,
)

RELEASE = sql(
    Nothing,
    """
    UPDATE campaigns.shards s SET lease_until = clock_timestamp()
      FROM unnest(%(shards)s::int[], %(fences)s::bigint[]) AS l (shard_no, fence)
     WHERE s.run_id = %(run_id)s AND s.shard_no = l.shard_no AND s.fence = l.fence
       AND s.owner = %(owner)s AND s.state = 'open'
    """,
)


async def claim(
    db: Database,
    *,
    owner: str,
    lease_s: float,
    run_id: str | None = None,
    driven: Sequence[str] = (),
) -> Lease | None:
    """Takes a shard: of `run_id`, or of the run whose turn it is among those not `driven` here.

    What a former owner had in flight is not known yet; `take_over` settles that.
    """
    async with db.begin(Call.by_worker("claim_shard", seconds=10)) as tx:
        row = await tx.one(CLAIM, owner=owner, lease_s=lease_s, run_id=run_id, driven=list(driven))
        if row is None:
            return None
        await tx.run(SERVED, run_id=row["run_id"])
    return Lease(**row)


async def take_over(tx: Tx, lease: Lease, plan: Any, user_id: str) -> None:
    """Fills in what is left to do. Of a shard that somebody held before, calls left as sent become
    unknown and are booked at their worst."""
    end = lease.first_cell + lease.cells
    span: dict[str, Any] = {"run_id": lease.run_id, "first": lease.first_cell, "end": end}
    lease.todo = set(range(lease.first_cell, end) if lease.wanted is None else lease.wanted)
    if lease.fence == 1:
        return
    lost = await tx.all(LOSE, **span)
    if lost:
        await _book_lost(tx, lease, plan, user_id, lost)
    recorded: list[int] = await tx.all(FIND_RECORDED, **span)
    lease.todo -= set(recorded)
    is_talk = plan.talk is not None
    turns = await load_turns(tx, span) if is_talk else {}
    for row in await tx.all(FIND_PAST_OF_TALKS if is_talk else FIND_PAST, **span):
        cell_no = row.pop("cell_no")
        if cell_no in lease.todo:
            lease.past[cell_no] = Past(**row, turns=turns.get(cell_no, ()))


async def _book_lost(
    tx: Tx, lease: Lease, plan: Any, user_id: str, lost: list[dict[str, Any]]
) -> None:
    """Books what a lost worker had in flight at its worst, in the ledger and with the budgets."""
    models = [plan.models[_model_no(plan, row)] for row in lost]
    await tx.run(
        BOOK_WORST,
        run_id=lease.run_id,
        org_id=lease.org_id,
        user_id=user_id,
        cells=[row["cell_no"] for row in lost],
        attempts=[row["attempt_no"] for row in lost],
        models=[model.model_id for model in models],
        prices=[model.price_version_id for model in models],
        costs=[row["worst_cost"] for row in lost],
        days=[row["sent_on"] for row in lost],
        keys=[row["provider_key_id"] for row in lost],
        techniques=[plan.cell(row["cell_no"]).technique_no for row in lost],
    )
    cost = sum(row["worst_cost"] for row in lost)
    reserve = sum(row["reserve"] for row in lost)
    tokens = sum(row["worst_tokens"] for row in lost)
    money = await tx.one(
        SETTLE_WORST, run_id=lease.run_id, cost=cost, reserve=reserve, tokens=tokens
    )
    if money is not None and money["budgeted"]:
        purse = Purse(**(await tx.one(FIND_PURSE, run_id=lease.run_id) or {}))
        groups = [
            Settled(row["provider_key_id"], row["sent_on"], 1, worst + row["reserve"], 1, worst)
            for row in lost
            for worst in (row["worst_cost"],)
        ]
        await move(tx, purse, money["at"], groups, [])
    if plan.seats:
        await move_seats(tx, plan, lease.run_id, _seat_groups(plan, lost), [])


def _seat_groups(plan: Any, lost: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the lost calls, those of attackers and judges, as settling would group them."""
    return [
        {
            "model_no": row["model_no"],
            "released": row["worst_cost"] + row["reserve"],
            "cost": row["worst_cost"],
            "calls": 1,
            "input_tokens": 0,
            "output_tokens": 0,
        }
        for row in lost
        if (row["model_no"] or 0) >= plan.target_models
    ]


def _model_no(plan: Any, attempt: dict[str, Any]) -> int:
    """Where an attempt went; of runs from before there were routes that was not written down."""
    model_no: int | None = attempt["model_no"]
    return plan.order(attempt["cell_no"])[0] if model_no is None else model_no


async def settle_abandoned(tx: Tx, run_id: str, plan: Any, user_id: str) -> int:
    """Shuts out the lost workers of a run that is over and books what they had in flight; how many
    shards are still leased."""
    while row := await tx.one(CLAIM_ABANDONED, run_id=run_id):
        await take_over(tx, Lease(**row), plan, user_id)
    return await tx.one(COUNT_LEASED, run_id=run_id) or 0


async def release(db: Database, org_id: str, owner: str, leases: Sequence[Lease]) -> None:
    """Gives leases back at once, for a drive that ends before its shards do. They are left expired,
    not unleased: what is still in flight must be found when the run ends before anyone claims."""
    if not leases:
        return
    async with db.begin(Call.by_worker("release_shards", org_id, seconds=5)) as tx:
        await tx.run(
            RELEASE,
            run_id=leases[0].run_id,
            owner=owner,
            shards=[lease.shard_no for lease in leases],
            fences=[lease.fence for lease in leases],
        )
