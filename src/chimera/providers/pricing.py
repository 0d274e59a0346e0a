"""Money: what a call costs, and what it can cost at most. US dollars, exact decimals, no floats.

What must stay true:

* Each token is paid once: cached input is a part of the input, reasoning a part of the output
  (`adapters.Usage`), so the four kinds are disjoint and add up to all tokens.
* A cost is rounded once, at the end, half to even, to the 12 decimals the ledger keeps.
* `worst_cost` of bounds is never below `cost` of a usage within them: a hold covers the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_UP, Context, Decimal
from typing import TYPE_CHECKING

from chimera.faults import Invalid, Violation

if TYPE_CHECKING:
    from chimera.providers.adapters import Usage
    from chimera.v1.providers_pb2 import Price

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
    """A price version: US dollars per million tokens of each kind, and per request."""

    input_per_million: Decimal
    output_per_million: Decimal
    cached_input_per_million: Decimal
    reasoning_per_million: Decimal
    per_request: Decimal = Decimal(0)


def prices_of(price: Price, *, field: str = "price") -> Prices:
    """A price as somebody wrote it, with what may be empty filled in: cached input costs as input,
    reasoning as output, a request nothing.

    Raises Invalid(PRICE_INVALID): input and output must be given (0 for what is free), and every
    amount must be below 1,000,000.
    """
    violations = [
        Violation(f"{field}.{name}", "must be given; 0 says that it costs nothing")
        for name in ("input_per_million_usd", "output_per_million_usd")
        if not getattr(price, name)
    ]
    amounts = {name.name: getattr(price, name.name) for name in price.DESCRIPTOR.fields}
    violations += [
        Violation(f"{field}.{name}", f"must be below {PRICE_CEILING:,}")
        for name, text in amounts.items()
        if text and Decimal(text) >= PRICE_CEILING
    ]
    if violations:
        first = violations[0]
        raise Invalid("PRICE_INVALID", f"{first.field}: {first.message}", violations=violations)
    paid_in, paid_out = price.input_per_million_usd, price.output_per_million_usd
    return Prices(
        input_per_million=Decimal(paid_in),
        output_per_million=Decimal(paid_out),
        cached_input_per_million=Decimal(price.cached_input_per_million_usd or paid_in),
        reasoning_per_million=Decimal(price.reasoning_per_million_usd or paid_out),
        per_request=Decimal(price.per_request_usd or 0),
    )


def cost(usage: Usage, prices: Prices) -> Decimal:
    """What a call with this usage costs, in US dollars with 12 decimals.

    A part that is larger than its whole counts as the whole, so a wrong report never costs less
    than nothing.
    """
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    return _rounded(
        _sum(
            (usage.input_tokens - cached, prices.input_per_million),
            (cached, prices.cached_input_per_million),
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
    dear_in = max(prices.input_per_million, prices.cached_input_per_million)
    dear_out = max(prices.output_per_million, prices.reasoning_per_million)
    return _rounded(
        _sum(
            (input_tokens_upper_bound, dear_in),
            (output_tokens_max, dear_out),
            per_request=prices.per_request,
        ),
        ROUND_UP,
    )


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
