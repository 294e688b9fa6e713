"""What a worker that was killed had fetched, kept for the next delivery of its job on the same machine.

Two files in the scratch folder: `resume-<hash of the job's id>.data`, the bytes from the first on, and `.json` beside
it, what proves whose they are. The bytes are written in order, so the file's length tells how many there are. They are
in the page cache as soon as they are written, and outlive the process there; after a crash of the machine they may not
be on the disk, so the journal names the boot that it belongs to. Whoever uses the files holds a lock on them.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

import structlog

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PATTERN = "resume-*.data"
_CERTIFICATES = "ca-*.pem"

log = structlog.get_logger(__name__)


class KeptFile:
    """The file of one job, opened and locked by `open`."""

    def __init__(self, path: Path, file: IO[bytes], job_id: str) -> None:
        self.file = file
        self._job_id = job_id
        self._path = path
        self.identity = _read(_journal(path))
        """As `note` was told, if it was since the machine was started."""
        if self.identity is None:
            file.truncate(0)
            self._write(None)  # whose file it is, before it is known of what

    @classmethod
    def open(cls, folder: Path, job_id: str) -> Self | None:
        """The job's file, a new one where there is none; None while another process uses it. OSError."""
        path = _path(folder, job_id)
        file = _locked(path, os.O_RDWR | os.O_CREAT)
        return cls(path, file, job_id) if file else None

    def note(self, identity: Mapping[str, Any] | None) -> None:
        """Record what the bytes are of; None where nothing will prove it: the next delivery starts over. Atomic."""
        self.identity = None if identity is None else dict(identity)
        self._write(self.identity)

    def _write(self, identity: Mapping[str, Any] | None) -> None:
        journal = _journal(self._path)
        new = _new_journal(self._path)
        new.write_text(json.dumps({"boot": _boot_id(), "job": self._job_id, "identity": identity}))
        new.replace(journal)

    def forget(self) -> None:
        """Remove the names. Idempotent; the open file stays usable."""
        _unlink(self._path)


def discard(folder: Path, job_id: str) -> None:
    """Remove what was kept for a job that nobody wants any more, unless it is in use: then its user removes it."""
    _remove_unused(_path(folder, job_id), before=float("inf"))


def jobs(folder: Path) -> Iterator[str]:
    """The ids of the jobs for which something is kept."""
    for path in folder.glob(_PATTERN):
        try:
            yield str(json.loads(_journal(path).read_text())["job"])
        except (FileNotFoundError, ValueError, KeyError):
            continue  # nothing was noted yet; `sweep` takes it


def sweep(folder: Path, keep_s: float) -> None:
    """Remove what was kept for longer than `keep_s` and is not in use; also the certificates of killed workers."""
    for pattern in (_PATTERN, _CERTIFICATES):
        for path in folder.glob(pattern):
            _remove_unused(path, before=time.time() - keep_s)


def _remove_unused(path: Path, before: float) -> None:
    try:
        file = _locked(path, os.O_RDWR)
    except FileNotFoundError:
        return
    except OSError as exc:
        log.warning("what an import had fetched cannot be removed", path=str(path), error=exc.strerror)
        return
    if file is not None:
        with file:
            if os.fstat(file.fileno()).st_mtime < before:
                _unlink(path)


def _locked(path: Path, flags: int) -> IO[bytes] | None:
    """The open, locked file that `path` names; None while another process has the lock."""
    while True:
        file = os.fdopen(os.open(path, flags | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it was removed between the two calls


def _read(journal: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(journal.read_text())
        identity: Mapping[str, Any] = value["identity"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as exc:
        log.warning("what an import had fetched is of no use", path=str(journal), error=str(exc))
        return None
    return identity if value["boot"] == _boot_id() else None


def _unlink(path: Path) -> None:
    # The data at last: it is by them that what is left is found.
    _new_journal(path).unlink(missing_ok=True)
    _journal(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _path(folder: Path, job_id: str) -> Path:
    return folder / f"resume-{hashlib.sha256(job_id.encode()).hexdigest()[:32]}.data"


def _journal(path: Path) -> Path:
    return path.with_suffix(".json")


def _new_journal(path: Path) -> Path:
    """Where the journal is written before it takes its name."""
    return path.with_suffix(".new")


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
