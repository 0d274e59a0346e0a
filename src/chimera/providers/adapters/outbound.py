"""Where calls may go: the address rules and the HTTP session that enforces them.

What must stay true: no connection is opened to an address that is not public (loopback only by the
development flag, private networks only by an operator's list, metadata services never), whatever
name, notation or DNS answer led to it. The check sits in the connector
itself: the resolver refuses an answer that contains such an address, and the socket factory checks
the very address that is about to be connected, so a name that resolves differently a second time
(DNS rebinding) gains nothing, and IP literals, which never reach the resolver, are caught too.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

URL_LENGTH_MAX = 2048
DNS_CACHE_S = 10
# Below the idle limits usual at providers and load balancers (30-60 s): a POST on a connection the
# other side has just closed cannot be repeated safely.
KEEPALIVE_S = 20

# IANA IPv4 special-purpose registry, multicast, and Azure's metadata address, which looks public.
_IPV4_REFUSED = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    )
)
# IPv6 is refused unless global unicast; these lie inside global unicast and are special
# (IETF protocol assignments with Teredo, documentation, 6to4).
_IPV6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_IPV6_REFUSED = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
# The only way to IPv4 providers from an IPv6-only network; judged by the IPv4 address inside.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# Credentials of the machine are given out here: no list of private networks opens them.
_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "fe80::/10",
    )
)
Networks = Sequence[str]

_PRIVATE_NAMES = (".local", ".internal", ".home.arpa", ".lan", ".svc", ".cluster.local")
_NUMERIC_HOST = re.compile(r"(?:0x[0-9a-f]*|\d+)(?:\.(?:0x[0-9a-f]*|\d+)){0,3}", re.IGNORECASE)
_HOST_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


class BadBaseUrlError(ValueError):
    """A base URL that may not be registered. `reason` is a stable identifier."""

    reason = "malformed"


class MalformedUrlError(BadBaseUrlError):
    """Not an absolute http(s) URL of host, optional port and optional path."""


class InsecureSchemeError(BadBaseUrlError):
    """Plain http where only https is allowed."""

    reason = "insecure_scheme"


class RefusedHostError(BadBaseUrlError):
    """The host is, or plainly means, an address that is not public."""

    reason = "refused_address"


class RefusedAddressError(OSError):
    """Raised inside the connector for an address that may not be connected to. It is an OSError
    because that is what aiohttp expects there; adapters turn it into kind `refused_address`."""

    def __init__(self) -> None:
        super().__init__("the address is not public")


def is_allowed_address(
    address: str, *, allow_loopback: bool, private_networks: Networks = ()
) -> bool:
    """Whether `address` (an IP literal in canonical form) may be connected to: it is public, or in
    one of `private_networks` and no metadata service. Never raises."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if is_private_target(ip, private_networks):
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        if ip == ipaddress.IPv6Address(1):
            return allow_loopback
        if ip.scope_id is None and ip in _NAT64:
            return is_allowed_address(
                str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)), allow_loopback=False
            )
        return ip in _IPV6_GLOBAL and not any(ip in network for network in _IPV6_REFUSED)
    if allow_loopback and ip.is_loopback:
        return True
    return not any(ip in network for network in _IPV4_REFUSED)


def is_private_target(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, private_networks: Networks
) -> bool:
    """Whether an operator's list opens this address. Loopback has a flag of its own."""
    if not private_networks or ip.is_loopback or getattr(ip, "scope_id", None):
        return False
    if any(ip in network for network in _METADATA if network.version == ip.version):
        return False
    return any(ip in ipaddress.ip_network(network) for network in private_networks)


def is_private_host(host: str, private_networks: Networks) -> bool:
    """Whether a URL's host is meant to lie in a private network that may be called: an address in
    one, or a name that no public DNS gives out (where it leads is checked at each connect)."""
    if not private_networks:
        return False
    try:
        return is_private_target(ipaddress.ip_address(host), private_networks)
    except ValueError:
        name = host.removesuffix(".").lower()
        return name.endswith(_PRIVATE_NAMES) or ("." not in name and not name.isdigit())


