"""Where calls may go, checked at registration and again at every connect."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.providers.adapters import ChatRequest, Message, ProviderError, open_adapter
from chimera.providers.adapters.outbound import (
    BadBaseUrlError,
    check_base_url,
    is_allowed_address,
    open_session,
)

REQUEST = ChatRequest("guard-none", (Message("user", "hi"),))
# Every way to write "this machine" or its neighbours that some resolver understands.
INSIDE = [
    "127.0.0.1",
    "127.8.9.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0.0.0.0",
    "0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::808:808]",
    "[2002:7f00:1::1]",
    "[2001:0:7f00:1::1]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[fec0::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "2852039166",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "localhost",
]


@pytest.mark.parametrize("host", INSIDE)
async def test_no_notation_reaches_an_inside_address(host: str) -> None:
    """At registration a ValueError, and for a URL that got past it (changed in the database,
    say) a refusal before any packet leaves."""
    with pytest.raises(BadBaseUrlError) as refused:
        check_base_url(f"https://{host}/v1", allow_http=False, allow_loopback=False)
    assert refused.value.reason == "refused_address"
    async with open_session(allow_loopback=False, connections_max=4) as session:
        chat = open_adapter(
            "openai", session=session, base_url=f"http://{host}:9", api_key="sk-assistant-x"
        )
        with pytest.raises(ProviderError) as caught:
            await chat.chat(REQUEST, timeout_s=10)
    # the HTTP library itself takes some of the notations for no URL at all
    assert caught.value.kind in ("refused_address", "bad_request")
    assert not caught.value.retryable and not caught.value.may_have_cost


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_development_flag_opens_loopback(assistant: Any, host: str) -> None:
    """With the flag the embedded assistant can be called by address and name; without it not."""
    origin = assistant.origin.replace("127.0.0.1", host)
    check_base_url(origin, allow_http=True, allow_loopback=True)
    for allowed in (True, False):
        async with open_session(allow_loopback=allowed, connections_max=4) as session:
            chat = open_adapter(
                "openai", session=session, base_url=f"{origin}/v1", api_key="sk-assistant-x"
            )
            if allowed:
                assert (await chat.chat(REQUEST, timeout_s=10)).text
            else:
                with pytest.raises(ProviderError, match="not public"):
                    await chat.chat(REQUEST, timeout_s=10)
    assert (await assistant.stats())["calls_total"] == 1


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"]
)
def test_the_flag_opens_nothing_but_loopback(host: str) -> None:
    """Development does not mean the office network."""
    with pytest.raises(BadBaseUrlError):
        check_base_url(f"http://{host}", allow_http=True, allow_loopback=True)


class _ChangingNames:
    """The system's name look-up, answering from a script: name -> addresses, one list a call."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = answers
        self._system = socket.getaddrinfo
        self.asked = 0

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        script = self._answers.get(host.removesuffix(".test"))
        if script is None:
            return self._system(host, port, *args, **kwargs)
        self.asked += 1
        addresses = script.pop(0) if len(script) > 1 else script[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in addresses
        ]


async def _refused(name: str, port: int, session: aiohttp.ClientSession) -> ProviderError:
    chat = open_adapter(
        "openai", session=session, base_url=f"http://{name}.test:{port}", api_key="k"
    )
    with pytest.raises(ProviderError) as caught:
        await chat.chat(REQUEST, timeout_s=10)
    return caught.value


