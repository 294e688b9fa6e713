"""Signatures of what is a raw disk, and of what people upload by mistake instead of one."""

import re

_AT_START = {
    b"\x1f\x8b": "a gzip file that cannot be unpacked; pack it again",
    b"\xfd7zXZ\0": "an xz file; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it first",
    b"BZh": "a bzip2 file that cannot be unpacked; pack it again",
    b"\x04\x22\x4d\x18": "an lz4 file, which is not supported; pack it with gzip, xz, zstd or bzip2",
    b"\x5d\0\0": "an lzma file, which is not supported; pack it with gzip, xz, zstd or bzip2",
    b"LZIP": "an lzip file, which is not supported; pack it with gzip, xz, zstd or bzip2",
    b"\x1f\x9d": "a file of compress, which is not supported; pack it with gzip, xz, zstd or bzip2",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!\x1a\x07": "a rar archive; unpack it first",
    b"!<arch>\n": "a Debian package or another ar archive",
    b"\xed\xab\xee\xdb": "an RPM package",
    b"\x7fELF": "an ELF program",
    b"MZ": "a Windows or EFI program",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"QED\0": "a qed image, which is not supported; convert it to qcow2",
    b"COWD": "an ESX sparse extent (COWD), which is not supported; export the disk as one monolithicSparse VMDK",
    b"WithoutFreeSpace": "a Parallels image, which is not supported; convert it to qcow2",
    b"WithouFreSpacExt": "a Parallels image, which is not supported; convert it to qcow2",
    b"070701": "a cpio archive",
    b"-----BEGIN": "a PEM certificate or key",
    b"SQLite format 3": "an SQLite database",
}

# Magic numbers of file systems and volume managers that may fill a whole disk: offset and bytes.
_FILESYSTEMS = (
    (1080, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (65536 + 64, b"_BHRfS_M"),  # btrfs
    (1024, b"\x10\x20\xf5\xf2"),  # f2fs
    (1024, b"\xe2\xe1\xf5\xe0"),  # erofs
    (1024, b"H+"),
    (1024, b"HX"),
    (0, b"hsqs"),  # squashfs
    (512, b"LABELONE"),  # LVM
    (0, b"LABELONE"),
    (4086, b"SWAPSPACE2"),
    (3, b"NTFS    "),
    (3, b"EXFAT   "),
    (32, b"NXSB"),
    (65536 + 52, b"ReIsEr"),
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
)


def is_iso(head: bytes) -> bool:
    """Whether the 16th sector of 2048 bytes begins a volume of ISO 9660 or of UDF."""
    return head[32769:32774] in (b"CD001", b"BEA01", b"NSR02", b"NSR03")


def is_disk(head: bytes) -> bool:
    """Whether a partition table, a boot sector or a file system begins here."""
    if any(head[at : at + len(magic)] == magic for at, magic in _FILESYSTEMS):
        return True
    return head[510:512] == b"\x55\xaa"


def foreign(head: bytes) -> str | None:
    """What the bytes look like if they are something else than a disk; None if that cannot be told."""
    if head[510:512] != b"\x55\xaa":
        for magic, name in _AT_START.items():
            if head.startswith(magic):
                return name
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    text = head[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<(!doctype\s+html|html|head|body|!--)", text, re.IGNORECASE):
        return "an HTML page; the address probably leads to a web page instead of the file, or asks for a login"
    if text.startswith(b"<"):
        return "an XML or HTML document"
    if not is_disk(head) and _is_text(head[:1024]):
        return f"a text, beginning {text[:60].decode(errors='replace')!r}"
    return None


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        # The end of the sample may cut a character in two.
        if exc.start < len(data) - 3:
            return False
        text = data[: exc.start].decode()
    return bool(text) and all(c.isprintable() or c.isspace() for c in text)
