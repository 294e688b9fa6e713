"""The converted disk as a writable NBD export that ends in a chunk store."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from blake3 import blake3

from converter.nbd.export import Extent
from converter.nbd.parts import ChunkParts
from dvcr.artifact.chunk import STREAMED_BYTES, EncodedChunk, encode_chunk, is_zero
from dvcr.artifact.image import Chunk, chunk_size_bytes
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest
from dvcr.errors import ImageError

# Compressing is what takes the processors; more of them than there are only adds switches between threads.
WORKERS = max(2, min(4, len(os.sched_getaffinity(0))))
BUFFERED_BYTES = 32 * 2**20
WINDOW_BYTES = 16 * 2**20
# Chunks that are held in parts, and not beside what they are encoded to: so many bytes of them at once.
BUFFERED_PARTS_BYTES = 128 * 2**20
_ZEROES = bytes(2**20)

Content = bytes | bytearray | memoryview | ChunkParts


class ChunkStore(Protocol):
    """Where encoded chunks go."""

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Store the blob, durably. Idempotent; called from several threads."""
        ...


@runtime_checkable
class RecallingStore(ChunkStore, Protocol):
    """A store that may have a chunk already, and finds it by the BLAKE3 hash of the chunk's bytes."""

    def recall(self, fingerprint: bytes) -> Descriptor | None:
        """The blob that holds the chunk, stored as if it had been put; None where it is not there."""
        ...

    def remember(self, fingerprint: bytes, descriptor: Descriptor) -> None:
        """The chunk was put as that blob. May be forgotten."""
        ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A chunk that the store has to be given."""

    fingerprint: bytes
    encoded: EncodedChunk


@dataclass
class _Buffer:
    """A chunk being put together. Bytes from `filled` on are stale: the buffer is used again and again."""

    data: bytearray
    filled: int = 0

    def write(self, at: int, piece: memoryview) -> None:
        self._fill(at)
        self.data[at : at + len(piece)] = piece
        self.filled = max(self.filled, at + len(piece))

    def clear(self, at: int, end: int) -> None:
        end = min(end, self.filled)
        if at < end:
            self.data[at:end] = bytes(end - at)

    def content(self, length: int) -> memoryview:
        self._fill(length)
        return memoryview(self.data)[:length]

    def _fill(self, end: int) -> None:
        for at in range(self.filled, end, len(_ZEROES)):
            self.data[at : min(at + len(_ZEROES), end)] = _ZEROES[: end - at]
        self.filled = max(self.filled, end)


class ChunkSink:
    """Cuts writes into chunks; encodes and stores them in a few threads while the next arrive. Used as a context.

    Writes may arrive out of order within a window of 16 MiB (at least one chunk). A chunk that left the window is
    final: a write to it raises ImageError `ConversionFailed`. What is never written is zero and costs nothing.
    Holds about 32 MiB of chunks, and as much of what they were encoded to; `write` waits beyond that. Chunks of 32 MiB
    or more are held in parts, each of which is let go of once it is encoded: 128 MiB in all until they are stored.
    An error of the store is raised by the next write, flush or finish.
    """

    def __init__(self, size_bytes: int, store: ChunkStore) -> None:
        self.size_bytes = size_bytes
        self.chunk_size_bytes = chunk_size_bytes(size_bytes)
        self.written_bytes = 0
        """End of the furthest write so far."""
        self.received_bytes = 0
        """Bytes of all writes so far, without those of zeroes."""
        self._store = store
        self._window = max(1, min(WINDOW_BYTES, BUFFERED_BYTES // 2) // self.chunk_size_bytes)
        self.in_parts = self.chunk_size_bytes >= STREAMED_BYTES
        """Whether chunks are so large that they are best gathered in ChunkParts."""
        buffered = BUFFERED_PARTS_BYTES if self.in_parts else BUFFERED_BYTES
        self._free_buffers = max(1, buffered // self.chunk_size_bytes)
        self._pool = ThreadPoolExecutor(min(WORKERS, self._free_buffers), thread_name_prefix="chunk")
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._spare: list[_Buffer] = []
        self._open: dict[int, _Buffer | ChunkParts] = {}
        # Taken from here, not passed to the pool, which would hold them until all is done.
        self._sealed: dict[int, tuple[Callable[[], Content], _Buffer | ChunkParts | None]] = {}
        self._final: set[int] = set()
        self._chunks: list[Chunk] = []
        self._known: set[Digest] = set()
        self._pending = 0
        self._stopped = False
        self.error: BaseException | None = None
        """What the store failed with, if it did."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Refused: chunks leave as soon as they are full."""
        raise ImageError("the converter tried to read back what it wrote", reason="ConversionFailed")

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """One run of data: nothing is kept that could tell."""
        yield Extent(length_bytes, zero=False)

    def write(self, offset_bytes: int, data: memoryview) -> None:
        """Take the bytes; see the class for the order they may come in."""
        with self._lock:
            self.received_bytes += len(data)
            while len(data):
                index, at = divmod(offset_bytes, self.chunk_size_bytes)
                piece = data[: self.chunk_size_bytes - at]
                self._buffer(index).write(at, piece)
                offset_bytes += len(piece)
                data = data[len(piece) :]
            self.written_bytes = max(self.written_bytes, offset_bytes)

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        """As a write of zeroes: clears what the window holds, and takes no room otherwise."""
        end = offset_bytes + length_bytes
        with self._lock:
            self._raise_error()
            for index in range(offset_bytes // self.chunk_size_bytes, -(-end // self.chunk_size_bytes)):
                self._refuse_final(index)
            for index, buffer in self._open.items():
                start = index * self.chunk_size_bytes
                first, last = max(offset_bytes - start, 0), min(end - start, self.chunk_size_bytes)
                if first < last:
                    buffer.clear(first, last)
            self.written_bytes = max(self.written_bytes, end)

    def put_chunk(self, index: int, content: Callable[[], Content]) -> None:
        """Take a whole chunk, in any order but once: `content` gives all its bytes, and is called in another thread.

        ChunkParts are used up. For who knows where chunks begin: costs no copy. Waits as `write` does. What is left out
        is zero.
        """
        self._raise_error()
        self._refuse_final(index)
        self._take_room()
        self._deliver_later(index, content)

    def await_room(self) -> None:
        """Wait until there is room for one more chunk: for who gathers the bytes of one before it is put."""
        with self._changed:
            self._changed.wait_for(lambda: self._free_buffers or self.error or self._stopped)
            self._raise_error()

    def end_at(self, size_bytes: int) -> None:
        """The disk has that many bytes, after all; for who knows at the end only. No chunk lies behind it."""
        self.size_bytes = size_bytes

    def flush(self) -> None:
        """Wait until every chunk that left the window is stored; `finish` stores the others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._stopped)
        self._raise_error()

    def finish(self) -> tuple[Chunk, ...]:
        """Store what is left, wait for the store, and return the chunks by rising index."""
        with self._lock:
            for index in sorted(self._open):
                self._seal(index)
        self.flush()
        return tuple(sorted(self._chunks, key=lambda chunk: chunk.index))

    def _buffer(self, index: int) -> _Buffer | ChunkParts:
        buffer = self._open.get(index)
        if buffer is None:
            self._raise_error()
            self._refuse_final(index)
            if len(self._open) >= self._window:
                self._seal(min(self._open))
            buffer = self._open[index] = self._take_buffer()
        return buffer

    def _take_buffer(self) -> _Buffer | ChunkParts:
        self._take_room()
        if self.in_parts:
            return ChunkParts(self.chunk_size_bytes)
        with self._changed:
            buffer = self._spare.pop() if self._spare else _Buffer(bytearray(self.chunk_size_bytes))
        buffer.filled = 0
        return buffer

    def _take_room(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free_buffers or self.error or self._stopped)
            self._raise_error()
            if self._stopped:
                raise ImageError("the conversion was stopped", reason="ConversionFailed")
            self._free_buffers -= 1

    def _return_room(self, buffer: _Buffer | ChunkParts | None) -> None:
        with self._changed:
            if isinstance(buffer, _Buffer):
                self._spare.append(buffer)
            self._free_buffers += 1
            self._changed.notify_all()

    def _seal(self, index: int) -> None:
        buffer = self._open.pop(index)
        length = min(self.chunk_size_bytes, self.size_bytes - index * self.chunk_size_bytes)
        if isinstance(buffer, ChunkParts):
            buffer.cut(length)
            self._deliver_later(index, lambda: buffer)
        else:
            self._deliver_later(index, lambda: buffer.content(length), buffer)

    def _deliver_later(self, index: int, content: Callable[[], Content], buffer: _Buffer | None = None) -> None:
        self._final.add(index)
        with self._changed:
            self._pending += 1
            self._sealed[index] = content, buffer
        del content
        self._pool.submit(self._deliver, index)

    def _deliver(self, index: int) -> None:
        content, buffer = self._sealed.pop(index)
        in_room = True
        try:
            if self.error is None and not self._stopped:
                prepared = self._prepared(content)
                del content
                if not self.in_parts:
                    self._return_room(buffer)
                    in_room = False
                self._store_prepared(index, prepared)
        except BaseException as exc:  # noqa: BLE001  # kept, and raised to whoever writes next
            self.error = self.error or exc
        finally:
            if in_room:
                self._return_room(buffer)
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()

    def _prepared(self, content: Callable[[], Content]) -> _Prepared | Descriptor | None:
        """What is to be put, or the blob that is there already; None where all is zero. Holds none of the bytes."""
        data = content()
        if data.is_zero() if isinstance(data, ChunkParts) else is_zero(data):
            return None
        fingerprint = b""
        if isinstance(self._store, RecallingStore):
            fingerprint = data.fingerprint() if isinstance(data, ChunkParts) else blake3(data).digest()
            recalled = self._store.recall(fingerprint)
            if recalled is not None:
                return recalled
        encoded = data.encode() if isinstance(data, ChunkParts) else encode_chunk(data)
        assert encoded is not None
        return _Prepared(fingerprint, encoded)

    def _store_prepared(self, index: int, prepared: _Prepared | Descriptor | None) -> None:
        if prepared is None:
            return
        if isinstance(prepared, Descriptor):
            descriptor = prepared
        else:
            descriptor = prepared.encoded.descriptor
            if descriptor.digest not in self._known:
                self._store.put(descriptor, prepared.encoded.data)
            if isinstance(self._store, RecallingStore):
                self._store.remember(prepared.fingerprint, descriptor)
        with self._changed:
            self._known.add(descriptor.digest)
            self._chunks.append(Chunk(index, descriptor))

    def _refuse_final(self, index: int) -> None:
        if index in self._final:
            raise ImageError(
                f"the converter wrote to chunk {index} again after it was stored; writes must stay within "
                f"{self._window} chunks of each other",
                reason="ConversionFailed",
            )

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error
