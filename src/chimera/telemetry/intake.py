"""Taking batches from outside: judged, frozen, and committed to the buffer before they are answered.

A batch is named by its producer and its id. Its receipt is written in the statement that writes the
batch, so the same batch again finds the receipt, whatever happened in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chimera import metrics
from chimera.call import NOBODY, Call
from chimera.db import Tx, sql
from chimera.faults import AlreadyExists, Invalid, Violation
from chimera.ids import new_id
from chimera.pools import Database
from chimera.settings import Settings
from chimera.telemetry.backlog import Backlog
from chimera.telemetry.columnar import read_columns
from chimera.telemetry.events import Event, freeze
from chimera.telemetry.frozen import BatchBroken, pack
from chimera.telemetry.rows import read_rows, read_sound
from chimera.telemetry.sender import (
    ID_MAX,
    NAME_MAX,
    PAIRS_MAX,
    PAYLOAD_MAX,
    TEXT_MAX,
    Sender,
    Unfit,
)
from chimera.v1.telemetry_pb2 import BatchReceipt, EventBatch, EventColumns, TelemetryEvent

ROWS_MAX, COLUMNS_MAX = 10_000, 100_000
LETTERS_A_BATCH_MAX = 1_000
ERRORS_TOLD_MAX = 100
LETTER_BYTES = 16_000  # up to which an event is kept as it came, whatever it is
LONGEST = {
    "event_id": ID_MAX,
    "event_type": NAME_MAX,
    "event_category": NAME_MAX,
    "campaign_id": ID_MAX,
    "user_id": ID_MAX,
    "workload_id": ID_MAX,
    "correlation_id": ID_MAX,
    "cost_usd": ID_MAX,
    "session_id": ID_MAX,
    "payload": PAYLOAD_MAX,
}
BATCHES_A_CALL_MAX = 10_000
IN_A_THREAD = 2_000  # events of a batch from which others should not wait for its judging
VISIBLE_FOR_S = 5.0

# One row is answered when the batch is new, none when it has a receipt. Connections differ in their
# slot of the counters; slot 0 is the drain's.
ACCEPT_BATCH = sql(
    int,
    """
    WITH receipt AS (
        INSERT INTO telemetry.receipts (org_id, producer, batch_id, body_hash, answer)
        VALUES (%(org_id)s, %(producer)s, %(batch_id)s, %(body_hash)s, %(answer)s)
        ON CONFLICT DO NOTHING RETURNING 1
    ), batch AS (
        INSERT INTO telemetry.batches (batch_id, org_id, producer, body, events)
        SELECT %(id)s::uuid, %(org_id)s, %(producer)s, %(body)s::bytea, %(events)s
          FROM receipt WHERE %(events)s > 0
    ), letters AS (
        INSERT INTO telemetry.dead_letters
               (id, org_id, kind, producer, batch_id, event_index, events, body, reason)
        SELECT l.id, %(org_id)s, 'event', %(producer)s, %(batch_id)s, l.event_index, 1, l.body, l.reason
          FROM receipt, unnest(%(letter_ids)s::uuid[], %(letter_indexes)s::int[],
                               %(letter_bodies)s::bytea[], %(letter_reasons)s::text[])
               AS l (id, event_index, body, reason)
    ), counted AS (
        INSERT INTO telemetry.totals (org_id, slot, accepted, dead)
        SELECT %(org_id)s, 1 + pg_backend_pid() %% 16, %(events)s + %(dead)s, %(dead)s FROM receipt
        ON CONFLICT (org_id, slot) DO UPDATE
           SET accepted = totals.accepted + EXCLUDED.accepted, dead = totals.dead + EXCLUDED.dead
    )
    SELECT 1 FROM receipt
    """,
)

FIND_RECEIPT = sql(
    dict,
    """
    SELECT body_hash = %(body_hash)s AS same, answer FROM telemetry.receipts
     WHERE org_id = %(org_id)s AND producer = %(producer)s AND batch_id = %(batch_id)s
    """,
)

MEASURE_DEAD_LETTERS = sql(
    dict,
    """
    SELECT count(*) AS letters, coalesce(sum(size), 0)::bigint AS bytes FROM (
        SELECT octet_length(body) AS size FROM telemetry.dead_letters
         WHERE org_id = %(org_id)s LIMIT %(most)s) l
    """,
)

VISIBLE_CAMPAIGNS = sql(str, "SELECT unnest(telemetry.visible_campaigns(%(asked)s::uuid[]))")


@dataclass
class _Judged:
    """A batch on its way: `body` of `events` good ones, and what is wrong with the others."""

    events: int
    body: bytes
    bad: dict[int, Unfit] = field(default_factory=dict)


class Intake:
    """The way in, of one server process."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db = db
        self.letters_max = settings.telemetry_dead_letters_max
        self.letter_bytes_max = settings.telemetry_dead_letter_bytes_max
        self.backlog = Backlog(db, settings)
        self._visible: dict[tuple[str, frozenset[str]], tuple[float, frozenset[str]]] = {}

    async def record(self, call: Call, batch: EventBatch) -> BatchReceipt:
        """Takes a batch; it is durable when this returns.

        Raises Exhausted(TELEMETRY_BACKLOG_FULL), AlreadyExists(BATCH_ID_REUSED),
        Invalid(BATCH_TOO_LARGE), and Invalid(EVENT_INVALID) for columns.
        """
        rows, columns = len(batch.rows.events), batch.columns.count
        _check_size(batch, rows, columns)
        await self.backlog.admit(call)
        if rows + columns > IN_A_THREAD:
            digest = await asyncio.to_thread(_digest, batch)
        else:
            digest = _digest(batch)
        sender = Sender.of(call, batch.producer, batch.batch_id)
        judge = self._judge_rows if batch.HasField("rows") else self._judge_columns
        try:
            judged = await judge(call, batch, sender)
        except Invalid:
            # What is refused now may have been accepted before: clocks go on, campaigns go away.
            async with self.db.look(call) as tx:
                receipt = await _find_receipt(tx, sender, digest)
            if receipt is None:
                raise
            return receipt
        async with self.db.begin(call) as tx:
            return await self._accept(tx, batch, sender, digest, judged)

    async def record_all(
        self, call: Call, requests: AsyncIterator[Any]
    ) -> AsyncIterator[BatchReceipt]:
        """Takes the batch of each request in turn. Raises what `record` raises, which ends it."""
        taken = 0
        async for request in requests:
            taken += 1
            if taken > BATCHES_A_CALL_MAX:
                raise Invalid(
                    "BATCH_TOO_LARGE", f"A call takes {BATCHES_A_CALL_MAX} batches; begin another."
                )
            yield await self.record(call, request.batch)

    async def _judge_rows(self, call: Call, batch: EventBatch, sender: Sender) -> _Judged:
        messages = list(batch.rows.events)
        if len(messages) > IN_A_THREAD:
            sound = await asyncio.to_thread(_packed_rows, messages, sender)
        else:
            sound = _packed_rows(messages, sender)
        if sound is not None:
            body, named = sound
            if named <= await self._visible_to(call, named, sender):
                return _Judged(len(messages), body)
        if len(messages) > IN_A_THREAD:
            good, bad = await asyncio.to_thread(read_rows, messages, sender)
        else:
            good, bad = read_rows(messages, sender)
        named = {event.campaign_id for event in good.values()} - {NOBODY}
        hidden = named - await self._visible_to(call, named, sender)
        if hidden:
            for index, event in list(good.items()):
                if event.campaign_id in hidden:
                    del good[index]
                    bad[index] = Unfit("campaign_id", "is no campaign that you can see")
            bad = dict(sorted(bad.items()))
        try:
            return await self._frozen_rows(list(good.values()), bad)
        except BatchBroken as broken:
            raise _refused(Unfit("rows", str(broken))) from None

    @staticmethod
    async def _frozen_rows(events: list[Event], bad: dict[int, Unfit]) -> _Judged:
        if not events:
            return _Judged(0, b"", bad)
        if len(events) > IN_A_THREAD:
            return _Judged(len(events), await asyncio.to_thread(freeze, events), bad)
        return _Judged(len(events), freeze(events), bad)

    async def _judge_columns(self, call: Call, batch: EventBatch, sender: Sender) -> _Judged:
        columns = batch.columns
        try:
            if columns.count > IN_A_THREAD:
                body, named = await asyncio.to_thread(_packed, columns, sender)
            else:
                body, named = _packed(columns, sender)
            if hidden := named - await self._visible_to(call, named, sender):
                raise Unfit("campaign_ids", f"names a campaign that you cannot see: {min(hidden)}")
        except Unfit as unfit:
            raise _refused(unfit) from None
        except BatchBroken as broken:
            raise _refused(Unfit("columns", str(broken))) from None
        return _Judged(columns.count, body)

    async def _visible_to(self, call: Call, named: set[str], sender: Sender) -> frozenset[str]:
        """Those of the named campaigns that the sender may send events of."""
        if not named or sender.is_relay:
            return frozenset(named)
        key = (call.caller.user_id, frozenset(named))
        known = self._visible.get(key)
        if known and time.monotonic() - known[0] < VISIBLE_FOR_S:
            return known[1]
        visible = await visible_campaigns(self.db, call, named)
        if len(self._visible) > 1000:
            self._visible.clear()
        self._visible[key] = (time.monotonic(), visible)
        return visible

    async def _accept(
        self, tx: Tx, batch: EventBatch, sender: Sender, digest: bytes, judged: _Judged
    ) -> BatchReceipt:
        org_id = tx.call.caller.org_id
        letters = await self._letters(tx, batch, sender, judged) if judged.bad else {}
        kept = list(letters)
        receipt = _receipt(sender, judged, set(kept))
        now = await tx.one(
            ACCEPT_BATCH,
            org_id=org_id,
            producer=sender.producer,
            batch_id=sender.batch_id,
            body_hash=digest,
            answer=receipt.SerializeToString(),
            id=new_id(),
            body=judged.body,
            events=judged.events,
            dead=len(kept),
            letter_ids=[new_id() for _ in kept],
            letter_indexes=kept,
            letter_bodies=list(letters.values()),
            letter_reasons=[_sentence(judged.bad[index]) for index in kept],
        )
        if now is None:
            found = await _find_receipt(tx, sender, digest)
            assert found is not None, "a receipt stood in the way and is not there"
            return found
        counts = {"accepted": judged.events + len(kept), "dead": len(kept)}
        tx.after_commit.append(lambda: _count(counts))
        return receipt

    async def _letters(
        self, tx: Tx, batch: EventBatch, sender: Sender, judged: _Judged
    ) -> dict[int, bytes]:
        """The first of the bad events that there is room for."""
        there = await tx.one(
            MEASURE_DEAD_LETTERS, org_id=tx.call.caller.org_id, most=self.letters_max
        )
        assert there is not None
        room = min(LETTERS_A_BATCH_MAX, self.letters_max - there["letters"])
        room_bytes = self.letter_bytes_max - there["bytes"]
        letters: dict[int, bytes] = {}
        for index in judged.bad:
            if len(letters) >= room:
                break
            letter = _letter(batch.rows.events[index], sender)
            room_bytes -= len(letter)
            if room_bytes < 0:
                break
            letters[index] = letter
        return letters


