"""A StorageDriver in memory, for tests of the domain and as the contract suite's yardstick."""

import io
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from dvcr.errors import NoSpaceError, NotFoundError
from dvcr.storage.driver import SessionBusyError, Stat


class MemoryStorage:
    """Values in a dict. `age` moves keys and sessions into the past; `room_bytes` makes the store full."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.sessions: dict[str, MemorySession] = {}
        self.room_bytes: int | None = None
        self.lock = threading.RLock()

    def age(self, by: timedelta) -> None:
        """Let `by` pass."""
        for key in self.modified:
            self.modified[key] -= by
        for session in self.sessions.values():
            session.used_at -= by

    def take(self, size_bytes: int) -> None:
        """Use room; raises NoSpaceError if there is none."""
        if self.room_bytes is not None:
            if size_bytes > self.room_bytes:
                raise NoSpaceError("the memory is full")
            self.room_bytes -= size_bytes

    def read(self, key: str) -> bytes:
        """See StorageDriver."""
        with self.lock:
            if key not in self.values:
                raise NotFoundError(f"there is no {key}")
            return self.values[key]

    def open(self, key: str, offset_bytes: int = 0) -> BinaryIO:
        """See StorageDriver."""
        return io.BytesIO(self.read(key)[offset_bytes:])

    def write(self, key: str, data: bytes) -> None:
        """See StorageDriver."""
        with self.lock:
            self.take(len(data))
            self.values[key] = bytes(data)
            self.modified[key] = datetime.now(UTC)

    def stat(self, key: str) -> Stat:
        """See StorageDriver."""
        with self.lock:
            return Stat(len(self.read(key)), self.modified[key])

    def touch(self, key: str) -> None:
        """See StorageDriver."""
        with self.lock:
            self.read(key)
            self.modified[key] = datetime.now(UTC)

    def list(self, prefix: str) -> Iterator[str]:
        """See StorageDriver."""
        with self.lock:
            keys = [key for key in self.values if key.startswith(prefix + "/")]
        yield from keys

    def delete(self, key: str) -> None:
        """See StorageDriver."""
        with self.lock:
            self.values.pop(key, None)
            self.modified.pop(key, None)

    def delete_unmodified_since(self, key: str, moment: datetime) -> bool:
        """See StorageDriver."""
        with self.lock:
            if key not in self.values or self.modified[key] >= moment:
                return False
            self.delete(key)
            return True

    def begin_upload(self) -> "MemorySession":
        """See StorageDriver."""
        session = MemorySession(self, secrets.token_hex(16), _Content())
        with self.lock:
            self.sessions[session.id] = session
        return session

    def resume_upload(self, session_id: str) -> "MemorySession":
        """See StorageDriver."""
        with self.lock:
            if session_id not in self.sessions:
                raise NotFoundError(f"there is no upload session {session_id}")
            return MemorySession(self, session_id, self.sessions[session_id].content)

    def uploads(self) -> Iterator[tuple[str, datetime]]:
        """See StorageDriver."""
        with self.lock:
            found = [(session.id, session.used_at) for session in self.sessions.values()]
        yield from found


class _Content:
    def __init__(self) -> None:
        self.data = bytearray()
        self.note = b""
        self.holder: MemorySession | None = None


class MemorySession:
    """See UploadSession."""

    def __init__(self, storage: MemoryStorage, session_id: str, content: _Content) -> None:
        self.id = session_id
        self.content = content
        self.used_at = datetime.now(UTC)
        self._storage = storage

    @property
    def size_bytes(self) -> int:
        """See UploadSession."""
        self._check()
        return len(self.content.data)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """See UploadSession."""
        with self._storage.lock:
            self._hold()
            self._storage.take(len(data))
            self.content.data += data

    @property
    def note(self) -> bytes:
        """See UploadSession."""
        return self.content.note

    def flush(self, note: bytes = b"") -> None:
        """See UploadSession."""
        if self.content.holder is self:
            self.content.holder = None
            self.content.note = note

    def open(self) -> BinaryIO:
        """See UploadSession."""
        self._check()
        return io.BytesIO(bytes(self.content.data))

    def commit(self, key: str) -> None:
        """See UploadSession."""
        with self._storage.lock:
            self._hold()
            if key in self._storage.values:
                self._storage.touch(key)
            else:
                self._storage.values[key] = bytes(self.content.data)
                self._storage.modified[key] = datetime.now(UTC)
            self.abort()

    def abort(self) -> None:
        """See UploadSession."""
        with self._storage.lock:
            if self.id in self._storage.sessions:
                self._hold()
                del self._storage.sessions[self.id]
            self.flush()

    def _check(self) -> None:
        if self.id not in self._storage.sessions:
            raise NotFoundError(f"there is no upload session {self.id}")

    def _hold(self) -> None:
        self._check()
        if self.content.holder not in (None, self):
            raise SessionBusyError(f"upload session {self.id} is being written by another request")
        self.content.holder = self
