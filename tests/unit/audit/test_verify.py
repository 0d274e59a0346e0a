"""The offline verifier, as an auditor meets it: honest bundles, and every way to cheat."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import chain

import pytest

from chimera.audit import merkle
from chimera.audit.bundle import BundleError, SignedCheckpoint, Tombstone, decode_line, encode_line
from chimera.audit.leaf import DROP_ACTION, DROP_ENTITY, chain_leaf, encode_leaf, new_salts
from chimera.audit.note import Checkpoint, Note, SigningKey
from chimera.audit.report import Verdict
from chimera.audit.verify import verify_bundle

# Lines of `log.bundle()`: header, checkpoint, then the entries.
FIRST = 2


def rechained(log, lines, start):
    """What somebody with the database, but not the signing key, can do: recompute every hash."""
    prev = log.prev(start)
    for at in range(len(lines) - len(log.hashes) + start, len(lines)):
        lines[at] = replace(lines[at], prev=prev, hash=chain_leaf(prev, lines[at].leaf))
        prev = lines[at].hash
    return lines


def altered(log, event, index):
    """The entry of a leaf whose action was changed, with salts and values to match."""
    changed = event(index + 1, action="campaign.delete")
    salts = new_salts(changed)
    return replace(log.entry(index), leaf=encode_leaf(changed, salts), openings=())


def test_an_honest_log_is_verified(log, witness):
    """Everything is recomputed: leaves, chain, roots, values, counters; witnesses are named."""
    lines = log.bundle(at=(0, 4, 8))
    note = Note.parse(lines[4].note)
    cosigned = note.with_signature(witness.cosign(note.text, 1_790_000_000))
    lines[4] = SignedCheckpoint(str(cosigned))

    report = log.verify(lines, log.checkpoint(5), str(witness.verifier))

    assert report.verdict is Verdict.VERIFIED
    assert (report.size, report.proven_size, report.entries) == (11, 11, 11)
    assert (report.opened, report.withheld, report.since_size) == (55, 0, 5)
    assert report.witnessed_by == (("witness.example/w1", 1_790_000_000),)
    assert report.first_bad_index is None


@pytest.mark.parametrize("size", range(12))
def test_any_older_checkpoint_is_a_prefix(log, size):
    """An auditor may come with a checkpoint of any size seen before, even of the empty log."""
    report = log.verify(log.bundle(), log.checkpoint(size))

    assert (report.verdict, report.since_size) == (Verdict.VERIFIED, size)


def test_an_empty_log_is_verified(log):
    """Nothing happened yet, and that is signed."""
    log.hashes.clear()

    assert log.verify(log.bundle()).verdict is Verdict.VERIFIED


def test_an_erased_value_changes_nothing(log):
    """Without salts and values the leaves still prove; the values count as not disclosed."""
    lines = log.bundle()
    lines[FIRST + 3] = log.entry(3, opened=False)
    report = log.verify(lines)

    assert (report.verdict, report.opened, report.withheld) == (Verdict.VERIFIED, 50, 5)


@pytest.mark.parametrize("index", [0, 5, 10])
def test_a_changed_row_is_named(log, event, index):
    """One leaf was edited in place: the report names that very row."""
    lines = log.bundle()
    lines[FIRST + index] = altered(log, event, index)
    report = log.verify(lines)

    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, index)


@pytest.mark.parametrize("bit", range(0, 8 * 60, 31))
def test_every_flipped_bit_of_a_leaf_is_seen(log, bit):
    """Wherever the bit is, the leaf no longer has its hash."""
    lines = log.bundle()
    leaf = bytearray(lines[FIRST + 6].leaf)
    leaf[bit // 8] ^= 1 << bit % 8
    lines[FIRST + 6] = replace(lines[FIRST + 6], leaf=bytes(leaf))
    report = log.verify(lines)

    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 6)


def test_a_recomputed_chain_is_seen(log, event):
    """The editor recomputed every later hash: the signed root tells, and says since where."""
    lines = log.bundle(at=(4,))
    lines[-5] = altered(log, event, 6)
    report = log.verify(rechained(log, lines, 6))

    assert (report.verdict, report.proven_size) == (Verdict.TAMPERED, 4)
    assert report.first_bad_index == 4


def test_a_new_history_under_the_right_key_is_seen_by_who_kept_a_checkpoint(log, event):
    """Even whoever holds the signing key cannot rewrite what an auditor has a checkpoint of."""
    kept = log.checkpoint(8)
    rewritten = type(log)(key=log.key)
    for number in range(1, 12):
        rewritten.append(event(number))

    assert rewritten.verify(rewritten.bundle()).verdict is Verdict.VERIFIED
    assert rewritten.verify(rewritten.bundle(), kept).verdict is Verdict.TAMPERED
    same_size = rewritten.verify(rewritten.bundle(), log.checkpoint())
    assert same_size.verdict is Verdict.TAMPERED
    assert "two different roots" in same_size.findings[0].reason


@pytest.mark.parametrize("missing", [1, 4, 11])
def test_a_cut_tail_is_seen(log, missing):
    """The newest rows are left out: the checkpoint says how many there are."""
    report = log.verify(log.bundle()[:-missing])

    assert report.verdict is Verdict.INCOMPLETE
    assert report.first_bad_index == 11 - missing


def test_a_file_cut_in_the_middle_of_a_line_is_incomplete(log):
    """A broken download is not an accusation."""
    data = b"".join(map(encode_line, log.bundle()))[:-20]
    report = verify_bundle(data.splitlines(keepends=True), [log.vkey])

    assert report.verdict is Verdict.INCOMPLETE


def test_an_older_bundle_than_the_kept_checkpoint_is_seen(log):
    """A restored backup: fewer leaves than the auditor has seen signed."""
    kept = log.checkpoint()
    del log.hashes[8:]
    report = log.verify(log.bundle(), kept)

    assert report.verdict is Verdict.INCOMPLETE
    assert "the log had 11 leaves" in report.findings[0].reason


def test_a_removed_row_is_seen(log):
    """A row is missing in the middle of the bundle."""
    lines = log.bundle()
    del lines[FIRST + 4]
    report = log.verify(lines)

    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 4)


def test_rows_beyond_the_checkpoint_are_not_proven(log, event):
    """A leaf nobody signed yet does not pass for a proven one."""
    lines = log.bundle()
    log.append(event(12))
    report = log.verify([*lines, log.entry(11)])

    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 11)


def test_an_event_removed_before_sealing_is_seen(log, event):
    """The tree is sound, but a writer's count has a hole."""
    for seq in (13, 16):
        log.append(event(seq))
    report = log.verify(log.bundle())

    assert report.verdict is Verdict.INCOMPLETE
    assert [(f.index, f.reason) for f in report.findings] == [
        (11, "writer server-1.conn-1: number 12 was never sealed"),
        (12, "writer server-1.conn-1: 2 of 14 to 15 were never sealed"),
    ]