def check_base_url(
    url: str, *, allow_http: bool, allow_loopback: bool, private_networks: Networks = ()
) -> str:
    """Checks a provider's base URL at registration and returns it without a trailing slash.

    Hosts of `private_networks` may be called over plain http. Raises what check_url does.
    """
    check_url(
        url,
        allow_http=allow_http,
        allow_loopback=allow_loopback,
        private_networks=private_networks,
    )
    if "?" in url:
        raise MalformedUrlError("the base URL may hold a host, a port and a path, nothing else")
    return url.rstrip("/")


def check_url(
    url: str, *, allow_http: bool, allow_loopback: bool, private_networks: Networks = ()
) -> None:
    """Checks a URL that is called as it is, with its last slash and its query.

    Names are not resolved here: what they resolve to is decided at each connect. Raises
    MalformedUrlError, InsecureSchemeError or RefusedHostError, all with a `reason`.
    """
    if len(url) > URL_LENGTH_MAX or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise MalformedUrlError("the base URL holds characters that do not belong in a URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise MalformedUrlError("the base URL cannot be parsed") from None
    if parts.scheme not in ("http", "https"):
        raise MalformedUrlError("the base URL must begin with https://")
    if "@" in parts.netloc or "#" in url or port == 0:
        raise MalformedUrlError("the base URL may hold no user, no fragment and no port 0")
    is_private = is_private_host(host, private_networks)
    if parts.scheme == "http" and not (allow_http or is_private):
        raise InsecureSchemeError("the base URL must begin with https://")
    _check_host(host, allow_loopback=allow_loopback, is_private=is_private)


def _check_host(host: str, *, allow_loopback: bool, is_private: bool) -> None:
    if ":" in host or _NUMERIC_HOST.fullmatch(host.removesuffix(".")):
        # Decimal, octal, hexadecimal and shortened IPv4 (`2130706433`, `0177.1`), which the C
        # library takes, are no canonical address and so refused with the rest.
        if not (is_private or is_allowed_address(host, allow_loopback=allow_loopback)):
            raise RefusedHostError("the base URL names an address that is not public")
        return
    name = host.removesuffix(".").lower()
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        raise MalformedUrlError("the base URL has no valid host name")
    if name == "localhost" or name.endswith(".localhost"):
        if not allow_loopback:
            raise RefusedHostError("the base URL names this machine")
    elif not is_private and (name.endswith(_PRIVATE_NAMES) or "." not in name):
        raise RefusedHostError("the base URL names a host of a private network")


class _PublicResolver(AbstractResolver):
    """The system's resolver; an answer with any refused address is refused whole, because a name
    that mixes public and private addresses is an attack or a mistake."""

    def __init__(self, *, allow_loopback: bool, private_networks: Networks) -> None:
        self._system = aiohttp.ThreadedResolver()
        self._allow_loopback = allow_loopback
        self._private_networks = private_networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        for entry in found:
            if not is_allowed_address(
                entry["host"],
                allow_loopback=self._allow_loopback,
                private_networks=self._private_networks,
            ):
                raise RefusedAddressError
        return found

    async def close(self) -> None:
        await self._system.close()


def open_session(
    *, allow_loopback: bool, connections_max: int, private_networks: Networks = ()
) -> aiohttp.ClientSession:
    """A keep-alive session for provider calls; call it inside a running loop, close it when done.

    `connections_max` bounds open connections over all hosts; further calls wait for a free one
    inside their own timeout. Cookies, proxies from the environment and redirects are off.
    """

    def guarded_socket(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, sockaddr = address
        if not is_allowed_address(
            str(sockaddr[0]), allow_loopback=allow_loopback, private_networks=private_networks
        ):
            raise RefusedAddressError
        return socket.socket(family=family, type=kind, proto=protocol)

    connector = aiohttp.TCPConnector(
        limit=connections_max,
        resolver=_PublicResolver(allow_loopback=allow_loopback, private_networks=private_networks),
        socket_factory=guarded_socket,
        ttl_dns_cache=DNS_CACHE_S,
        keepalive_timeout=KEEPALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers={"User-Agent": "chimera"},
    )
