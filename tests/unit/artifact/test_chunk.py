"""Chunks: what is stored for which bytes, and what is refused when it comes back."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dvcr.artifact.chunk import CHUNK_RAW, CHUNK_ZSTD, decode_chunk, encode_chunk, is_zero
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest
from dvcr.errors import IntegrityError
from tests.support.artifacts import CHUNK, noise, text


def stored(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


@pytest.mark.parametrize("size", [1, 511, 2**20, 2**20 + 1, CHUNK])
def test_zeroes_are_not_stored(size: int) -> None:
    for zeroes in (bytes(size), bytearray(size), memoryview(bytes(size))):
        assert encode_chunk(zeroes) is None


@pytest.mark.parametrize("at", [0, 1, 2**20 - 1, 2**20, CHUNK - 2**20, CHUNK - 1, CHUNK + 4])
def test_one_bit_makes_a_chunk(at: int) -> None:
    data = bytearray(CHUNK + 5)
    data[at] = 1
    assert not is_zero(data)
    encoded = encode_chunk(data)
    assert encoded is not None
    assert decode_chunk(encoded.descriptor, encoded.data, len(data)) == data


def test_what_compresses_is_one_frame_with_its_size_and_no_checksum() -> None:
    encoded = encode_chunk(text(CHUNK))
    assert encoded is not None
    assert encoded.descriptor.media_type == CHUNK_ZSTD
    parameters = zstandard.get_frame_parameters(encoded.data)
    assert (parameters.content_size, parameters.has_checksum, parameters.dict_id) == (CHUNK, False, 0)


def test_what_does_not_compress_is_stored_as_it_is() -> None:
    data = noise(CHUNK)
    for buffer in (data, bytearray(data), memoryview(data)):
        encoded = encode_chunk(buffer)
        assert encoded is not None
        assert encoded.descriptor == stored(CHUNK_RAW, data)
        assert type(encoded.data) is bytes
        assert encoded.data == data


def test_the_gain_decides() -> None:
    little, enough = noise(CHUNK)[: CHUNK * 98 // 100], noise(CHUNK)[: CHUNK * 96 // 100]
    for data, media_type in ((little, CHUNK_RAW), (enough, CHUNK_ZSTD)):
        encoded = encode_chunk(data + bytes(CHUNK - len(data)))
        assert encoded is not None
        assert encoded.descriptor.media_type == media_type


def test_the_same_bytes_give_the_same_blob_on_every_thread() -> None:
    data = text(CHUNK)
    with ThreadPoolExecutor(4) as pool:
        assert len({encoded.data for encoded in pool.map(lambda _: encode_chunk(data), range(8)) if encoded}) == 1


def test_the_blob_of_docs_artifact_format() -> None:
    """A change here is a change of what deduplicates with what is stored already: think of it as a new format."""
    encoded = encode_chunk(bytes(range(256)) * 16_384)
    assert encoded is not None
    assert encoded.descriptor.size_bytes == 652
    assert encoded.descriptor.digest == Digest(
        "sha256", "6ce6de067f3c1f9765f5b851e5295a5cbad7162fc4f35141616eb8091aaa17b4"
    )


@settings(deadline=None)
@given(st.binary(max_size=5000), st.integers(0, 3))
def test_any_bytes_come_back(data: bytes, repeat: int) -> None:
    data = data * (repeat + 1) + b"\1"
    encoded = encode_chunk(data)
    assert encoded is not None
    assert decode_chunk(encoded.descriptor, encoded.data, len(data)) == data


FRAME = zstandard.ZstdCompressor().compress(text(5000))


@pytest.mark.parametrize(
    ("blob", "media_type", "length"),
    [
        (FRAME, CHUNK_ZSTD, 4999),
        (FRAME, CHUNK_ZSTD, 5001),
        (FRAME[:-1], CHUNK_ZSTD, 5000),
        (FRAME + b"\0", CHUNK_ZSTD, 5000),
        (FRAME + FRAME, CHUNK_ZSTD, 5000),
        (zstandard.ZstdCompressor(write_content_size=False).compress(text(5000)), CHUNK_ZSTD, 5000),
        (b"\x50\x2a\x4d\x18\x04\0\0\0abcd", CHUNK_ZSTD, 5000),
        (b"", CHUNK_ZSTD, 5000),
        (b"", CHUNK_RAW, 5000),
        (text(4999), CHUNK_RAW, 5000),
        (FRAME, CHUNK_RAW, 5000),
        (FRAME, "application/octet-stream", 5000),
    ],
)
def test_blobs_that_hold_something_else(blob: bytes, media_type: str, length: int) -> None:
    with pytest.raises(IntegrityError):
        decode_chunk(stored(media_type, blob), blob, length)


def test_a_frame_that_announces_exabytes_costs_nothing() -> None:
    blob = b"\x28\xb5\x2f\xfd" + b"\xe0" + (2**63).to_bytes(8, "little") + b"\1\0\0"
    with pytest.raises(IntegrityError, match="announces"):
        decode_chunk(stored(CHUNK_ZSTD, blob), blob, CHUNK)


def test_a_frame_that_holds_more_than_it_announces() -> None:
    honest = zstandard.ZstdCompressor().compress(bytes(CHUNK))
    parameters = zstandard.get_frame_parameters(honest)
    assert parameters.content_size == CHUNK
    lying = honest.replace((CHUNK).to_bytes(4, "little"), (1000).to_bytes(4, "little"), 1)
    assert zstandard.get_frame_parameters(lying).content_size == 1000
    with pytest.raises(IntegrityError):
        decode_chunk(stored(CHUNK_ZSTD, lying), lying, 1000)


def test_the_digest_and_the_size_are_checked() -> None:
    encoded = encode_chunk(text(CHUNK))
    assert encoded is not None
    with pytest.raises(IntegrityError):
        decode_chunk(replace(encoded.descriptor, digest=Digest.of(b"")), encoded.data, CHUNK)
    with pytest.raises(IntegrityError):
        decode_chunk(replace(encoded.descriptor, size_bytes=7), encoded.data, CHUNK)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_frame_never_gives_bytes(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FRAME) - 1))
    damaged = FRAME[:at] + bytes([FRAME[at] ^ data.draw(st.integers(1, 255))]) + FRAME[at + 1 :]
    with pytest.raises(IntegrityError):
        decode_chunk(stored(CHUNK_ZSTD, FRAME), damaged, 5000)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_under_its_own_digest_never_crashes(tail: bytes) -> None:
    blob = FRAME[:6] + tail
    with contextlib.suppress(IntegrityError):
        assert len(decode_chunk(stored(CHUNK_ZSTD, blob), blob, 5000)) == 5000
