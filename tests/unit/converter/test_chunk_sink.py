"""The sink cuts writes into chunks, in any order within its window, and holds little."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.convert import ConvertedDisk
from converter.inspect import ImageFormat
from converter.nbd.sink import BUFFERED_BYTES, ChunkSink
from dvcr.descriptor import Descriptor
from dvcr.errors import ImageError, RegistryError
from tests.support.images import MemoryChunkStore

MIB = 2**20
CHUNK = 4 * MIB


def finish(sink: ChunkSink, store: MemoryChunkStore) -> bytes:
    return store.disk(ConvertedDisk(ImageFormat.RAW, sink.size_bytes, sink.chunk_size_bytes, sink.finish()))


def test_unwritten_and_zero_bytes_cost_nothing() -> None:
    store = MemoryChunkStore()
    with ChunkSink(10 * CHUNK, store) as sink:
        sink.write(CHUNK, memoryview(bytes(MIB)))
        sink.write_zeroes(2 * CHUNK, 5 * CHUNK)
        sink.write(8 * CHUNK + 5, memoryview(b"x"))
        chunks = sink.finish()
    assert [chunk.index for chunk in chunks] == [8]
    assert store.puts == 1


def test_writes_out_of_order_within_the_window() -> None:
    disk = os.urandom(3 * CHUNK + 1000)
    store = MemoryChunkStore()
    pieces = [(at, disk[at : at + MIB]) for at in range(0, len(disk), MIB)]
    with ChunkSink(len(disk), store) as sink:
        for at, piece in reversed(pieces):
            sink.write(at, memoryview(piece))
        assert finish(sink, store) == disk


def test_a_write_behind_the_window_fails_clearly() -> None:
    with ChunkSink(20 * CHUNK, MemoryChunkStore()) as sink:
        for index in range(10):
            sink.write(index * CHUNK, memoryview(b"x"))
        with pytest.raises(ImageError, match="chunk 0 again") as caught:
            sink.write(100, memoryview(b"y"))
        assert caught.value.reason == "ConversionFailed"


def test_buffers_are_clean_when_used_again() -> None:
    store = MemoryChunkStore()
    size = 40 * CHUNK
    expected = bytearray(size)
    with ChunkSink(size, store) as sink:
        for index in range(40):
            at = index * CHUNK + (0 if index % 2 else MIB)
            data = os.urandom(CHUNK if index % 2 else 100)
            sink.write(at, memoryview(data))
            expected[at : at + len(data)] = data
        assert finish(sink, store) == bytes(expected)


def test_equal_chunks_are_stored_once() -> None:
    store = MemoryChunkStore()
    data = os.urandom(CHUNK)
    with ChunkSink(30 * CHUNK, store) as sink:
        sink.write(0, memoryview(data))
        sink.flush()
        for index in range(10, 30):
            sink.write(index * CHUNK, memoryview(data))
        chunks = sink.finish()
    assert len(chunks) == 21
    assert len(store.blobs) == 1


def test_an_error_of_the_store_reaches_the_writer_and_nothing_hangs() -> None:
    class Full(MemoryChunkStore):
        def put(self, descriptor: Descriptor, data: bytes) -> None:
            raise RegistryError("no space", status=507, reason="NoSpaceLeft")

    data = os.urandom(CHUNK)
    with ChunkSink(200 * CHUNK, Full()) as sink:

        def write() -> None:
            for index in range(200):
                sink.write(index * CHUNK, memoryview(data))

        with pytest.raises(RegistryError):
            write()


def test_the_writer_waits_for_a_slow_store_instead_of_buffering() -> None:
    gate = threading.Event()

    class Slow(MemoryChunkStore):
        def put(self, descriptor: Descriptor, data: bytes) -> None:
            assert gate.wait(30)
            super().put(descriptor, data)

    store = Slow()
    data = [os.urandom(CHUNK) for _ in range(40)]
    with ChunkSink(40 * CHUNK, store) as sink:

        def write() -> None:
            for index, piece in enumerate(data):
                sink.write(index * CHUNK, memoryview(piece))

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(1.0)
        assert writer.is_alive()
        assert sink.written_bytes <= BUFFERED_BYTES + 4 * CHUNK
        gate.set()
        writer.join(30)
        assert finish(sink, store) == b"".join(data)


def test_reading_back_is_refused() -> None:
    with ChunkSink(CHUNK, MemoryChunkStore()) as sink, pytest.raises(ImageError):
        sink.read(0, 512)


SIZE = CHUNK + 70_000
WRITE = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 40_000), st.integers(0, 255))


@settings(max_examples=25, deadline=None)
@given(st.lists(WRITE, max_size=12))
def test_any_writes_within_the_window_give_the_disk_they_describe(writes: list[tuple[int, int, int]]) -> None:
    expected = bytearray(SIZE)
    store = MemoryChunkStore()
    with ChunkSink(SIZE, store) as sink:
        for at, length, value in writes:
            length = min(length, SIZE - at)
            expected[at : at + length] = bytes([value]) * length
            if value:
                sink.write(at, memoryview(bytes([value]) * length))
            else:
                sink.write_zeroes(at, length)
        assert finish(sink, store) == bytes(expected)
