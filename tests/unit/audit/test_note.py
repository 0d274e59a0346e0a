"""Signed notes, checkpoints and keys, against published examples and against damage."""

import os
import stat
from base64 import b64encode

import pytest

from chimera.audit import merkle
from chimera.audit.note import (
    Checkpoint,
    KeyKind,
    Note,
    NoteError,
    SignatureMissing,
    SignatureWrong,
    SigningKey,
    VerifierKey,
    verify_note,
)

# The example of golang.org/x/mod/sumdb/note, the format's first implementation.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
    "otpRZb6KE6RyyBwJnAM=\n"
)
ORIGIN = "chimera.example/audit"
TEXT = Checkpoint(ORIGIN, 3, bytes(range(32))).text


@pytest.fixture(scope="module")
def key():
    return SigningKey.generate(ORIGIN)


@pytest.fixture
def note(key):
    return Note(TEXT, (key.sign(TEXT),))


def test_the_published_example_verifies():
    """We read keys and notes of other implementations, and write them back byte for byte."""
    key = VerifierKey.parse(GO_KEY)
    note = Note.parse(GO_NOTE)

    assert [v.key for v in verify_note(note, [key])] == [key]
    assert str(note) == GO_NOTE
    assert str(key) == GO_KEY


def test_a_published_cosignature_parses():
    """The example of c2sp.org/tlog-cosignature: origin, size, and the witness's time inside."""
    note = Note.parse(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Z"
        "hcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJs"
        "X3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    checkpoint = Checkpoint.parse(note.text)

    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert int.from_bytes(note.signatures[1].data[:8], "big") == 1679315147


def test_log_and_witness_sign_the_same_checkpoint(key, witness, note):
    """A witness's line is added to the log's; both verify, the witness's with its time."""
    witnessed = Note.parse(str(note.with_signature(witness.cosign(note.text, 1_790_000_000))))
    verified = verify_note(witnessed, [key.verifier, witness.verifier])

    assert [(v.key.name, v.timestamp_s) for v in verified] == [
        (ORIGIN, None),
        ("witness.example/w1", 1_790_000_000),
    ]


def test_a_cosignature_does_not_hold_for_another_time(witness, note):
    """The time is signed: moving it breaks the signature."""
    line = witness.cosign(note.text, 1_790_000_000)
    moved = type(line)(line.name, line.key_id, (1_790_000_001).to_bytes(8, "big") + line.data[8:])

    with pytest.raises(SignatureWrong):
        verify_note(Note(note.text, (moved,)), [witness.verifier])


def test_unknown_signatures_prove_nothing(key, note):
    """Signed by somebody else, even under the same name: the note counts as unsigned."""
    stranger = SigningKey.generate(ORIGIN)
    with pytest.raises(SignatureMissing):
        verify_note(note, [stranger.verifier])
    both = note.with_signature(stranger.sign(TEXT))
    assert [v.key for v in verify_note(both, [key.verifier])] == [key.verifier]


def test_a_wrong_signature_by_a_known_key_condemns_the_note(key, witness, note):
    """Another text under the signature, or one good and one bad line: refused."""
    altered = Note(note.text.replace("3\n", "4\n", 1), note.signatures)
    bad = witness.cosign(TEXT + "x\n", 5)
    with pytest.raises(SignatureWrong):
        verify_note(altered, [key.verifier])
    with pytest.raises(SignatureWrong):
        verify_note(note.with_signature(bad), [key.verifier, witness.verifier])
    cut = type(bad)(bad.name, bad.key_id, bad.data[:3])
    with pytest.raises(SignatureWrong):
        verify_note(Note(TEXT, (cut,)), [witness.verifier])


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_every_flipped_bit_of_a_signature_is_seen(key, note, bit):
    """Any bit of the 64 bytes."""
    line = note.signatures[0]
    data = bytearray(line.data)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureWrong):
        verify_note(Note(TEXT, (type(line)(line.name, line.key_id, bytes(data)),)), [key.verifier])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text + "x\n",
        lambda text: text.replace("\n\n", "\n"),
        lambda text: text.replace("—", "-"),
        lambda text: text.replace("— ", "—  "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("=\n", "\n"),
        lambda text: "\x07" + text,
        lambda text: "\ud800" + text,
        lambda text: text.split("\n\n")[0] + "\n\n",
        lambda text: "\n\n" + text.split("\n\n")[1],
        lambda text: text.split("\n\n")[0] + "\n\n— a+b AAAAAAAA\n",
        lambda text: text.split("\n\n")[0] + "\n\n— a AAAA\n",
        lambda text: text + text.split("\n\n")[1] * 100,
        lambda text: "",
        lambda text: "x" * (1 << 20) + text,
    ],
)
def test_a_note_of_any_other_form_is_refused(note, damage):
    """One note, one encoding."""
    with pytest.raises(NoteError):
        Note.parse(damage(str(note)))


