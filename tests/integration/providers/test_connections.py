"""Trying a provider out: what is found, what is told, and what is never told or called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psycopg
import pytest

from chimera.embedded.stack import StackUrls
from chimera.providers.adapters import outbound
from chimera.server import Server
from chimera.settings import Settings
from chimera.v1.providers_pb2 import ConnectionOutcome, ProviderType
from tests.support.stack import settings_with
from tests.support.world import Organisation, Refused, World

SECRET = "sk-assistant-canary-7d0f3b51c2e94a86"
Handler = Any


def outcome(answer: Any) -> str:
    return ConnectionOutcome.Name(answer.outcome).removeprefix("CONNECTION_OUTCOME_").lower()


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def new_provider(
    org: Organisation, base_url: str, *, key: str = SECRET, **fields: Any
) -> str:
    given = {"name": "p", "provider_type": ProviderType.PROVIDER_TYPE_OPENAI, **fields}
    answer = await org.admin.providers.CreateProvider(base_url=base_url, **given)
    if key:
        await org.admin.providers.CreateProviderKey(
            provider_id=answer.provider.id, name="k", secret=key
        )
    return str(answer.provider.id)


async def tried(org: Organisation, base_url: str, **fields: Any) -> Any:
    """The outcome of trying a new provider there; whatever is said holds no key."""
    provider_id = await new_provider(org, base_url, **fields)
    answer = await org.admin.providers.TestConnection(provider_id=provider_id)
    assert SECRET not in str(answer)
    return answer


@pytest.fixture
async def acme(world: World) -> Organisation:
    return await world.organisation("acme")


async def test_a_provider_that_works(acme: Organisation, stack: StackUrls) -> None:
    """With the default key and with a named one; the use of the key is in its count and in the
    audit log, beside the outcome."""
    provider_id = await new_provider(acme, f"{stack.assistant_url}/v1")
    answer = await acme.admin.providers.TestConnection(provider_id=provider_id)
    assert (outcome(answer), answer.http_status) == ("ok", 200)
    assert answer.models_count > 2 and answer.latency_ms >= 0
    [key] = (await acme.admin.providers.ListProviderKeys()).provider_keys
    await acme.admin.providers.TestConnection(provider_id=provider_id, provider_key_id=key.id)
    [key] = (await acme.admin.providers.ListProviderKeys()).provider_keys
    assert key.usage_count == 2
    with psycopg.connect(acme.world.settings.database_url.get_secret_value()) as connection:
        rows = connection.execute(
            "SELECT facts->>'action', fields::text FROM audit.pending"
            " WHERE facts->>'action' IN ('provider.test', 'provider_key.use') ORDER BY id"
        ).fetchall()
    assert [action for action, _ in rows] == ["provider_key.use", "provider.test"] * 2
    assert "provider.test" in rows[0][1] and '"ok"' in rows[1][1].replace("\\", "")


async def test_a_key_that_is_refused_or_missing(acme: Organisation, stack: StackUrls) -> None:
    origin = f"{stack.assistant_url}/v1"
    bad = await tried(acme, origin, name="bad", key="sk-wrong-0123456789")
    assert (outcome(bad), bad.http_status) == ("unauthorized", 401)
    none = await tried(acme, origin, name="none", key="")
    assert (outcome(none), none.http_status) == ("no_key", 0)
    local = ProviderType.PROVIDER_TYPE_LOCAL
    without = await tried(acme, origin, name="local", key="", provider_type=local)
    assert outcome(without) == "unauthorized"  # asked without a key


async def test_nobody_there(acme: Organisation) -> None:
    """No such name; nobody listens; not TLS; an answer under another path."""
    assert outcome(await tried(acme, "https://nowhere.invalid/v1", name="a")) == "dns_failed"
    assert outcome(await tried(acme, "http://127.0.0.1:9/v1", name="b")) == "refused"


Answer = tuple[int, dict[str, str], bytes]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """The origin of a server with one answer to everything."""
    from aiohttp import web

    status, headers, body = answer

    async def handle(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, headers=headers, body=body)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((404, {}, b"not here"), "not_found"),
        ((302, {"Location": "http://169.254.169.254/"}, b""), "not_found"),
        ((429, {}, b"{}"), "rate_limited"),
        ((403, {}, b'{"error": {"message": "key sk-assistant-canary is bad"}}'), "unauthorized"),
        ((500, {}, b"<html>"), "provider_failed"),
        ((200, {}, b"<html>a login page</html>"), "not_understood"),
        ((200, {}, b'{"data": 7}'), "not_understood"),
        ((200, {}, b'{"data": [' + b'"x",' * 1_200_000 + b'""]}'), "not_understood"),
        ((200, {}, b'{"data": []}'), "ok"),
    ],
)
async def test_who_answers_otherwise(acme: Organisation, answer: Answer, expected: str) -> None:
    """Nothing the other side writes is repeated."""
    async with serving(answer) as origin:
        found = await tried(acme, f"{origin}/v1")
    assert outcome(found) == expected
    assert "login page" not in found.explanation and "canary" not in found.explanation


async def test_a_provider_that_is_slow_ends_at_its_limit(
    acme: Organisation, raw_server: Any
) -> None:
    """A byte now and then keeps nobody waiting."""

    async def handle(_reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw_server(handle) as port:
        provider_id = await new_provider(acme, f"http://127.0.0.1:{port}/v1")
        await acme.admin.providers.UpdateProvider(
            provider={"id": provider_id, "timeout_s": 1}, update_mask={"paths": ["timeout_s"]}
        )
        found = await acme.admin.providers.TestConnection(provider_id=provider_id)
    assert outcome(found) == "timed_out"


async def test_a_server_without_tls(acme: Organisation, raw_server: Any) -> None:
    async def handle(_reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving((200, {}, b"{}")) as origin:
        found = await tried(acme, origin.replace("http://", "https://") + "/v1")
    assert outcome(found) == "tls_failed"


async def test_models_are_discovered(acme: Organisation, stack: StackUrls) -> None:
    """With what is registered of them, by name or alias."""
    provider_id = await new_provider(acme, f"{stack.assistant_url}/v1")
    price = {"input_per_million_usd": "1", "output_per_million_usd": "1"}
    made = await acme.admin.providers.CreateModel(
        provider_id=provider_id, name="mine", aliases=["guard-none"], price=price
    )
    found = (await acme.admin.providers.DiscoverModels(provider_id=provider_id)).models
    names = {model.name: model.model_id for model in found}
    assert names["guard-none"] == made.model.id and names["guard-strict"] == ""
    keyless = await new_provider(acme, f"{stack.assistant_url}/v1", name="keyless", key="")
    missing = acme.admin.providers.DiscoverModels(provider_id=keyless)
    assert await told(missing) == ("FAILED_PRECONDITION", "PROVIDER_KEY_MISSING")
    away = await new_provider(acme, "http://127.0.0.1:9", name="away")
    with pytest.raises(Refused) as refused:
        await acme.admin.providers.DiscoverModels(provider_id=away)
    assert (refused.value.code, refused.value.reason) == ("UNAVAILABLE", "CONNECTION_FAILED")
    assert refused.value.facts["outcome"] == "refused"


async def test_others_providers_and_keys_cannot_be_tried(
    acme: Organisation, stack: StackUrls
) -> None:
    """A key never goes to another provider, another person's key never goes anywhere."""
    globex = await acme.world.organisation("globex")
    mine = await new_provider(acme, f"{stack.assistant_url}/v1")
    other = await new_provider(acme, f"{stack.assistant_url}/v1", name="other", key="")
    [key] = (await acme.admin.providers.ListProviderKeys()).provider_keys
    olivia = await acme.person("olivia")
    for attempt, reason in (
        (globex.admin.providers.TestConnection(provider_id=mine), "PROVIDER_NOT_FOUND"),
        (globex.admin.providers.DiscoverModels(provider_id=mine), "PROVIDER_NOT_FOUND"),
        (
            acme.admin.providers.TestConnection(provider_id=other, provider_key_id=key.id),
            "PROVIDER_KEY_NOT_FOUND",
        ),
        (
            olivia.providers.TestConnection(provider_id=mine, provider_key_id=key.id),
            "PROVIDER_KEY_NOT_FOUND",
        ),
    ):
        assert await told(attempt) == ("NOT_FOUND", reason)


