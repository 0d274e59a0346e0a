"""Reading values out of a provider's JSON without trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chimera.providers.adapters.exchange import bad_response

# No context window comes near it; a larger figure would corrupt a ledger.
TOKENS_MAX = 1_000_000_000


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
