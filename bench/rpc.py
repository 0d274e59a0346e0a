"""CPU of GetCampaign and ListCampaigns(50) against their floor.

    python -m bench rpc [--calls 3000]

Floor: an empty RPC through the same gate, plus the raw row-level-security transaction with the same
SQL, as tuples. That one is taken twice: as psycopg's manual writes it (pool, `transaction()`), and
bare: a connection per caller, BEGIN and the settings in one message, nothing else. Counted: the
serving process and its PostgreSQL backends; the client is apart. Eight callers at a time, each with
one call after another.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from psycopg_pool import AsyncConnectionPool

from bench.installation import Installation, installation
from bench.processes import usage
from chimera.campaigns.operations import GET_CAMPAIGN, LIST_CAMPAIGNS, PAST_ALL_IDS
from chimera.v1.campaigns_pb2 import CampaignPlan, GetCampaignRequest, GetCampaignResponse

PARALLEL = 8
EMPTY = "/bench.Empty/Call"


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench rpc")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(_run(parser.parse_args(options)))


async def _run(chosen: argparse.Namespace) -> None:
    async with installation() as running:
        running.children["worker"].terminate()
        running.children["worker"].wait()
        made = [
            await running.admin.campaigns.CreateCampaign(name=f"campaign {n}", plan=CampaignPlan())
            for n in range(60)
        ]
        campaign_id = made[0].campaign.id
        me = await running.admin.identity.GetMe()
        with_empty = _Gated(running)
        address = await with_empty.start()
        channel = grpc.aio.insecure_channel(address)
        person = type(running.admin)(channel, "admin", running.admin.credential)
        empty = channel.unary_unary(
            EMPTY,
            request_serializer=GetCampaignRequest.SerializeToString,
            response_deserializer=GetCampaignResponse.FromString,
        )
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "empty": lambda: empty(
                GetCampaignRequest(campaign_id=campaign_id), metadata=person.metadata()
            ),
            "GetCampaign": lambda: person.campaigns.GetCampaign(campaign_id=campaign_id),
            "ListCampaigns": lambda: person.campaigns.ListCampaigns(page_size=50),
        }
        statements = {
            "GetCampaign": (GET_CAMPAIGN, {"campaign_id": campaign_id}),
            "ListCampaigns": (
                LIST_CAMPAIGNS,
                {
                    "org_id": me.organisation.id,
                    "before": PAST_ALL_IDS,
                    "state": None,
                    "show_deleted": False,
                    "limit": 51,
                },
            ),
        }
        raw_url = running.settings.role_url("app")
        ratios: dict[str, list[float]] = {}
        figures: dict[str, list[float]] = {}
        for _ in range(chosen.rounds):
            spent = {
                name: await _cost(running, with_empty.pid, call, chosen.calls)
                for name, call in calls.items()
            }
            for name, (statement, params) in statements.items():
                for kind in ("pooled", "bare"):
                    raw = await asyncio.to_thread(
                        _raw_cost, running, raw_url, me, kind, statement.text, params, chosen.calls
                    )
                    ratio = spent[name] / (spent["empty"] + raw)
                    ratios.setdefault(f"{name} / {kind}", []).append(ratio)
                    figures.setdefault(f"{kind} {name}", []).append(raw)
            for name, value in spent.items():
                figures.setdefault(name, []).append(value)
        print(
            f"\nCPU per call in microseconds (server + PostgreSQL), {chosen.calls} calls x {chosen.rounds}"
        )
        for name, values in figures.items():
            print(f"  {name:22} {_spread([value * 1e6 for value in values], '.0f')}")
        for name, values in ratios.items():
            print(f"  {name:22} {_spread(values, '.2f')} x (empty RPC + raw transaction)")
        await channel.close()
        with_empty.stop()


def _spread(values: list[float], form: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


class _Gated:
    """The product's server with one more RPC behind its gate that does nothing."""

    def __init__(self, running: Installation) -> None:
        self.parent, child = multiprocessing.get_context("spawn").Pipe()
        settings = running.settings.model_copy(update={"listen": "127.0.0.1:0"})
        self.process = multiprocessing.get_context("spawn").Process(
            target=_serve_with_empty, args=(settings.model_dump(), child), daemon=True
        )

    async def start(self) -> str:
        self.process.start()
        port = await asyncio.to_thread(self.parent.recv)
        return f"127.0.0.1:{port}"

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve_with_empty(values: dict[str, Any], pipe: Any) -> None:
    import uvloop

    from chimera import server as product
    from chimera.core import settle_memory
    from chimera.gate import Method
    from chimera.logs import set_up_logs
    from chimera.settings import Settings
    from chimera.v1 import campaigns_pb2

    set_up_logs("warning")
    get = campaigns_pb2.DESCRIPTOR.services_by_name["CampaignService"].methods_by_name[
        "GetCampaign"
    ]
    like = product_method(get)
    add_reflection = product._add_reflection

    async def nothing(_request: Any, _call: Any) -> GetCampaignResponse:
        return GetCampaignResponse()

    def add_more(grpc_server: Any, names: list[str]) -> None:
        add_reflection(grpc_server, names)
        handler = grpc.unary_unary_rpc_method_handler(
            nothing,
            request_deserializer=GetCampaignRequest.FromString,
            response_serializer=GetCampaignResponse.SerializeToString,
        )
        grpc_server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("bench.Empty", {"Call": handler}),)
        )

    product._add_reflection = add_more

    async def run() -> None:
        running = product.Server(Settings.model_validate(values))
        port = await running.start()
        settle_memory()
        running.gate.methods[EMPTY] = Method(
            EMPTY, like.access, like.request_type, like.answer_type, False, False
        )
        pipe.send(port)
        await asyncio.Event().wait()

    uvloop.run(run())