ROOT = b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"o\n03\n{ROOT}\n", f"o\n-3\n{ROOT}\n", f"o\n+3\n{ROOT}\n", f"o\n٣\n{ROOT}\n",
        f"o\n 3\n{ROOT}\n", f"o\n3.0\n{ROOT}\n", f"o\n99999999999999999999\n{ROOT}\n",
        f"\n3\n{ROOT}\n", f"o o\n3\n{ROOT}\n", f"o\n3\n{ROOT}\nextension\n", f"o\n3\n{ROOT}",
        f"o\n3\n{ROOT[:-4]}\n", f"o\n3\n{ROOT[:-2]}B=\n", f"o\n0\n{ROOT}\n", "o\n3\n\n", "o\n3\n",
    ],
)  # fmt: skip
def test_a_checkpoint_of_any_other_form_is_refused(text):
    """Leading zeros, signs, foreign digits, loose base64, an empty tree with a root of its own."""
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def test_checkpoints_survive_their_text():
    """Encoding and parsing are inverse, the empty tree included."""
    for checkpoint in (
        Checkpoint("o", 0, merkle.EMPTY_ROOT),
        Checkpoint("o", 2**63 - 1, bytes(32)),
    ):
        assert Checkpoint.parse(checkpoint.text) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name+00000000", GO_KEY[:-1], GO_KEY.replace("c74f20a3", "c74f20a4"),
        GO_KEY.replace("c74f20a3", "C74F20A3"), GO_KEY.replace("PeterN", "PetraN"),
        GO_KEY.replace("Peter", "Peter "), GO_KEY.replace("+AR", "+Ah"), "+" + GO_KEY,
        "\udc80" + GO_KEY,
    ],
)  # fmt: skip
def test_a_damaged_key_is_refused(text):
    """A key pasted wrongly is an error at once, not a note that is 'not signed'."""
    with pytest.raises(NoteError):
        VerifierKey.parse(text)


def test_the_key_file_is_for_the_owner_only(tmp_path, key):
    """Created 0600 under any umask, never replaced, refused when others may read it."""
    path = tmp_path / "audit.key"
    before = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = SigningKey.load(path)
    assert loaded.verifier == key.verifier
    assert loaded.sign(TEXT) == key.sign(TEXT)
    with pytest.raises(FileExistsError):
        key.save(path)
    path.chmod(0o644)
    with pytest.raises(NoteError, match="open to others"):
        SigningKey.load(path)


def test_the_private_key_shows_nowhere(tmp_path, key):
    """Neither repr nor the error about a damaged file tells the secret."""
    path = tmp_path / "audit.key"
    key.save(path)
    secret = path.read_text().strip().rsplit("+", 1)[1]
    path.write_text(path.read_text().replace("PRIVATE+KEY+c", "PRIVATE+KEY+d"))

    assert secret not in repr(key)
    with pytest.raises(NoteError) as caught:
        SigningKey.load(path)
    assert secret not in str(caught.value)


def test_keys_sign_only_what_their_kind_signs(key, witness):
    """A log's key gives no cosignatures and a witness's no checkpoints."""
    with pytest.raises(NoteError):
        key.cosign(TEXT, 1)
    with pytest.raises(NoteError):
        witness.sign(TEXT)
    assert witness.verifier.kind is KeyKind.COSIGNATURE
