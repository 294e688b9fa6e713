"""What is no image, and what bytes can make of the inspector."""

import contextlib
import struct
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.inspect import ImageFormat, inspect
from dvcr.errors import ImageError
from tests.support.images import MemorySource
from tests.support.peak_memory import peak_memory

LIMIT = 2**41
# Of an example on a machine that others use, too.
HANG = timedelta(seconds=20)


def reason_of(data: bytes, limit: int = LIMIT) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        inspect(MemorySource(data), max_virtual_size_bytes=limit)
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "HTML page"),
        (b"\n\n <HTML>" + bytes(5000), "HTML page"),
        (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "XML"),
        (b'{"error": "not found"}\n', "a text"),
        (b"\x7fELF" + bytes(2000), "ELF"),
        (b"\x5d\0\0\x80\0" + bytes(2000), "lzma file, which is not supported"),
        (b"\x04\x22\x4d\x18" + bytes(2000), "lz4 file, which is not supported"),
        (b"PK\x03\x04" + bytes(2000), "zip"),
        (b"x" * 257 + b"ustar" + bytes(2000), "tar"),
        (b"QED\0" + bytes(2000), "qed"),
        (bytes(100_000), "nothing that is known"),
        (b"QFI\xfb\0\0\0\x01" + bytes(2000), "version 1"),
    ],
)
def test_what_is_no_disk_is_named(data: bytes, says: str) -> None:
    reason, message = reason_of(data)
    assert reason == "UnknownFormat"
    assert says in message


@pytest.mark.parametrize(
    ("at", "magic"),
    [(510, b"\x55\xaa"), (1080, b"\x53\xef"), (0, b"XFSB"), (65600, b"_BHRfS_M"), (3, b"NTFS    "), (512, b"EFI PART")],
)
def test_raw_is_what_begins_like_a_disk(at: int, magic: bytes) -> None:
    data = bytearray(100_001)
    data[at : at + len(magic)] = magic
    info = inspect(MemorySource(bytes(data)), max_virtual_size_bytes=LIMIT)
    assert (info.format, info.virtual_size_bytes, info.cdrom) == (ImageFormat.RAW, 100_352, False)


def test_an_iso_is_a_cdrom_even_with_a_partition_table() -> None:
    data = bytearray(100 * 2048)
    data[510:512] = b"\x55\xaa"
    data[32768:32774] = b"\x01CD001"
    info = inspect(MemorySource(bytes(data)), max_virtual_size_bytes=LIMIT)
    assert (info.format, info.virtual_size_bytes, info.cdrom) == (ImageFormat.ISO, 100 * 2048, True)


def test_luks_and_a_bare_vmdk_descriptor_have_their_reasons() -> None:
    assert reason_of(b"LUKS\xba\xbe\0\x01" + bytes(5000))[0] == "EncryptedImageRefused"
    assert reason_of(b'# Disk DescriptorFile\nversion=1\nRW 20 FLAT "/etc/shadow" 0\n')[0] == "MultiExtentRefused"


def test_a_raw_disk_over_the_limit() -> None:
    data = bytearray(4096)
    data[510:512] = b"\x55\xaa"
    assert reason_of(bytes(data), 4095)[0] == "VirtualSizeTooLarge"


@pytest.mark.parametrize("magic", [b"QFI\xfb\0\0\0\x03", b"KDMV\x01\0\0\0", b"vhdxfile"])
def test_a_file_that_two_formats_claim(magic: bytes) -> None:
    data = bytearray(100 * 2048)
    data[: len(magic)] = magic
    data[32768:32774] = b"\x01CD001"
    assert reason_of(bytes(data))[0] == "AmbiguousFormat"


MAGICS = st.sampled_from(
    [
        b"",
        b"QFI\xfb\0\0\0\x02",
        b"QFI\xfb\0\0\0\x03",
        b"KDMV\x01\0\0\0",
        b"vhdxfile",
        b"conectix",
        bytes(0x40) + struct.pack("<II", 0xBEDA107F, 0x00010001),
        b"# Disk DescriptorFile",
        bytes(510) + b"\x55\xaa",
    ]
)


@settings(max_examples=150, deadline=HANG)
@given(MAGICS, st.binary(max_size=1500), st.sampled_from([0, 1, 3000, 300_000]))
def test_no_bytes_crash_the_inspector_or_make_it_read_much(magic: bytes, rest: bytes, padding: int) -> None:
    source = MemorySource(magic + rest + bytes(padding))
    with peak_memory() as peak, contextlib.suppress(ImageError):
        info = inspect(source, max_virtual_size_bytes=LIMIT)
        assert 0 < info.virtual_size_bytes <= LIMIT
    assert source.read_bytes <= 34 * 2**20
    assert peak.grown < 64 * 2**20


def test_only_a_disk_without_a_format_is_looked_at_from_its_end() -> None:
    class Growing(MemorySource):
        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            assert offset_bytes < 2**20, "the end of the image is not here yet"
            return super().read_at(offset_bytes, length_bytes)

    data = bytearray(2**22)
    data[32768:32774] = b"\x01CD001"
    assert inspect(Growing(bytes(data)), max_virtual_size_bytes=LIMIT).format is ImageFormat.ISO
    fields = (b"QFI\xfb", 3, 0, 0, 16, 2**22, 0, 1, 65536, 131072, 1, 0, 0, 0, 0, 0, 4, 104)
    qcow2 = struct.pack(">4sIQIIQIIQQIIQQQQII", *fields)
    assert inspect(Growing(qcow2.ljust(2**22, b"\0")), max_virtual_size_bytes=LIMIT).format is ImageFormat.QCOW2
