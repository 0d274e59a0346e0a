"""What could not be stored: looked at, put back, or thrown away.

A letter counts as dead for as long as it is one, and for ever once it is thrown away; put back, it is
waiting again. So accepted = stored + dead + waiting holds through all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from chimera.audit.leaf import Severity
from chimera.audit.recording import record
from chimera.call import NOBODY
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound, NotReady
from chimera.ids import new_id
from chimera.paging import ANSWER_BYTES, Pages, rows_that_fit
from chimera.telemetry.events import Event, freeze
from chimera.telemetry.rows import Reader
from chimera.telemetry.sender import Sender, Unfit
from chimera.v1.telemetry_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    TelemetryEvent,
)

LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

LIST_DEAD_LETTERS = sql(
    DeadLetter,
    """
    SELECT id, producer, batch_id, event_index, events, reason, created_at,
           CASE WHEN kind = 'event' AND octet_length(body) <= %(most_bytes)s THEN body END AS event
      FROM telemetry.dead_letters
     WHERE org_id = %(org_id)s AND id < %(before)s ORDER BY id DESC LIMIT %(limit)s
    """,
)


@dataclass(frozen=True, slots=True)
class Letter:
    id: str
    kind: str
    producer: str
    batch_id: str
    event_index: int | None
    events: int
    body: bytes


TAKE_DEAD_LETTERS = sql(
    Letter,
    """
    DELETE FROM telemetry.dead_letters WHERE org_id = %(org_id)s AND id = ANY(%(ids)s::uuid[])
    RETURNING id, kind, producer, batch_id, event_index, events, body
    """,
)

# The reconciler holds this row while it counts (ledger.py).
LOCK_LEDGER = sql(
    Nothing,
    """
    INSERT INTO telemetry.verified AS v (org_id) VALUES (%(org_id)s)
    ON CONFLICT (org_id) DO UPDATE SET is_asked = v.is_asked
    """,
)

# The dead batch itself is not in the books any more: its events come in a new one.
TAKE_OFF_BOOKS = sql(
    Nothing,
    """
    WITH requeued AS (
        UPDATE telemetry.batches SET requeued_at = clock_timestamp()
         WHERE org_id = %(org_id)s AND batch_id = %(batch_id)s AND state = 'dead' AND requeued_at IS NULL
        RETURNING org_id, xid, batch_id, producer, events, (created_at AT TIME ZONE 'UTC')::date AS day
    )
    UPDATE telemetry.reconciliations r
       SET accepted = GREATEST(r.accepted - q.events, 0), dead = GREATEST(r.dead - q.events, 0)
      FROM requeued q JOIN telemetry.verified v ON v.org_id = q.org_id
     WHERE r.org_id = q.org_id AND r.day = q.day AND r.producer = q.producer
       AND (q.xid, q.batch_id) <= (v.xid, v.batch_id)
       AND NOT EXISTS (SELECT FROM telemetry.differing d WHERE d.batch_id = q.batch_id)
    """,
)

REQUEUE_BATCH = sql(
    Nothing,
    """
    WITH batch AS (
        INSERT INTO telemetry.batches (batch_id, org_id, producer, body, events)
        VALUES (%(batch_id)s, %(org_id)s, %(producer)s, %(body)s, %(events)s)
    )
    INSERT INTO telemetry.totals (org_id, slot, dead)
    VALUES (%(org_id)s, 1 + pg_backend_pid() %% 16, -%(events)s::int)
    ON CONFLICT (org_id, slot) DO UPDATE SET dead = totals.dead + EXCLUDED.dead
    """,
)

COUNT_DISCARDED = sql(
    Nothing,
    """
    INSERT INTO telemetry.totals (org_id, slot, discarded)
    VALUES (%(org_id)s, 1 + pg_backend_pid() %% 16, %(events)s)
    ON CONFLICT (org_id, slot) DO UPDATE SET discarded = totals.discarded + EXCLUDED.discarded
    """,
)


async def list_dead_letters(
    tx: Tx, pages: Pages, request: ListDeadLettersRequest
) -> ListDeadLettersResponse:
    """The newest first, without events too large for any answer."""
    size, position = pages.page(request)

    async def fetch(before: str, limit: int) -> list[DeadLetter]:
        return await tx.all(
            LIST_DEAD_LETTERS,
            org_id=tx.call.caller.org_id,
            before=before,
            limit=limit,
            most_bytes=ANSWER_BYTES,
        )

    letters, has_more = await rows_that_fit(
        fetch, position[0] if position else LAST_ID, size, lambda letter: letter.id
    )
    token = pages.next_token_at(request, [letters[-1].id]) if has_more else ""
    return ListDeadLettersResponse(dead_letters=letters, next_page_token=token)


async def requeue_dead_letters(tx: Tx, ids: list[str]) -> int:
    """Puts all of them back into the buffer; how many events. Whoever may do this vouches for the
    senders: their users and campaigns are not asked about again.

    Raises NotFound(DEAD_LETTER_NOT_FOUND), NotReady(DEAD_LETTER_UNUSABLE).
    """
    letters = await _take(tx, ids)
    org_id = tx.call.caller.org_id
    await tx.run(LOCK_LEDGER, org_id=org_id)
    events: dict[str, list[Event]] = {}
    seen: set[tuple[str, str]] = set()
    for letter in letters:
        if letter.kind == "batch":
            await tx.run(TAKE_OFF_BOOKS, org_id=org_id, batch_id=letter.batch_id)
            await _requeue(tx, letter.producer, letter.body, letter.events)
            continue
        event = _event(letter)
        if (letter.producer, event.event_id) in seen:
            raise _unusable(letter, "Another of these letters has the same event_id. Discard it.")
        seen.add((letter.producer, event.event_id))
        events.setdefault(letter.producer, []).append(event)
    for producer, found in events.items():
        await _requeue(tx, producer, freeze(found), len(found))
    count = sum(letter.events for letter in letters)
    record(
        tx,
        "dead_letter.requeue",
        "dead_letter",
        letters[0].id,
        new={"ids": [letter.id for letter in letters], "events": count},
        severity=Severity.NOTICE,
    )
    return count


async def discard_dead_letters(tx: Tx, ids: list[str]) -> int:
    """Throws all of them away; how many events. Raises NotFound(DEAD_LETTER_NOT_FOUND)."""
    letters = await _take(tx, ids)
    count = sum(letter.events for letter in letters)
    await tx.run(COUNT_DISCARDED, org_id=tx.call.caller.org_id, events=count)
    record(
        tx,
        "dead_letter.discard",
        "dead_letter",
        letters[0].id,
        old={"ids": [letter.id for letter in letters], "events": count},
        severity=Severity.WARNING,
    )
    return count


async def _take(tx: Tx, ids: list[str]) -> list[Letter]:
    letters = await tx.all(TAKE_DEAD_LETTERS, org_id=tx.call.caller.org_id, ids=ids)
    missing = {str(UUID(text)) for text in ids} - {letter.id for letter in letters}
    if missing:
        raise NotFound(
            "DEAD_LETTER_NOT_FOUND",
            "A dead letter is not there (any more); list them again.",
            facts={"dead_letter_id": min(missing)},
        )
    return sorted(letters, key=lambda letter: letter.id)


def _event(letter: Letter) -> Event:
    sender = Sender(NOBODY, True, letter.producer, letter.batch_id)
    message = TelemetryEvent.FromString(letter.body)
    try:
        return Reader(sender).read(message, letter.event_index or 0)
    except Unfit as unfit:
        raise _unusable(
            letter,
            f"{unfit.field}: {unfit.message}. Send a corrected event, then discard this letter.",
        ) from None


def _unusable(letter: Letter, why: str) -> NotReady:
    return NotReady("DEAD_LETTER_UNUSABLE", why, facts={"dead_letter_id": letter.id})


async def _requeue(tx: Tx, producer: str, body: bytes, events: int) -> None:
    await tx.run(
        REQUEUE_BATCH,
        batch_id=new_id(),
        org_id=tx.call.caller.org_id,
        producer=producer,
        body=body,
        events=events,
    )
