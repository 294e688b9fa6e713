"""The registry's store in a folder. docs/storage-format.md says why each step is atomic and durable.

    <root>/<key>              values, each a file
    <root>/.uploads/<id>      upload sessions, and values on their way to their key

Several processes may use one root at the same time. Locks (`flock`) lie on the files themselves and vanish with the
process that holds them.
"""

import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dvcr.errors import NoSpaceError, NotFoundError, StorageError
from dvcr.storage import writeback
from dvcr.storage.driver import SessionBusyError, Stat, UploadSession

_SESSION_ID = re.compile(r"[0-9a-f]{32}")
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How often a writer comes back to folders that others prune under its hands, before it says so.
_ATTEMPTS = 100


class FilesystemStorage:
    """StorageDriver and LocalFiles over the folder `root`, which is made if it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.absolute())
        self._uploads = f"{self._root}/.uploads"
        with _translated(self._uploads):
            _make_folder(self._uploads)

    def read(self, key: str) -> bytes:
        """See StorageDriver."""
        with self.open(key) as file:
            return file.read()

    def open(self, key: str, offset_bytes: int = 0) -> BinaryIO:
        """See StorageDriver."""
        with _translated(key):
            file = open(self.path(key), "rb", buffering=0)  # noqa: SIM115  the caller closes it
            if offset_bytes:
                file.seek(offset_bytes)
            return file

    def write(self, key: str, data: bytes) -> None:
        """See StorageDriver."""
        path = self.path(key)
        if not data and self._create_empty(path):
            return
        session = self._new_session()
        try:
            session.append(data)
            session.replace(path)
        except BaseException:
            session.abort()
            raise

    def stat(self, key: str) -> Stat:
        """See StorageDriver."""
        with _translated(key):
            found = os.stat(self.path(key))
            return Stat(found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def touch(self, key: str) -> None:
        """See StorageDriver."""
        with _translated(key):
            _touch(self.path(key))

    def list(self, prefix: str) -> Iterator[str]:
        """See StorageDriver."""
        with _translated(prefix):
            for path in _files(self.path(prefix)):
                yield path[len(self._root) + 1 :]

    def delete(self, key: str) -> None:
        """See StorageDriver."""
        path = self.path(key)
        with _translated(key), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
            self._prune(path)

    def delete_unmodified_since(self, key: str, moment: datetime) -> bool:
        """See StorageDriver."""
        path = self.path(key)
        with _translated(key), suppress(FileNotFoundError, NotADirectoryError), _locked(path, fcntl.LOCK_EX) as fd:
            found = os.fstat(fd)
            if found.st_nlink and found.st_mtime < moment.timestamp():
                os.unlink(path)
                self._prune(path)
                return True
        return False

    def begin_upload(self) -> UploadSession:
        """See StorageDriver."""
        session = self._new_session()
        session.flush()
        return session

    def resume_upload(self, session_id: str) -> UploadSession:
        """See StorageDriver."""
        if not _SESSION_ID.fullmatch(session_id):
            raise NotFoundError(f"{session_id!r} is no upload session")
        session = self._session(session_id)
        session.size_bytes  # noqa: B018  raises NotFoundError if there is none
        return session

    def uploads(self) -> Iterator[tuple[str, datetime]]:
        """See StorageDriver."""
        for path in _files(self._uploads):
            with suppress(FileNotFoundError):
                modified = os.stat(path).st_mtime
                yield os.path.basename(path), datetime.fromtimestamp(modified, UTC)

    def local_path(self, key: str) -> Path:
        """See LocalFiles."""
        path = Path(self.path(key))
        if not path.is_file():
            raise NotFoundError(f"there is no {key}")
        return path

    def free_bytes(self) -> int:
        """See Finite."""
        with _translated(self._root):
            found = os.statvfs(self._root)
            return found.f_bavail * found.f_frsize

    def _session(self, session_id: str) -> "FilesystemSession":
        return FilesystemSession(self, session_id, f"{self._uploads}/{session_id}")

    def _new_session(self) -> "FilesystemSession":
        session = self._session(secrets.token_hex(16))
        with _translated(f"upload session {session.id}"):
            session.hold(os.O_CREAT | os.O_EXCL)
        return session

    def path(self, key: str) -> str:
        """The file of `key`, whether it exists or not."""
        # Keys are made from validated parts; this holds even if one day a part is not.
        if any(part in ("", ".", "..") or part.startswith(".") for part in key.split("/")) or "\0" in key:
            raise ValueError(f"{key!r} is no storage key")
        return f"{self._root}/{key}"

    def _create_empty(self, path: str) -> bool:
        """Make an empty file, which cannot be half there: no detour over a temporary one. False if one exists."""
        with _translated(path):
            while True:
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                except FileNotFoundError:
                    _make_folder(os.path.dirname(path))
                except FileExistsError:
                    return False
                else:
                    _sync_folder(os.path.dirname(path))
                    return True

    def _prune(self, path: str) -> None:
        """Remove the folders that the deletion of `path` left empty; a writer that meets a gap makes them again."""
        folder = os.path.dirname(path)
        with suppress(OSError):
            while folder != self._root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)


class FilesystemSession:
    """UploadSession that is one file; what is written to it survives the process at once."""

    def __init__(self, storage: FilesystemStorage, session_id: str, path: str) -> None:
        self.id = session_id
        self._storage = storage
        self._path = path
        self._fd: int | None = None

    @property
    def size_bytes(self) -> int:
        """See UploadSession."""
        with _translated(f"upload session {self.id}"):
            return os.stat(self._path).st_size

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """See UploadSession. A write that fails half-way leaves the session as it was before it."""
        with _translated(f"upload session {self.id}"):
            fd = self.hold()
            rest = memoryview(data)
            begin = os.lseek(fd, 0, os.SEEK_END)
            try:
                while rest:
                    rest = rest[os.write(fd, rest) :]
            except OSError:
                os.ftruncate(fd, begin)
                raise
            writeback.begin(fd, begin, begin + len(data))

    note = b""
    """None is kept: what it would save is read from the page cache most often."""

    def flush(self, note: bytes = b"") -> None:
        """See UploadSession."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def open(self) -> BinaryIO:
        """See UploadSession."""
        with _translated(f"upload session {self.id}"):
            return open(self._path, "rb")

    def commit(self, key: str) -> None:
        """See UploadSession."""
        target = self._storage.path(key)
        with _translated(key):
            self.hold()
            try:
                _touch(target)
                # Its writer may not have come to this yet, and ours must not answer earlier.
                _sync_folder(os.path.dirname(target))
                self.abort()
            except FileNotFoundError:
                self._publish(target)

    def replace(self, target: str) -> None:
        """Make the bytes the file `target`, over any former one."""
        with _translated(target):
            self.hold()
            try:
                with _locked(target, fcntl.LOCK_SH):
                    self._publish(target)
            except FileNotFoundError:
                self._publish(target)

    def abort(self) -> None:
        """See UploadSession."""
        with _translated(f"upload session {self.id}"), suppress(FileNotFoundError):
            self.hold()
            os.unlink(self._path)
        self.flush()

    def _publish(self, target: str) -> None:
        fd = self.hold()
        _make_fresh(fd)
        os.fsync(fd)
        while True:
            try:
                os.rename(self._path, target)
                break
            except FileNotFoundError:
                if not os.fstat(fd).st_nlink:
                    raise  # not the folder is missing, but the session
                _make_folder(os.path.dirname(target))
        with suppress(FileNotFoundError):  # deleted again already, and its folder pruned
            _sync_folder(os.path.dirname(target))
        self.flush()

    def hold(self, flags: int = 0) -> int:
        """Lock the file for this object, opening it with `flags`, until `flush`; gives its descriptor."""
        if self._fd is None:
            fd = os.open(self._path, os.O_RDWR | flags, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                os.close(fd)
                raise SessionBusyError(f"upload session {self.id} is being written by another request") from exc
            self._fd = fd
            if not os.fstat(fd).st_nlink:
                self.flush()
                raise FileNotFoundError(errno.ENOENT, "committed or aborted meanwhile", self._path)
        return self._fd


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _MISSING:
            raise NotFoundError(f"there is no {subject}") from exc
        if exc.errno in _FULL:
            raise NoSpaceError(f"no room for {subject}: {exc.strerror}; free space in the storage folder") from exc
        raise StorageError(f"{subject}: {exc.strerror}") from exc


@contextmanager
def _locked(path: str, lock: int) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, lock)
        yield fd
    finally:
        os.close(fd)


def _touch(path: str) -> None:
    while True:
        with _locked(path, fcntl.LOCK_SH) as fd:
            # Without a name left, the file was deleted or replaced between opening and locking: look again.
            if os.fstat(fd).st_nlink:
                _make_fresh(fd)
                return


def _make_fresh(fd: int) -> None:
    # The kernel's own "now" for files is up to a clock tick old; collection compares with the exact time.
    now = time.time_ns()
    os.utime(fd, ns=(now, now))


def _make_folder(folder: str) -> None:
    """Make the folder and what is missing above it. Others may prune or make the same folders meanwhile."""
    missing = [folder]
    for _ in range(_ATTEMPTS):
        try:
            os.mkdir(missing[-1])
        except FileNotFoundError:
            missing.append(os.path.dirname(missing[-1]))
            continue
        except FileExistsError:
            pass
        with suppress(FileNotFoundError):  # pruned again: the next folder, or the caller, meets the gap
            _sync_folder(os.path.dirname(missing.pop()))
        if not missing:
            return
    raise OSError(errno.EAGAIN, "the folder cannot be made there, or vanishes at once", folder)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _files(folder: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        elif not entry.name.startswith("."):
            yield entry.path