def product_method(descriptor: Any) -> Any:
    from chimera.gate import method_of

    return method_of(descriptor)


async def _together(call: Callable[[], Awaitable[Any]], calls: int) -> None:
    """`calls` calls, PARALLEL of them at a time."""

    async def caller() -> None:
        for _ in range(calls // PARALLEL):
            await call()

    await asyncio.gather(*(caller() for _ in range(PARALLEL)))


async def _cost(
    running: Installation, pid: int, call: Callable[[], Awaitable[Any]], calls: int
) -> float:
    """CPU-seconds of server and PostgreSQL per call."""
    await _together(call, 200)
    before = usage(pid).cpu_s + usage(running.stack.pid("postgres")).cpu_s
    await _together(call, calls)
    return (usage(pid).cpu_s + usage(running.stack.pid("postgres")).cpu_s - before) / calls


def _raw_cost(
    running: Installation,
    url: str,
    me: Any,
    kind: str,
    text: str,
    params: dict[str, Any],
    calls: int,
) -> float:
    """CPU-seconds per transaction, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    settings = (
        f"SELECT set_config('app.org_id','{me.organisation.id}',true),"
        f"set_config('app.user_id','{me.user.id}',true)"
    )
    process = context.Process(target=_raw, args=(url, kind, settings, text, params, calls, child))
    process.start()
    parent.recv()
    before = usage(running.stack.pid("postgres")).cpu_s
    parent.send("go")
    own: float = parent.recv()
    after = usage(running.stack.pid("postgres")).cpu_s
    parent.send("end")
    process.join()
    return (own + after - before) / calls


def _raw(
    url: str, kind: str, settings: str, text: Any, params: dict[str, Any], calls: int, pipe: Any
) -> None:
    import uvloop

    async def run() -> None:
        pool = AsyncConnectionPool(
            url,
            min_size=PARALLEL,
            max_size=PARALLEL,
            open=False,
            kwargs={"autocommit": True, "prepare_threshold": 3},
        )
        await pool.open(wait=True)
        idle = [await pool.getconn() for _ in range(PARALLEL)] if kind == "bare" else []

        async def bare() -> None:
            connection = idle.pop()
            await connection.execute(f"BEGIN; {settings}", prepare=False)  # type: ignore[arg-type]
            cursor = await connection.execute(text, params)
            await cursor.fetchall()
            await connection.commit()
            idle.append(connection)

        async def pooled() -> None:
            async with pool.connection() as connection, connection.transaction():
                await connection.execute(settings)  # type: ignore[arg-type]
                cursor = await connection.execute(text, params)
                await cursor.fetchall()

        once = bare if kind == "bare" else pooled
        await _together(once, 200)
        pipe.send("ready")
        pipe.recv()
        before = resource.getrusage(resource.RUSAGE_SELF)
        await _together(once, calls)
        after = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        pipe.recv()
        for connection in idle:
            await pool.putconn(connection)
        await pool.close()

    uvloop.run(run())
