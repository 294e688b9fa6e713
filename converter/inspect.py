"""What an image is, from its bytes: format, size, and whether it is safe to convert. qemu never guesses.

Our own reading of the headers decides; oslo.utils' format inspector, written for the same purpose, is asked as well,
and either may refuse.
"""

import struct
from dataclasses import dataclass
from enum import StrEnum

from oslo_utils.imageutils import format_inspector

from converter import headers, signatures
from converter.partitions import NOTHING_DECLARED, DeclaredSize, declared_size, has_partitions, refuse_cut
from converter.source import AheadSource, ByteSource
from converter.vhdx import vhdx
from dvcr.errors import ImageError

HEAD_BYTES = 128 * 1024
DESCRIPTOR_MARK = b"# Disk DescriptorFile"


class ImageFormat(StrEnum):
    """Formats that are accepted, by the names that qemu gives them (`iso` is raw to qemu)."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VPC = "vpc"
    VHDX = "vhdx"
    ISO = "iso"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What `inspect` found.

    A VHD of fixed size is told by its last sector, which may not be there yet: until `convert` is done, it is `raw`.
    """

    format: ImageFormat
    virtual_size_bytes: int
    """0 where only the end of the source will tell."""
    cdrom: bool
    exact_length: bool = False
    """The format is read from its end, so the converter must see exactly where that is."""
    declared: DeclaredSize = NOTHING_DECLARED
    """What a raw disk or an ISO says about its own length."""
    snapshots: int = 0
    """Inside a qcow2, beside its disk."""


def inspect(source: ByteSource, *, max_virtual_size_bytes: int) -> ImageInfo:
    """Find out what `source` is. Reads only headers and tables of offsets, at most a few megabytes.

    Never waits for the end of the source but for VMDKs whose tables are found from there.

    Raises ImageError: `UnknownFormat` (with what it looks like instead), `AmbiguousFormat`, `TruncatedImage`,
    `CorruptImage`, `BackingFileRefused`, `ExternalDataFileRefused`, `EncryptedImageRefused`, `MultiExtentRefused`,
    `SnapshotsRefused`, `VirtualSizeTooLarge`. Raw is accepted only where a partition table or a file system says that
    it is a disk.
    """
    head = source.read_at(0, HEAD_BYTES)
    total = source.total_bytes
    found = _claims(head)
    if len(found) > 1:
        names = " and ".join(sorted(found))
        raise ImageError(
            f"the image can be read as {names}; it was made to deceive. Convert it with a tool that you trust",
            reason="AmbiguousFormat",
        )
    if not found:
        _refuse_others(head)
    image_format = found.pop() if found else ImageFormat.RAW
    exact = False
    snapshots = 0
    declared = NOTHING_DECLARED
    match image_format:
        case ImageFormat.QCOW2:
            virtual, snapshots = headers.qcow2(source)
        case ImageFormat.VMDK:
            header = headers.vmdk(source)
            virtual, exact = header.size_bytes, header.from_end
        case ImageFormat.VPC:
            virtual = headers.vpc(source)
        case ImageFormat.VDI:
            virtual = headers.vdi(source)
        case ImageFormat.VHDX:
            virtual = vhdx(source)
        case _:
            declared = declared_size(head)
            # As qemu does, to whole sectors.
            virtual = -(-(total or 0) // headers.SECTOR_BYTES) * headers.SECTOR_BYTES
            if total is not None:
                refuse_cut(declared, total)
    if not virtual and (total is not None or image_format not in (ImageFormat.RAW, ImageFormat.ISO)):
        raise ImageError("the disk in the image is empty: it has no bytes; export it again", reason="CorruptImage")
    if max(virtual, declared.least_bytes) > max_virtual_size_bytes:
        raise ImageError(
            f"the disk in the image has {max(virtual, declared.least_bytes)} bytes; at most {max_virtual_size_bytes} "
            "are allowed (importer.max_virtual_size_bytes)",
            reason="VirtualSizeTooLarge",
        )
    _second_opinion(source, image_format, head)
    return ImageInfo(image_format, virtual, image_format is ImageFormat.ISO, exact, declared, snapshots)


def _claims(head: bytes) -> set[ImageFormat]:
    found = set()
    if head.startswith(headers.QCOW2_MAGIC):
        found.add(ImageFormat.QCOW2)
    if head.startswith(headers.VMDK_MAGIC):
        found.add(ImageFormat.VMDK)
    if head.startswith(headers.VHDX_MAGIC):
        found.add(ImageFormat.VHDX)
    if head[0x40:0x44] == headers.VDI_MAGIC.to_bytes(4, "little"):
        found.add(ImageFormat.VDI)
    if head.startswith(headers.VPC_MAGIC):
        found.add(ImageFormat.VPC)
    if signatures.is_iso(head):
        found.add(ImageFormat.ISO)
    elif found and has_partitions(head):
        # Any file can be read as raw; this one was written to be read as both. An ISO may have partitions, too.
        found.add(ImageFormat.RAW)
    return found


def _refuse_others(head: bytes) -> None:
    """Raise unless `head` is the beginning of a raw disk."""
    if not head:
        raise ImageError("the image is empty", reason="UnknownFormat")
    if head.startswith(b"LUKS\xba\xbe"):
        raise ImageError("the image is encrypted (LUKS); decrypt it first", reason="EncryptedImageRefused")
    if head.lstrip()[: len(DESCRIPTOR_MARK)].lower() == DESCRIPTOR_MARK.lower():
        raise ImageError(
            "this is only the description of a VMDK; its data are in other files. Export it as one file "
            "(monolithicSparse or streamOptimized)",
            reason="MultiExtentRefused",
        )
    looks_like = signatures.foreign(head)
    if looks_like is None and signatures.is_disk(head):
        return
    if looks_like is None:
        looks_like = "nothing that is known: there is no partition table and no file system in it"
    raise ImageError(f"this is no disk image: it looks like {looks_like}", reason="UnknownFormat")


def _second_opinion(source: ByteSource, image_format: ImageFormat, head: bytes) -> None:
    if image_format not in (ImageFormat.QCOW2, ImageFormat.VMDK):
        return  # oslo has no checks for the others
    inspector = format_inspector.ALL_FORMATS[image_format]()
    try:
        inspector.eat_chunk(head[:512])
        fed = 512
        while not inspector.complete and fed < headers.MAX_DESCRIPTOR_BYTES:
            piece = source.read_at(fed, 64 * 1024)
            if not piece:
                break
            inspector.eat_chunk(piece)
            fed += len(piece)
        if not inspector.complete:
            # Its look at the end, the same bytes that we looked at: only some VMDKs need it.
            size = source.size_bytes()
            inspector.eat_chunk(AheadSource(source).read_at(max(fed, size - 1536), 1536))
        inspector.finish()
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as exc:
        # It does not know extended L2 entries, a feature of qcow2 that our own reading checks for.
        failures = {name: str(why) for name, why in exc.failures.items() if name != "unknown_features"}
        if failures:
            raise ImageError(f"the {image_format} is not safe: {failures}", reason="CorruptImage") from exc
    except (format_inspector.ImageFormatError, struct.error, RuntimeError) as exc:
        raise ImageError(f"the {image_format} is broken: {exc}", reason="CorruptImage") from exc
