"""How the embedded assistant reads a text: as written, normalised, and decoded.

The same views serve both sides. The assistant *understands* through them, and its defences *look*
through some of them; a technique works where understanding sees further than the defence does.
Views only rewrite text. They know nothing about secrets or requests.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import unquote

# Longer texts are read up to here: a reader's patience, and a bound on work per call.
READ_CHARS_MAX = 16_384

_LOWER = string.ascii_lowercase
_UPPER = string.ascii_uppercase
_ALPHABET = _LOWER + _UPPER
ROT13 = str.maketrans(_ALPHABET, _LOWER[13:] + _LOWER[:13] + _UPPER[13:] + _UPPER[:13])
_ATBASH = str.maketrans(_ALPHABET, _LOWER[::-1] + _UPPER[::-1])
_LEET = str.maketrans("013457@$|", "oieastasl")
_EXCLAMATION_AS_I = re.compile(r"!(?=\w)")
_HOMOGLYPHS = str.maketrans(
    "аеорсухіјѕԁһӏԛԝвкмнтгзαεορτυνικωβγ",
    "aeopcyxijsdhlqwbkmhtrzaeoptuvikwby",
)
_MORSE_CODES = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- "
    ".-- -..- -.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_NATO_WORDS = (
    "alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november "
    "oscar papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
)
MORSE = dict(zip(_LOWER + string.digits, _MORSE_CODES.split(), strict=True))
_FROM_MORSE = {code: letter for letter, code in MORSE.items()}
NATO = dict(zip(_LOWER, _NATO_WORDS.split(), strict=True))
_FROM_NATO = {word: letter for letter, word in NATO.items()} | {
    "alpha": "a",
    "juliet": "j",
    "x-ray": "x",
}

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_BASE32 = re.compile(r"\b[A-Z2-7]{16,}={0,6}")
_HEX = re.compile(r"\b(?:0x)?(?:[0-9a-fA-F]{2}[ ,:]?){8,}")
_BINARY = re.compile(r"(?:\b[01]{8}[ ,]?){6,}")
_DECIMAL = re.compile(r"(?:\b\d{2,3}\b[ ,]{0,2}){8,}")
_MORSE = re.compile(r"[.\-/ ]{15,}")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}")
_ENTITY = re.compile(r"&#?\w{2,8};")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_SPACED = re.compile(r"\b\w(?:([-_.*·~]|\s)\w\b)(?:\1\w\b){2,}")
_QUOTED_PIECES = re.compile(r"[\"'](\w{1,20})[\"']\s*(?:\+|,|and|then)?\s*(?=[\"'])", re.IGNORECASE)
_PIG = re.compile(r"\b([a-z]+?)ay\b")
_WORDS = re.compile(r"[a-z]+(?:-[a-z]+)?")


def normalised(text: str) -> str:
    """Lower case with disguises of single letters undone: compatibility forms, accents and
    stacked marks, invisible characters, look-alikes of other alphabets, leetspeak, and letters
    set apart (`s-e-c-r-e-t`)."""
    text = text[:READ_CHARS_MAX]
    if not text.isascii():
        text = "".join(
            chr(ord(c) - 0xE0000) if 0xE0020 <= ord(c) <= 0xE007E else c
            for c in unicodedata.normalize("NFKD", text)
            if not unicodedata.combining(c)
            and (unicodedata.category(c) != "Cf" or 0xE0020 <= ord(c) <= 0xE007E)
        )
    text = text.casefold().translate(_HOMOGLYPHS)
    text = _SPACED.sub(lambda match: re.sub(r"[\W_]", "", match[0]), text)
    return _EXCLAMATION_AS_I.sub("i", text.translate(_LEET))


@lru_cache(maxsize=2048)
def decoded(text: str) -> tuple[tuple[str, str], ...]:
    """What recognisable encodings in `text` say: (name of encoding, decoded text), each different
    from the text itself. One layer; call it again on a result for the next."""
    text = text[:READ_CHARS_MAX]
    found = []
    for name, decode in _DECODERS:
        result = decode(text)
        if result and result != text:
            found.append((name, result))
    return tuple(found)


def _pieces(pattern: re.Pattern[str], decode: Callable[[str], bytes]) -> Callable[[str], str]:
    """A decoder for byte encodings: every run that decodes to readable text, joined."""

    def read(text: str) -> str:
        return " ".join(_readable(pattern, decode, text))

    return read


def _readable(pattern: re.Pattern[str], decode: Callable[[str], bytes], text: str) -> Iterator[str]:
    for match in pattern.finditer(text):
        try:
            piece = decode(match[0]).decode()
        except (ValueError, binascii.Error):
            continue
        if piece.isprintable() or piece.replace("\n", " ").isprintable():
            yield piece


def _base64(run: str) -> bytes:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)


def _base32(run: str) -> bytes:
    body = run.rstrip("=")
    return base64.b32decode(body + "=" * (-len(body) % 8))


def _hex(run: str) -> bytes:
    return bytes.fromhex(re.sub(r"0x|[ ,:]", "", run))


def _binary(run: str) -> bytes:
    return bytes(int(octet, 2) for octet in re.findall(r"[01]{8}", run))


def _decimal(run: str) -> bytes:
    return bytes(int(number) for number in re.findall(r"\d+", run))


def _morse(text: str) -> str:
    runs = []
    for match in _MORSE.finditer(text.replace("|", "/").replace("−", "-").replace("·", ".")):
        words = re.split(r"\s*/\s*|\s{3,}", match[0].strip())
        runs.append(" ".join("".join(_FROM_MORSE.get(c, "") for c in w.split()) for w in words))
    return " ".join(run for run in runs if len(run) > 4)


def _nato(text: str) -> str:
    words = [_FROM_NATO.get(word) for word in _WORDS.findall(text.casefold())]
    letters = "".join(letter or " " for letter in words)
    return letters if len(letters.replace(" ", "")) >= 6 else ""


def _pig_latin(text: str) -> str:
    """Where a word was cut cannot be told from the word, so every possible reading is given."""
    words = text.casefold()
    if len(_PIG.findall(words)) < 3:
        return ""
    cuts = (
        lambda m: m[1][-1:] + m[1][:-1],
        lambda m: m[1][-2:] + m[1][:-2],
        lambda m: m[1][-3:] + m[1][:-3],
        lambda m: m[1].removesuffix("w").removesuffix("y"),
    )
    return "\n".join(_PIG.sub(cut, words) for cut in cuts)


def _joined(text: str) -> str:
    return _QUOTED_PIECES.sub(r"\1", text).replace('"', " ") if '"' in text or "'" in text else ""


def _escapes(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)


def _caesar(text: str) -> str:
    """Every shift at once, when the text says that it is shifted: garbage does no harm."""
    if "caesar" not in text.casefold() and "shift" not in text.casefold():
        return ""
    shifts = (
        str.maketrans(_ALPHABET, _LOWER[n:] + _LOWER[:n] + _UPPER[n:] + _UPPER[:n])
        for n in range(1, 26)
        if n != 13
    )
    return "\n".join(text.translate(shift) for shift in shifts)


_DECODERS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("base64", _pieces(_BASE64, _base64)),
    ("base32", _pieces(_BASE32, _base32)),
    ("hex", _pieces(_HEX, _hex)),
    ("binary", _pieces(_BINARY, _binary)),
    ("decimal", _pieces(_DECIMAL, _decimal)),
    ("morse", _morse),
    ("percent", lambda text: unquote(text) if _PERCENT.search(text) else ""),
    ("entities", lambda text: html.unescape(text) if _ENTITY.search(text) else ""),
    ("escapes", lambda text: _escapes(text) if "\\" in text else ""),
    ("rot13", lambda text: text.translate(ROT13)),
    ("atbash", lambda text: text.translate(_ATBASH)),
    ("reversed", lambda text: text[::-1]),
    ("caesar", _caesar),
    ("nato", _nato),
    ("pig_latin", _pig_latin),
    ("joined", _joined),
)
