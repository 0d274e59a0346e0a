"""The wire format of blocks, checked against the client library's own reading and writing."""

from __future__ import annotations

import io
import struct

import pytest
from clickhouse_cityhash.cityhash import CityHash128
from clickhouse_driver.streams.compressed import CompressedBlockInputStream
from hypothesis import given
from hypothesis import strategies as st

from chimera.embedded import native


@given(st.binary(max_size=100_000))
def test_a_frame_comes_back_as_it_was(plain: bytes) -> None:
    assert native.read_frame(io.BytesIO(native.pack_frame(plain))) == plain


@given(st.binary(min_size=1, max_size=1000), st.data())
def test_a_flipped_bit_is_noticed(plain: bytes, data: st.DataObject) -> None:
    """Whatever is damaged, the block is refused; it never decodes to something else."""
    frame = bytearray(native.pack_frame(plain))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((native.ProtocolError, EOFError)):
        native.read_frame(io.BytesIO(bytes(frame)))


def test_another_compression_is_refused_by_name() -> None:
    body = struct.pack("<BII", 0x90, 9, 0)
    checksum = CityHash128(body)
    frame = struct.pack("<QQ", checksum >> 64, checksum & (2**64 - 1)) + body
    with pytest.raises(native.CompressionRequired, match="compression=lz4"):
        native.read_frame(io.BytesIO(frame))


def test_the_checksum_is_the_one_the_client_expects() -> None:
    """The client library computes the same hash over the same bytes."""
    frame = native.pack_frame(b"some block")
    high, low = struct.unpack("<QQ", frame[:16])
    expected = CompressedBlockInputStream.get_compressed_hash(
        CompressedBlockInputStream.__new__(CompressedBlockInputStream), frame[16:]
    )
    assert high << 64 | low == expected


@given(st.integers(0, 2**63 - 1))
def test_numbers_of_any_size(value: int) -> None:
    assert native.read_varint(io.BytesIO(native.varint(value))) == value


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(native.ProtocolError, match="longer than 64 bits"):
        native.read_varint(io.BytesIO(b"\xff" * 20))


def test_a_cut_off_packet_is_the_end_of_the_connection() -> None:
    with pytest.raises(EOFError):
        native.read_string(io.BytesIO(b"\x05abc"))
