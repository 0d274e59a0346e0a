"""What a recorded result is, as the Merkle root of its flush pins it.

Nothing but the standard library: the offline verifier uses it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
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
# transcript: of a conversation, the hash over its turns.
LATER = ("finish_reason", "transcript")
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


def digested(row: Mapping[str, Any]) -> list[Any]:
    """The digested members of a result, in order."""
    later = [row[name] for name in LATER if row.get(name) is not None]
    return [row[name] for name in DIGESTED] + later


def digest_bytes(row: Mapping[str, Any]) -> bytes:
    """Canonical JSON of the digested members of a result: a list without spaces, UTF-8."""
    return _canonical(digested(row))


def transcript_hash(turns: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) over the turns, in order, each as canonical JSON on a line of its own."""
    digest = hashlib.sha256()
    for turn in turns:
        digest.update(_canonical([turn[name] for name in DIGESTED_OF_TURN]) + b"\n")
    return digest.hexdigest()


def _canonical(members: list[Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