async def visible_campaigns(db: Database, call: Call, asked: set[str]) -> frozenset[str]:
    """Those of the campaigns that the caller may see, by the campaigns' own rules."""
    async with db.look(call) as tx:
        return frozenset(await tx.all(VISIBLE_CAMPAIGNS, asked=sorted(asked)))


def _check_size(batch: EventBatch, rows: int, columns: int) -> None:
    if batch.HasField("rows") and not 1 <= rows <= ROWS_MAX:
        raise Invalid("BATCH_TOO_LARGE", f"A batch has 1 to {ROWS_MAX} rows, not {rows}.")
    if batch.HasField("columns") and not 1 <= columns <= COLUMNS_MAX:
        raise Invalid(
            "BATCH_TOO_LARGE", f"A batch has 1 to {COLUMNS_MAX} events in columns, not {columns}."
        )


def _packed(columns: EventColumns, sender: Sender) -> tuple[bytes, set[str]]:
    """The body, and the campaigns that it names. Raises Unfit, BatchBroken."""
    read = read_columns(columns, sender)
    return pack(read.columns), read.campaign_ids


def _packed_rows(messages: list[TelemetryEvent], sender: Sender) -> tuple[bytes, set[str]] | None:
    """The same of rows; None unless nothing is wrong with any."""
    read = read_sound(messages, sender)
    if read is None:
        return None
    try:
        return pack(read.columns), read.campaign_ids
    except BatchBroken:
        return None


