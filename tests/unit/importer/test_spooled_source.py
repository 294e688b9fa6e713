"""What bounds the bytes that are fetched of a source and those that are spooled, and which are kept."""

import random
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from converter.convert import convert
from converter.inspect import inspect
from dvcr.errors import NoSpaceError, SourceError
from importer.checksums import Checksums
from importer.sources.spooled import SpooledSource
from importer.spool import Spool
from tests.support.downloads import MemoryDownload, watched_source
from tests.support.images import MemoryChunkStore, build_image
from tests.support.small_disk import small_disk_of

MIB = 2**20
RESERVE = 256 * MIB


@pytest.mark.parametrize("image_format", ["vdi", "qcow2"])
def test_a_source_without_end_is_given_up_at_the_limit(image_format: str, tmp_path: Path) -> None:
    image = build_image(tmp_path, random.Random(1).randbytes(4 * MIB), image_format)
    source, _ = watched_source(tmp_path, MemoryDownload(image, endless=True), max_bytes=64 * MIB)

    def import_it() -> None:
        info = inspect(source, max_virtual_size_bytes=MIB * MIB)
        convert(source, info, MemoryChunkStore(), on_progress=lambda _: None)
        source.finish()

    with pytest.raises(SourceError, match=r"no end; importer\.max_source_bytes allows 67108864$") as caught:
        import_it()
    assert (caught.value.reason, caught.value.retryable) == ("SourceTooLarge", False)
    assert source.fetched_bytes <= 64 * MIB
    source.close()


def test_a_source_that_announces_too_much_is_not_fetched(tmp_path: Path) -> None:
    source, _ = watched_source(tmp_path, MemoryDownload(bytes(3 * MIB)), max_bytes=3 * MIB - 1)
    with pytest.raises(SourceError, match="the source has 3145728 bytes") as caught:
        source.read_at(0, 1)
    assert (caught.value.reason, source.fetched_bytes) == ("SourceTooLarge", 0)
    source.close()


def test_a_spool_leaves_a_reserve_to_others(tmp_path: Path) -> None:
    with small_disk_of(tmp_path / "scratch", RESERVE + 80 * MIB) as scratch:
        source, _ = watched_source(scratch, MemoryDownload(b"", endless=True))
        with pytest.raises(NoSpaceError, match=r"importer\.scratch_dir"):
            source.size_bytes()
        assert 80 * MIB <= source.spooled_bytes <= 112 * MIB
        source.close()
        assert Spool(scratch).room_bytes() == 80 * MIB


def test_a_source_that_fits_only_into_the_reserve_is_not_fetched(tmp_path: Path) -> None:
    with small_disk_of(tmp_path / "scratch", RESERVE + 16 * MIB) as scratch:
        download = MemoryDownload(bytes(40 * MIB))
        source = SpooledSource(download, Checksums({}), Spool(scratch), max_bytes=2**40, window_bytes=MIB)
        with pytest.raises(NoSpaceError, match="the source has 41943040 bytes"):
            source.read_at(4 * MIB, 1)
        assert source.spooled_bytes == 0
        source.close()


class Gated(MemoryDownload):
    """Stops half-way until it is let go, and can prove later that its bytes are the same."""

    def __init__(self, data: bytes, half: int) -> None:
        super().__init__(data)
        self._half = half
        self.gate = threading.Event()

    def pieces(self) -> Iterator[bytes]:
        for index, piece in enumerate(super().pieces()):
            if index * MIB == self._half:
                assert self.gate.wait(30)
            yield piece

    def identity(self) -> Mapping[str, Any] | None:
        return {"etag": "a"}


def test_of_two_imports_that_fit_only_alone_one_makes_room_for_the_other(tmp_path: Path) -> None:
    with small_disk_of(tmp_path / "scratch", RESERVE + 85 * MIB) as scratch:
        downloads = [Gated(bytes(80 * MIB), 20 * MIB) for _ in range(2)]
        sources = [
            SpooledSource(download, Checksums({}), Spool(scratch, f"job-{index}"), max_bytes=2**40)
            for index, download in enumerate(downloads)
        ]
        for source in sources:
            assert source.read_at(19 * MIB, MIB) == bytes(MIB)
        downloads[0].gate.set()
        with pytest.raises(NoSpaceError):
            sources[0].read_at(79 * MIB, MIB)
        sources[0].close()
        downloads[1].gate.set()
        assert sources[1].read_at(79 * MIB, MIB) == bytes(MIB)
        sources[1].close()
        assert len(list(scratch.glob("*.data"))) == 1, "that of the second, whose job discards it"


def test_what_was_spooled_outlives_an_import_that_failed_elsewhere(tmp_path: Path) -> None:
    download = Gated(bytes(80 * MIB), 40 * MIB)
    source = SpooledSource(download, Checksums({}), Spool(tmp_path, "job"), max_bytes=2**40)
    source.read_at(39 * MIB, MIB)
    source.abort()
    download.gate.set()
    source.close()
    kept = Spool(tmp_path, "job")
    assert kept.identity == {"etag": "a"}
    assert kept.kept_bytes >= 40 * MIB
    kept.close()
