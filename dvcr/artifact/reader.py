"""Random access to a disk whose chunks are in a registry."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

import structlog

from dvcr.artifact.cache import ChunkCache
from dvcr.artifact.chunk import decode_chunk
from dvcr.artifact.image import Chunk, DiskImage
from dvcr.artifact.memory import ChunkMemory
from dvcr.artifact.streams import Streams
from dvcr.digest import Digest
from dvcr.errors import DvcrError, IntegrityError

log = structlog.get_logger(__name__)

MEMORY_BYTES = 64 * 2**20


class BlobReader(Protocol):
    """Where chunks come from: `dvcr.client.repository.Repository`."""

    def read_blob(self, digest: Digest, offset_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """That range of the blob; shorter where the blob ends before."""
        ...


class ImageReader:
    """The bytes of a disk, fetched chunk by chunk as they are asked for. Thread-safe.

    Every chunk is verified before a byte of it is returned. Chunks that are all zero cost no request. Threads that ask
    for the same chunk at the same time share one request; with a cache, so do processes. Decoded chunks are held in
    `memory`, which readers may share; without one, in `MEMORY_BYTES` of its own.
    """

    def __init__(
        self,
        blobs: BlobReader,
        image: DiskImage,
        *,
        cache: ChunkCache | None = None,
        memory: ChunkMemory | None = None,
        read_ahead: int = 0,
    ) -> None:
        """`read_ahead`: how many chunks to fetch in the background, each in a thread, where reads are sequential."""
        self.image = image
        self._blobs = blobs
        self._cache = cache
        self._stored = {chunk.index: chunk for chunk in image.chunks}
        self._ranks = {chunk.index: rank for rank, chunk in enumerate(image.chunks)}
        self._memory = memory or ChunkMemory(MEMORY_BYTES)
        self._memory.join()
        self._loading: dict[int, Future[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = False
        # What is fetched ahead must still be there when it is asked for.
        self._read_ahead = min(read_ahead, self._share() - 1)
        self._streams = Streams(self._read_ahead, self._share)
        self._ahead: set[int] = set()  # submitted, not begun
        self._pool = ThreadPoolExecutor(self._read_ahead, "read-ahead") if self._read_ahead else None

    @property
    def size_bytes(self) -> int:
        """The virtual size of the disk."""
        return self.image.virtual_size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range, shorter only at the end of the disk.

        Raises IntegrityError where a chunk is not what its digest says, RegistryError where it cannot be had. The next
        call asks again.
        """
        return bytes(self.view_at(offset_bytes, length_bytes))

    def view_at(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        """As `read_at`, without a copy where the range is within one chunk."""
        end = min(offset_bytes + length_bytes, self.size_bytes)
        pieces: list[bytes | memoryview] = []
        while offset_bytes < end:
            index, start = divmod(offset_bytes, self.image.chunk_size_bytes)
            length = min(end - offset_bytes, self.image.chunk_size_bytes - start)
            if index in self._stored:
                pieces.append(memoryview(self._chunk(index))[start : start + length])
                self._fetch_ahead(index)
            else:
                pieces.append(bytes(length))
            offset_bytes += length
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Stop the read-ahead and let go of the memory. Idempotent."""
        with self._lock:
            pool, self._pool = self._pool, None
            closed, self._closed = self._closed, True
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        if not closed:
            self._memory.leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _chunk(self, index: int, *, ahead: bool = False) -> bytes:
        with self._lock:
            if ahead and index not in self._ahead:
                return b""  # whoever needed the chunk was faster
            self._ahead.discard(index)
            decoded = self._memory.get(self, index)
            if decoded is not None:
                return decoded
            loading = self._loading.get(index)
            if loading is None:
                mine = self._loading[index] = Future[bytes]()
        if loading is not None:
            return loading.result()
        try:
            with self._memory.arriving(self.image.chunk_length(index)):
                decoded = self._load(self._stored[index])
        except BaseException as error:
            with self._lock:
                del self._loading[index]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._loading[index]
            self._memory.keep(self, index, decoded)
        mine.set_result(decoded)
        return decoded

    def _share(self) -> int:
        return self._memory.share(self.image.chunk_size_bytes)

    def _load(self, chunk: Chunk) -> bytes:
        if self._cache is None:
            return self._decode(chunk, self._fetch(chunk))
        decoded = self._cached(self._cache, chunk)
        if decoded is not None:
            return decoded
        with self._cache.fetching(chunk.descriptor.digest):
            decoded = self._cached(self._cache, chunk)
            if decoded is None:
                data = self._fetch(chunk)
                decoded = self._decode(chunk, data)
                self._cache.put(chunk.descriptor.digest, data)
            return decoded

    def _cached(self, cache: ChunkCache, chunk: Chunk) -> bytes | None:
        data = cache.get(chunk.descriptor.digest)
        if data is None:
            return None
        try:
            return self._decode(chunk, data)
        except IntegrityError as error:
            log.warning("cached chunk is damaged, fetching it again", error=str(error))
            cache.discard(chunk.descriptor.digest)
            return None

    def _fetch(self, chunk: Chunk) -> bytes:
        return self._blobs.read_blob(chunk.descriptor.digest, 0, chunk.descriptor.size_bytes)

    def _decode(self, chunk: Chunk, data: bytes) -> bytes:
        return decode_chunk(chunk.descriptor, data, self.image.chunk_length(chunk.index))

    def _fetch_ahead(self, index: int) -> None:
        with self._lock:
            if self._pool is None:
                return
            for rank in self._streams.follow(self._ranks[index]):
                if rank == len(self.image.chunks):
                    break
                following = self.image.chunks[rank].index
                if (
                    not self._memory.has(self, following)
                    and following not in self._loading
                    and following not in self._ahead
                    and len(self._ahead) < self._read_ahead
                ):
                    self._ahead.add(following)
                    self._pool.submit(self._load_ahead, following)

    def _load_ahead(self, index: int) -> None:
        try:
            self._chunk(index, ahead=True)
        except DvcrError as error:
            # Whoever really asks for the chunk gets the error, or better luck.
            log.debug("read-ahead failed", index=index, error=str(error))
