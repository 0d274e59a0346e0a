"""The server's side of the ClickHouse native TCP protocol, at revision 54440.

Source: the wire behaviour of clickhouse-driver 0.2.11. Every later revision adds fields and
none is needed here, so the low revision keeps this small: settings travel as strings, there is
no inter-server secret, no custom serialisation and no profile event. LZ4 is required, because
then a client sends exactly one compressed frame per block and blocks need not be parsed to be
told apart. A block without its info header is ClickHouse's `Native` format, and stays bytes.
"""

from __future__ import annotations

import io
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from clickhouse_cityhash.cityhash import CityHash128
from lz4 import block as lz4_block

REVISION = 54440
_LZ4_METHOD = 0x82
_FRAME_HEADER = struct.Struct("<BII")  # method, compressed size with this header, plain size
_HASH = struct.Struct("<QQ")
# Block info: field 1 (overflow) = 0, field 2 (bucket) = -1, end.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
_END_BLOCK = b"\x00\x00"  # no columns, no rows
_MAX_FRAME_BYTES = 1 << 30
_MAX_STRING_BYTES = 64 << 20


class ClientPacket(IntEnum):
    HELLO = 0
    QUERY = 1
    DATA = 2
    CANCEL = 3
    PING = 4


class ServerPacket(IntEnum):
    HELLO = 0
    DATA = 1
    EXCEPTION = 2
    PONG = 4
    END_OF_STREAM = 5


class ProtocolError(Exception):
    """The client sent what this server cannot read; the connection cannot be used further."""


class CompressionRequired(ProtocolError):
    """The client did not ask for LZ4."""

    def __init__(self) -> None:
        super().__init__(
            "the embedded ClickHouse speaks LZ4-compressed blocks only: "
            "add compression=lz4 to the connection URL"
        )


@dataclass(frozen=True)
class Hello:
    client_name: str
    database: str
    user: str


@dataclass(frozen=True)
class Query:
    """A query as sent. `settings`: name to (value, must be known)."""

    query_id: str
    settings: dict[str, tuple[str, bool]]
    text: str


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


def read_exact(source: _Readable, size: int) -> bytes:
    data = source.read(size) or b""
    if len(data) != size:
        raise EOFError
    return data


