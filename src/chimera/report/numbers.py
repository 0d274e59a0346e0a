"""How a report writes rates, money and counts."""

from __future__ import annotations

from decimal import Decimal

from chimera.v1.campaigns_pb2 import Rate


def percent(rate: Rate) -> str:
    """The rate, or a dash."""
    return f"{rate.rate * 100:.1f}\u00a0%" if rate.HasField("rate") else "–"


def interval(rate: Rate) -> str:
    """Its 95 % Wilson interval."""
    return f"{rate.low * 100:.1f}–{rate.high * 100:.1f}\u00a0%"


def dollars(usd: str) -> str:
    """A decimal amount with as many digits as it needs to be told from nothing."""
    amount = Decimal(usd or 0)
    digits = 2 if amount >= 100 else 4 if amount >= Decimal("0.01") else 6
    return f"${amount:,.{digits}f}" if amount else "$0"


def short(count: int) -> str:
    """A count in thousands or millions."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
