"""Memory for chunks that several readers share."""

import threading
from concurrent.futures import ThreadPoolExecutor

from dvcr.artifact.memory import ChunkMemory
from dvcr.artifact.reader import ImageReader
from dvcr.digest import Digest
from tests.support.artifacts import CHUNK, image_of, text
from tests.unit.artifact.test_reader import Blobs

DISK = b"".join(text(CHUNK, seed) for seed in range(3))
IMAGE, BLOBS = image_of(DISK)


def test_readers_share_it() -> None:
    memory = ChunkMemory(3 * CHUNK)
    blobs = [Blobs(BLOBS), Blobs(BLOBS)]
    first, second = (ImageReader(each, IMAGE, memory=memory) for each in blobs)
    for index in (0, 1):
        first.read_at(index * CHUNK, 1)
        second.read_at(index * CHUNK, 1)
    first.read_at(0, 1)
    # Four chunks for three places: the oldest went, and the others are there.
    assert [each.fetched.total() for each in blobs] == [3, 2]
    second.read_at(CHUNK, 1)
    assert blobs[1].fetched.total() == 2


def test_a_reader_that_leaves_makes_room() -> None:
    memory = ChunkMemory(4 * CHUNK)
    blobs = Blobs(BLOBS)
    first, second = ImageReader(Blobs(BLOBS), IMAGE, memory=memory), ImageReader(blobs, IMAGE, memory=memory)
    assert memory.share(CHUNK) == 2
    first.read_at(0, 2 * CHUNK)
    first.close()
    first.close()
    assert memory.share(CHUNK) == 4
    second.read_at(0, 3 * CHUNK)
    second.read_at(0, 3 * CHUNK)
    assert blobs.fetched.total() == 3


def test_two_chunks_are_held_however_large_they_are() -> None:
    blobs = Blobs(BLOBS)
    reader = ImageReader(blobs, IMAGE, memory=ChunkMemory(1))
    for index in (0, 1, 0, 1):
        reader.read_at(index * CHUNK, 1)
    assert blobs.fetched.total() == 2


def test_chunks_wait_for_their_turn_where_there_is_no_room_on_the_way() -> None:
    memory = ChunkMemory(2 * CHUNK)  # of one chunk, as it comes and decoded
    arrived, release = threading.Event(), threading.Event()
    under_way, most = [0], [0]

    def wait(_: Digest) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        arrived.set()
        assert release.wait(30)
        under_way[0] -= 1

    blobs = Blobs(BLOBS)
    blobs.before = wait
    with ThreadPoolExecutor(3) as pool:
        reads = [
            pool.submit(ImageReader(blobs, IMAGE, memory=memory).read_at, index * CHUNK, CHUNK) for index in range(3)
        ]
        assert arrived.wait(30)
        release.set()
        assert b"".join(read.result(30) for read in reads) == DISK
    assert most == [1]
