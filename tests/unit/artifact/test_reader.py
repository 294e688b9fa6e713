"""Random access to a disk in a registry."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.nbd.export import Extent
from converter.nbd.image import ImageExport
from dvcr.artifact.cache import ChunkCache
from dvcr.artifact.memory import ChunkMemory
from dvcr.artifact.reader import ImageReader
from dvcr.digest import Digest
from dvcr.errors import IntegrityError, RegistryError
from tests.support.artifacts import CHUNK, image_of, noise, text

# Chunks: 0 text, 1 zero, 2 noise, 3 text, 4 zero, 5 zero, 6 short text.
DISK = text(CHUNK, 1) + bytes(CHUNK) + noise(CHUNK, 2) + text(CHUNK, 3) + bytes(2 * CHUNK) + text(1001, 6)
IMAGE, BLOBS = image_of(DISK)


class Blobs:
    """The blobs of a registry; counts what is fetched and may fail or wait."""

    def __init__(self, blobs: dict[Digest, bytes] | None = None) -> None:
        self.blobs = dict(BLOBS if blobs is None else blobs)
        self.fetched: Counter[Digest] = Counter()
        self.before: Callable[[Digest], None] = lambda _: None

    def read_blob(self, digest: Digest, offset_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        self.fetched[digest] += 1
        self.before(digest)
        assert offset_bytes == 0
        return self.blobs[digest][:length_bytes]


def digest_of(index: int) -> Digest:
    return next(chunk.descriptor.digest for chunk in IMAGE.chunks if chunk.index == index)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 10),
        (0, len(DISK)),
        (CHUNK - 1, 2),
        (CHUNK, CHUNK),
        (CHUNK + 5, 2 * CHUNK),
        (6 * CHUNK + 990, 100),
        (len(DISK), 5),
        (len(DISK) + 5, 5),
        (7, 0),
    ],
)
def test_any_range(offset: int, length: int) -> None:
    assert ImageReader(Blobs(), IMAGE).read_at(offset, length) == DISK[offset : offset + length]


_shared = ImageReader(Blobs(), IMAGE)


@settings(deadline=None)
@given(st.integers(0, len(DISK)), st.integers(0, 3 * CHUNK))
def test_every_range(offset: int, length: int) -> None:
    assert _shared.read_at(offset, length) == DISK[offset : offset + length]


def test_zeroes_ask_for_nothing() -> None:
    blobs = Blobs()
    reader = ImageReader(blobs, IMAGE, read_ahead=2)
    reader.read_at(CHUNK, CHUNK)
    reader.read_at(4 * CHUNK, 2 * CHUNK)
    assert blobs.fetched.total() == 0


def test_a_chunk_is_fetched_once_for_many_small_reads() -> None:
    blobs = Blobs()
    reader = ImageReader(blobs, IMAGE)
    for offset in range(0, CHUNK, 65_536):
        reader.read_at(offset, 4096)
    assert blobs.fetched == {digest_of(0): 1}


def test_few_chunks_are_kept_and_the_oldest_goes() -> None:
    blobs = Blobs()
    reader = ImageReader(blobs, IMAGE, memory=ChunkMemory(2 * CHUNK))
    for index in (0, 2, 0, 3, 0, 2):
        reader.read_at(index * CHUNK, 1)
    assert blobs.fetched == {digest_of(0): 1, digest_of(2): 2, digest_of(3): 1}


def test_readers_of_one_chunk_share_one_request() -> None:
    blobs = Blobs()
    arrived, release = threading.Event(), threading.Event()

    def wait(_: Digest) -> None:
        arrived.set()
        assert release.wait(30)

    blobs.before = wait
    reader = ImageReader(blobs, IMAGE)
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(reader.read_at, 100 * number, 50) for number in range(8)]
        assert arrived.wait(30)
        release.set()
        assert [read.result(30) for read in reads] == [DISK[100 * n : 100 * n + 50] for n in range(8)]
    assert blobs.fetched.total() == 1


def test_a_damaged_chunk_is_never_returned() -> None:
    blobs = Blobs()
    damaged = bytearray(blobs.blobs[digest_of(2)])
    damaged[-1] ^= 1
    blobs.blobs[digest_of(2)] = bytes(damaged)
    reader = ImageReader(blobs, IMAGE)
    with pytest.raises(IntegrityError):
        reader.read_at(2 * CHUNK, 1)
    assert reader.read_at(0, 5) == DISK[:5]
    blobs.blobs[digest_of(2)] = BLOBS[digest_of(2)]
    assert reader.read_at(2 * CHUNK, 5) == DISK[2 * CHUNK : 2 * CHUNK + 5]


def test_after_a_failure_the_next_read_asks_again() -> None:
    blobs = Blobs()
    outage = [RegistryError("away", status=503)]

    def fail(_: Digest) -> None:
        if outage:
            raise outage.pop()

    blobs.before = fail
    reader = ImageReader(blobs, IMAGE)
    with pytest.raises(RegistryError):
        reader.read_at(0, 1)
    assert reader.read_at(0, 1) == DISK[:1]


class TestReadAhead:
    def test_a_sequential_read_fetches_each_chunk_once(self) -> None:
        blobs = Blobs()
        with ImageReader(blobs, IMAGE, read_ahead=3) as reader:
            got = b"".join(reader.read_at(offset, 300_000) for offset in range(0, len(DISK), 300_000))
        assert got == DISK
        assert set(blobs.fetched.values()) == {1}

    def test_the_next_chunks_come_before_they_are_asked_for(self) -> None:
        blobs, seen = Blobs(), threading.Event()
        blobs.before = lambda digest: seen.set() if digest == digest_of(3) else None
        with ImageReader(blobs, IMAGE, read_ahead=3) as reader:
            reader.read_at(0, 1)
            assert blobs.fetched.total() == 1, "one read is no stream"
            reader.read_at(2 * CHUNK, 1)  # a hole in between is no gap
            assert seen.wait(30)
        assert digest_of(6) not in blobs.fetched

    def test_its_failure_is_nobodys_until_somebody_asks(self) -> None:
        blobs, failed = Blobs(), threading.Event()

        def fail(digest: Digest) -> None:
            if digest == digest_of(3) and not failed.is_set():
                failed.set()
                raise RegistryError("away", status=503)

        blobs.before = fail
        with ImageReader(blobs, IMAGE, read_ahead=1) as reader:
            reader.read_at(0, 1)
            reader.read_at(2 * CHUNK, 1)
            assert failed.wait(30)
        assert reader.read_at(3 * CHUNK, 5) == DISK[3 * CHUNK : 3 * CHUNK + 5], "a closed reader still reads"

    @pytest.mark.parametrize("readers", [1, 2, 3])
    def test_several_streams_at_once_fetch_each_chunk_once(self, readers: int) -> None:
        length, apart = 6 * CHUNK, 10 * CHUNK  # what is fetched ahead at the end of one is not of another
        disk = b"".join(text(CHUNK, seed) for seed in range(10 * readers))
        image, held = image_of(disk)
        blobs = Blobs(held)
        with ImageReader(blobs, image, memory=ChunkMemory(8 * CHUNK), read_ahead=4) as reader:
            for offset in range(0, length, CHUNK // 4):
                for number in range(readers):
                    at = number * apart + offset
                    assert reader.read_at(at, CHUNK // 4) == disk[at : at + CHUNK // 4]
        assert set(blobs.fetched.values()) == {1}

    def test_it_is_bounded_by_memory(self) -> None:
        disk = b"".join(text(CHUNK, seed) for seed in range(6))
        image, held = image_of(disk)
        blobs = Blobs(held)
        with ImageReader(blobs, image, memory=ChunkMemory(2 * CHUNK), read_ahead=50) as reader:
            assert reader.read_at(0, len(disk)) == disk
        assert set(blobs.fetched.values()) == {1}


class TestCache:
    def test_a_second_reader_fetches_nothing(self, tmp_path: Path) -> None:
        first, second = Blobs(), Blobs()
        cache = ChunkCache(tmp_path, 2**30)
        assert ImageReader(first, IMAGE, cache=cache).read_at(0, len(DISK)) == DISK
        assert ImageReader(second, IMAGE, cache=cache).read_at(0, len(DISK)) == DISK
        assert second.fetched.total() == 0

    def test_readers_that_begin_together_share_one_request(self, tmp_path: Path) -> None:
        blobs = Blobs()
        arrived, release = threading.Event(), threading.Event()

        def wait(_: Digest) -> None:
            arrived.set()
            assert release.wait(30)

        blobs.before = wait
        readers = [ImageReader(blobs, IMAGE, cache=ChunkCache(tmp_path, 2**30)) for _ in range(5)]
        with ThreadPoolExecutor(5) as pool:
            reads = [pool.submit(reader.read_at, 0, 50) for reader in readers]
            assert arrived.wait(30)
            release.set()
            assert {read.result(30) for read in reads} == {DISK[:50]}
        assert blobs.fetched.total() == 1

    @pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda _: b""])
    def test_a_damaged_file_is_fetched_again(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        cache = ChunkCache(tmp_path, 2**30)
        ImageReader(Blobs(), IMAGE, cache=cache).read_at(0, len(DISK))
        for path in tmp_path.glob("*/??/*"):
            path.write_bytes(damage(path.read_bytes()))
        blobs = Blobs()
        assert ImageReader(blobs, IMAGE, cache=cache).read_at(0, len(DISK)) == DISK
        assert blobs.fetched.total() == len(BLOBS)
        assert ImageReader(Blobs({}), IMAGE, cache=cache).read_at(0, len(DISK)) == DISK, "healed"

    def test_what_the_registry_damaged_is_not_cached(self, tmp_path: Path) -> None:
        cache = ChunkCache(tmp_path, 2**30)
        blobs = Blobs(dict.fromkeys(BLOBS, b"?"))
        with pytest.raises(IntegrityError):
            ImageReader(blobs, IMAGE, cache=cache).read_at(0, 1)
        assert not list(tmp_path.glob("*/??/*"))


class TestExport:
    def export(self) -> tuple[ImageExport, Blobs]:
        blobs = Blobs()
        return ImageExport(ImageReader(blobs, IMAGE)), blobs

    def test_reads(self) -> None:
        export, _ = self.export()
        assert export.size_bytes == len(DISK)
        assert export.read(CHUNK - 3, 6) == DISK[CHUNK - 3 : CHUNK + 3]

    @pytest.mark.parametrize(
        ("offset", "length", "extents"),
        [
            (
                0,
                len(DISK),
                [(CHUNK, False), (CHUNK, True), (2 * CHUNK, False), (2 * CHUNK, True), (1001, False)],
            ),
            (10, 20, [(20, False)]),
            (CHUNK + 10, 20, [(20, True)]),
            (CHUNK - 10, 20, [(10, False), (10, True)]),
            (5 * CHUNK, 2 * CHUNK, [(CHUNK, True), (1001, False)]),
            (5, 0, []),
        ],
    )
    def test_extents(self, offset: int, length: int, extents: list[tuple[int, bool]]) -> None:
        export, blobs = self.export()
        assert list(export.extents(offset, length)) == [Extent(*extent) for extent in extents]
        assert blobs.fetched.total() == 0
