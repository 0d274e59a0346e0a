"""One organisation's range of the log: everybody else's leaves are there by their hash only."""

import pytest

from chimera.audit.bundle import Foreign, decode_line, encode_line
from chimera.audit.continuity import HIDDEN_MAX, WriterNumbers
from chimera.audit.report import Verdict


def shown(log, *indexes):
    """The range in which only these leaves are the reader's."""
    return [
        Foreign(line.index, line.hash)
        if getattr(line, "index", None) is not None and line.index not in indexes
        else line
        for line in log.bundle()
    ]


def test_foreign_leaves_prove_the_root_and_are_counted(log):
    """Own entries are verified down to their values; of the others only the presence is."""
    report = log.verify(shown(log, 2, 3, 7), log.checkpoint(5))

    assert (report.verdict, report.since_size, report.proven_size) == (Verdict.VERIFIED, 5, 11)
    assert (report.entries, report.foreign, report.tombstones) == (3, 8, 0)
    assert report.hidden_numbers == 5
    assert "not shown: 8 leaves of others" in str(report)


def test_a_false_foreign_hash_is_seen(log):
    """At once when an own entry follows it, else by the signed root."""
    for index in (6, 10):
        lines = shown(log, 2, 3, 7)
        lines[2 + index] = Foreign(index, bytes(32))
        report = log.verify(lines)
        assert report.verdict is Verdict.TAMPERED


def test_foreign_leaves_excuse_no_more_numbers_than_they_are(log, event):
    """Between two own events one foreign leaf lies and two numbers are missing."""
    log.append(event(12, writer_id="server-2.conn-1"))
    log.append(event(14))
    report = log.verify(shown(log, *range(11), 12))

    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 12)


def test_a_selection_has_no_foreign_leaves(log):
    """They would prove nothing there."""
    lines = [*log.selection(4), Foreign(5, log.hashes[5])]
    assert log.verify(lines).verdict is Verdict.BAD_INPUT


def test_a_foreign_line_survives_its_text(log):
    """And has no other members than its own."""
    line = Foreign(3, log.hashes[3])
    assert decode_line(encode_line(line)) == line
    with pytest.raises(ValueError):
        decode_line(encode_line(line).replace(b"}", b',"leaf":""}'))


def test_hidden_numbers_are_remembered_in_bounded_memory():
    """Every other leaf is foreign, for as long as one likes; numbers used twice are still seen."""
    writers = WriterNumbers(from_start=True)
    for number in range(1, 3 * HIDDEN_MAX + 1):
        assert writers.take("w", 2 * number, index=2 * number, unseen=number)

    assert writers.hidden_count == 3 * HIDDEN_MAX
    assert len(writers._writers["w"].hidden) == HIDDEN_MAX
    assert writers.missing() == []
    assert not writers.take("w", 6 * HIDDEN_MAX, index=9, unseen=9)
