"""Disks to convert, and the processes that do it."""

import contextlib
import os
import random
from pathlib import Path

from converter.inspect import ImageInfo, inspect
from tests.support.images import MemorySource

MIB = 2**20
LIMIT = 2**41


def make_disk(size: int, seed: int = 1) -> bytes:
    """Data, zeroes and text in turns, with the signature of a partition table."""
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        run = rng.randrange(1, 3 * MIB)
        out += rng.choice([rng.randbytes(run), bytes(run), b"some text \n" * (run // 11)])
    del out[size:]
    out[510:512] = b"\x55\xaa"
    return bytes(out)


def inspected(data: bytes) -> ImageInfo:
    return inspect(MemorySource(data), max_virtual_size_bytes=LIMIT)


def children(of: int | None = None) -> list[int]:
    """The processes for qemu-img that this one, or `of`, has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            pid = int(stat.parent.name)
            if int(parent) == (of or os.getpid()) and state != "Z" and "qemu-img" in command_of(pid):
                found.append(pid)
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
