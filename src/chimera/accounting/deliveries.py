"""Events on their way to endpoints: at least once, each try recorded, the same id every time.

An announcement makes one delivery an endpoint, in the transaction that says it is announced. A try is
a call outside any transaction; what came of it, and when the next one is due, is written in one. A
worker that dies in between tries again, and the receiver knows the event by its id.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import structlog

from chimera import mail, metrics, outbox
from chimera.accounting.signing import signed_headers
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound
from chimera.keyring import sealed_from_json
from chimera.paging import Pages
from chimera.providers.adapters.outbound import RefusedAddressError
from chimera.providers.keys import vault_away
from chimera.providers.sealed_places import webhook_context
from chimera.providers.vault import VaultError, unseal
from chimera.rows import enum_text
from chimera.v1.budgets_pb2 import Delivery, ListDeliveriesRequest

log = structlog.get_logger("chimera.webhook")

TRIES_MAX = 10
RETRY_MAX_S = 8 * 3600.0
ANSWER_BYTES_MAX = 65_536
ALERT_EVENT = "budget.alert"

# Ids of deliveries are random: they are made by the statement that finds the endpoints.

# --- announcing -----------------------------------------------------------------------------------

ANNOUNCE = sql(
    dict,
    """
    UPDATE accounting.alerts SET announced_at = clock_timestamp()
     WHERE id = %(alert_id)s AND announced_at IS NULL
    RETURNING id, org_id, budget_id, scope_kind, scope_id, period, window_start::text, alert_type,
              threshold_percentage, user_id, requests_settled, requests_max,
              trim_scale(cost_settled)::text AS cost_settled_usd,
              trim_scale(cost_max)::text AS cost_max_usd, triggered_at
    """,
)

INSERT_DELIVERIES = sql(
    str,
    """
    INSERT INTO accounting.deliveries (id, org_id, webhook_id, event_id, event_type, body)
    SELECT gen_random_uuid(), w.org_id, w.id, %(event_id)s::uuid, %(event_type)s, %(body)s
      FROM accounting.webhooks w
     WHERE w.org_id = %(org_id)s::uuid AND w.is_active AND w.deleted_at IS NULL
       AND (w.event_types = '{}' OR %(event_type)s = ANY(w.event_types))
     ORDER BY w.id FOR SHARE OF w
        ON CONFLICT (webhook_id, event_id) DO NOTHING
    RETURNING id
    """,
)

# Whom an alert concerns: its person, or the administrators when it is the organisation's.
LIST_READERS = sql(
    str,
    """
    SELECT m.user_id FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id
     WHERE m.org_id = %(org_id)s::uuid AND u.deleted_at IS NULL
       AND CASE WHEN %(user_id)s::uuid IS NULL THEN m.role = 'admin' ELSE m.user_id = %(user_id)s END
     ORDER BY m.user_id
    """,
)


async def announce_alert(core: Core, org_id: str, alert_id: str) -> None:
    """Asks for the mails and deliveries of an alert, once."""
    async with core.db.begin(Call.by_worker("announce_alert", org_id, seconds=30)) as tx:
        alert = await tx.one(ANNOUNCE, alert_id=alert_id)
        if alert is None:
            return
        event = {"type": ALERT_EVENT, "timestamp": alert["triggered_at"], "data": alert}
        for delivery_id in await tx.all(
            INSERT_DELIVERIES,
            org_id=org_id,
            event_id=alert_id,
            event_type=ALERT_EVENT,
            body=orjson.dumps(event).decode(),
        ):
            await outbox.enqueue(tx, "deliver_webhook", delivery_id=delivery_id)
        for user_id in await tx.all(LIST_READERS, org_id=org_id, user_id=alert["user_id"]):
            await mail.ask(tx, "budget_alert", alert_id=alert_id, user_id=user_id)


# --- trying ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery with all that a try needs."""

    id: str
    org_id: str
    webhook_id: str
    event_id: str
    body: str
    url: str
    row_version: int
    previous_row_version: int | None
    sealed: dict[str, Any] = field(repr=False)
    previous_sealed: dict[str, Any] | None = field(repr=False)


