"""What bytes can make of the unpacking and of the reading of archives: an ImageError, or bytes within the limits."""

import bz2
import gzip
import lzma
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.ova import TarDisk
from converter.wrappers import PIECE_BYTES, UnpackingLimits, unpack, wrapper_of
from dvcr.errors import ImageError
from tests.support.archives import tar_of
from tests.support.images import MemorySource

DATA = b"some data " * 500
LIMITS = UnpackingLimits(2**20, 1000)
PACKED = [gzip.compress(DATA), lzma.compress(DATA), zstandard.ZstdCompressor().compress(DATA), bz2.compress(DATA)]
ARCHIVE = tar_of(("a.ovf", b"x"), ("a.img", DATA))
SPOILING = st.lists(st.tuples(st.integers(0, 12_000), st.binary(max_size=12)), max_size=6)


def spoiled(data: bytes, changes: list[tuple[int, bytes]], end: int) -> bytes:
    out = bytearray(data)
    for at, piece in changes:
        at %= len(out)
        out[at : at + len(piece)] = piece
    return bytes(out[: end or None])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PACKED), SPOILING, st.integers(0, 200), st.binary(max_size=40))
def test_no_bytes_crash_the_unpacking(packed: bytes, changes: list[tuple[int, bytes]], end: int, behind: bytes) -> None:
    data = spoiled(packed, changes, end) + behind
    wrapper = wrapper_of(data)
    if wrapper is None:
        return
    unpacked = 0
    try:
        for piece in unpack(MemorySource(data), wrapper, LIMITS):
            unpacked += len(piece)
            assert 0 < len(piece) <= PIECE_BYTES
    except ImageError as exc:
        assert exc.reason in {"TruncatedImage", "CorruptImage", "DecompressionBomb", "WindowTooLarge"}  # noqa: PT017
    assert unpacked <= LIMITS.max_bytes


@settings(max_examples=200, deadline=None)
@given(SPOILING, st.integers(0, 12_000))
def test_no_bytes_crash_the_reading_of_an_archive(changes: list[tuple[int, bytes]], end: int) -> None:
    source = MemorySource(spoiled(ARCHIVE, changes, end))
    try:
        disk = TarDisk(source)
        data = disk.read_at(0, 2**20)
        disk.finish()
    except ImageError as exc:
        assert exc.reason != "InvalidImage"  # noqa: PT017
    else:
        assert len(data) == min(disk.size_bytes(), 2**20)


@pytest.mark.parametrize("data", [bz2.compress(bytes(2**27)) * 2, gzip.compress(bytes(2**27)) * 2], ids=["bz2", "gz"])
def test_memory_stays_flat_however_much_comes_out(data: bytes) -> None:
    wrapper = wrapper_of(data)
    assert wrapper is not None
    tracemalloc.start()
    try:
        assert sum(map(len, unpack(MemorySource(data), wrapper, UnpackingLimits(2**40, 10_000)))) == 2**28
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
