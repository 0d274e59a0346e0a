"""Keys, refresh tokens and their successors, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.identity.api_keys import BASE62, new_key, parse_key
from chimera.identity.tokens import (
    Tokens,
    new_refresh_token,
    open_successor,
    seal_successor,
)


def test_only_the_presented_token_opens_its_successor() -> None:
    """Not another token, not in another session, not after a bit was changed."""
    presented, successor = new_refresh_token(), new_refresh_token()
    sealed = seal_successor(presented, successor, "session")
    assert successor.encode() not in sealed
    assert open_successor(presented, sealed, "session") == successor
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for arguments in [
        (new_refresh_token(), sealed, "session"),
        (presented, sealed, "another"),
        (presented, changed, "session"),
    ]:
        with pytest.raises(ValueError, match="another token"):
            open_successor(*arguments)


def test_a_new_key_can_be_taken_apart() -> None:
    """Prefix, id, secret; and no two are alike."""
    text = new_key("live")
    parsed = parse_key(text)
    assert parsed is not None
    assert text.startswith(f"chm_live_{parsed.public_id}_{parsed.secret}_")
    assert parsed.prefix == f"chm_live_{parsed.public_id}"
    assert (len(parsed.public_id), len(parsed.secret)) == (12, 43)
    assert parsed.secret not in repr(parsed)
    assert new_key("live") != text


@given(position=st.integers(0, 72), letter=st.sampled_from(BASE62 + "_-"))
def test_one_wrong_letter_is_noticed_without_asking_anyone(position: int, letter: str) -> None:
    """CRC-32 finds every change of a single byte."""
    text = "chm_test_0123456789ab_" + "k" * 43 + "_"
    from chimera.identity.api_keys import _checksum

    text += _checksum(text[:-1])
    assert parse_key(text) is not None
    wrong = text[: position % len(text)] + letter + text[position % len(text) + 1 :]
    assert wrong == text or parse_key(wrong) is None


@given(st.text(max_size=90))
def test_other_texts_are_no_keys(text: str) -> None:
    """Whatever is sent, it is read or refused, never a crash."""
    assert parse_key(text) is None


def test_the_newest_key_signs_and_older_ones_still_verify() -> None:
    """A key was added; tokens of yesterday go on until they expire."""
    ids = {
        name: f"00000000-0000-0000-0000-00000000000{n}"
        for n, name in enumerate(("user_id", "org_id", "session_id"))
    }
    old, new = bytes(32), bytes([1]) * 32
    before = Tokens([old], issuer="chimera", lifetime_s=300)
    after = Tokens([old, new], issuer="chimera", lifetime_s=300)
    token = before.issue(**ids, authz_epoch=1)
    assert after.verify(token.token) == before.verify(token.token)
    signed = after.issue(**ids, authz_epoch=1).token
    assert after.verify(signed).kid != before.verify(token.token).kid
    assert token.token not in repr(token)
