"""Models and prices of known providers, out of the price data package (genai-prices).

Read without a network: a newer package brings newer prices. Where prices depend on the length of
the prompt, the dearest step is taken for everything above the first one, so a cost is never too low.
Only what is paid by tokens of text is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from chimera.providers.pricing import DECIMALS, PRICE_CEILING, Prices


@dataclass(frozen=True, slots=True)
class Known:
    """A provider that can be offered. `sources`: ids in the price data; of several, each model's
    name gets the part behind the underscore as a suffix, as the router of Hugging Face wants it."""

    name: str
    display_name: str
    provider_type: str
    base_url: str
    sources: tuple[str, ...]


_HUGGINGFACE = tuple(
    f"huggingface_{name}"
    for name in (
        "cerebras",
        "fireworks-ai",
        "groq",
        "hyperbolic",
        "nebius",
        "novita",
        "nscale",
        "ovhcloud",
        "publicai",
        "sambanova",
        "together",
    )
)
KNOWN = {
    known.name: known
    for known in (
        Known("openai", "OpenAI", "openai", "https://api.openai.com/v1", ("openai",)),
        Known("anthropic", "Anthropic", "anthropic", "https://api.anthropic.com", ("anthropic",)),
        Known(
            "huggingface",
            "Hugging Face",
            "huggingface",
            "https://router.huggingface.co/v1",
            _HUGGINGFACE,
        ),
        # These speak the OpenAI format.
        Known("mistral", "Mistral", "custom", "https://api.mistral.ai/v1", ("mistral",)),
        Known("groq", "Groq", "custom", "https://api.groq.com/openai/v1", ("groq",)),
        Known("deepseek", "DeepSeek", "custom", "https://api.deepseek.com/v1", ("deepseek",)),
        Known("together", "Together AI", "custom", "https://api.together.xyz/v1", ("together",)),
        Known(
            "fireworks",
            "Fireworks",
            "custom",
            "https://api.fireworks.ai/inference/v1",
            ("fireworks",),
        ),
        Known(
            "openrouter", "OpenRouter", "custom", "https://openrouter.ai/api/v1", ("openrouter",)
        ),
        Known("xai", "xAI", "custom", "https://api.x.ai/v1", ("x-ai",)),
        Known("cerebras", "Cerebras", "custom", "https://api.cerebras.ai/v1", ("cerebras",)),
    )
}
DEFAULT = ("openai", "anthropic", "huggingface")

# Parts of names of what is paid by tokens and does not chat.
_NO_CHAT = (
    "tts", "image", "audio", "realtime", "transcribe", "whisper", "moderation", "embed",
    "turbo-instruct", "davinci", "babbage", "curie", "rerank",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model as the price data describes it."""

    name: str
    display_name: str
    context_tokens_max: int
    capabilities: tuple[str, ...]
    aliases: tuple[str, ...]
    is_deprecated: bool
    prices: Prices


def source_name() -> str:
    """The package with its version, as it is stored beside what came from it."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"


def priced_models(known: Known, *, at: datetime | None = None) -> list[PricedModel]:
    """The models of a provider with the prices of a time (now), by name. Takes a while at first."""
    from genai_prices.data_snapshot import get_snapshot

    at = at or datetime.now(UTC)
    found: dict[str, PricedModel] = {}
    for provider in get_snapshot().providers:
        if provider.id not in known.sources:
            continue
        suffix = f":{provider.id.partition('_')[2]}" if len(known.sources) > 1 else ""
        for model in provider.models:
            priced = _priced(model, suffix, at)
            if priced is not None:
                found.setdefault(priced.name, priced)
    return [found[name] for name in sorted(found)]


def _priced(model: Any, suffix: str, at: datetime) -> PricedModel | None:
    price = model.get_prices(at)
    prices = _prices(price)
    if prices is None or len(model.id) + len(suffix) > 200:
        return None
    chats = not any(part in model.id for part in _NO_CHAT)
    capabilities = ["chat", "streaming"] if chats else []
    if "embed" in model.id:
        capabilities.append("embeddings")
    if chats and price.cache_read_mtok is not None:
        capabilities.append("prompt_caching")
    names = {name + suffix for name in _exact_names(model.match)} - {model.id + suffix}
    return PricedModel(
        name=model.id + suffix,
        display_name=(model.name or "")[:200],
        context_tokens_max=model.context_window or 0,
        capabilities=tuple(capabilities),
        aliases=tuple(sorted(name for name in names if 0 < len(name) <= 200))[:50],
        is_deprecated=bool(model.deprecated),
        prices=prices,
    )


def _exact_names(match: Any) -> Iterator[str]:
    """The names that mean this model by themselves, out of its matching rules."""
    if hasattr(match, "equals"):
        yield match.equals
    for clause in getattr(match, "or_", ()):
        yield from _exact_names(clause)


def _prices(price: Any) -> Prices | None:
    """None for what is not paid by tokens of text."""
    if price.input_mtok is None:
        return None
    start = min(_starts(price), default=0)
    base = _step(price, 0)
    if base is None or not start:
        return base
    dearest = _step(price, -1)
    return (
        base
        if dearest is None
        else Prices(
            base.input_per_million,
            base.output_per_million,
            base.cached_input_per_million,
            base.reasoning_per_million,
            base.per_request,
            base.cache_write_per_million,
            long_from_tokens=start,
            long=dearest,
        )
    )


def _starts(price: Any) -> Iterator[int]:
    for name in ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"):
        for tier in getattr(getattr(price, name), "tiers", ()):
            yield tier.start


def _step(price: Any, place: int) -> Prices | None:
    """The prices of one step: 0 the first, -1 the dearest of all."""
    paid = {
        name: _amount(getattr(price, f"{name}_mtok"), place)
        for name in ("input", "output", "cache_read", "cache_write")
    }
    amounts: Sequence[Decimal] = [amount for amount in paid.values() if amount is not None]
    if paid["input"] is None or any(not 0 <= amount < PRICE_CEILING for amount in amounts):
        return None
    output = paid["output"] if paid["output"] is not None else Decimal(0)
    per_request = _amount(price.requests_kcount, place) or Decimal(0)
    return Prices(
        input_per_million=paid["input"],
        output_per_million=output,
        cached_input_per_million=paid["input"]
        if paid["cache_read"] is None
        else paid["cache_read"],
        reasoning_per_million=output,
        per_request=(per_request / 1000).quantize(DECIMALS),
        cache_write_per_million=paid["cache_write"],
    )


def _amount(value: Any, place: int) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, Decimal):
        return value.quantize(DECIMALS)
    steps = [value.base, *(tier.price for tier in value.tiers)]
    amount: Decimal = steps[0] if place == 0 else max(steps)
    return amount.quantize(DECIMALS)
