"""Thresholds are told of once, by mail and webhook, whatever fails on the way."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncIterator
from email import message_from_bytes
from email.policy import default as modern
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP
from google.protobuf.field_mask_pb2 import FieldMask

from chimera.accounting.deliveries import announce_alert, deliver
from chimera.core import open_core
from chimera.providers.adapters.outbound import open_session
from chimera.v1.budgets_pb2 import (
    AlertType,
    BudgetPeriod,
    BudgetScope,
    BudgetScopeKind,
    DeliveryState,
    ResponseClass,
    Webhook,
)
from chimera.v1.vault_pb2 import RotationState
from tests.support.accounting import limit, waiting
from tests.support.workers import Stage, until
from tests.support.world import Refused, World

ORGANISATION = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION)
DAILY, MONTHLY = BudgetPeriod.BUDGET_PERIOD_DAILY, BudgetPeriod.BUDGET_PERIOD_MONTHLY
QUICK = {"webhook_retry_s": 0.01, "webhook_timeout_s": 0.5}


class Receiver:
    """An endpoint on loopback: answers as told, one answer a call, then 200."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[Any] = []
        self.elsewhere = 0
        self.url = ""
        self.arrived = asyncio.Event()

    async def hook(self, request: web.Request) -> web.Response:
        self.calls.append((dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "slow":
            await asyncio.sleep(5)
        if answer == "late error":
            await self.arrived.wait()
            answer = 500
        if answer == "redirect":
            raise web.HTTPFound(self.url.replace("/hook", "/elsewhere"))
        return web.Response(status=answer if isinstance(answer, int) else 200)

    async def other(self, _request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()

    def is_signed_by(self, secret: str, place: int = -1) -> bool:
        """As a receiver checks it, by the published scheme."""
        headers, body = self.calls[place]
        key = base64.b64decode(secret.removeprefix("whsec_"))
        at = headers["webhook-timestamp"]
        assert abs(time.time() - int(at)) < 300
        signed = f"{headers['webhook-id']}.{at}.".encode() + body
        expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        return f"v1,{expected}" in headers["webhook-signature"].split(" ")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.hook)
    app.router.add_route("*", "/elsewhere", made.other)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.url = f"http://127.0.0.1:{port}/hook"
    yield made
    await runner.cleanup()


class Box:
    """What an SMTP server took in."""

    def __init__(self) -> None:
        self.letters: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.letters.append(message_from_bytes(envelope.content, policy=modern))
        return "250 OK"


@pytest.fixture
async def smtp() -> AsyncIterator[tuple[Box, str]]:
    box = Box()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(box, enable_SMTPUTF8=True), "127.0.0.1", 0)
    yield box, f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def delivered(stage: Stage, webhook_id: str, count: int) -> list[Any]:
    async def done() -> Any:
        found = (await stage.olivia.webhooks.ListDeliveries(webhook_id=webhook_id)).deliveries
        over = [d for d in found if d.state != DeliveryState.DELIVERY_STATE_WAITING]
        return list(over) if len(over) >= count else None

    found: list[Any] = await until(done, f"{count} deliveries are over")
    return found


async def spend(stage: Stage, requests: int, *, workers: int = 1, **settings: Any) -> None:
    """A run that uses up a daily budget of so many calls."""
    plan = await stage.plan(rows=requests, repetitions=1, concurrency=8)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=requests)
    run = await stage.launched(plan)
    for _ in range(workers):
        stage.worker(**settings)
    await waiting(stage, run.id)


