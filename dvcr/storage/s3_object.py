"""Reading one large object of a bucket as a file."""

import io
from typing import Any

import structlog

from dvcr.errors import StorageError
from dvcr.storage.bucket import Bucket

log = structlog.get_logger(__name__)

_PIECE_BYTES = 2**20


class ObjectReader(io.RawIOBase):
    """An immutable object, fetched from where the reader stands on; goes on after a connection that breaks."""

    def __init__(self, bucket: Bucket, name: str, size_bytes: int) -> None:
        self._bucket = bucket
        self._name = name
        self._size_bytes = size_bytes
        self._position = 0
        self._stream: Any = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.IOBase."""
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if target != self._position:
            self._drop()
            self._position = target
        return self._position

    def tell(self) -> int:
        """See io.IOBase."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """See io.RawIOBase; raises StorageError where the bytes end too early."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE_BYTES), b""))
        wanted = min(size, self._size_bytes - self._position)
        if wanted <= 0:
            return b""
        try:
            data = self._fetch(wanted)
        except StorageError as exc:
            if self._stream is None:
                raise
            log.warning("a connection broke, reading goes on", object=self._name, error=str(exc))
            self._drop()
            data = self._fetch(wanted)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """See io.IOBase."""
        self._drop()
        super().close()

    def _fetch(self, wanted: int) -> bytes:
        if self._stream is None:
            self._stream = self._bucket.open(self._name, self._position)
        with self._bucket.translated(self._name):
            data: bytes = self._stream.read(wanted)
        if not data:
            raise StorageError(f"{self._name} ended after {self._position} of {self._size_bytes} bytes")
        return data

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
