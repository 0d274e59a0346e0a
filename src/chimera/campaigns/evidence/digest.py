"""What a recorded result is, as the Merkle root of its flush pins it.

Nothing but the standard library: the offline verifier uses it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# All of it is stored as it stands.
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


def digest_bytes(row: Mapping[str, Any]) -> bytes:
    """Canonical JSON of the digested members of a result: a list without spaces, UTF-8."""
    return json.dumps(
        [row[name] for name in DIGESTED], ensure_ascii=False, separators=(",", ":")
    ).encode()
