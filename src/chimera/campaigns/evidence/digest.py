"""What a recorded result is, as the Merkle root of its flush pins it.

Nothing but the standard library: the offline verifier uses it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
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
# Of a turn of a conversation; the hash over all of them is digested with the result.
DIGESTED_OF_TURN = (
    "turn_no",
    "purpose",
    "model_no",
    "attempt_no",
    "request",
    "reply",
    "is_successful",
    "input_tokens",
    "output_tokens",
    "cost",
)


def digest_bytes(row: Mapping[str, Any]) -> bytes:
    """Canonical JSON of the digested members of a result: a list without spaces, UTF-8. The result
    of a conversation has the hash of its transcript at the end."""
    members = [row[name] for name in DIGESTED]
    if row.get("transcript"):
        members.append(row["transcript"])
    return _canonical(members)


def transcript_hash(turns: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) over the turns, in order, each as canonical JSON on a line of its own."""
    digest = hashlib.sha256()
    for turn in turns:
        digest.update(_canonical([turn[name] for name in DIGESTED_OF_TURN]) + b"\n")
    return digest.hexdigest()


def _canonical(members: list[Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
