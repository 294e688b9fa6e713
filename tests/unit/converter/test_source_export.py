"""Where the source ends, and what a read past it gives."""

import pytest

from converter.nbd.source import SourceExport
from dvcr.errors import ImageError
from tests.support.images import MemorySource

DATA = bytes(range(256)) * 8 + b"tail"


def test_reads_up_to_the_last_sector() -> None:
    export = SourceExport(MemorySource(DATA))
    assert export.read(2040, 12) == DATA[2040:]
    assert export.read(2048, 512) == b"tail" + bytes(508)
    assert not export.read_past_end


@pytest.mark.parametrize(("offset", "length"), [(2048, 513), (4096, 512), (2**60, 1)])
def test_a_read_past_the_end_says_that_the_image_is_cut_off(offset: int, length: int) -> None:
    export = SourceExport(MemorySource(DATA))
    with pytest.raises(ImageError) as caught:
        export.read(offset, length)
    assert caught.value.reason == "TruncatedImage"


def test_what_is_read_again_and_again_is_refused() -> None:
    data = bytes(8 * 2**20)
    export = SourceExport(MemorySource(data), max_reads=2)
    for _ in range((256 + 16) // 8):
        export.read(0, len(data))
    with pytest.raises(ImageError) as caught:
        export.read(0, 512)
    assert caught.value.reason == "CorruptImage"
    unbounded = SourceExport(MemorySource(data))
    for _ in range(50):
        unbounded.read(0, len(data))


def test_a_look_at_the_header_may_be_longer_than_the_image() -> None:
    assert SourceExport(MemorySource(DATA)).read(0, 10_000) == DATA + bytes(10_000 - len(DATA))


def test_exact_length_is_that_of_the_source() -> None:
    assert SourceExport(MemorySource(DATA), exact_length=True).size_bytes == len(DATA)
    assert SourceExport(MemorySource(DATA)).size_bytes == 2**62
