"""The disk images of `make bench-machines`: sparse, with a boot sector that says when the guest's first code runs.

Every chunk has its own bytes: three quarters are pieces of /usr, one quarter does not compress. Chunks lie all over the
disk, holes between them. Built once, in the folder that git ignores.
"""

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.processes import CACHE, MIB

MARKER = "first instruction"
"""On the serial console; what comes before it may get lost while QEMU joins the console."""
CHUNK_BYTES = 4 * MIB
POOL_BYTES = 128 * MIB
# cld; ds = 0; si = text; write the text byte by byte to COM1, each once its line status says so; halt.
_CODE = bytes.fromhex("fc31c08ed8be237cac84c0741288c4bafd03eca82074fbbaf80388e0eeebe9faf4ebfd")
BOOT_SECTOR = (_CODE + f"\nthis is the guest's {MARKER}\n\0".encode()).ljust(510, b"\0") + b"\x55\xaa"


@dataclass(frozen=True)
class Shape:
    """How large a disk is, and how much of it is data."""

    name: str
    virtual_bytes: int
    data_bytes: int

    def file(self) -> Path:
        """The disk as qcow2."""
        path = CACHE / "machines" / f"{self.name}.qcow2"
        if not path.exists():
            print(f"building {path}", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = path.with_suffix(".raw")
            self._write(raw)
            part = path.with_suffix(".part")
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, part], check=True)
            raw.unlink()
            part.rename(path)
        return path

    def _write(self, raw: Path) -> None:
        pool, noise = _pool(), Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16))).encryptor()
        draw = random.Random(self.name)
        chunks = self.virtual_bytes // CHUNK_BYTES
        places = sorted({0, *draw.sample(range(1, chunks), self.data_bytes // CHUNK_BYTES - 1)})
        with raw.open("wb") as file:
            file.truncate(self.virtual_bytes)
            for place in places:
                at = draw.randrange(len(pool) - 3 * MIB)
                data = noise.update(bytes(MIB)) + pool[at : at + 3 * MIB]
                file.seek(place * CHUNK_BYTES)
                file.write(BOOT_SECTOR + data[len(BOOT_SECTOR) :] if place == 0 else data)


def _pool() -> bytes:
    """Files of /usr, one after the other."""
    pool = bytearray()
    for file in sorted(Path("/usr/lib").rglob("*")):
        if file.is_file() and not file.is_symlink():
            pool += file.read_bytes()
        if len(pool) >= POOL_BYTES:
            break
    return bytes(pool[:POOL_BYTES])


GIB = 2**30
SMALL = Shape("small", GIB // 2, GIB * 4 // 10)
MEDIUM = Shape("medium", 5 * GIB, 4 * GIB)
LARGE = Shape("large", 50 * GIB, 10 * GIB)
QUICK_MEDIUM = Shape("quick-medium", GIB, 512 * MIB)
QUICK_LARGE = Shape("quick-large", 8 * GIB, GIB)
