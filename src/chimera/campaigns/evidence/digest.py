"""What a recorded result is, as the Merkle root of its flush pins it.

Nothing but the standard library: the offline verifier uses it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# All of it is stored as it stands. What came later is appended, and only for results that have it:
# what was recorded before hashes as it did then.
DIGESTED = (
    "cell_no",
    "state",
    "transformed_prompt",
    "response",
    "is_successful",
    "verdict_reason",
    "final_error",
    "input_tokens",
    "output_tokens",
    "cost",
)
LATER = ("finish_reason",)


def digested(row: Mapping[str, Any]) -> list[Any]:
    """The digested members of a result, in order."""
    later = [row[name] for name in LATER if row.get(name) is not None]
    return [row[name] for name in DIGESTED] + later


def digest_bytes(row: Mapping[str, Any]) -> bytes:
    """Canonical JSON of the digested members of a result: a list without spaces, UTF-8."""
    return json.dumps(digested(row), ensure_ascii=False, separators=(",", ":")).encode()