async def test_each_threshold_is_told_of_once(
    stage: Stage, receiver: Receiver, smtp: tuple[Box, str]
) -> None:
    """Two workers settle in parallel; 80, 90 and 100 % become one alert each, one mail each to the
    administrator, one delivery each to the webhook, signed and under the alert's id."""
    box, mail_url = smtp
    made = await stage.olivia.webhooks.CreateWebhook(url=receiver.url)
    await spend(stage, 20, workers=2, mail_url=mail_url, **QUICK)
    await delivered(stage, made.webhook.id, 3)
    alerts = (await stage.olivia.alerts.ListAlerts()).alerts
    assert sorted(alert.alert_type for alert in alerts) == [
        AlertType.ALERT_TYPE_DAILY_80,
        AlertType.ALERT_TYPE_DAILY_90,
        AlertType.ALERT_TYPE_DAILY_100,
    ]
    assert sorted(alert.threshold_percentage for alert in alerts) == [80, 90, 100]
    await until(lambda: _letters(box, 3), "three mails")
    assert len({letter["Message-ID"] for letter in box.letters}) == 3
    assert {letter["To"] for letter in box.letters} == {"admin@acme.example.com"}
    assert any("100 % of the daily budget" in letter["Subject"] for letter in box.letters)

    assert {headers["webhook-id"] for headers, _ in receiver.calls} == {a.id for a in alerts}
    assert all(receiver.is_signed_by(made.secret, place) for place in range(3))
    event = orjson.loads(receiver.calls[0][1])
    assert event["type"] == "budget.alert"
    assert event["data"]["requests_max"] == 20

    # A larger budget in the same window crosses them again; nobody is told twice.
    await limit(stage.olivia, ORGANISATION, DAILY, requests=22)
    run = (await stage.olivia.campaigns.ListCampaigns()).campaigns[0].run_id
    await waiting(stage, run)
    assert len((await stage.olivia.alerts.ListAlerts()).alerts) == 3


async def _letters(box: Box, count: int) -> bool:
    return len(box.letters) >= count


async def test_alerts_are_acknowledged_by_whom_they_concern(stage: Stage) -> None:
    """Who said so first, when and why, stands; filters show what is open; others see nothing."""
    ursula, victor = await stage.acme.person("ursula"), await stage.acme.person("victor")
    scope = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_USER, id=ursula.user_id)
    await limit(stage.olivia, scope, MONTHLY, cost="0")
    (alert, *_) = (await ursula.alerts.ListAlerts()).alerts
    assert alert.user_id == ursula.user_id
    assert not (await victor.alerts.ListAlerts()).alerts
    with pytest.raises(Refused) as caught:
        await victor.alerts.AcknowledgeAlert(alert_id=alert.id)
    assert caught.value.reason == "ALERT_NOT_FOUND"

    said = (await ursula.alerts.AcknowledgeAlert(alert_id=alert.id, note="I know")).alert
    assert (said.acknowledged, said.acknowledged_by, said.note) == (True, ursula.user_id, "I know")
    again = (await stage.olivia.alerts.AcknowledgeAlert(alert_id=alert.id, note="me too")).alert
    assert (again.acknowledged_by, again.note) == (ursula.user_id, "I know")
    unseen = (await ursula.alerts.ListAlerts(unacknowledged_only=True)).alerts
    assert alert.id not in {other.id for other in unseen}
    of_type = (await ursula.alerts.ListAlerts(alert_type=AlertType.ALERT_TYPE_MONTHLY_100)).alerts
    assert len(of_type) == 1


async def test_deliveries_are_tried_until_they_arrive(stage: Stage, receiver: Receiver) -> None:
    """An error, a redirect and a slow answer are tries that failed, each with its class; the event
    arrives under the same id, and redirects are never followed."""
    made = await stage.olivia.webhooks.CreateWebhook(url=receiver.url, event_types=["budget.alert"])
    receiver.answers = [500, "redirect", "slow", 410]
    await limit(stage.olivia, ORGANISATION, DAILY, requests=0)
    await stage.books.value(
        "DELETE FROM accounting.alerts WHERE threshold_percentage < 100 RETURNING 1"
    )
    stage.worker(**QUICK)
    (delivery,) = await delivered(stage, made.webhook.id, 1)
    assert delivery.state == DeliveryState.DELIVERY_STATE_DELIVERED
    assert [ResponseClass.Name(t.response_class).removeprefix("RESPONSE_CLASS_") for t in delivery.tries] == [
        "SERVER_ERROR", "REDIRECT", "TIMEOUT", "CLIENT_ERROR", "SUCCESS",
    ]  # fmt: skip
    assert {headers["webhook-id"] for headers, _ in receiver.calls} == {delivery.event_id}
    assert receiver.elsewhere == 0
    (webhook,) = (await stage.olivia.webhooks.ListWebhooks()).webhooks
    assert webhook.failures == 0

    await stage.olivia.webhooks.RedeliverEvent(delivery_id=delivery.id)
    await until(lambda: _calls(receiver, 6), "it is delivered again")
    assert receiver.calls[-1][0]["webhook-id"] == delivery.event_id


async def _calls(receiver: Receiver, count: int) -> bool:
    return len(receiver.calls) >= count