FIND_PARCEL = sql(
    Parcel,
    """
    SELECT d.id, d.org_id, d.webhook_id, d.event_id, d.body, w.url, w.row_version, w.sealed,
           CASE WHEN w.previous_expires_at > now() THEN w.previous_sealed END AS previous_sealed,
           w.previous_row_version
      FROM accounting.deliveries d JOIN accounting.webhooks w ON w.id = d.webhook_id
     WHERE d.id = %(delivery_id)s AND d.state = 'waiting' AND w.is_active AND w.deleted_at IS NULL
    """,
)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one try."""

    response_class: str
    http_status: int | None
    latency_ms: int


async def deliver(
    core: Core, session: aiohttp.ClientSession, org_id: str, delivery_id: str
) -> None:
    """One try, if the delivery still waits and its endpoint is on."""
    async with core.db.begin(Call.by_worker("find_delivery", org_id, seconds=10)) as tx:
        parcel = await tx.one(FIND_PARCEL, delivery_id=delivery_id)
    if parcel is None:
        return
    secrets = await _open_secrets(core, parcel)
    tried = await _post(session, parcel, secrets, core.settings.webhook_timeout_s)
    metrics.WEBHOOK_TRIES.labels(tried.response_class).inc()
    async with core.db.begin(Call.by_worker("record_delivery", org_id, seconds=10)) as tx:
        await _record_try(tx, core, parcel, tried)


async def _open_secrets(core: Core, parcel: Parcel) -> list[bytes]:
    stored = [(parcel.sealed, parcel.row_version)]
    if parcel.previous_sealed is not None and parcel.previous_row_version is not None:
        stored.append((parcel.previous_sealed, parcel.previous_row_version))
    try:
        return [
            await asyncio.to_thread(
                unseal,
                core.master,
                sealed_from_json(sealed),
                webhook_context(parcel.org_id, parcel.webhook_id, row_version),
            )
            for sealed, row_version in stored
        ]
    except VaultError as error:
        raise vault_away() from error


async def _post(
    session: aiohttp.ClientSession, parcel: Parcel, secrets: list[bytes], timeout_s: float
) -> Tried:
    body = parcel.body.encode()
    headers = signed_headers(secrets, parcel.event_id, int(time.time()), body)
    clock = time.perf_counter()
    status: int | None = None
    try:
        async with session.post(
            parcel.url,
            data=body,
            headers={"content-type": "application/json", **headers},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            allow_redirects=False,
        ) as answer:
            status = answer.status
            await answer.content.read(ANSWER_BYTES_MAX)
            response_class = _class_of(status)
    except TimeoutError:
        response_class = "timeout"
    except aiohttp.ClientConnectorError as error:
        refused = isinstance(error.os_error, RefusedAddressError)
        response_class = "refused_address" if refused else "unreachable"
    except (aiohttp.ClientError, OSError):
        response_class = "unreachable"
    return Tried(response_class, status, int((time.perf_counter() - clock) * 1000))


def _class_of(status: int) -> str:
    if 200 <= status < 300:
        return "success"
    if 300 <= status < 400:
        return "redirect"
    return "client_error" if status < 500 else "server_error"


# Endpoints before their deliveries, everywhere: whoever switches one off gives up all that wait.
LOCK_WEBHOOK = sql(
    Nothing, "SELECT FROM accounting.webhooks WHERE id = %(webhook_id)s FOR NO KEY UPDATE"
)

# Of two tries at once one may come after the end: what arrived has arrived, what was given up stays so
# unless it did arrive.
NOTE_TRY = sql(
    dict,
    """
    UPDATE accounting.deliveries d
       SET tries = tries + 1, state = n.state,
           finished_at = CASE WHEN n.state <> 'waiting' THEN COALESCE(finished_at, clock_timestamp()) END
      FROM (SELECT CASE WHEN %(success)s THEN 'delivered' WHEN o.state <> 'waiting' THEN o.state
                        WHEN o.tries + 1 >= o.tries_max THEN 'failed' ELSE 'waiting' END AS state
              FROM accounting.deliveries o WHERE o.id = %(delivery_id)s) n
     WHERE d.id = %(delivery_id)s
    RETURNING d.tries, d.state, d.tries_max
    """,
)

INSERT_TRY = sql(
    Nothing,
    """
    INSERT INTO accounting.delivery_tries (delivery_id, try_no, org_id, response_class, http_status,
        latency_ms)
    VALUES (%(delivery_id)s, %(try_no)s, %(org_id)s, %(response_class)s, %(http_status)s, %(latency_ms)s)
    """,
)

NOTE_SUCCESS = sql(
    Nothing,
    """
    UPDATE accounting.webhooks SET failures = 0, failing_since = NULL
     WHERE id = %(webhook_id)s AND failures > 0
    """,
)

NOTE_FAILURE = sql(
    bool,
    """
    UPDATE accounting.webhooks
       SET failures = failures + 1, failing_since = COALESCE(failing_since, clock_timestamp()),
           is_active = is_active AND COALESCE(failing_since, clock_timestamp())
                       > clock_timestamp() - make_interval(secs => %(patience_s)s),
           disabled_reason = CASE WHEN failing_since <= clock_timestamp() - make_interval(secs => %(patience_s)s)
                                  THEN 'switched off: every try has failed since ' || failing_since::text
                                  ELSE disabled_reason END
     WHERE id = %(webhook_id)s AND is_active
    RETURNING is_active
    """,
)

FAIL_WAITING = sql(
    Nothing,
    """
    UPDATE accounting.deliveries SET state = 'failed', finished_at = clock_timestamp()
     WHERE webhook_id = %(webhook_id)s AND state = 'waiting'
    """,
)


async def fail_waiting(tx: Tx, webhook_id: str) -> None:
    """Gives up what still waits for an endpoint that nobody will call again."""
    await tx.run(FAIL_WAITING, webhook_id=webhook_id)


LIST_WAITING = sql(
    str,
    """
    SELECT id FROM accounting.deliveries
     WHERE webhook_id = %(webhook_id)s AND state = 'waiting' ORDER BY created_at, id
    """,
)


async def go_on(tx: Tx, webhook_id: str) -> None:
    """Asks again for what waits: nobody tried while the endpoint was switched off."""
    for delivery_id in await tx.all(LIST_WAITING, webhook_id=webhook_id):
        await outbox.enqueue(tx, "deliver_webhook", delivery_id=delivery_id)


def retry_delay_s(first_s: float, tries: int) -> float:
    """Grows fourfold up to eight hours; half of it is chance, so that receivers that come back are
    not met by all at once."""
    longest: float = min(RETRY_MAX_S, first_s * 4.0 ** (tries - 1))
    return longest * random.uniform(0.5, 1.0)


async def _record_try(tx: Tx, core: Core, parcel: Parcel, tried: Tried) -> None:
    success = tried.response_class == "success"
    await tx.run(LOCK_WEBHOOK, webhook_id=parcel.webhook_id)
    noted = await tx.one(NOTE_TRY, delivery_id=parcel.id, success=success)
    assert noted is not None  # deliveries that wait are never deleted
    await tx.run(
        INSERT_TRY,
        delivery_id=parcel.id,
        try_no=noted["tries"],
        org_id=parcel.org_id,
        response_class=tried.response_class,
        http_status=tried.http_status,
        latency_ms=tried.latency_ms,
    )
    record(
        tx,
        "webhook.deliver",
        "webhook",
        parcel.webhook_id,
        new={"event_id": parcel.event_id, "response_class": tried.response_class},
        kind=Kind.SECURITY,
        severity=Severity.DEBUG,
    )
    if success:
        await tx.run(NOTE_SUCCESS, webhook_id=parcel.webhook_id)
        return
    patience_s = core.settings.webhook_patience_s
    if await tx.one(NOTE_FAILURE, webhook_id=parcel.webhook_id, patience_s=patience_s) is False:
        await fail_waiting(tx, parcel.webhook_id)
        record(
            tx,
            "webhook.disable",
            "webhook",
            parcel.webhook_id,
            old={"is_active": True},
            new={"is_active": False},
            severity=Severity.WARNING,
        )
        log.warning("webhook.disabled", webhook_id=parcel.webhook_id)
    elif noted["state"] == "waiting":
        tries = noted["tries"] - (noted["tries_max"] - TRIES_MAX)
        delay_s = retry_delay_s(core.settings.webhook_retry_s, tries)
        await outbox.enqueue_later(tx, "deliver_webhook", delay_s, delivery_id=parcel.id)


# --- reading, and once more -----------------------------------------------------------------------

SELECT_DELIVERY = """
    SELECT d.id, d.webhook_id, d.event_id, d.event_type, d.state, d.created_at, d.finished_at,
           COALESCE((SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                'try_no', t.try_no, 'response_class', 'RESPONSE_CLASS_' || upper(t.response_class),
                'http_status', t.http_status, 'latency_ms', t.latency_ms,
                'tried_at', to_char(t.tried_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))
                ORDER BY t.try_no)
              FROM accounting.delivery_tries t WHERE t.delivery_id = d.id), '[]') AS tries
      FROM accounting.deliveries d
     WHERE d.org_id = %(org_id)s::uuid
