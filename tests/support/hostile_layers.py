"""Layers of container images that are made to exhaust who reads them, and what becomes of each in a process of its own.

python -m tests.support.hostile_layers FOLDER: pulls each FOLDER/*.layer, and tells it as lines of JSON.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings, ImporterSettings
from dvcr.errors import DvcrError
from dvcr.jobs.job import ContainerOrigin
from importer.disk_copy import DiskCopy
from importer.sources.opening import open_source
from tests.support.container_images import TAR, push_image, tar
from tests.support.image_server import serving_images

MIB = 2**20
ZSTD = f"{TAR}+zstd"
_ZEROES = bytes(MIB)


@dataclass(frozen=True)
class HostileLayer:
    """One of them."""

    reason: str
    why: str
    """What the message says."""
    build: Callable[[], bytes]
    media_type: str = ZSTD


def header(name: str, size_bytes: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One block."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size_bytes, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def packed(pieces: Iterator[bytes]) -> bytes:
    """In one frame, of which the plain form is never in memory."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join(compressor.compress(piece) for piece in pieces) + compressor.flush()


def extended(kind: bytes, size_bytes: int) -> bytes:
    """A disk after an extension header of that size."""

    def pieces() -> Iterator[bytes]:
        yield header("x", size_bytes, kind)
        for _ in range(size_bytes // MIB):
            yield b"x" * MIB
        yield tar(("disk/a", b"disk" * 1000))

    return packed(pieces())


def many(block: bytes, count: int) -> bytes:
    """The same block again and again."""
    return packed(block * 1000 for _ in range(count // 1000))


def numbered(count: int) -> bytes:
    """Whiteouts with long names, all different."""

    def pieces() -> Iterator[bytes]:
        for number in range(count):
            name = f"disk/.wh.{number:06}{'n' * 3000}".encode() + b"\0"
            yield header("@", len(name), tarfile.GNUTYPE_LONGNAME) + name.ljust(-(-len(name) // 512) * 512, b"\0")
            yield header("short")

    return packed(pieces())


def bomb() -> bytes:
    """A file that nobody asked for, of 1 TiB."""
    frame = zstandard.compress(_ZEROES * 64)
    return packed(iter((header("etc/zeroes", 2**40),))) + frame * 512


def sparse(archive_format: str) -> bytes:
    """As GNU tar writes it."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk", "a.img")
        disk.parent.mkdir()
        with disk.open("wb") as file:
            file.write(b"begin" * 1000)
            file.seek(64 * MIB)
            file.write(b"end")
        command = ["tar", "--sparse", f"--format={archive_format}", "-C", folder, "-c", "disk"]
        return zstandard.compress(subprocess.check_output(command))


def spread() -> bytes:
    """A sparse file's map of a hundred thousand blocks, each of which says that another one follows."""
    first = bytearray(header("etc/sparse", 0, tarfile.GNUTYPE_SPARSE))
    first[482] = 1
    following = bytearray(512)
    following[504] = 1
    return packed(iter((summed(first), bytes(following) * 100_000)))


def negative() -> bytes:
    """A size below zero, in base 256."""
    block = bytearray(header("disk/a"))
    block[124:136] = b"\xff" * 11 + b"\x00"
    return summed(block) + bytes(4096)


def summed(block: bytearray) -> bytes:
    """The header with the checksum that it is to have."""
    block[148:156] = f"{sum(block[:148]) + sum(block[156:]) + 8 * 32:06o}\0 ".encode()
    return bytes(block)


INVALID = "InvalidContainerImage"
HOSTILE_LAYERS = {
    "pax header of 300 MiB": HostileLayer(INVALID, "header of 314572800 bytes", lambda: extended(b"x", 300 * MIB)),
    "long name of 300 MiB": HostileLayer(INVALID, "header of 314572800 bytes", lambda: extended(b"L", 300 * MIB)),
    "long link of 300 MiB": HostileLayer(INVALID, "header of 314572800 bytes", lambda: extended(b"K", 300 * MIB)),
    "a million files": HostileLayer(INVALID, "more than 250000 files", lambda: many(header("etc/x"), 10**6)),
    "a million headers of one file": HostileLayer(
        INVALID, "no file", lambda: many(header("x", 0, tarfile.XHDTYPE), 10**6)
    ),
    "a name of a million characters": HostileLayer(INVALID, "a name of", lambda: extended(b"L", MIB)),
    "five thousand long whiteouts": HostileLayer(INVALID, "more than 1000 files", lambda: numbered(5000)),
    "a file of zeroes without end": HostileLayer("DecompressionBomb", "times its size", bomb),
    "a sparse file, GNU": HostileLayer("SparseArchiveRefused", "without --sparse", lambda: sparse("gnu")),
    "a sparse file, pax": HostileLayer("SparseArchiveRefused", "without --sparse", lambda: sparse("pax")),
    "a sparse map without end": HostileLayer(INVALID, "cut off", spread),
    "negative size": HostileLayer(INVALID, "negative", lambda: zstandard.compress(negative())),
    "cut in a header": HostileLayer(INVALID, "cut off", lambda: zstandard.compress(tar(("disk/a", b"x"))[:700])),
}


def pull(media_type: str, layer: bytes, scratch: Path) -> dict[str, object]:
    """Pull the disk of an image with this layer; what it ended with."""
    with serving_images() as images:
        push_image(images.registry.client().repository("a/b"), [(media_type, layer)])
        host = images.url.partition("://")[2]
        settings = ImporterSettings(
            scratch_dir=scratch, retries=0, source_addresses="any", plain_http_registries=(host,)
        )
        source = open_source(
            ContainerOrigin(image=f"{host}/a/b:latest"),
            {},
            RegistryClient.from_settings(ClientSettings(url=images.url)),
            settings,
        )
        assert not isinstance(source, DiskCopy)
        try:
            source.finish()
            return {"reason": "pulled", "message": ""}
        except DvcrError as exc:
            return {"reason": exc.reason, "message": exc.message}
        finally:
            source.close()


def main(folder: Path) -> None:
    for file in sorted(folder.glob("*.layer")):
        read_end, write_end = os.pipe()
        pid = os.fork()  # nothing has started a thread yet
        if not pid:
            result = pull(file.with_suffix(".type").read_text(), file.read_bytes(), folder / "scratch")
            os.write(write_end, json.dumps(result).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            said = pipe.read()
        _, _, usage = os.wait4(pid, 0)
        print(
            json.dumps(
                {
                    "file": file.stem,
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "rss_kb": usage.ru_maxrss,
                    **json.loads(said or "{}"),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
