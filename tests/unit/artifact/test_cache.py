"""The chunk cache: bounded, shared, and never worse than no cache."""

import multiprocessing
import os
from pathlib import Path

import pytest

from dvcr.artifact.cache import ChunkCache
from dvcr.digest import Digest
from tests.support.artifacts import noise

SIZE = 1000


def blob(number: int) -> tuple[Digest, bytes]:
    data = noise(SIZE, number)
    return Digest.of(data), data


def held(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*/??/*"))


def test_what_was_put_is_there_for_everybody(tmp_path: Path) -> None:
    digest, data = blob(1)
    assert ChunkCache(tmp_path / "cache", 10 * SIZE).get(digest) is None
    ChunkCache(tmp_path / "cache", 10 * SIZE).put(digest, data)
    assert ChunkCache(tmp_path / "cache", 10 * SIZE).get(digest) == data


def test_it_never_holds_more_than_its_size(tmp_path: Path) -> None:
    caches = [ChunkCache(tmp_path, 10 * SIZE) for _ in range(2)]
    for number in range(50):
        caches[number % 2].put(*blob(number))
        assert held(tmp_path) <= 10 * SIZE
    assert held(tmp_path) >= 8 * SIZE


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 4 * SIZE)
    for number in range(4):
        cache.put(*blob(number))
        os.utime(cache._path(blob(number)[0]), (number, number))
    assert cache.get(blob(0)[0]) is not None
    cache.put(*blob(9))
    assert cache.get(blob(1)[0]) is None
    assert cache.get(blob(0)[0]) is not None


def test_discarded_is_gone(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    cache.put(*blob(1))
    cache.discard(blob(1)[0])
    cache.discard(blob(2)[0])
    assert cache.get(blob(1)[0]) is None


@pytest.mark.parametrize("size_bytes", [0, SIZE - 1])
def test_what_does_not_fit_is_not_kept(tmp_path: Path, size_bytes: int) -> None:
    cache = ChunkCache(tmp_path, size_bytes)
    cache.put(*blob(1))
    assert cache.get(blob(1)[0]) is None


def test_the_rest_of_a_crash_is_cleared_and_counted_again(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 3 * SIZE)
    cache.put(*blob(1))
    rest = tmp_path / "sha256" / "ab" / ("ab" * 32 + ".part")
    rest.parent.mkdir()
    rest.write_bytes(bytes(10 * SIZE))
    (tmp_path / "usage").write_text("nonsense")
    cache.put(*blob(2))
    assert not rest.exists()
    assert held(tmp_path) == 2 * SIZE


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ChunkCache(tmp_path / "file" / "cache", 10 * SIZE)
    cache.put(*blob(1))
    cache.discard(blob(1)[0])
    assert cache.get(blob(1)[0]) is None


def test_a_full_disk_is_no_error_and_leaves_nothing(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    cache.put(*blob(1))
    digest, data = blob(2)
    target = cache._path(digest)
    target.parent.mkdir(parents=True)
    target.with_suffix(".part").symlink_to("/dev/full")
    cache.put(digest, data)
    assert cache.get(digest) is None
    assert held(tmp_path) == SIZE


def _fill(directory: str, seed: int) -> None:
    cache = ChunkCache(Path(directory), 20 * SIZE)
    for number in range(seed, seed + 60):
        digest, data = blob(number % 90)
        found = cache.get(digest)
        assert found is None or found == data, "never half of a blob"
        cache.put(digest, data)


def test_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_fill, args=(str(tmp_path), seed)) for seed in (0, 30, 60)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert held(tmp_path) <= 20 * SIZE


def _fetch_all(directory: str, log: str) -> None:
    cache = ChunkCache(Path(directory), 100 * SIZE)
    for number in range(40):
        digest, data = blob(number)
        with cache.fetching(digest):
            if cache.get(digest) is None:
                with Path(log).open("a") as file:
                    file.write(f"{number}\n")
                cache.put(digest, data)


def test_processes_that_begin_together_fetch_each_blob_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    arguments = (str(tmp_path / "cache"), str(tmp_path / "log"))
    processes = [context.Process(target=_fetch_all, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(40))


def test_another_blob_is_fetched_meanwhile_also_without_a_folder(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE)
    with cache.fetching(blob(1)[0]), cache.fetching(blob(2)[0]):
        pass
    (tmp_path / "file").write_text("in the way")
    with ChunkCache(tmp_path / "file" / "cache", 10 * SIZE).fetching(blob(1)[0]):
        pass