def _digest(batch: EventBatch) -> bytes:
    content = batch.rows if batch.HasField("rows") else batch.columns
    data: bytes = content.SerializeToString(deterministic=True)
    return hashlib.blake2b(data, digest_size=16).digest()


def _refused(unfit: Unfit) -> Invalid:
    return Invalid(
        "EVENT_INVALID",
        f"{unfit.field}: {unfit.message}",
        violations=[Violation(unfit.path, unfit.message, "EVENT_INVALID")],
    )


def _sentence(unfit: Unfit) -> str:
    return f"{unfit.field}: {unfit.message}"


def _letter(event: TelemetryEvent, sender: Sender) -> bytes:
    """The event as it was sent, with what only this moment knows. What is longer than any that can be
    taken is cut where it shows, so that it stays as unfit as it came."""
    kept = TelemetryEvent()
    kept.CopyFrom(event)
    if event.ByteSize() > LETTER_BYTES:
        for field, most in LONGEST.items():
            setattr(kept, field, getattr(event, field)[: most + 1])
        for name in set(kept.metric_units) - set(kept.metrics):
            del kept.metric_units[name]
        for pairs in (kept.metrics, kept.dimensions, kept.metric_units):
            _cut(pairs)
        kept.DiscardUnknownFields()
    kept.user_id = kept.user_id or sender.user_id
    if not event.HasField("timestamp"):
        kept.timestamp.FromMilliseconds(sender.now_ms)
    return kept.SerializeToString()


