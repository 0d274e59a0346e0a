"""The guarded signer: what it signed once, it never contradicts."""

import json
import multiprocessing
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chimera.audit import merkle
from chimera.audit.note import Checkpoint, Note, SigningKey, verify_note
from chimera.audit.signer import GuardedSigner, Refusal, SigningRefused

ORIGIN = "chimera.example/audit"
LEAVES = [merkle.leaf_hash(n.to_bytes(2, "big")) for n in range(20)]
OTHER = [merkle.leaf_hash(b"rewritten"), *LEAVES[1:]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def proof(size1: int, size2: int, leaves=LEAVES) -> list[bytes]:
    return merkle.consistency_proof(
        size1, size2, lambda level, i: merkle.root(leaves[i << level : (i + 1) << level])
    )


def root(size: int, leaves=LEAVES) -> bytes:
    return merkle.root(leaves[:size])


@pytest.fixture
def state(tmp_path) -> Path:
    return tmp_path / "signer.json"


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate(ORIGIN)


@pytest.fixture
def signer(key, state) -> GuardedSigner:
    """A signer that has signed a log of eight leaves."""
    signer = GuardedSigner(key, ORIGIN, state)
    signer.create_state()
    signer.sign(8, root(8), [])
    return signer


def refusal(call, *arguments, **named) -> Refusal:
    with pytest.raises(SigningRefused) as caught:
        call(*arguments, **named)
    return caught.value.refusal


def test_a_growing_log_is_signed(key, signer):
    """Each checkpoint that continues the last one is signed and remembered."""
    for size in (9, 16, 20):
        note = signer.sign(size, root(size), proof(signer.last().size, size))

        assert verify_note(note, [key.verifier])
        assert Checkpoint.parse(note.text) == signer.last() == Checkpoint(ORIGIN, size, root(size))


def test_the_same_checkpoint_again_is_the_same_note(signer):
    """A sealer that lost the answer asks again and gets the very same bytes."""
    assert signer.sign(8, root(8), []) == signer.sign(8, root(8), [])


def test_a_restored_backup_is_refused(signer):
    """The log is shorter than what was signed, also when it starts from nothing."""
    assert refusal(signer.sign, 5, root(5), []) is Refusal.SMALLER
    assert refusal(signer.sign, 0, merkle.EMPTY_ROOT, []) is Refusal.SMALLER


def test_a_rewritten_log_is_refused(signer):
    """Same size and another root; or grown, but from another past."""
    assert refusal(signer.sign, 8, root(8, OTHER), []) is Refusal.OTHER_ROOT
    grown = root(12, OTHER), proof(8, 12, OTHER)
    assert refusal(signer.sign, 12, *grown) is Refusal.INCONSISTENT
    assert refusal(signer.sign, 12, root(12), []) is Refusal.INCONSISTENT
    assert refusal(signer.sign, 12, root(12), [*proof(8, 12), bytes(32)]) is Refusal.INCONSISTENT
    assert signer.last().size == 8


def test_values_no_checkpoint_has_are_refused(signer):
    """A negative size, a short root."""
    assert refusal(signer.sign, -1, root(8), []) is Refusal.INVALID
    assert refusal(signer.sign, 9, b"", []) is Refusal.INVALID
    assert refusal(signer.sign, True, root(1), []) is Refusal.INVALID


def test_the_memory_is_outside_the_process(key, state, signer):
    """Another process with the same state file refuses just the same."""
    assert refusal(GuardedSigner(key, ORIGIN, state).sign, 7, root(7), []) is Refusal.SMALLER
    assert stat.S_IMODE(state.stat().st_mode) == 0o600


def test_a_missing_state_is_no_fresh_start(key, state, signer):
    """Deleting the file does not switch the guard off; beginning a log is its own act, once."""
    assert refusal(signer.create_state) is Refusal.STATE_EXISTS
    state.unlink()
    assert refusal(signer.sign, 5, root(5), []) is Refusal.STATE_MISSING
    assert refusal(signer.last) is Refusal.STATE_MISSING


def test_a_forged_state_is_refused(key, state, signer):
    """Whoever edits the file cannot make the signer believe it, for lack of the key."""
    text = Checkpoint(ORIGIN, 5, root(5)).text
    forged = Note(text, (SigningKey.generate(ORIGIN).sign(text),))
    for content in (
        json.dumps({"checkpoint": str(forged), "restores": []}),
        state.read_text().replace("\\n8\\n", "\\n5\\n"),
        json.dumps({"checkpoint": None, "restores": []}),
        "[]", "{}", "", "\x00",
    ):  # fmt: skip
        state.write_text(content)
        assert refusal(signer.sign, 5, root(5), []) is Refusal.STATE_BROKEN


def test_a_crash_while_writing_leaves_the_old_state(state, signer, monkeypatch):
    """The disk fails before the new state is in place: no signature, and the old state stands."""

    def fail(descriptor: int) -> None:
        raise OSError("disk gone")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk gone"):
            signer.sign(12, root(12), proof(8, 12))

    assert signer.last().size == 8
    signer.sign(12, root(12), proof(8, 12))
    assert signer.last().size == 12


def test_the_state_is_written_before_the_signature_is_out(state, signer, monkeypatch):
    """Killed right after the state is in place: the checkpoint nobody saw still binds."""

    class Killed(BaseException):
        pass

    replace = Path.replace

    def replace_and_die(draft: Path, target: Path) -> None:
        replace(draft, target)
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", replace_and_die)
        with pytest.raises(Killed):
            signer.sign(12, root(12), proof(8, 12))

    assert refusal(signer.sign, 10, root(10), proof(8, 10)) is Refusal.SMALLER


def test_a_legitimate_restore_leaves_a_signed_statement(key, signer):
    """The ceremony goes on from the older log, and says for ever who allowed it and why."""
    statement, checkpoint = signer.accept_restore(
        5, root(5), reason="disk lost", approved_by=["olivia", "noor"], at=NOON
    )

    assert verify_note(statement, [key.verifier])
    assert statement.text == (
        "chimera.audit.restore/v1\n"
        "origin chimera.example/audit\n"
        f"from 8 {root(8).hex()}\n"
        f"to 5 {root(5).hex()}\n"
        "at 2026-03-01T12:00:00Z\n"
        "approved-by olivia,noor\n"
        "reason disk lost\n"
    )
    with pytest.raises(ValueError, match="three lines"):
        Checkpoint.parse(statement.text)
    assert Checkpoint.parse(checkpoint.text) == signer.last()
    rewritten = [*LEAVES[:5], *OTHER[:5]]
    signer.sign(10, root(10, rewritten), proof(5, 10, rewritten))
    assert signer.restores() == (str(statement),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": ""}, {"reason": "two\nlines"}, {"approved_by": []}, {"approved_by": "olivia"},
        {"approved_by": ["a,b"]}, {"approved_by": ["  "]}, {"at": datetime(2026, 3, 1)},
    ],
)  # fmt: skip
def test_a_restore_nobody_answers_for_is_refused(signer, wrong):
    """Reason, names and time are complete and cannot smuggle lines into the statement."""
    ceremony = {"reason": "disk lost", "approved_by": ["olivia"], "at": NOON, **wrong}

    assert refusal(signer.accept_restore, 5, root(5), **ceremony) is Refusal.INVALID
    assert signer.last().size == 8
    same = {"reason": "r", "approved_by": ["o"], "at": NOON}
    assert refusal(signer.accept_restore, 8, root(8), **same) is Refusal.INVALID


