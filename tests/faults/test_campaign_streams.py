"""Answers that come in pieces and do not come to their end: charged by the usage the provider had
stated, or else at their worst; never dropped."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web

from chimera.v1.budgets_pb2 import BudgetPeriod, BudgetScope, BudgetScopeKind
from tests.support.accounting import limit, recount
from tests.support.workers import Stage, until

ORGANISATION = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION)
DAILY = BudgetPeriod.BUDGET_PERIOD_DAILY

STATED = Decimal("0.000013")  # 5 tokens in at 0.5 $, 7 out at 1.5 $, per million


def event(**body: Any) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


PIECE = event(choices=[{"index": 0, "delta": {"content": "half "}, "finish_reason": None}])
USAGE = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 7})
END = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"


class Provider:
    """Streams an answer; to the first calls for some prompts, not to its end."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.keys: Counter[str] = Counter()
        self.port = 0
        self.hangs_for_ever = False

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        assert body["stream"]
        self.keys[request.headers.get("Authorization", "")] += 1
        found = re.search(r"Variant (\d)", body["messages"][-1]["content"])
        number = int(found[1]) if found else 0
        self.calls[number] += 1
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(PIECE)
        if self.calls[number] == 1 or self.hangs_for_ever:
            if number in (1, 3):
                await answer.write(USAGE)
            if number in (3, 4):
                await asyncio.sleep(60)
            if number in (1, 2):
                assert request.transport is not None
                request.transport.abort()
                return answer
        await answer.write(USAGE + END)
        return answer


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", made.chat)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


async def streamed(stage: Stage, provider: Provider, timeout_s: int) -> Any:
    return await stage.plan(
        rows=5,
        techniques=["plain"],
        concurrency=5,
        attempts_max=3,
        provider={
            "url": f"http://127.0.0.1:{provider.port}",
            "timeout_s": timeout_s,
            "default_config": {"stream": True, "keyless": True},
        },
    )


async def test_broken_streams_are_charged_by_what_was_stated(
    stage: Stage, provider: Provider
) -> None:
    """Cut or timed out after the usage was stated: by that usage. Before: at the worst. All are tried
    again, and the books agree to the last decimal. The server asks for no key, and gets none."""
    plan = await streamed(stage, provider, timeout_s=1)
    (key,) = (await stage.olivia.providers.ListProviderKeys()).provider_keys
    await stage.olivia.providers.DeleteProviderKey(provider_key_id=key.id)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=100, cost="1")
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.counts.scored == 5
    await stage.books.check(run.id, cells=5)
    assert provider.keys == {"": 9}
    await recount(stage)
    attempts = await stage.books.attempts(run.id)
    first, second = (
        {a["cell_no"]: a for a in attempts if a["attempt_no"] == number} for number in (1, 2)
    )
    assert [first[cell_no]["error_kind"] for cell_no in range(5)] == [
        None, "connection_lost", "connection_lost", "timeout", "timeout",
    ]  # fmt: skip
    worst = first[2]["worst_cost"]
    assert worst > STATED
    assert [first[cell_no]["cost"] for cell_no in range(5)] == [
        STATED, STATED, worst, STATED, first[4]["worst_cost"],
    ]  # fmt: skip
    assert {cell_no: attempt["cost"] for cell_no, attempt in second.items()} == dict.fromkeys(
        range(1, 5), STATED
    )
    tokens = await stage.books.rows(
        "SELECT cell_no, input_tokens, output_tokens FROM providers.ledger"
        " WHERE attempt_no = 1 ORDER BY cell_no"
    )
    assert [(row["input_tokens"], row["output_tokens"]) for row in tokens] == [
        (5, 7), (5, 7), (0, 0), (5, 7), (0, 0),
    ]  # fmt: skip


async def test_streams_of_a_cancelled_campaign_are_charged(
    stage: Stage, provider: Provider
) -> None:
    """Cancelled while two answers hang half-way: nothing is sent again, and each is charged by what
    was known of it."""
    plan = await streamed(stage, provider, timeout_s=3)
    provider.hangs_for_ever = True
    provider.calls.update({1: 1, 2: 1})
    plan.limits.attempts_max = 1
    stage.worker()
    run = await stage.launched(plan)

    async def hanging() -> bool:
        return provider.calls[3] > 0 and provider.calls[4] > 0

    await until(hanging, "two answers hang")
    await stage.olivia.campaigns.CancelCampaign(campaign_id=run.campaign_id)

    async def settled() -> bool:
        return not await stage.books.attempts(run.id, "sent")

    await until(settled, "what was in flight is booked")
    await stage.books.check(run.id)
    assert (provider.calls[3], provider.calls[4]) == (1, 1)
    attempts = {attempt["cell_no"]: attempt for attempt in await stage.books.attempts(run.id)}
    assert attempts[3]["cost"] == STATED
    assert attempts[4]["cost"] == attempts[4]["worst_cost"]
    assert (await stage.books.money(run.id)).held == 0
