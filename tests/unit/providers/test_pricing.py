"""Money of one call: exact, each token paid once, and never above what was held for it."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.faults import Invalid
from chimera.providers.adapters import Usage
from chimera.providers.pricing import (
    MESSAGE_OVERHEAD_TOKENS,
    Prices,
    cost,
    prices_of,
    upper_bound_tokens,
    worst_cost,
)
from chimera.v1.providers_pb2 import Price

PRICES = Prices(
    input_per_million=Decimal("2.5"),
    output_per_million=Decimal("10"),
    cached_input_per_million=Decimal("1.25"),
    reasoning_per_million=Decimal("12"),
    per_request=Decimal("0.001"),
)

amounts = st.decimals(min_value=0, max_value=Decimal("99999999.999999999999"), places=12)
some_prices = st.builds(Prices, amounts, amounts, amounts, amounts, amounts)
counts = st.integers(min_value=0, max_value=1_000_000_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, written = draw(counts), draw(counts)
    return Usage(
        read,
        written,
        draw(st.integers(min_value=0, max_value=read)),
        draw(st.integers(min_value=0, max_value=written)),
    )


def test_each_kind_of_token_is_paid_once() -> None:
    """1,000 in (400 of them cached), 500 out (100 of them reasoning), and the request itself."""
    usage = Usage(1_000, 500, cached_input_tokens=400, reasoning_tokens=100)
    # 600 * 2.5 + 400 * 1.25 + 400 * 10 + 100 * 12 = 7,200 millionths
    assert cost(usage, PRICES) == Decimal("0.0072") + Decimal("0.001")


def test_a_cost_is_rounded_once_and_half_to_even() -> None:
    """Two halves of the last decimal make one; each rounded by itself would make none or two."""
    tiny = Prices(*[Decimal("0.0000005")] * 4)
    assert cost(Usage(1, 0), tiny) == Decimal("0E-12")
    assert cost(Usage(1, 1), tiny) == Decimal("1E-12")
    assert cost(Usage(3, 0), tiny) == Decimal("2E-12")


def test_a_part_larger_than_its_whole_never_earns_money() -> None:
    usage = Usage(10, 10, cached_input_tokens=1_000, reasoning_tokens=1_000)
    assert cost(usage, PRICES) == cost(Usage(10, 10, 10, 10), PRICES)


@given(usages(), some_prices)
def test_a_cost_is_the_exact_sum_rounded_to_what_the_ledger_keeps(
    usage: Usage, prices: Prices
) -> None:
    cached, reasoning = usage.cached_input_tokens, usage.reasoning_tokens
    exact = Fraction(prices.per_request) + (
        (usage.input_tokens - cached) * Fraction(prices.input_per_million)
        + cached * Fraction(prices.cached_input_per_million)
        + (usage.output_tokens - reasoning) * Fraction(prices.output_per_million)
        + reasoning * Fraction(prices.reasoning_per_million)
    ) / Fraction(1_000_000)
    assert Fraction(cost(usage, prices)) == Fraction(round(exact * 10**12), 10**12)


@given(usages(), some_prices, st.integers(0, 1000), st.integers(0, 1000))
def test_a_hold_covers_every_call_within_its_bounds(
    usage: Usage, prices: Prices, more_in: int, more_out: int
) -> None:
    """Whatever part turns out to be cached or reasoning, and whichever kind is dearer."""
    held = worst_cost(usage.input_tokens + more_in, usage.output_tokens + more_out, prices)
    assert cost(usage, prices) <= held


@given(st.text())
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    """One token a byte is the worst a tokenizer that falls back to bytes can do."""
    assert upper_bound_tokens(text) == len(text.encode()) + MESSAGE_OVERHEAD_TOKENS


def test_what_a_price_leaves_out_is_filled_in() -> None:
    """Cached input costs as input, reasoning as output, a request nothing."""
    prices = prices_of(Price(input_per_million_usd="3", output_per_million_usd="15"))
    assert prices == Prices(Decimal(3), Decimal(15), Decimal(3), Decimal(15), Decimal(0))


def test_a_cached_price_of_zero_is_not_an_empty_one() -> None:
    prices = prices_of(
        Price(
            input_per_million_usd="3",
            output_per_million_usd="15",
            cached_input_per_million_usd="0",
            reasoning_per_million_usd="0",
        )
    )
    assert (prices.cached_input_per_million, prices.reasoning_per_million) == (0, 0)


@pytest.mark.parametrize(
    ("price", "fields"),
    [
        (Price(), ["price.input_per_million_usd", "price.output_per_million_usd"]),
        (Price(input_per_million_usd="1"), ["price.output_per_million_usd"]),
        (
            Price(
                input_per_million_usd="100000000",
                output_per_million_usd="1",
                per_request_usd="100000000",
            ),
            ["price.input_per_million_usd", "price.per_request_usd"],
        ),
    ],
)
def test_a_price_that_cannot_be_booked_is_refused(price: Price, fields: list[str]) -> None:
    """What is free is said to be 0; what the ledger cannot hold is not a price."""
    with pytest.raises(Invalid) as refused:
        prices_of(price)
    assert refused.value.reason == "PRICE_INVALID"
    assert [violation.field for violation in refused.value.violations] == fields