def read_varint(source: _Readable) -> int:
    value = shift = 0
    while True:
        byte = read_exact(source, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise ProtocolError("a number is longer than 64 bits")


def read_string(source: _Readable) -> str:
    size = read_varint(source)
    if size > _MAX_STRING_BYTES:
        raise ProtocolError(f"a string of {size} bytes is too long")
    return read_exact(source, size).decode("utf-8", errors="surrogateescape")


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(value: str) -> bytes:
    data = value.encode("utf-8", errors="surrogateescape")
    return varint(len(data)) + data


def header_block(columns: list[tuple[str, str]]) -> bytes:
    """The `Native` block of no rows that names the columns: [(name, type), ...]."""
    parts = [varint(len(columns)), varint(0)]
    parts += [string(name) + string(kind) for name, kind in columns]
    return b"".join(parts)


def row_count(native: bytes) -> int:
    """How many rows a `Native` block says it has."""
    start = io.BytesIO(native[:32])
    read_varint(start)  # columns
    return read_varint(start)


def pack_frame(plain: bytes) -> bytes:
    """One LZ4 frame: 16 bytes CityHash128 (high word first), method, two sizes, payload."""
    payload: bytes = lz4_block.compress(plain, store_size=False)
    body = _FRAME_HEADER.pack(_LZ4_METHOD, len(payload) + _FRAME_HEADER.size, len(plain)) + payload
    checksum: int = CityHash128(body)
    return _HASH.pack(checksum >> 64, checksum & 0xFFFFFFFFFFFFFFFF) + body


def read_frame(source: _Readable) -> bytes:
    """The plain bytes of one frame; ProtocolError if it is not LZ4 or damaged."""
    high, low = _HASH.unpack(read_exact(source, _HASH.size))
    header = read_exact(source, _FRAME_HEADER.size)
    method, packed_size, plain_size = _FRAME_HEADER.unpack(header)
    if method != _LZ4_METHOD:
        raise CompressionRequired
    if not _FRAME_HEADER.size <= packed_size <= _MAX_FRAME_BYTES or plain_size > _MAX_FRAME_BYTES:
        raise ProtocolError(f"a block of {plain_size} bytes ({packed_size} packed) is too large")
    payload = read_exact(source, packed_size - _FRAME_HEADER.size)
    if CityHash128(header + payload) != high << 64 | low:
        raise ProtocolError("a compressed block does not match its checksum")
    return bytes(lz4_block.decompress(payload, uncompressed_size=plain_size))


class ServerConnection:
    """One accepted client: reads whole packets, writes whole packets. Owned by one thread.

    EOFError when the client is gone, ProtocolError when it cannot be understood.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._in = io.BufferedReader(socket.SocketIO(connection, "r"), 1 << 16)

    def read_packet_type(self) -> int:
        return read_varint(self._in)

    def read_hello(self) -> Hello:
        if self.read_packet_type() != ClientPacket.HELLO:
            raise ProtocolError("not a ClickHouse native client")
        name = read_string(self._in)
        for _ in ("major", "minor"):
            read_varint(self._in)
        revision = read_varint(self._in)
        if revision < REVISION:
            raise ProtocolError(f"client revision {revision} is older than {REVISION}")
        database, user = read_string(self._in), read_string(self._in)
        read_string(self._in)  # password: there are none here
        return Hello(name, database, user)

    def read_query(self) -> Query:
        """The rest of a QUERY packet; CompressionRequired if it does not ask for compression."""
        query_id = read_string(self._in)
        if read_exact(self._in, 1)[0]:
            self._skip_client_info()
        settings: dict[str, tuple[str, bool]] = {}
        while name := read_string(self._in):
            important = bool(read_exact(self._in, 1)[0] & 1)
            settings[name] = (read_string(self._in), important)
        read_varint(self._in)  # processing stage: always to the end
        compressed = read_varint(self._in)
        text = read_string(self._in)
        if not compressed:
            raise CompressionRequired
        return Query(query_id, settings, text)

    def read_data(self) -> tuple[str, bytes | None]:
        """The rest of a DATA packet: table name and block in `Native`, None for the end block."""
        table = read_string(self._in)
        plain = read_frame(self._in)
        if len(plain) < len(_BLOCK_INFO) or plain[0] != 1 or plain[2] != 2 or plain[7] != 0:
            raise ProtocolError("a block does not start with its info")
        native = plain[len(_BLOCK_INFO) :]
        return table, None if native[:1] == b"\x00" else native

    def write_hello(self, name: str, version: tuple[int, int, int], timezone: str) -> None:
        major, minor, patch = version
        self._send(
            varint(ServerPacket.HELLO),
            string(name) + varint(major) + varint(minor) + varint(REVISION),
            string(timezone) + string(name) + varint(patch),
        )

    def write_data(self, native: bytes) -> None:
        self._send(varint(ServerPacket.DATA), string(""), pack_frame(_BLOCK_INFO + native))

    def write_exception(self, code: int, message: str) -> None:
        self._send(
            varint(ServerPacket.EXCEPTION),
            struct.pack("<i", code),
            string("DB::Exception") + string(message) + string("") + b"\x00",
        )

    def write_pong(self) -> None:
        self._send(varint(ServerPacket.PONG))

    def write_end_of_stream(self) -> None:
        self._send(varint(ServerPacket.END_OF_STREAM))

    def _skip_client_info(self) -> None:
        for _ in ("initial user", "initial query id", "initial address"):
            read_string(self._in)
        if read_exact(self._in, 1)[0] != 1:
            raise ProtocolError("a client must say that it came by TCP")
        for _ in ("os user", "host", "client name"):
            read_string(self._in)
        for _ in ("major", "minor", "revision"):
            read_varint(self._in)
        read_string(self._in)  # quota key
        read_varint(self._in)  # version patch

    def _send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))
