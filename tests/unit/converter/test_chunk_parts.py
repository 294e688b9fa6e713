"""A chunk in parts is the chunk, and lets go of them."""

import random

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.nbd.parts import ChunkParts
from dvcr.artifact.chunk import CHUNK_ZSTD, PART_BYTES, decode_chunk, encode_chunk
from tests.support.peak_memory import peak_memory

MIB = 2**20
SIZE = 40 * MIB
SOME = random.Random(1).randbytes(6 * MIB)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, SIZE - 1), st.integers(1, 6 * MIB)), max_size=6),
    st.integers(33 * MIB, SIZE),
)
def test_any_writes_give_the_chunk_they_describe(writes: list[tuple[bool, int, int]], length: int) -> None:
    expected, parts = bytearray(SIZE), ChunkParts(SIZE)
    for clears, at, size in writes:
        end = min(at + size, SIZE)
        if clears:
            expected[at:end] = bytes(end - at)
            parts.clear(at, end)
        else:
            expected[at:end] = SOME[: end - at]
            parts.write(at, memoryview(SOME)[: end - at])
    del expected[length:]
    parts.cut(length)
    assert parts.is_zero() == (not any(expected))
    assert parts.fingerprint() == blake3(expected).digest()
    if any(expected):
        encoded = parts.encode()
        assert encoded == encode_chunk(expected)
        assert decode_chunk(encoded.descriptor, encoded.data, length) == expected


def test_a_chunk_that_does_not_compress_is_never_there_twice() -> None:
    parts = ChunkParts(128 * MIB)
    rng = random.Random(2)
    with peak_memory() as peak:
        for at in range(0, 128 * MIB, PART_BYTES):
            parts.write(at, memoryview(rng.randbytes(PART_BYTES)))
        encoded = parts.encode()
    assert encoded.descriptor.media_type == CHUNK_ZSTD
    assert peak.grown < 224 * MIB
