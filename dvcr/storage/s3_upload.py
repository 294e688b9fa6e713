"""Upload sessions in a bucket: a small object with the session's state, and parts of a multipart upload.

The state is only ever replaced under the condition that nobody else has replaced it, so of two servers that write to a
session one is told. A writer holds it by a lease, which ends soon after its process has died.
"""

import io
import secrets
import time
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, cast

from dvcr.errors import NotFoundError, StorageError
from dvcr.storage.bucket import ConditionError
from dvcr.storage.driver import SessionBusyError
from dvcr.storage.record import Record
from dvcr.storage.s3_object import ObjectReader
from dvcr.storage.s3_session import SessionState, data_name, state_name

if TYPE_CHECKING:
    from dvcr.storage.s3 import S3Storage

LEASE_S = 15.0
RENEW_S = 5.0

_PARTS_OF_A_SIZE = 1000
_FIRST_PART_BYTES = 8 * 2**20
_GROWTH_BYTES = 22 * 2**20


def part_bytes(number: int) -> int:
    """Size of the part with this number, from 1: small ones first, yet 10,000 of them hold more than 1 TiB."""
    return _FIRST_PART_BYTES + _GROWTH_BYTES * ((number - 1) // _PARTS_OF_A_SIZE)


class S3Session:
    """See UploadSession."""

    def __init__(self, storage: "S3Storage", session_id: str) -> None:
        self.id = session_id
        self._storage = storage
        self._bucket = storage.bucket
        self._token = secrets.token_hex(8)
        self._state = SessionState()
        self._etag = ""
        self._ended = False
        # Only while this object holds the session:
        self._held = False
        self._renewed = 0.0
        self._buffer: list[bytes] = []
        self._buffer_bytes = 0
        self._sending: deque[Future[str]] = deque()
        self._sent_bytes = 0

    def begin(self) -> None:
        """Make the session."""
        self._etag = self._bucket.put(state_name(self.id), self._state.encode(), only_new=True)

    def load(self) -> None:
        """Read the session's state; raises NotFoundError if there is none."""
        try:
            found = self._bucket.get(state_name(self.id))
        except NotFoundError as exc:
            raise NotFoundError(f"there is no upload session {self.id}") from exc
        self._state, self._etag = SessionState.decode(found.body), found.etag

    @property
    def size_bytes(self) -> int:
        """See UploadSession."""
        self._check()
        if self._held:
            return self._state.parts_bytes + self._sent_bytes + self._buffer_bytes
        return self._state.size_bytes

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """See UploadSession. Sends whole parts as they come together; an error takes the session back to `flush`."""
        self._hold()
        if not data:
            return
        if self._state.closing:
            raise NotFoundError(f"upload session {self.id} was being committed when its server died; begin a new one")
        self._buffer.append(bytes(data))
        self._buffer_bytes += len(data)
        try:
            while self._buffer_bytes > (size := part_bytes(len(self._state.parts) + len(self._sending) + 1)):
                self._send(size)
            if time.monotonic() - self._renewed > RENEW_S:
                self._checkpoint()
        except BaseException:
            self._give_up()
            raise

    @property
    def note(self) -> bytes:
        """See UploadSession."""
        return bytes.fromhex(self._state.note)

    def flush(self, note: bytes = b"") -> None:
        """See UploadSession."""
        if not self._held:
            return
        try:
            self._collect()
            tail = b"".join(self._buffer)
            self._save(replace(self._state, tail=tail, note=note.hex(), holder="", held_until=0))
        finally:
            self._release()

    def open(self) -> BinaryIO:
        """See UploadSession. Parts cannot be read: they are completed first, which ends the appending."""
        self._check()
        if not self._state.parts and not self._sending:
            return io.BytesIO(b"".join(self._buffer) if self._held else self._state.tail)
        self._hold()
        self._complete()
        return cast(BinaryIO, ObjectReader(self._bucket, data_name(self.id), self._state.parts_bytes))

    def commit(self, key: str) -> None:
        """See UploadSession."""
        self._hold()
        try:
            size_bytes = self.size_bytes
            self._refuse_second_key(key)
            if self._state.parts or self._sending:
                self._complete(key)
            else:
                self._put_data(key)
            if not self._storage.put(key, Record(data=self.id, data_bytes=size_bytes), replace=False):
                self._bucket.delete(data_name(self.id))
            self._bucket.delete(state_name(self.id))
        except BaseException:
            self._give_up()
            raise
        self._ended = True
        self._release()

    def abort(self) -> None:
        """See UploadSession."""
        if self._ended:
            return
        self._ended = True
        try:
            self._remove()
        except NotFoundError:
            return
        finally:
            self._release()

    def _remove(self) -> None:
        """Take the session from whoever has it, then remove what is its own."""
        while True:
            self.load()
            if self._state.holder not in ("", self._token) and self._state.held_until > time.time():
                self._ended = False
                raise SessionBusyError(f"upload session {self.id} is being written by another server")
            try:
                self._save(replace(self._state, holder=self._token, held_until=time.time() + LEASE_S))
                break
            except SessionBusyError:
                continue
        wait(self._sending)
        self._bucket.abort_parts(data_name(self.id))
        if not self._is_value_of(self._state.key or self._key_of_data()):
            self._bucket.delete(data_name(self.id))
        self._bucket.delete(state_name(self.id))

    def _put_data(self, key: str) -> None:
        """Make the bytes a data object in one request."""
        body = b"".join(self._buffer)
        while True:
            try:
                self._bucket.put(data_name(self.id), body, only_new=True, metadata={"key": key})
                return
            except ConditionError:
                earlier = self._key_of_data()
            # An answer was lost, or a server died here: a key is a digest, so the same key means the same bytes.
            if earlier == key:
                return
            self._refuse_second_key(key, earlier)
            self._bucket.delete(data_name(self.id))

    def _refuse_second_key(self, key: str, earlier: str | None = None) -> None:
        """Data belongs to one record: deleting that deletes it."""
        earlier = earlier if earlier is not None else self._state.key
        if earlier != key and self._is_value_of(earlier):
            raise NotFoundError(f"upload session {self.id} was committed before, to {earlier}")

    def _key_of_data(self) -> str:
        try:
            return self._bucket.metadata(data_name(self.id)).get("key", "")
        except NotFoundError:
            return ""

    def _is_value_of(self, key: str) -> bool:
        record = self._storage.record(key) if key else None
        return record is not None and record.data == self.id

    def _check(self) -> None:
        if self._ended:
            raise NotFoundError(f"there is no upload session {self.id}")

    def _hold(self) -> None:
        """Get the lease, unless this object has it; the state is then the newest."""
        self._check()
        if self._held:
            return
        if self._storage.writers.setdefault(self.id, self) is not self:
            raise SessionBusyError(f"upload session {self.id} is being written by another request")
        self._held = True
        try:
            try:
                self._lease()
            except SessionBusyError:
                self.load()  # it has gone on since this object was made; the lease is free, or it is not
                self._lease()
        except BaseException:
            self._release()
            raise
        self._buffer, self._buffer_bytes = [self._state.tail], len(self._state.tail)

    def _lease(self) -> None:
        if self._state.closing and not self._state.upload:
            raise NotFoundError(f"upload session {self.id} is over, and what it became is being deleted")
        if self._state.holder and self._state.held_until > time.time():
            raise SessionBusyError(f"upload session {self.id} is being written by another server")
        self._save(replace(self._state, holder=self._token, held_until=time.time() + LEASE_S))

    def _save(self, state: SessionState) -> None:
        try:
            self._etag = self._bucket.put(state_name(self.id), state.encode(), only_over=self._etag)
        except ConditionError as exc:
            raise SessionBusyError(f"another server has taken over upload session {self.id}") from exc
        self._state = state
        self._renewed = time.monotonic()

    def _send(self, size_bytes: int) -> None:
        """Take the first bytes of the buffer and send them as the next part."""
        if not self._state.upload:
            self._save(replace(self._state, upload=self._bucket.begin_parts(data_name(self.id))))
        body = self._take(size_bytes)
        number = len(self._state.parts) + len(self._sending) + 1
        upload = self._state.upload
        self._storage.budget.take(len(body))

        def send() -> str:
            try:
                return self._bucket.put_part(data_name(self.id), upload, number, body)
            finally:
                self._storage.budget.give(len(body))

        self._sending.append(self._storage.parts.submit(send))
        self._sent_bytes += len(body)

    def _take(self, size_bytes: int) -> bytes:
        """The first bytes of the buffer, which then holds them no more."""
        taken: list[bytes] = []
        missing = size_bytes
        while missing:
            piece = self._buffer.pop(0)
            if len(piece) > missing:
                self._buffer.insert(0, piece[missing:])
                piece = piece[:missing]
            taken.append(piece)
            missing -= len(piece)
        self._buffer_bytes -= size_bytes
        return b"".join(taken)

    def _collect(self) -> None:
        """Wait for the parts on their way and count them in."""
        etags = [future.result() for future in self._sending]
        self._count(etags)

    def _count(self, etags: list[str]) -> None:
        begin = len(self._state.parts) + 1
        size_bytes = sum(part_bytes(number) for number in range(begin, begin + len(etags)))
        size_bytes = min(size_bytes, self._sent_bytes)  # the last one may be shorter
        for _ in etags:
            self._sending.popleft()
        self._sent_bytes -= size_bytes
        self._state = replace(
            self._state,
            parts=(*self._state.parts, *etags),
            parts_bytes=self._state.parts_bytes + size_bytes,
            tail=b"" if etags else self._state.tail,  # which the first part sent has taken in
        )

    def _checkpoint(self) -> None:
        """Renew the lease, and keep the parts that have arrived."""
        arrived: list[str] = []
        for future in self._sending:
            if not future.done():
                break
            arrived.append(future.result())
        self._count(arrived)
        self._save(replace(self._state, held_until=time.time() + LEASE_S))

    def _complete(self, key: str = "") -> None:
        """Make the bytes a data object, which `key` may name from then on."""
        if not self._state.closing:
            if self._buffer_bytes:
                self._send(self._buffer_bytes)
            self._collect()
        self._save(replace(self._state, closing=True, key=key, held_until=time.time() + LEASE_S))
        done = self._storage.parts.submit(
            self._bucket.complete_parts, data_name(self.id), self._state.upload, self._state.parts
        )
        while wait([done], RENEW_S).not_done:
            self._save(replace(self._state, held_until=time.time() + LEASE_S))
        done.result()

    def _give_up(self) -> None:
        """Forget what was not flushed, and free the session as far as that can be done."""
        wait(self._sending)
        try:
            self._save(replace(self._state, holder="", held_until=0))
        except StorageError:
            pass  # whoever has taken it over may keep it; without a connection the lease ends by itself
        finally:
            self._release()

    def _release(self) -> None:
        self._held = False
        self._buffer, self._buffer_bytes = [], 0
        self._sending.clear()
        self._sent_bytes = 0
        if self._storage.writers.get(self.id) is self:
            del self._storage.writers[self.id]
