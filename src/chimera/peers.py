"""Where a call comes from.

The address is the peer's own unless the peer is a listed proxy; then X-Forwarded-For is walked from
the right past listed proxies. Anything a client writes there itself changes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote


class Peers:
    """Knows the networks of trusted proxies."""

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self.trusted = [ipaddress.ip_network(network) for network in trusted]

    def address(self, peer: str, metadata: Mapping[str, str]) -> str:
        """Client address for a gRPC peer such as ipv4:10.0.0.1:4711; "" when it has none (unix)."""
        address = _peer_address(peer)
        if address and self._is_trusted(address):
            for hop in reversed(metadata.get("x-forwarded-for", "").split(",")):
                given = _plain(hop.strip())
                if not given:
                    break
                address = given
                if not self._is_trusted(address):
                    break
        return address

    def _is_trusted(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in self.trusted)


def _peer_address(peer: str) -> str:
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    return _plain(unquote(rest).rpartition(":")[0].strip("[]"))


@lru_cache(maxsize=1024)
def _plain(text: str) -> str:
    """The address without its zone, an IPv4 address in IPv6 clothes as what it is; "" for others."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