def _cut(pairs: Any) -> None:
    """To one pair more than may be, with names and texts one character longer than may be."""
    given = list(pairs.items())[: PAIRS_MAX + 1]
    pairs.clear()
    for name, value in given:
        pairs[name[: NAME_MAX + 1]] = value[: TEXT_MAX + 1] if isinstance(value, str) else value


def _receipt(sender: Sender, judged: _Judged, kept: set[int]) -> BatchReceipt:
    receipt = BatchReceipt(
        batch_id=str(UUID(sender.batch_id)),
        accepted=judged.events,
        dead_lettered=len(kept),
        refused=len(judged.bad) - len(kept),
        unfit_indexes=judged.bad,
    )
    for index, unfit in list(judged.bad.items())[:ERRORS_TOLD_MAX]:
        receipt.errors.add(
            index=index, field=unfit.field, message=unfit.message, is_kept=index in kept
        )
    return receipt


async def _find_receipt(tx: Tx, sender: Sender, digest: bytes) -> BatchReceipt | None:
    found = await tx.one(
        FIND_RECEIPT,
        org_id=tx.call.caller.org_id,
        producer=sender.producer,
        batch_id=sender.batch_id,
        body_hash=digest,
    )
    if found is None:
        return None
    if not found["same"]:
        raise AlreadyExists(
            "BATCH_ID_REUSED", "This producer used this batch_id before for other events."
        )
    receipt = BatchReceipt.FromString(found["answer"])
    receipt.is_repeated = True
    return receipt


def _count(counts: dict[str, int]) -> None:
    for fate, events in counts.items():
        if events:
            metrics.TELEMETRY_EVENTS.labels(fate).inc(events)