def test_events_sealed_out_of_order_are_no_gap(log, event):
    """Batches need not keep a writer's order; a number that comes late closes its gap."""
    for seq in (13, 12, 14):
        log.append(event(seq))

    assert log.verify(log.bundle()).verdict is Verdict.VERIFIED


def test_a_writer_that_does_not_begin_with_one_is_seen(log, event):
    """Its first event was removed."""
    log.append(event(2, writer_id="server-2.conn-1"))

    assert log.verify(log.bundle()).first_bad_index == 11


def test_a_number_used_twice_is_seen(log, event):
    """Two events by one writer with one number: one of them was put in."""
    log.append(event(5))
    report = log.verify(log.bundle())

    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 11)


def drop_record(event, number, span):
    return event(number, action=DROP_ACTION, entity=DROP_ENTITY, entity_id=span, fields=())


def test_a_dropped_month_still_proves(log, event):
    """Payloads of leaves 0 to 6 are gone, a later leaf says so: the rest is verified."""
    log.append(drop_record(event, 12, "0-6"))
    report = log.verify(log.bundle(dropped=range(7)), log.checkpoint(3))

    assert report.verdict is Verdict.VERIFIED
    assert (report.tombstones, report.entries, report.hidden_numbers) == (7, 5, 7)


@pytest.mark.parametrize("span", ["0-5", "1-6", "7-9", "0-11", "0-012", "-", None])
def test_a_drop_nobody_recorded_is_seen(log, event, span):
    """Tombstones without a leaf that names all of them, from before it: payloads were destroyed."""
    log.append(drop_record(event, 12, span))
    report = log.verify(log.bundle(dropped=range(7)))

    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 0)


def test_two_records_may_cover_one_run(log, event):
    """January and February were dropped one after the other; together they name every leaf."""
    log.append(drop_record(event, 12, "0-3"))
    log.append(drop_record(event, 13, "4-6"))

    assert log.verify(log.bundle(dropped=range(7))).verdict is Verdict.VERIFIED


def test_a_denied_drop_is_no_record(log, event):
    """An attempt to drop that was refused covers nothing."""
    record = replace(drop_record(event, 12, "0-6"), outcome="denied")
    log.append(record)

    assert log.verify(log.bundle(dropped=range(7))).verdict is Verdict.INCOMPLETE


def test_dropped_payloads_explain_no_more_numbers_than_they_are(log, event):
    """One payload is dropped, three numbers are missing: two at least were removed."""
    log.append(event(15))
    log.append(drop_record(event, 16, "10-10"))
    report = log.verify(log.bundle(dropped=range(10, 11)))

    assert report.verdict is Verdict.INCOMPLETE
    assert report.first_bad_index == 11


