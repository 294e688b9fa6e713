"""Chunks on local disk, so that the machines of a node fetch each one once."""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from dvcr.digest import Digest

log = structlog.get_logger(__name__)

# Longest that a process leaves a blob to another one, which may have been stopped; then it fetches the blob itself.
FETCH_WAIT_S = 30.0
_FETCH_POLL_S = 0.005
# struct flock of Linux on 64 bits: type, whence, start, length, and a process id that must be 0.
_FLOCK = struct.Struct("hhqqi4x")

# Room that one eviction makes, so that not every write has to look through the whole cache.
_SLACK_PERCENT = 10


class ChunkCache:
    """Blobs by digest in a folder, at most `size_bytes` of them together. Shared by threads and processes.

    What it returns was written by anybody who may write to the folder, or cut by a crash: check the digest. A cache
    only saves work, so a disk that fails or is full is logged and otherwise means "not here".
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self._size_bytes = size_bytes
        # Bytes in the cache, kept beside it under a lock; never too low, put right by each eviction.
        self._usage = directory / "usage"

    def get(self, digest: Digest) -> bytes | None:
        """The blob as it was put, or None."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("chunk cache not readable", path=str(path), error=str(error))
            return None
        return data

    def put(self, digest: Digest, data: bytes) -> None:
        """Keep the blob, atomically, and forget those that were not used for longest where there is no room."""
        path = self._path(digest)
        if len(data) > self._size_bytes or path.exists():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._reserve(len(data))
                # The lock makes whatever has this suffix at another time the rest of a crash.
                partial = path.with_suffix(".part")
                try:
                    partial.write_bytes(data)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            log.warning("chunk cache not writable", path=str(path), error=str(error))

    @contextmanager
    def fetching(self, digest: Digest) -> Iterator[None]:
        """Only one thread of all processes is in here for a digest: look whether the blob came meanwhile, then fetch.

        Waits for at most FETCH_WAIT_S.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._directory / "fetching", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("chunk cache not writable", path=str(self._directory), error=str(error))
            yield
            return
        try:
            # A byte of one file for each digest, instead of a file for each. The lock belongs to the descriptor, so
            # that threads of one process exclude each other too, and ends with it, whatever happens to the process.
            lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, int(digest.hex[:15], 16), 1, 0)
            deadline = time.monotonic() + FETCH_WAIT_S
            while not _try_lock(fd, lock) and time.monotonic() < deadline:
                time.sleep(_FETCH_POLL_S)
            yield
        finally:
            os.close(fd)

    def discard(self, digest: Digest) -> None:
        """Forget the blob."""
        path = self._path(digest)
        try:
            with self._locked():
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("chunk cache not writable", path=str(path), error=str(error))

    def _path(self, digest: Digest) -> Path:
        return self._directory / digest.algorithm / digest.hex[:2] / digest.hex

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _reserve(self, size_bytes: int) -> None:
        try:
            usage = int(self._usage.read_text())
        except (FileNotFoundError, ValueError):
            usage = self._size_bytes  # unknown: count
        if usage + size_bytes > self._size_bytes:
            usage = self._evict(self._size_bytes - size_bytes)
        self._usage.write_text(str(usage + size_bytes))

    def _evict(self, limit_bytes: int) -> int:
        """Bring the cache under `limit_bytes`, and below that by the slack where something must go; the bytes left."""
        entries: list[tuple[float, int, Path]] = []
        for path in self._directory.glob("*/??/*"):
            stat = path.stat()
            if path.suffix:
                path.unlink()
            else:
                entries.append((stat.st_mtime, stat.st_size, path))
        usage = sum(size for _, size, _ in entries)
        if usage > limit_bytes:
            target = limit_bytes - self._size_bytes * _SLACK_PERCENT // 100
            for _, size, path in sorted(entries):
                if usage <= target:
                    break
                path.unlink(missing_ok=True)
                usage -= size
        return usage


def _try_lock(fd: int, lock: bytes) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except BlockingIOError:
        return False
    return True
