"""The storage port: what the registry needs of a store of bytes.

Keys are slash-separated relative paths made by `dvcr.storage.paths`; drivers never invent or parse them. Every call
blocks and is safe from any thread; the HTTP layer runs them in threads. There is no `move`: bytes that arrive in pieces
go through an upload session, which commits to the key it is given once the caller has verified them, and the driver
decides how (rename on a filesystem, multipart completion on S3).

Contract, checked by `tests/contracts/test_storage_contract.py` on every driver:

- `write` and `UploadSession.commit` are atomic and durable: after they return, a crash of process or machine leaves the
  whole value; before, the old one or none. Readers never see a part of a value.
- `delete` is idempotent. `list` gives every key under a prefix that existed during the whole call, in no set order.
- A missing key raises NotFoundError, a full store NoSpaceError, anything else StorageError.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from dvcr.errors import StorageError


class SessionBusyError(StorageError):
    """Somebody else is writing to this upload session at this moment."""

    default_reason = "SessionBusy"


@dataclass(frozen=True, slots=True)
class Stat:
    """What a driver knows of a key without reading it."""

    size_bytes: int
    modified_at: datetime


class UploadSession(Protocol):
    """Bytes on their way to a key that is not yet known.

    One writer at a time: from the first `append`, be it of nothing, to `flush` the session belongs to one object, whose
    `size_bytes` then tells all that is in it; another one's `append`, `commit` or `abort` raises SessionBusyError. It
    is free again when its holder's process dies, on a store that cannot see that a few seconds later.
    """

    @property
    def id(self) -> str:
        """The id under which the session can be opened again, also after a restart."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes that are safely in the session: what a restart would find."""
        ...

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data` at the end. Acknowledged only by `flush`."""
        ...

    def flush(self, note: bytes = b"") -> None:
        """Make all appended bytes survive a crash of the process, and `size_bytes` tell them.

        `note`, of less than 1 KiB, is for whoever goes on with the session.
        """
        ...

    @property
    def note(self) -> bytes:
        """What the last `flush` noted; empty where the driver keeps no notes."""
        ...

    def open(self) -> BinaryIO:
        """A reader over the bytes so far, to hash them again where the hash state was lost."""
        ...

    def commit(self, key: str) -> None:
        """Atomically and durably make the bytes the value of `key`, and end the session.

        A key that exists already keeps its value (content-addressed keys hold the same bytes) and becomes fresh as by
        `touch`; the session ends all the same.
        """
        ...

    def abort(self) -> None:
        """Forget the bytes and the session. Idempotent."""
        ...


class StorageDriver(Protocol):
    """A store of bytes under keys."""

    def read(self, key: str) -> bytes:
        """The whole value; for small ones (links, manifests)."""
        ...

    def open(self, key: str, offset_bytes: int = 0) -> BinaryIO:
        """A reader from `offset_bytes` on; the caller closes it."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Set a small value, atomically and durably, over any former one."""
        ...

    def stat(self, key: str) -> Stat:
        """Size and time of last modification."""
        ...

    def touch(self, key: str) -> None:
        """Set the time of last modification to now, so that garbage collection sees the key as fresh."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix` + "/"."""
        ...

    def delete(self, key: str) -> None:
        """Remove the key if it is there."""
        ...

    def delete_unmodified_since(self, key: str, moment: datetime) -> bool:
        """Remove the key if it was last modified before `moment`, and tell whether it was removed.

        One step as seen by `touch`, `write` and `commit`: what they made fresh before stays; a `touch` after it raises
        NotFoundError. Garbage collection rests on this.
        """
        ...

    def begin_upload(self) -> UploadSession:
        """A new, empty session with an unguessable id."""
        ...

    def resume_upload(self, session_id: str) -> UploadSession:
        """The session with this id; NotFoundError if there is none."""
        ...

    def uploads(self) -> Iterator[tuple[str, datetime]]:
        """Id and last activity of every open session."""
        ...


@runtime_checkable
class LocalFiles(Protocol):
    """A driver whose values are files on this machine, so that a server may `sendfile` them."""

    def local_path(self, key: str) -> Path:
        """The file that holds the value of `key`; NotFoundError if there is none."""
        ...


@runtime_checkable
class Finite(Protocol):
    """A driver that can tell how much room it has."""

    def free_bytes(self) -> int:
        """About how many bytes more the store can take now."""
        ...


@runtime_checkable
class Redirects(Protocol):
    """A driver that may send readers to where the bytes are."""

    def url(self, key: str) -> str | None:
        """An address that gives the value of `key` for a while, or None if it is to be read here; NotFoundError."""
        ...
