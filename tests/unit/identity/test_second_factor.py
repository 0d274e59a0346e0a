"""Codes against the published vectors, and which neighbours of the present one are accepted."""

from __future__ import annotations

import pytest

from chimera.identity.second_factor import code_at, new_recovery_code, otpauth_uri, step_of

SECRET = b"12345678901234567890"


@pytest.mark.parametrize(
    ("at_s", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_the_vectors_of_rfc_6238(at_s: int, code: str) -> None:
    """Appendix B, SHA-1; with six digits the last six of them."""
    assert code_at(SECRET, at_s // 30, digits=8) == code
    assert code_at(SECRET, at_s // 30) == code[-6:]


def test_a_clock_may_be_one_step_off_and_no_more() -> None:
    now = 1_000_000 * 30 + 7
    found = [step_of(SECRET, code_at(SECRET, 1_000_000 + away), now) for away in range(-3, 4)]
    assert found == [None, None, 999_999, 1_000_000, 1_000_001, None, None]
    assert step_of(SECRET, "12345", now) is None
    assert step_of(SECRET, "", now) is None


def test_a_recovery_code_has_130_bits_and_can_be_typed() -> None:
    codes = {new_recovery_code() for _ in range(100)}
    assert len(codes) == 100
    assert {len(code.replace("-", "")) for code in codes} == {26}


def test_the_uri_names_account_and_issuer() -> None:
    uri = otpauth_uri(SECRET, "olivia@example.com", "Chimera")
    assert uri.startswith("otpauth://totp/Chimera:olivia%40example.com?")
    assert "secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" in uri