def test_a_false_value_is_seen(log):
    """The leaf is right, the value shown for it is not."""
    lines = log.bundle()
    entry = lines[FIRST + 2]
    false = replace(entry.openings[0], value=b"203.0.113.9")
    lines[FIRST + 2] = replace(entry, openings=(false, *entry.openings[1:]))
    report = log.verify(lines)

    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 2)


def test_a_range_continues_an_older_checkpoint(log):
    """A monthly export: leaves from 7 on, proven together with the checkpoint of last month."""
    report = log.verify(log.bundle(first=7), log.checkpoint(7))

    assert (report.verdict, report.since_size, report.entries) == (Verdict.VERIFIED, 7, 4)


@pytest.mark.parametrize("since", [None, 6])
def test_a_range_without_its_beginning_is_incomplete(log, since):
    """The header is not signed: leaves 0 to 6 could have been cut off by anybody."""
    kept = None if since is None else log.checkpoint(since)
    report = log.verify(log.bundle(first=7), kept)

    assert report.verdict is Verdict.INCOMPLETE


def test_a_range_with_a_false_frontier_is_seen(log):
    """The hashes that stand for the earlier leaves are bound by the signed root."""
    lines = log.bundle(first=7)
    bent = merkle.Frontier(7, (bytes(32), *lines[0].frontier.hashes[1:]))
    lines[0] = replace(lines[0], frontier=bent)

    assert log.verify(lines, log.checkpoint(8)).verdict is Verdict.TAMPERED


def test_a_selection_proves_single_events(log):
    """One tenant's events, without anybody else's: each has its own proof."""
    report = log.verify(log.selection(0, 4, 5, 10), log.checkpoint())

    assert (report.verdict, report.entries, report.selection) == (Verdict.VERIFIED, 4, True)


def test_a_bent_selection_is_seen(log, event):
    """A changed leaf, a changed proof, another leaf's proof."""
    for entry in (
        altered(log, event, 4),
        replace(log.proven(4), proof=log.proven(5).proof),
        replace(log.proven(4), proof=(*log.proven(4).proof, bytes(32))),
    ):
        lines = log.selection(4)
        hash_ = chain_leaf(entry.prev, entry.leaf)
        lines[FIRST] = replace(entry, hash=hash_, proof=entry.proof or log.proven(4).proof)
        report = log.verify(lines)

        assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 4)


def test_a_selection_cannot_prove_growth(log):
    """It says so, instead of passing over the checkpoint it was given."""
    assert log.verify(log.selection(4), log.checkpoint(8)).verdict is Verdict.INCOMPLETE


def test_two_signed_roots_for_one_size_are_a_split_view(log, event):
    """The signing key signed two histories: the strongest evidence there is."""
    other = type(log)(key=log.key)
    for number in range(1, 12):
        other.append(event(number))
    lines = log.bundle()
    lines.insert(2, SignedCheckpoint(str(other.checkpoint())))

    assert log.verify(lines).verdict is Verdict.TAMPERED


def test_a_wrong_signature_is_tampering_and_a_foreign_one_is_not_enough(log, witness):
    """The log's own key with a wrong signature; another key; only a witness; another log's key."""
    note = log.checkpoint()
    text = note.text
    wrong = Note(text, (log.checkpoint(5).signatures[0],))
    foreign = SigningKey.generate("other.example/audit")
    for signed, keys, verdict in (
        (wrong, (), Verdict.TAMPERED),
        (Note(text, (SigningKey.generate(log.key.verifier.name).sign(text),)), (),
         Verdict.BAD_INPUT),
        (Note(text, (witness.cosign(text, 5),)), (str(witness.verifier),), Verdict.BAD_INPUT),
        (Note(text, (foreign.sign(text),)), (str(foreign.verifier),), Verdict.BAD_INPUT),
    ):  # fmt: skip
        lines = log.bundle()
        lines[1] = SignedCheckpoint(str(signed))

        assert log.verify(lines, None, *keys).verdict is verdict


def test_a_checkpoint_of_another_log_is_refused(log):
    """Right key, another origin in the header."""
    lines = log.bundle()
    lines[0] = replace(lines[0], origin="other.example/audit")

    assert log.verify(lines).verdict is Verdict.BAD_INPUT


def test_lines_in_another_order_are_refused(log):
    """Header, checkpoints, leaves; each once and in order."""
    header, note, *entries = log.bundle()
    early = SignedCheckpoint(str(log.checkpoint(4)))
    for lines in (
        [], [header], [note], [note, header, *entries], [header, *entries],
        [header, header, note, *entries], [header, note, early, *entries],
        [header, note, entries[0], note], [header, note, entries[0], entries[0]],
        [header, note, log.proven(0)], [*log.selection(4, 2)],
        [*log.selection(), log.entry(3)], [*log.selection(), log.bundle(dropped=range(1))[FIRST]],
    ):  # fmt: skip
        assert log.verify(lines).verdict is Verdict.BAD_INPUT


