"""Reading values out of a provider's JSON without trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chimera.providers.adapters import EmbedReply, Usage
from chimera.providers.adapters.exchange import Answer, bad_response

# No context window comes near it; a larger figure would corrupt a ledger.
TOKENS_MAX = 1_000_000_000
VECTOR_LENGTH_MAX = 100_000


def token_count(document: Mapping[str, Any], name: str) -> int | None:
    """The count under `name`, or None when absent or null. Raises ProviderError when it is not a
    whole number from 0 to TOKENS_MAX."""
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= TOKENS_MAX:
        raise bad_response(f"the usage has an impossible {name}")
    return value


def storable(text: str) -> str:
    """`text` without NUL, which PostgreSQL's text type cannot hold."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def vectors_of(rows: object, count: int) -> tuple[tuple[float, ...], ...]:
    """`count` vectors of one length out of a list of lists of numbers. Raises ProviderError."""
    if not isinstance(rows, list) or len(rows) != count:
        raise bad_response("the answer has another number of vectors than there were texts")
    vectors = []
    for row in rows:
        if not isinstance(row, list) or not 0 < len(row) <= VECTOR_LENGTH_MAX:
            raise bad_response("a vector is not a list of numbers")
        if not all(type(part) in (int, float) for part in row):
            raise bad_response("a vector holds something that is not a number")
        vectors.append(tuple(float(part) for part in row))
    if len({len(vector) for vector in vectors}) > 1:
        raise bad_response("the vectors have different lengths")
    return tuple(vectors)


def embed_reply(
    answer: Answer, vectors: tuple[tuple[float, ...], ...], model: str, usage: Usage | None
) -> EmbedReply:
    return EmbedReply(
        vectors=vectors,
        model=storable(model)[:200],
        usage=usage,
        latency_ms=answer.latency_ms,
        response_bytes=answer.body_bytes,
        provider_request_id=answer.request_id,
    )
