"""Switchable misbehaviour of the embedded assistant.

A fault is a rule: which calls it matches, how many of them it hits, what it does. Rules are tried
in the order they were posted; every matching `latency` rule adds its delay, and the first other
rule that hits decides the call. A share is drawn from the rule's own seeded sequence, so a test
that sends the same calls in the same order sees the same faults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

KINDS = frozenset(
    {
        "latency",
        "rate_limited",
        "status",
        "hang",
        "cut",
        "malformed_json",
        "usage",
        "huge",
        "content_type",
    }
)
_FIELDS = frozenset(
    {
        "kind",
        "model",
        "contains",
        "share",
        "next",
        "seed",
        "ms",
        "p50_ms",
        "p99_ms",
        "retry_after_s",
        "retry_after_form",
        "status",
        "where",
        "usage",
        "bytes",
        "content_type",
    }
)
RULES_MAX = 100
HUGE_BYTES_MAX = 256_000_000
_P99_SIGMAS = 2.3263


@dataclass(slots=True)
class Fault:
    """One rule.

    Matching: `model` (exact) and `contains` (substring of the last user message); both optional.
    Amount: `next` (that many matching calls, then the rule is spent) or `share` (0 to 1, default
    1) of the matching calls, drawn with `seed`.
    What it does, by `kind`:
      latency: waits `ms`, or a log-normal time with median `p50_ms` and 99th percentile `p99_ms`.
      rate_limited: 429 with Retry-After of `retry_after_s` in `retry_after_form` (`seconds`,
        `date` or `none`).
      status: the provider's error answer for `status` (such as 500, 503, 401).
      hang: never finishes, before the `headers` or in the `body` (`where`), until the client goes.
      cut: closes the connection before the `headers` or in the `body`.
      malformed_json: a 200 whose body breaks off in the middle of the JSON.
      usage: replaces the usage by `usage` (any JSON; null leaves it out).
      huge: an answer text of `bytes` bytes.
      content_type: the right body under another `content_type`.
    """

    kind: str
    model: str = ""
    contains: str = ""
    share: float = 1.0
    next: int | None = None
    seed: int = 0
    ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    retry_after_s: float = 1.0
    retry_after_form: str = "seconds"
    status: int = 500
    where: str = "headers"
    usage: Any = None
    bytes: int = 0
    content_type: str = "text/plain"
    hits: int = 0
    _random: Random = field(default_factory=Random, repr=False)

    def takes(self, model: str, prompt: str) -> bool:
        """Whether this call is hit; counts it if so."""
        if (self.model and self.model != model) or (self.contains and self.contains not in prompt):
            return False
        if self.next is not None:
            if self.next <= 0:
                return False
            self.next -= 1
        elif self.share < 1.0 and self._random.random() >= self.share:
            return False
        self.hits += 1
        return True

    def delay_s(self) -> float:
        """Seconds this latency rule adds to one call."""
        if not self.p50_ms:
            return self.ms / 1000
        sigma = math.log(max(self.p99_ms, self.p50_ms) / self.p50_ms) / _P99_SIGMAS
        return self._random.lognormvariate(math.log(self.p50_ms), sigma) / 1000

    def retry_after(self) -> str | None:
        """The Retry-After value of a `rate_limited` rule. A date is rounded up to a second."""
        if self.retry_after_form == "none":
            return None
        if self.retry_after_form == "seconds":
            return f"{self.retry_after_s:g}"
        until = datetime.now(UTC) + timedelta(seconds=math.ceil(self.retry_after_s))
        return format_datetime(until, usegmt=True)

    def shown(self) -> dict[str, Any]:
        """The rule as JSON, with what is left of `next` and the number of `hits`."""
        return {name: getattr(self, name) for name in (*sorted(_FIELDS), "hits")}


def read_fault(document: object) -> Fault:
    """The rule in a JSON object. Raises ValueError with what is wrong."""
    if not isinstance(document, Mapping):
        raise ValueError("a fault is a JSON object")
    unknown = set(document) - _FIELDS
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(sorted(map(str, unknown)))}")
    if document.get("kind") not in KINDS:
        raise ValueError(f"kind is one of {', '.join(sorted(KINDS))}")
    for name, value in document.items():
        expected = _TYPES.get(name)
        if expected and (not isinstance(value, expected) or isinstance(value, bool)):
            raise ValueError(f"{name} has the wrong type")
    fault = Fault(**document)
    if not 0 <= fault.share <= 1 or not 0 <= fault.bytes <= HUGE_BYTES_MAX:
        raise ValueError("share is 0 to 1 and bytes at most 256000000")
    if fault.where not in ("headers", "body") or not 400 <= fault.status <= 599:
        raise ValueError("where is headers or body, status is 400 to 599")
    if fault.retry_after_form not in ("seconds", "date", "none"):
        raise ValueError("retry_after_form is seconds, date or none")
    if min(fault.ms, fault.p50_ms, fault.p99_ms, fault.retry_after_s) < 0:
        raise ValueError("times are not negative")
    fault._random = Random(fault.seed)
    return fault


_NUMBER = (int, float)
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "model": str,
    "contains": str,
    "share": _NUMBER,
    "next": int,
    "seed": int,
    "ms": _NUMBER,
    "p50_ms": _NUMBER,
    "p99_ms": _NUMBER,
    "retry_after_s": _NUMBER,
    "retry_after_form": str,
    "status": int,
    "where": str,
    "bytes": int,
    "content_type": str,
}