async def test_an_address_that_turned_private_is_not_called(
    acme: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was public when it was registered; at each connect its addresses count (DNS
    rebinding), one private among public ones spoils all, and mapped ones are no way around."""
    provider_id = await new_provider(acme, "https://rebound.example.com/v1")
    for addresses in (
        ["10.0.0.7"],
        ["169.254.169.254"],
        ["93.184.216.34", "192.168.1.1"],
        ["::ffff:10.0.0.7"],
        ["fd00:ec2::254"],
    ):

        async def resolve(_self: Any, host: str, port: int = 0, family: Any = 0) -> list[Any]:
            return [
                {"hostname": host, "host": a, "port": port, "family": 2, "proto": 6, "flags": 4}
                for a in addresses  # noqa: B023 - called before the next round
            ]

        monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
        answer = await acme.admin.providers.TestConnection(provider_id=provider_id)
        assert outcome(answer) == "address_refused", addresses


# -- private networks ------------------------------------------------------------------------------

NETWORKS = ("10.20.0.0/16", "fd12:3456::/32", "0.0.0.0/0")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.20.3.4", True),
        ("10.21.3.4", True),  # in 0.0.0.0/0
        ("fd12:3456::1", True),
        ("fd12:9999::1", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("100.100.100.200", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("::1", False),
        ("127.0.0.1", False),
        ("::ffff:10.20.3.4", False),
        ("8.8.8.8", True),
    ],
)
def test_a_list_of_private_networks_opens_those_and_no_more(address: str, allowed: bool) -> None:
    """Metadata services and this machine stay shut, whatever is listed."""
    opened = outbound.is_allowed_address(address, allow_loopback=False, private_networks=NETWORKS)
    assert opened is allowed


@pytest.mark.parametrize(
    ("url", "networks", "why"),
    [
        ("http://10.20.0.5:8000/v1", ("10.20.0.0/16",), ""),
        ("http://vllm:8000/v1", ("10.20.0.0/16",), ""),
        ("http://vllm.models.internal/v1", ("10.20.0.0/16",), ""),
        ("http://10.21.0.5:8000/v1", ("10.20.0.0/16",), "insecure_scheme"),
        ("https://10.21.0.5:8000/v1", ("10.20.0.0/16",), "refused_address"),
        ("http://api.example.com/v1", ("10.20.0.0/16",), "insecure_scheme"),
        ("http://169.254.169.254/v1", ("0.0.0.0/0",), "insecure_scheme"),
        ("https://169.254.169.254/v1", ("0.0.0.0/0",), "refused_address"),
        ("http://vllm:8000/v1", (), "insecure_scheme"),
        ("https://vllm.models.internal/v1", (), "refused_address"),
        ("https://2130706433/", ("10.20.0.0/16",), "refused_address"),
    ],
)
def test_base_urls_in_private_networks(url: str, networks: tuple[str, ...], why: str) -> None:
    try:
        outbound.check_base_url(
            url, allow_http=False, allow_loopback=False, private_networks=networks
        )
    except outbound.BadBaseUrlError as error:
        assert error.reason == why
    else:
        assert not why


async def test_a_model_of_ones_own_behind_the_firewall(settings: Settings) -> None:
    """In production, with the network listed: plain http to it is accepted, where it leads decides
    at each call, and everything else is refused as ever."""
    server = Server(settings_with(settings, private_target_networks=["10.255.0.0/16"]))
    await server.start()
    world = World(server, server.settings)
    try:
        acme = await world.organisation("acme")
        await new_provider(acme, "http://10.255.0.5:8000/v1", name="a")
        refused = new_provider(acme, "https://10.0.0.5/v1", name="b")
        assert await told(refused) == ("INVALID_ARGUMENT", "BASE_URL_REFUSED")
    finally:
        await world.close()
        await server.stop(at_once=True)


def test_a_network_that_is_none_stops_the_start() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        Settings(private_target_networks=("10.0.0.0/99",))
