"""Money: what a call costs, and what it can cost at most. US dollars, exact decimals, no floats.

What must stay true:

* Each token is paid once: cached input and what is put into a cache are parts of the input,
  reasoning a part of the output (`adapters.Usage`), so the five kinds are disjoint and add up to
  all tokens.
* A cost is rounded once, at the end, half to even, to the 12 decimals the ledger keeps.
* `worst_cost` of bounds is never below `cost` of a usage within them: a hold covers the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

from chimera.faults import Invalid, Violation
from chimera.rows import decimal_text, enum_text

if TYPE_CHECKING:
    from chimera.providers.adapters import Usage
    from chimera.v1.providers_pb2 import Price, PriceEntry

DECIMALS = Decimal("1e-12")
# The largest prompt and answer at this price still fit the ledger's numeric(20, 12).
PRICE_CEILING = Decimal(10) ** 6
# Chat formats put 3 to 10 tokens of their own around a message, and some begin a conversation with
# a system block of about 30.
MESSAGE_OVERHEAD_TOKENS = 64

# Wide enough that only `quantize` rounds: 10 digits of tokens times 20 of a price, added up.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Prices:
    """A price version: US dollars per million tokens of each kind, and per request.

    cache_write_per_million: None: as input. Calls with more than `long_from_tokens` input tokens
    are paid at `long`, all of them, when it is given.
    """

    input_per_million: Decimal
    output_per_million: Decimal
    cached_input_per_million: Decimal
    reasoning_per_million: Decimal
    per_request: Decimal = Decimal(0)
    cache_write_per_million: Decimal | None = None
    long_from_tokens: int = 0
    long: Prices | None = None


_AMOUNTS = (
    "input_per_million",
    "output_per_million",
    "cached_input_per_million",
    "reasoning_per_million",
    "per_request",
)


def prices_json(prices: Prices) -> dict[str, Any]:
    """Prices as plain data, amounts as decimal strings."""
    plain: dict[str, Any] = {name: decimal_text(getattr(prices, name)) for name in _AMOUNTS}
    if prices.cache_write_per_million is not None:
        plain["cache_write_per_million"] = decimal_text(prices.cache_write_per_million)
    if prices.long is not None:
        plain["long_from_tokens"] = prices.long_from_tokens
        plain["long"] = prices_json(prices.long)
    return plain


def prices_from_json(plain: Mapping[str, Any]) -> Prices:
    """The inverse of `prices_json`."""
    written, long = plain.get("cache_write_per_million"), plain.get("long")
    return Prices(
        **{name: Decimal(plain[name]) for name in _AMOUNTS},
        cache_write_per_million=None if written is None else Decimal(written),
        long_from_tokens=plain.get("long_from_tokens", 0),
        long=None if long is None else prices_from_json(long),
    )


def prices_of(price: Price, *, field: str = "price") -> Prices:
    """A price as somebody wrote it, with what may be empty filled in: cached input costs as input,
    reasoning as output, a request nothing.

    Raises Invalid(PRICE_INVALID): input and output must be given (0 for what is free), every amount
    must be below 1,000,000, and `long_prompt` stands with `long_from_tokens`, one deep.
    """
    long = price.long_prompt if price.HasField("long_prompt") else None
    if (long is not None) != (price.long_from_tokens > 0) or (long and long.long_from_tokens):
        said = "long_prompt and long_from_tokens are given together, once"
        raise _invalid([Violation(f"{field}.long_prompt", said, "PRICE_INVALID")])
    texts = {
        name: getattr(price, f"{name}_usd")
        for name in (*_AMOUNTS, "cache_write_per_million")
        if getattr(price, f"{name}_usd")
    }
    try:
        return _prices(
            {name: Decimal(text) for name, text in texts.items()},
            lambda name: f"{field}.{name}_usd",
            long_from_tokens=price.long_from_tokens,
            long=None if long is None else prices_of(long, field=f"{field}.long_prompt"),
        )
    except ArithmeticError:
        said = "holds an amount that is no decimal number"
        raise _invalid([Violation(field, said, "PRICE_INVALID")]) from None


_TIMES = {None: 1, "per_million": 1, "per_thousand": 1_000, "per_token": 1_000_000}


def prices_of_entry(entry: PriceEntry, *, field: str = "price_entry") -> Prices:
    """A price as a price list wrote it, per million: the conversion is exact. Raises as `prices_of`,
    also for more than 12 decimals per million."""
    times = _TIMES[enum_text(entry, "unit", entry.unit)]
    names = {
        "input_per_million": "input_usd",
        "output_per_million": "output_usd",
        "cached_input_per_million": "cached_input_usd",
        "cache_write_per_million": "cache_write_usd",
        "reasoning_per_million": "reasoning_usd",
        "per_request": "per_request_usd",
    }
    amounts = {
        name: _EXACT.multiply(
            Decimal(getattr(entry, written)), 1 if name == "per_request" else times
        )
        for name, written in names.items()
        if getattr(entry, written)
    }
    fine = [
        Violation(f"{field}.{names[name]}", "has more decimals than are kept", "PRICE_INVALID")
        for name, amount in amounts.items()
        if amount != amount.quantize(DECIMALS, context=_EXACT)
    ]
    if fine:
        raise _invalid(fine)
    return _prices(amounts, lambda name: f"{field}.{names[name]}")


def _prices(amounts: Mapping[str, Decimal], field: Any, **more: Any) -> Prices:
    violations = [
        Violation(field(name), "must be given; 0 says that it costs nothing", "PRICE_INVALID")
        for name in ("input_per_million", "output_per_million")
        if name not in amounts
    ]
    violations += [
        Violation(field(name), f"must be below {PRICE_CEILING:,}", "PRICE_INVALID")
        for name, amount in amounts.items()
        if amount >= PRICE_CEILING
    ]
    if violations:
        raise _invalid(violations)
    paid_in, paid_out = amounts["input_per_million"], amounts["output_per_million"]
    return Prices(
        input_per_million=paid_in,
        output_per_million=paid_out,
        cached_input_per_million=amounts.get("cached_input_per_million", paid_in),
        reasoning_per_million=amounts.get("reasoning_per_million", paid_out),
        per_request=amounts.get("per_request", Decimal(0)),
        cache_write_per_million=amounts.get("cache_write_per_million"),
        **more,
    )


def _invalid(violations: list[Violation]) -> Invalid:
    first = violations[0]
    return Invalid("PRICE_INVALID", f"{first.field}: {first.message}", violations=violations)


def cost(usage: Usage, prices: Prices) -> Decimal:
    """What a call with this usage costs, in US dollars with 12 decimals.

    A part that is larger than its whole counts as the whole, so a wrong report never costs less
    than nothing.
    """
    if prices.long is not None and usage.input_tokens > prices.long_from_tokens:
        prices = prices.long
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written, write_price = 0, prices.cache_write_per_million
    if write_price is not None:
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    return _rounded(
        _sum(
            (usage.input_tokens - cached - written, prices.input_per_million),
            (cached, prices.cached_input_per_million),
            (written, write_price or Decimal(0)),
            (usage.output_tokens - reasoning, prices.output_per_million),
            (reasoning, prices.reasoning_per_million),
            per_request=prices.per_request,
        ),
        ROUND_HALF_EVEN,
    )


def worst_cost(input_tokens_upper_bound: int, output_tokens_max: int, prices: Prices) -> Decimal:
    """The most a call can cost that reads and writes at most so many tokens, in US dollars.

    Costs are linear in the parts, so the worst mix is all tokens of the dearer kind; rounded up.
    """
    dear_in = max(
        prices.input_per_million,
        prices.cached_input_per_million,
        prices.cache_write_per_million or prices.input_per_million,
    )
    dear_out = max(prices.output_per_million, prices.reasoning_per_million)
    worst = _rounded(
        _sum(
            (input_tokens_upper_bound, dear_in),
            (output_tokens_max, dear_out),
            per_request=prices.per_request,
        ),
        ROUND_UP,
    )
    if prices.long is not None and input_tokens_upper_bound > prices.long_from_tokens:
        return max(worst, worst_cost(input_tokens_upper_bound, output_tokens_max, prices.long))
    return worst


def upper_bound_tokens(text: str) -> int:
    """At most so many tokens does a tokenizer make of one message with this text.

    Tokenizers of chat models work on UTF-8 bytes (byte-level BPE), or on characters and fall back
    to bytes for those they do not know (SentencePiece with byte fallback): every token stands for
    at least one byte, so bytes bound tokens. What the chat format adds around a message is
    MESSAGE_OVERHEAD_TOKENS. Not covered: a provider that silently adds more text of its own; what
    it reports is then booked as it is.
    """
    return len(text.encode()) + MESSAGE_OVERHEAD_TOKENS


def _sum(*parts: tuple[int, Decimal], per_request: Decimal) -> Decimal:
    total = Decimal(0)
    for tokens, per_million in parts:
        total = _EXACT.add(total, _EXACT.multiply(tokens, per_million))
    return _EXACT.add(_EXACT.scaleb(total, -6), per_request)


def _rounded(amount: Decimal, rounding: str) -> Decimal:
    return amount.quantize(DECIMALS, rounding=rounding, context=_EXACT)
