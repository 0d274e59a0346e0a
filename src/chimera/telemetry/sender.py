"""Who sends a batch, and what of an event follows from that: its id, its user, a sane clock."""

from __future__ import annotations

import hashlib
import re
import time
from array import array
from dataclasses import dataclass, field

from chimera.call import NOBODY, Call
from chimera.v1.options_pb2 import Permission

AHEAD_MAX_MS = 5 * 60_000
# Events are kept for 90 days, and none may run out while its batch is still being compared.
OLD_MAX_MS = 80 * 86_400_000
NAME_MAX = 100  # characters of types, names of metrics and dimensions, units
TEXT_MAX = 1_000  # of the value of a dimension
ID_MAX = 200  # of workload, session and correlation
PAYLOAD_MAX = 32_000
PAIRS_MAX = 64  # metrics, and dimensions, of one event
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Unfit(ValueError):
    """An event or column that cannot be taken: `field` of it, and why. `index`: of a column, the first
    event at fault."""

    def __init__(self, field: str, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.message = message if index is None else f"[{index}] {message}"
        self.path = field if index is None else f"{field}[{index}]"


@dataclass(frozen=True, slots=True)
class Sender:
    """A caller with one of its batches."""

    user_id: str
    is_relay: bool
    producer: str
    batch_id: str
    now_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    @classmethod
    def of(cls, call: Call, producer: str, batch_id: str) -> Sender:
        relay = call.caller.may(Permission.PERMISSION_TELEMETRY_RELAY)
        return cls(call.caller.user_id or NOBODY, relay, producer, batch_id.lower())

    def _halves(self) -> tuple[int, int]:
        """Of made ids (version 8 of RFC 9562); the place in the batch is added to the second."""
        name = f"{self.producer}\0{self.batch_id}".encode()
        digest = hashlib.blake2b(name, digest_size=12).digest()
        high = int.from_bytes(digest[:8], "big") & ~0xF000 | 0x8000
        low = 0b10 << 62 | (int.from_bytes(digest[8:], "big") & 0x3FFF_FFFF) << 32
        return high, low

    def event_ids(self, count: int) -> bytes:
        """Ids of a batch in the store's form: the same for the same batch."""
        high, low = self._halves()
        halves = array("Q", bytes(16 * count))
        halves[::2] = array("Q", [high]) * count
        halves[1::2] = array("Q", range(low, low + count))
        return halves.tobytes()

    def event_id_head(self) -> str:
        """What the ids of a batch begin with; the place in the batch follows as 8 hex digits."""
        high, low = self._halves()
        h = f"{high:016x}{low:016x}"
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:24]}"

    def check_time(self, field: str, timestamp_ms: int, index: int | None = None) -> None:
        """Raises Unfit for what a broken clock gives."""
        if timestamp_ms > self.now_ms + AHEAD_MAX_MS:
            raise Unfit(field, "is more than five minutes ahead of the server's clock", index)
        if timestamp_ms < self.now_ms - OLD_MAX_MS:
            raise Unfit(field, "is more than 80 days old, and events are kept for 90", index)

    def check_user(self, field: str, user_id: str) -> None:
        """Raises Unfit when the sender may not speak for this user."""
        if not UUID_FORM.fullmatch(user_id):
            raise Unfit(field, "is not a UUID")
        if not self.is_relay and user_id.lower() != self.user_id:
            raise Unfit(field, "is somebody else; that needs the permission TELEMETRY_RELAY")
