"""Where a call comes from, and what a client cannot make us believe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.peers import Peers

PROXIES = Peers(["10.0.0.0/8", "fd00::/8"])


def forwarded(value: str) -> dict[str, str]:
    return {"x-forwarded-for": value}


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::ffff:192.0.2.1]:4711", "192.0.2.1"),
        ("ipv6:[fe80::1%eth0]:4711", "fe80::1"),
        ("unix:/run/chimera.sock", ""),
        ("unix:", ""),
        ("", ""),
        ("ipv4:nonsense:1", ""),
    ],
)
def test_the_address_is_the_peers(peer: str, address: str) -> None:
    """In one form, without port and zone."""
    assert Peers().address(peer, {}) == address


@given(st.text())
def test_a_stranger_is_not_believed(value: str) -> None:
    """Whatever it writes into the header, its own address is what counts."""
    assert PROXIES.address("ipv4:192.0.2.1:4711", forwarded(value)) == "192.0.2.1"
    assert Peers().address("ipv4:10.1.1.1:4711", forwarded(value)) == "10.1.1.1"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("192.0.2.9", "192.0.2.9"),
        ("6.6.6.6, 192.0.2.9", "192.0.2.9"),  # the client forged the left one
        ("192.0.2.9, 10.2.2.2, 10.3.3.3", "192.0.2.9"),  # two more proxies of ours
        ("192.0.2.9, nonsense, 10.2.2.2", "10.2.2.2"),  # nothing left of it is known
        ("::ffff:10.2.2.2", "10.2.2.2"),  # a proxy in IPv6 clothes is still a proxy
        ("192.0.2.9, ::ffff:10.2.2.2", "192.0.2.9"),
        ("2001:db8::9, fd00::1", "2001:db8::9"),
        ("", "10.1.1.1"),
        (" , ,", "10.1.1.1"),
    ],
)
def test_a_listed_proxy_is_believed_for_the_hop_it_saw(value: str, address: str) -> None:
    """From the right, past the proxies that are listed, and no further."""
    assert PROXIES.address("ipv4:10.1.1.1:4711", forwarded(value)) == address