"""

GET_DELIVERY = sql(Delivery, SELECT_DELIVERY + " AND d.id = %(delivery_id)s::uuid")

LIST_DELIVERIES = sql(
    Delivery,
    SELECT_DELIVERY
    + """
       AND d.webhook_id = %(webhook_id)s::uuid
       AND (%(state)s::text IS NULL OR d.state = %(state)s)
       AND (%(after_at)s::timestamptz IS NULL
            OR (d.created_at, d.id) < (%(after_at)s::timestamptz, %(after)s::uuid))
     ORDER BY d.created_at DESC, d.id DESC LIMIT %(limit)s
    """,
    prepare=False,
)

TRY_AGAIN = sql(
    Nothing,
    """
    UPDATE accounting.deliveries
       SET state = 'waiting', finished_at = NULL, tries_max = tries + %(more)s
     WHERE id = %(delivery_id)s
       AND EXISTS (SELECT FROM accounting.webhooks w WHERE w.id = webhook_id AND w.deleted_at IS NULL)
    """,
)


async def list_deliveries(
    tx: Tx, pages: Pages, request: ListDeliveriesRequest
) -> tuple[list[Delivery], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    after_at, after_id = after or (None, None)
    rows = await tx.all(
        LIST_DELIVERIES,
        org_id=tx.call.caller.org_id,
        webhook_id=request.webhook_id,
        state=enum_text(request, "state", request.state),
        after_at=after_at,
        after=after_id,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "created_at", "id")


async def redeliver(tx: Tx, delivery_id: str) -> Delivery:
    """Asks for the event once more, with a set of tries; an endpoint that is switched off gets it when
    it is on again. Raises NotFound(DELIVERY_NOT_FOUND)."""
    org_id = tx.call.caller.org_id
    old = await tx.one(GET_DELIVERY, org_id=org_id, delivery_id=delivery_id)
    if old is None or not await tx.run(TRY_AGAIN, delivery_id=delivery_id, more=TRIES_MAX):
        raise NotFound("DELIVERY_NOT_FOUND", "There is no such delivery.")
    await outbox.enqueue(tx, "deliver_webhook", delivery_id=delivery_id)
    record(tx, "webhook.redeliver", "webhook", old.webhook_id, new={"event_id": old.event_id})
    delivery = await tx.one(GET_DELIVERY, org_id=org_id, delivery_id=delivery_id)
    assert delivery is not None
    return delivery