def test_the_key_must_be_the_logs_own(key, state, witness):
    """Another name or a witness's key is a mistake in the set-up."""
    for wrong in (SigningKey.generate("other.example"), witness):
        with pytest.raises(ValueError, match="named as"):
            GuardedSigner(wrong, ORIGIN, state)


def sign_branch(key_path: Path, state: Path, branch: int, results) -> None:
    leaves = [*LEAVES[:8], merkle.leaf_hash(b"branch %d" % branch)]
    signer = GuardedSigner(SigningKey.load(key_path), ORIGIN, state)
    try:
        signer.sign(9, root(9, leaves), proof(8, 9, leaves))
        results.put("signed")
    except SigningRefused as refused:
        results.put(refused.refusal.value)


def test_of_two_processes_with_two_histories_one_wins(tmp_path, key, state, signer):
    """Four processes each want to sign another ninth leaf: exactly one history is signed."""
    key.save(tmp_path / "key")
    spawn = multiprocessing.get_context("fork")
    results = spawn.Queue()
    racers = [
        spawn.Process(target=sign_branch, args=(tmp_path / "key", state, n, results))
        for n in range(4)
    ]
    for racer in racers:
        racer.start()
    outcomes = sorted(results.get(timeout=30) for _ in racers)
    for racer in racers:
        racer.join()

    assert outcomes == ["other_root"] * 3 + ["signed"]
