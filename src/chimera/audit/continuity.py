"""Is anything missing that should be in the log? Two questions the Merkle tree cannot answer.

- Writers count their events, so an event removed before it was sealed leaves a number unused.
- A leaf without its payload must be named by a later leaf that records the drop.

What must stay true: memory grows with writers and with faults, never with the number of leaves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FAULTS_MAX = 100_000  # numbers or ranges remembered before the rest is only called "too many"
HIDDEN_MAX = 1_000  # ranges of hidden numbers remembered per writer before the oldest are merged
_RANGE = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class TooManyFaults(Exception):
    """More is missing than is worth listing."""


@dataclass(slots=True)
class _Writer:
    first: int
    expected: int
    unseen: int  # leaves without payload when this writer was last seen
    missing: dict[int, int] = field(default_factory=dict)  # number -> log index that skipped it
    hidden: list[range] = field(default_factory=list)  # numbers unseen payloads may account for


class WriterNumbers:
    """Watches the numbers of all writers, leaf by leaf in log order."""

    def __init__(self, from_start: bool) -> None:
        """from_start: whether leaf 0 is seen, so that every writer must begin with 1."""
        self._from_start = from_start
        self._writers: dict[str, _Writer] = {}
        self._missing_count = 0
        # Numbers that may belong to payloads which are not shown; nothing can be said about them.
        self.hidden_count = 0

    def __len__(self) -> int:
        return len(self._writers)

    def take(self, writer_id: str, seq: int, index: int, unseen: int) -> bool:
        """Note a number; False if it was used before.

        index: of the leaf. unseen: how many leaves before it have no payload. A number may come
        late (sealing orders batches, not writers), so gaps are judged in `missing`, at the end.
        """
        writer = self._writers.get(writer_id)
        if writer is None:
            first = 1 if self._from_start else seq
            writer = self._writers[writer_id] = _Writer(first, first, 0)
        if seq < writer.expected:
            return self._late(writer, seq)
        if seq > writer.expected:
            self._skip(writer, seq, index, unseen)
        writer.expected = seq + 1
        writer.unseen = unseen
        return True

    def _late(self, writer: _Writer, seq: int) -> bool:
        if writer.missing.pop(seq, None) is not None:
            self._missing_count -= 1
            return True
        before_window = not self._from_start and seq < writer.first
        return before_window or any(seq in numbers for numbers in writer.hidden)

    def _skip(self, writer: _Writer, seq: int, index: int, unseen: int) -> None:
        skipped = range(writer.expected, seq)
        if len(skipped) <= unseen - writer.unseen:
            self.hidden_count += len(skipped)
            writer.hidden.append(skipped)
            if len(writer.hidden) > HIDDEN_MAX:
                older, newer = writer.hidden[:2]
                writer.hidden[:2] = [range(older.start, newer.stop)]
            return
        self._missing_count += len(skipped)
        if self._missing_count > FAULTS_MAX:
            raise TooManyFaults
        writer.missing.update((number, index) for number in skipped)

    def missing(self) -> list[tuple[int, str]]:
        """(log index of the leaf that skipped numbers, sentence), by index."""
        found = []
        for writer_id, writer in self._writers.items():
            by_index: dict[int, list[int]] = {}
            for number, index in writer.missing.items():
                by_index.setdefault(index, []).append(number)
            for index, numbers in by_index.items():
                count, low, high = len(numbers), min(numbers), max(numbers)
                which = f"number {low} was" if count == 1 else f"{count} of {low} to {high} were"
                found.append((index, f"writer {writer_id}: {which} never sealed"))
        return sorted(found)


class DroppedPayloads:
    """Leaves without payload, and the leaves which record why."""

    def __init__(self) -> None:
        self.count = 0
        self._runs: list[tuple[int, int]] = []  # [low, high) without payload, ascending
        self._recorded: list[tuple[int, int]] = []

    def drop(self, index: int) -> None:
        """Note a leaf without payload; indexes ascend."""
        self.count += 1
        if self._runs and self._runs[-1][1] == index:
            self._runs[-1] = (self._runs[-1][0], index + 1)
            return
        if len(self._runs) >= FAULTS_MAX:
            raise TooManyFaults
        self._runs.append((index, index + 1))

    def record_range(self, text: str, index: int) -> None:
        """Note the range a leaf's drop names, if it is one of leaves before itself."""
        span = _RANGE.fullmatch(text)
        if span and int(span[1]) <= int(span[2]) < index:
            if len(self._recorded) >= FAULTS_MAX:
                raise TooManyFaults
            self._recorded.append((int(span[1]), int(span[2]) + 1))

    def unrecorded(self) -> list[tuple[int, str]]:
        """(first log index, sentence) of each run of leaves whose drop no later leaf records."""
        recorded = _merged(self._recorded)
        return [
            (low, f"the payloads of leaves {low} to {high - 1} are gone and no leaf records why")
            for low, high in self._runs
            if not any(first <= low and high <= end for first, end in recorded)
        ]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
