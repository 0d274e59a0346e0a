"""Page tokens: keyset positions, opaque and signed.

A token holds the position after the last row of a page and a digest of the request it belongs to,
so it cannot be forged or carried over to another question. Rows are never counted off (no OFFSET):
a page after concurrent inserts loses and repeats nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import orjson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chimera.faults import Invalid

PAGE_DEFAULT = 50
PAGE_MAX = 1000
# Of a page whose rows may be large: clients refuse messages above 4 MB unless told otherwise.
ANSWER_BYTES = 2_000_000
_FIRST_ROWS = PAGE_DEFAULT + 1
_TAG_BYTES = 16
Row = TypeVar("Row", bound=Message)


class Pages:
    """Makes and reads tokens under one secret key.

    Keyed BLAKE2b (RFC 7693) costs a tenth of what an HMAC does through OpenSSL 3, and a listing
    needs two.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _tag(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._key, digest_size=_TAG_BYTES).digest()

    def digest(self, body: bytes) -> bytes:
        """Keyed digest of a request body: tells whether two are the same and nothing else, also
        when a body holds a password and the digest is stored."""
        return hashlib.blake2b(body, key=self._key, digest_size=32, person=b"body").digest()

    def seal(self, purpose: str, position: Sequence[Any]) -> str:
        """Opaque text that `open` gives back for the same purpose only."""
        body = orjson.dumps([purpose, list(position)])
        return base64.urlsafe_b64encode(self._tag(body) + body).rstrip(b"=").decode()

    def open(self, purpose: str, token: str, *, reason: str = "PAGE_TOKEN_INVALID") -> list[Any]:
        """The position. Raises Invalid(reason) for anything this server did not make for it."""
        try:
            raw = base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
            tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
            if hmac.compare_digest(tag, self._tag(body)):
                made_for, position = orjson.loads(body)
                if made_for == purpose and isinstance(position, list):
                    return position
        except (ValueError, UnicodeEncodeError):
            pass
        raise Invalid(reason, "The token was not given out for this request; start without one.")

    def page(self, request: Any, scope: str = "") -> tuple[int, list[Any] | None]:
        """Size and position asked for by a List request (page_size, page_token).

        The size is 50 when 0 and at most 1000. The position is None on the first page.
        """
        size = min(request.page_size or PAGE_DEFAULT, PAGE_MAX)
        if not request.page_token:
            return size, None
        return size, self.open(_question(request, scope), request.page_token)

    def next_token(
        self, request: Any, rows: Sequence[Any], size: int, *fields: str, scope: str = ""
    ) -> str:
        """Token after the last of `rows` (fetched with one row more than `size`), or ""."""
        if len(rows) <= size:
            return ""
        last = rows[size - 1]
        return self.next_token_at(request, [_position(last, name) for name in fields], scope=scope)

    def next_token_at(self, request: Any, position: Sequence[Any], *, scope: str = "") -> str:
        """Token that continues after this position, for rows that are no messages."""
        return self.seal(_question(request, scope), position)


async def rows_that_fit(
    fetch: Callable[[Any, int], Awaitable[list[Row]]],
    after: Any,
    size: int,
    position: Callable[[Row], Any],
) -> tuple[list[Row], bool]:
    """Up to `size` messages that go into one answer together, one at least, and whether there are more.

    fetch: gives at most so many after a position. Large ones are fetched few at a time, so that a page
    of them is never in memory as a whole.
    """
    rows: list[Row] = []
    used = 0
    while True:
        limit = size + 1 - len(rows)
        mean = max(1, used // len(rows)) if rows else ANSWER_BYTES // _FIRST_ROWS
        limit = min(limit, max(1, (ANSWER_BYTES - used) // mean))
        found = await fetch(after, limit)
        for row in found:
            row_bytes = row.ByteSize()
            if rows and (len(rows) == size or used + row_bytes > ANSWER_BYTES):
                return rows, True
            rows.append(row)
            used += row_bytes
        if len(found) < limit:
            return rows, False
        after = position(rows[-1])


def _position(row: Any, name: str) -> Any:
    value = getattr(row, name)
    return value.ToJsonString() if isinstance(value, Timestamp) else value


def _question(request: Any, scope: str) -> str:
    """Digest of the request without its paging fields."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    body = bare.SerializeToString(deterministic=True)
    name = f"{request.DESCRIPTOR.full_name}\0{scope}\0".encode()
    return hashlib.blake2b(name + body, digest_size=16).hexdigest()