@pytest.mark.parametrize(
    "change",
    [
        {"index": True}, {"index": -1}, {"index": "0"}, {"index": 1.0}, {"extra": 1},
        {"hash": "AAAA"}, {"leaf": "not base64"}, {"leaf": "QQ"}, {"leaf": "QR=="},
        {"leaf": None}, {"type": "else"}, {"open": {}}, {"open": [1]}, {"open": [{}]},
        {"proof": "x"}, {"proof": [""]},
    ],
)  # fmt: skip
def test_a_line_of_any_other_form_is_bad_input(log, change):
    """One meaning per line; the report names the line."""
    lines = [encode_line(line) for line in log.bundle()]
    lines[FIRST] = json.dumps(json.loads(lines[FIRST]) | change).encode() + b"\n"
    report = verify_bundle(lines, [log.vkey])

    assert report.verdict is Verdict.BAD_INPUT
    assert "line 3" in report.findings[0].reason


@pytest.mark.parametrize(
    "line",
    [b"", b"[]\n", b"{}\n", b"nonsense\n", b"\xff\n", b'{"type":"tombstone","type":"entry"}\n',
     b"[" * 100_000 + b"\n", b'{"type":NaN}\n'],
)  # fmt: skip
def test_what_is_no_line_is_refused(line):
    """Whatever the bytes are, it is a BundleError."""
    with pytest.raises(BundleError):
        decode_line(line)


def test_lines_survive_their_text(log):
    """Every kind of line comes back equal."""
    for line in (*log.bundle(first=3, dropped=range(4, 6)), log.proven(4)):
        assert decode_line(encode_line(line)) == line


def test_progress_is_told(log, event):
    """The callback hears of every batch, up to the last leaf."""
    heard = []
    lines = map(encode_line, log.bundle(at=(4,)))
    verify_bundle(lines, [log.vkey], None, lambda done, total: heard.append((done, total)))

    assert heard == [(4, 11), (11, 11)]


def test_memory_does_not_grow_with_the_bundle(log):
    """Thousands of leaves more, read from a stream, keep less than a hash of each in memory."""

    def peak(count):
        hashes = [merkle.leaf_hash(n.to_bytes(4, "big")) for n in range(count)]
        text = Checkpoint(log.key.verifier.name, count, merkle.root(hashes)).text
        note = SignedCheckpoint(str(Note(text, (log.key.sign(text),))))
        leaves = (Tombstone(index, value) for index, value in enumerate(hashes))
        lines = map(encode_line, chain(log.bundle()[:1], [note], leaves))
        tracemalloc.start()
        report = verify_bundle(lines, [log.vkey])
        kept = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.proven_size == count
        return kept

    added = 9_000
    assert peak(9_000 + added) - peak(9_000) < added * merkle.HASH_BYTES


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """Runs the verifier as an auditor does, in a process of its own."""

    def run(lines, *arguments):
        path = tmp_path / "bundle.jsonl"
        path.write_bytes(b"".join(map(encode_line, lines)))
        return subprocess.run(
            [sys.executable, "-m", "chimera.audit.verify", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PYTHONPATH": ":".join(sys.path)},
        )

    return run


def test_the_exit_code_is_the_verdict(log, event, tmp_path, command):
    """0 verified, 1 tampered, 2 incomplete, 3 bad input, also for wrong usage."""
    kept = tmp_path / "kept.txt"
    kept.write_text(str(log.checkpoint(4)))
    key = ("--key", log.vkey)
    tampered = log.bundle()
    tampered[FIRST + 5] = altered(log, event, 5)

    good = command(log.bundle(), *key, "--since", str(kept))
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "verdict: verified")
    assert "consistent with the older checkpoint of size 4" in good.stdout
    assert "verified 11 of 11 leaves" in good.stderr
    bad = command(tampered, *key)
    assert bad.returncode == 1
    assert "tampered at index 5" in bad.stdout
    assert command(log.bundle()[:-1], *key).returncode == 2
    assert command(log.bundle()).returncode == 3
    assert command(log.bundle(), "--key", "nonsense").returncode == 3
    assert command(log.bundle(), *key, "--since", str(tmp_path / "absent")).returncode == 3


def test_the_verifier_needs_nothing_of_the_server():
    """Importing it brings in the standard library, `cryptography` and the audit package alone."""
    script = (
        "import sys; before = set(sys.modules); import chimera.audit.verify; "
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    loaded = set(run.stdout.split())
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    ours = {name for name in loaded if name.startswith("chimera.")}

    assert foreign <= {"chimera", "cryptography", "_cffi_backend", "_openssl"}
    assert all(name.startswith("chimera.audit") for name in ours)
