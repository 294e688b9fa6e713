"""The images of `make bench-pipeline`: one disk in several formats, and its second version.

The disk is an ext4 of 6 GiB with at least 4 GiB of data: files of /usr, and beside them a quarter of bytes that no
compressor makes smaller, as photographs and packages are (AES in counter mode under a fixed key). In the second version
5 % of the data differ: runs of 16 MiB, at places of 4 KiB that a fixed seed draws, hold what other places held.
Beside it a qcow2 of 2 TiB, with chunks of 128 MiB, of which five are full of such noise.
Built once, in the folder that git ignores.
"""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.processes import CACHE, MIB

NOISE_SHARE = 4
NOISE_FILE_BYTES = 32 * MIB
RUN_BYTES = 16 * MIB
CHANGED_PERCENT = 5
LARGE_DISK_BYTES = 2 * 2**40
LARGE_CHUNK_BYTES = 128 * MIB
LARGE_CHUNKS = (0, 1, 2, 8000, 16_383)
BLOCK_BYTES = 4096
_FOLDERS = ("bin", "sbin", "libexec", "include", "lib", "share", "local", "src", "games")


@dataclass(frozen=True)
class Size:
    """How much data, in how large a disk."""

    name: str
    data_bytes: int
    disk_bytes: int


FULL = Size("full", 4 * 2**30 + 128 * MIB, 6 * 2**30)
QUICK = Size("quick", 512 * MIB, 768 * MIB)

_FORMATS: dict[str, tuple[str, ...]] = {
    "disk.qcow2": ("-O", "qcow2"),
    "compressed.qcow2": ("-O", "qcow2", "-c"),
    "disk.vmdk": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
}


class Images:
    """The files, each built when it is first asked for."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._folder = CACHE / f"images-{size.name}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def file(self, name: str) -> Path:
        """`disk` or `second` with `.raw` or `.qcow2`, `disk.raw.xz`, `disk.vmdk`, `compressed.qcow2`, `large.qcow2`."""
        path = self._folder / name
        if not path.exists():
            print(f"building {path}", flush=True)
            part = path.with_name(f"part-{name}")
            self._build(name, part)
            part.rename(path)
        return path

    def data_bytes(self) -> int:
        """Bytes of the disk that are not a hole."""
        return self.file("disk.raw").stat().st_blocks * 512

    def _build(self, name: str, part: Path) -> None:
        if name == "disk.raw":
            self._build_disk(part)
        elif name == "second.raw":
            _change(self.file("disk.raw"), part)
        elif name == "large.qcow2":
            _build_large(part)
        elif name == "disk.raw.xz":
            # One block, as `xz` of Debian writes it; level 1, since the level is for the file's size.
            with part.open("wb") as out:
                subprocess.run(["xz", "-1", "-T1", "-c", self.file("disk.raw")], stdout=out, check=True)
        else:
            raw = self.file("second.raw" if name == "second.qcow2" else "disk.raw")
            options = _FORMATS["disk.qcow2" if name == "second.qcow2" else name]
            subprocess.run(["qemu-img", "convert", "-f", "raw", *options, raw, part], check=True)

    def _build_disk(self, part: Path) -> None:
        noise = self._size.data_bytes // NOISE_SHARE
        with tempfile.TemporaryDirectory(prefix="tree-", dir=CACHE) as folder:
            tree = Path(folder)
            _noise(tree / "media", noise)
            left = self._size.data_bytes - noise
            for source in _FOLDERS:
                left -= _copy(Path("/usr", source), tree / source, left)
            if left > 0:
                raise SystemExit(f"/usr holds {left} bytes too little")
            command: list[str | Path] = [
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-d",
                tree,
                part,
                f"{self._size.disk_bytes // MIB}M",
            ]
            subprocess.run(command, check=True)


def _build_large(part: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", part, str(LARGE_DISK_BYTES)], check=True)
    with tempfile.TemporaryDirectory(prefix="noise-", dir=CACHE) as folder:
        stream = Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16))).encryptor()
        script: list[str] = []
        for index in LARGE_CHUNKS:
            noise = Path(folder, str(index)).absolute()
            noise.write_bytes(stream.update(bytes(LARGE_CHUNK_BYTES)))
            script += ["-c", f"write -q -s {noise} {index * LARGE_CHUNK_BYTES} {LARGE_CHUNK_BYTES}"]
        subprocess.run(["qemu-io", "-f", "qcow2", *script, part], check=True)


def _noise(folder: Path, size_bytes: int) -> None:
    folder.mkdir(parents=True)
    stream = Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16))).encryptor()
    for number in range(size_bytes // NOISE_FILE_BYTES + 1):
        length = min(NOISE_FILE_BYTES, size_bytes - number * NOISE_FILE_BYTES)
        (folder / f"{number}.bin").write_bytes(stream.update(bytes(length)))


def _copy(source: Path, target: Path, limit_bytes: int) -> int:
    """Copy files until they take so many bytes; how many they take."""
    taken = 0
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        for name in sorted(names):
            file = Path(folder, name)
            if taken >= limit_bytes or file.is_symlink() or not file.is_file():
                continue
            here.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(file, here / name)
            except PermissionError:
                continue
            taken += -(-file.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES
    return taken


def _change(raw: Path, part: Path) -> None:
    subprocess.run(["cp", "--sparse=always", raw, part], check=True)
    # The same places each time.
    draw: Callable[[int], int] = random.Random(5).randrange
    with part.open("r+b") as disk:
        size = disk.seek(0, os.SEEK_END)
        changed, goal = 0, raw.stat().st_blocks * 512 * CHANGED_PERCENT // 100
        while changed < goal:
            at, other = (draw((size - RUN_BYTES) // BLOCK_BYTES) * BLOCK_BYTES for _ in range(2))
            length = min(RUN_BYTES, goal - changed)
            disk.seek(other)
            data = disk.read(length)
            disk.seek(at)
            if data.count(0) * 4 > length or disk.read(length).count(0) * 4 > length:
                continue  # empty, or nearly
            disk.seek(at)
            disk.write(data)
            changed += length