async def test_names_that_resolve_inside_are_refused(
    monkeypatch: pytest.MonkeyPatch, raw_server: Callable[..., Any]
) -> None:
    """A public-looking name that leads here, alone or hidden among public addresses."""
    reached = 0

    async def count(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1

    names = _ChangingNames(inside=[["127.0.0.1"]], mixed=[["93.184.216.34", "127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    async with (
        raw_server(count) as port,
        open_session(allow_loopback=False, connections_max=4) as session,
    ):
        for name in ("inside", "mixed"):
            assert (await _refused(name, port, session)).kind == "refused_address"
    assert names.asked == 2 and reached == 0


async def test_one_bad_address_spoils_the_whole_answer(
    monkeypatch: pytest.MonkeyPatch, raw_server: Callable[..., Any]
) -> None:
    """Even when an allowed address comes first and would have answered."""
    reached = 0

    async def count(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1

    names = _ChangingNames(mixed=[["127.0.0.1", "10.0.0.1"]], good=[["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    async with (
        raw_server(count) as port,
        open_session(allow_loopback=True, connections_max=4) as session,
    ):
        assert (await _refused("mixed", port, session)).kind == "refused_address"
        assert reached == 0
        assert (await _refused("good", port, session)).kind == "connection_lost"
        assert reached == 1


async def test_rebinding_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, raw_server: Callable[..., Any]
) -> None:
    """A resolver result that turns inside between the check and the connect: the connection asks
    the socket gate about the very address it uses, so it is refused there as well."""
    reached = 0

    async def count(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1

    async with (
        raw_server(count) as port,
        open_session(allow_loopback=False, connections_max=4) as session,
    ):
        connector = session.connector
        assert isinstance(connector, aiohttp.TCPConnector)

        async def turned(*_: Any, **__: Any) -> list[dict[str, Any]]:
            return [
                {
                    "hostname": "rebound.test",
                    "host": "127.0.0.1",
                    "port": port,
                    "family": socket.AF_INET,
                    "proto": socket.IPPROTO_TCP,
                    "flags": socket.AI_NUMERICHOST,
                }
            ]

        # behind the checking resolver's back, as a poisoned cache would
        monkeypatch.setattr(connector, "_resolve_host", turned)
        assert (await _refused("rebound", port, session)).kind == "refused_address"
    assert reached == 0


async def test_an_unknown_name_is_unreachable_not_refused() -> None:
    """A typo in a host name can be told from an attack."""
    async with open_session(allow_loopback=False, connections_max=4) as session:
        error = await _refused("no-such-host-exists", 80, session)
    assert (error.kind, error.may_have_cost) == ("unreachable", False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://api.example.com/v1", "insecure_scheme"),
        ("ftp://api.example.com", "malformed"),
        ("api.example.com/v1", "malformed"),
        ("https://", "malformed"),
        ("https://user:pass@api.example.com", "malformed"),
        ("https://api.example.com?x=1", "malformed"),
        ("https://api.example.com#x", "malformed"),
        ("https://api.example.com:0", "malformed"),
        ("https://api.example.com:99999", "malformed"),
        ("https://api.example.com:port", "malformed"),
        ("https://api.example.com\\@evil.example", "malformed"),
        ("https://api.exa mple.com", "malformed"),
        ("https://api.example.com\r\nHost: x", "malformed"),
        ("https://bücher.example", "malformed"),
        ("https://-bad-.example.com", "malformed"),
        ("https://[::1", "malformed"),
        ("https://api..example.com", "malformed"),
        ("https://" + "a" * 3000 + ".com", "malformed"),
        ("https://intranet/v1", "refused_address"),
        ("https://vault.internal", "refused_address"),
        ("https://printer.local", "refused_address"),
        ("https://x.localhost", "refused_address"),
        ("https://999.1.1.1", "refused_address"),
    ],
)
def test_base_urls_are_refused_with_a_reason(url: str, reason: str) -> None:
    """Administrators get told why."""
    with pytest.raises(BadBaseUrlError) as caught:
        check_base_url(url, allow_http=False, allow_loopback=False)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("https://api.example.com:8443", "https://api.example.com:8443"),
        ("https://8.8.8.8/v1", "https://8.8.8.8/v1"),
        ("https://[2606:4700::1111]/v1", "https://[2606:4700::1111]/v1"),
        ("https://[64:ff9b::808:808]", "https://[64:ff9b::808:808]"),
        ("https://my_host-1.example.com.", "https://my_host-1.example.com."),
    ],
)
def test_public_base_urls_are_taken(url: str, kept: str) -> None:
    """The rules do not get in the way of real providers."""
    assert check_base_url(url, allow_http=False, allow_loopback=False) == kept


def test_plain_http_is_a_decision_of_its_own() -> None:
    """Allowed explicitly, for public hosts too; it opens no address."""
    assert check_base_url("http://api.example.com", allow_http=True, allow_loopback=False)
    with pytest.raises(BadBaseUrlError, match="not public"):
        check_base_url("http://127.0.0.1", allow_http=True, allow_loopback=False)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_refusal(text: str) -> None:
    """Nothing but the declared errors comes out."""
    for url in (text, f"https://{text}"):
        try:
            check_base_url(url, allow_http=True, allow_loopback=False)
        except BadBaseUrlError as error:
            assert error.reason in ("malformed", "insecure_scheme", "refused_address")


@given(st.ip_addresses())
def test_the_rules_are_no_laxer_than_the_registries(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """What the standard library already knows to be special is refused."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        nat64 = address in ipaddress.IPv6Network("64:ff9b::/96")
        assert nat64 or not is_allowed_address(str(address), allow_loopback=False)
    if address.version == 6:
        embedded = ipaddress.IPv6Address((0x64FF9B << 96) | (int(address) & 0xFFFFFFFF))
        inner = str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        assert is_allowed_address(str(embedded), allow_loopback=True) is is_allowed_address(
            inner, allow_loopback=False
        )