async def test_two_secrets_sign_while_one_is_rotated(stage: Stage, receiver: Receiver) -> None:
    """The old secret signs beside the new one for a day, and then no more."""
    made = await stage.olivia.webhooks.CreateWebhook(url=receiver.url)
    turned = await stage.olivia.webhooks.RotateWebhookSecret(webhook_id=made.webhook.id)
    assert turned.secret != made.secret
    await limit(stage.olivia, ORGANISATION, DAILY, requests=0)
    stage.worker(**QUICK)
    first = (await delivered(stage, made.webhook.id, 3))[0]
    assert receiver.is_signed_by(made.secret)
    assert receiver.is_signed_by(turned.secret)
    await stage.books.value(
        "UPDATE accounting.webhooks SET previous_expires_at = now() RETURNING 1"
    )
    await stage.olivia.webhooks.RedeliverEvent(delivery_id=first.id)
    await until(lambda: _calls(receiver, 4), "it is delivered again")
    assert receiver.is_signed_by(turned.secret)
    assert not receiver.is_signed_by(made.secret)


async def test_secrets_follow_the_master_key(stage: Stage, receiver: Receiver) -> None:
    """Both secrets are wrapped anew when the master key changes: its old version can be destroyed,
    and both go on signing."""
    root = (await stage.world.organisation("root", operator=True)).admin
    made = await stage.olivia.webhooks.CreateWebhook(url=receiver.url)
    turned = await stage.olivia.webhooks.RotateWebhookSecret(webhook_id=made.webhook.id)
    await root.vault.RotateMasterKey()
    stage.worker(**QUICK)

    async def rewrapped() -> bool:
        status = await root.vault.GetVaultStatus()
        return bool(status.rotation.state == RotationState.ROTATION_STATE_COMPLETED)

    await until(rewrapped, "everything is wrapped by the new version")
    await root.vault.RetireMasterKeyVersion(version=1)
    await root.vault.RetireMasterKeyVersion(version=1, destroy=True)
    rows = await stage.books.rows(
        "SELECT sealed->>'kek_version' AS sealed, previous_sealed->>'kek_version' AS previous"
        " FROM accounting.webhooks"
    )
    assert rows == [{"sealed": "2", "previous": "2"}]
    await limit(stage.olivia, ORGANISATION, DAILY, requests=0)
    await delivered(stage, made.webhook.id, 3)
    assert receiver.is_signed_by(made.secret)
    assert receiver.is_signed_by(turned.secret)


async def test_an_endpoint_that_is_gone_is_switched_off(stage: Stage) -> None:
    """After days without a success nobody tries any more; switched on again it gets what is new."""
    made = await stage.olivia.webhooks.CreateWebhook(url="http://127.0.0.1:9/hook")
    await stage.books.value(
        "UPDATE accounting.webhooks SET failing_since = now() - interval '6 days', failures = 50 RETURNING 1"
    )
    await limit(stage.olivia, ORGANISATION, DAILY, requests=0)
    stage.worker(**QUICK)
    found = await delivered(stage, made.webhook.id, 3)
    assert {delivery.state for delivery in found} == {DeliveryState.DELIVERY_STATE_FAILED}
    (webhook,) = (await stage.olivia.webhooks.ListWebhooks()).webhooks
    assert not webhook.is_active
    assert "switched off" in webhook.disabled_reason
    on = await stage.olivia.webhooks.UpdateWebhook(
        webhook=Webhook(id=webhook.id, is_active=True), update_mask=FieldMask(paths=["is_active"])
    )
    assert (on.webhook.is_active, on.webhook.failures, on.webhook.disabled_reason) == (True, 0, "")


async def test_what_waits_is_delivered_when_its_endpoint_is_on_again(
    stage: Stage, receiver: Receiver
) -> None:
    """Switched off by hand while events wait: they stay, nobody tries, and switched on again it gets
    them. What waits for an endpoint that is deleted is given up, and not asked for again."""
    hooks = stage.olivia.webhooks
    made = await hooks.CreateWebhook(url=receiver.url)
    gone = await hooks.CreateWebhook(url="http://127.0.0.1:9/hook")
    await limit(stage.olivia, ORGANISATION, DAILY, requests=0)
    receiver.answers = [500] * 100
    stage.worker(**QUICK)
    await until(lambda: _calls(receiver, 3), "it is tried")
    is_active = FieldMask(paths=["is_active"])
    await hooks.UpdateWebhook(webhook=Webhook(id=made.webhook.id), update_mask=is_active)
    await hooks.DeleteWebhook(webhook_id=gone.webhook.id)
    rows = await stage.books.rows(
        "SELECT state, finished_at IS NULL AS is_open, id::text FROM accounting.deliveries"
        " WHERE webhook_id = %(id)s", id=gone.webhook.id
    )  # fmt: skip
    assert [(row["state"], row["is_open"]) for row in rows] == [("failed", False)] * 3
    with pytest.raises(Refused) as caught:
        await hooks.RedeliverEvent(delivery_id=rows[0]["id"])
    assert caught.value.reason == "DELIVERY_NOT_FOUND"

    async def rung() -> bool:
        return not await stage.books.value(
            "SELECT count(*) FROM ops.outbox WHERE task = 'deliver_webhook'"
        )

    await until(rung, "the next tries came and found it switched off")
    waits = (await hooks.ListDeliveries(webhook_id=made.webhook.id)).deliveries
    assert {delivery.state for delivery in waits} == {DeliveryState.DELIVERY_STATE_WAITING}
    receiver.answers.clear()
    on = Webhook(id=made.webhook.id, is_active=True)
    await hooks.UpdateWebhook(webhook=on, update_mask=is_active)
    found = await delivered(stage, made.webhook.id, 3)
    assert {delivery.state for delivery in found} == {DeliveryState.DELIVERY_STATE_DELIVERED}


async def test_a_try_that_comes_late_takes_nothing_back(stage: Stage, receiver: Receiver) -> None:
    """Two workers try the same delivery at once; it arrives with the one, and the error of the other,
    which comes last, leaves it delivered and done."""
    made = await stage.olivia.webhooks.CreateWebhook(url=receiver.url)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=0)
    receiver.answers = ["late error"]
    session = open_session(allow_loopback=True, connections_max=10)
    async with session, open_core(stage.settings, "worker") as core:
        for alert in (await stage.olivia.alerts.ListAlerts()).alerts:
            await announce_alert(core, stage.acme.id, alert.id)
        row = (await stage.books.rows("SELECT id::text FROM accounting.deliveries LIMIT 1"))[0]
        late = asyncio.create_task(deliver(core, session, stage.acme.id, row["id"]))
        await until(lambda: _calls(receiver, 1), "the first is on its way")
        await deliver(core, session, stage.acme.id, row["id"])
        receiver.arrived.set()
        await late
    found = (await stage.olivia.webhooks.ListDeliveries(webhook_id=made.webhook.id)).deliveries
    (delivery,) = [each for each in found if each.id == row["id"]]
    assert delivery.state == DeliveryState.DELIVERY_STATE_DELIVERED
    assert delivery.HasField("finished_at") and len(delivery.tries) == 2


async def test_endpoints_inside_are_refused(world: World) -> None:
    """The addresses that providers may not have, webhooks may not have either."""
    acme = await world.organisation("acme")
    for url in (
        "http://example.com/x",
        "https://169.254.169.254/latest",
        "https://10.0.0.7/x",
        "ftp://x",
    ):
        with pytest.raises(Refused) as caught:
            await acme.admin.webhooks.CreateWebhook(url=url)
        assert caught.value.reason == "WEBHOOK_URL_REFUSED", url
    globex = await world.organisation("globex")
    made = await acme.admin.webhooks.CreateWebhook(url="https://example.com/hook")
    for fields, etag, reason in (
        ({"description": "ours"}, "of another time", "ETAG_MISMATCH"),
        ({"event_types": ["budget.alarm"]}, "", "FIELD_INVALID"),
        ({"description": "x" * 501}, "", "FIELD_INVALID"),
        ({"url": "https://10.0.0.7/x"}, made.webhook.etag, "WEBHOOK_URL_REFUSED"),
    ):
        with pytest.raises(Refused) as caught:
            await acme.admin.webhooks.UpdateWebhook(
                webhook={"id": made.webhook.id, **fields},
                update_mask={"paths": list(fields)},
                etag=etag,
            )
        assert caught.value.reason == reason, fields
    for call in (
        globex.admin.webhooks.DeleteWebhook(webhook_id=made.webhook.id),
        globex.admin.webhooks.RotateWebhookSecret(webhook_id=made.webhook.id),
        globex.admin.webhooks.ListDeliveries(webhook_id=made.webhook.id),
    ):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.reason == "WEBHOOK_NOT_FOUND"
    await acme.admin.webhooks.DeleteWebhook(webhook_id=made.webhook.id)
    assert not (await acme.admin.webhooks.ListWebhooks()).webhooks
    assert made.secret.startswith("whsec_")
