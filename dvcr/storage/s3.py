"""The registry's store in an S3 bucket. docs/storage-format.md says why each step is atomic and durable.

    keys/<key>        records: a small value, or the id of the data object that holds a large one
    data/<id>         the bytes of an upload session that was committed, written once and never moved
    uploads/<id>      the state of an upload session, and of a data object whose record is in doubt

Any number of servers may use one bucket at the same time; all they share is in it.
"""

import io
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import BinaryIO, cast

from dvcr.config import S3Settings
from dvcr.errors import NotFoundError
from dvcr.storage.bucket import Bucket, ConditionError
from dvcr.storage.byte_budget import ByteBudget
from dvcr.storage.driver import Stat, UploadSession
from dvcr.storage.record import Record
from dvcr.storage.s3_object import ObjectReader
from dvcr.storage.s3_session import SessionState, data_name, state_name
from dvcr.storage.s3_upload import S3Session

# A tombstone is removed right after it was written, by its writer, who gives up after the first of these times. Whoever
# wants the key waits for that, and takes it over after the second, when its writer must be dead.
BURIAL_S = 5.0
TAKE_OVER_S = 15.0
PART_THREADS = 8

_SESSION_ID = re.compile(r"[0-9a-f]{32}")


class S3Storage:
    """StorageDriver and Redirects over a bucket. Raises StorageError if the bucket is not fit for it."""

    def __init__(self, settings: S3Settings) -> None:
        self.bucket = Bucket(settings)
        self.bucket.check()
        self.parts = ThreadPoolExecutor(PART_THREADS, "s3-part")
        self.budget = ByteBudget(settings.upload_buffer_bytes)
        self.writers: dict[str, S3Session] = {}
        self._redirect_expiry_s = settings.redirect_expiry_s if settings.redirect else 0

    def read(self, key: str) -> bytes:
        """See StorageDriver."""
        record = self._require(key)
        if not record.data:
            return record.value
        with self._reader(record) as reader:
            return reader.read()

    def open(self, key: str, offset_bytes: int = 0) -> BinaryIO:
        """See StorageDriver. The reader can seek."""
        record = self._require(key)
        reader = self._reader(record) if record.data else io.BytesIO(record.value)
        reader.seek(offset_bytes)
        return cast(BinaryIO, reader)

    def write(self, key: str, data: bytes) -> None:
        """See StorageDriver."""
        self.put(key, Record(bytes(data)), replace=True)

    def stat(self, key: str) -> Stat:
        """See StorageDriver."""
        return self._require(key).stat

    def touch(self, key: str) -> None:
        """See StorageDriver."""
        while True:
            record, etag = self._load(key)
            if record.deleted:
                raise NotFoundError(f"there is no {key}")
            try:
                self.bucket.put(_name(key), record.fresh().encode(), only_over=etag)
                return
            except ConditionError:
                continue

    def list(self, prefix: str) -> Iterator[str]:
        """See StorageDriver."""
        for name, _ in self.bucket.list(_name(prefix) + "/"):
            yield name.removeprefix("keys/")

    def delete(self, key: str) -> None:
        """See StorageDriver."""
        while True:
            try:
                record, etag = self._load(key)
            except NotFoundError:
                return
            if record.deleted or self._remove(key, record, etag):
                return

    def delete_unmodified_since(self, key: str, moment: datetime) -> bool:
        """See StorageDriver."""
        try:
            record, etag = self._load(key)
        except NotFoundError:
            return False
        return not record.deleted and record.stat.modified_at < moment and self._remove(key, record, etag)

    def begin_upload(self) -> UploadSession:
        """See StorageDriver."""
        session = S3Session(self, secrets.token_hex(16))
        session.begin()
        return session

    def resume_upload(self, session_id: str) -> UploadSession:
        """See StorageDriver."""
        if not _SESSION_ID.fullmatch(session_id):
            raise NotFoundError(f"{session_id!r} is no upload session")
        session = S3Session(self, session_id)
        session.load()
        return session

    def uploads(self) -> Iterator[tuple[str, datetime]]:
        """See StorageDriver."""
        for name, modified_at in self.bucket.list(state_name("")):
            yield name.removeprefix(state_name("")), modified_at

    def url(self, key: str) -> str | None:
        """See Redirects."""
        if not self._redirect_expiry_s:
            return None
        data = self._require(key).data
        return self.bucket.url(data_name(data), self._redirect_expiry_s) if data else None

    def record(self, key: str) -> Record | None:
        """The record of a key that is there."""
        try:
            return self._require(key)
        except NotFoundError:
            return None

    def put(self, key: str, record: Record, *, replace: bool) -> bool:
        """Write a record. Without `replace` one that is there stays, becomes fresh, and the answer is False."""
        name, only_over, waiting_since, met = _name(key), "", 0.0, ""
        while True:
            try:
                self.bucket.put(name, record.fresh().encode(), only_new=not only_over, only_over=only_over)
                return True
            except ConditionError:
                only_over = ""
            try:
                found, etag = self._load(key)
            except NotFoundError:
                continue
            if found.deleted:
                if met != etag:
                    met, waiting_since = etag, time.monotonic()
                if time.monotonic() - waiting_since > TAKE_OVER_S:
                    only_over = etag
                else:
                    time.sleep(0.05)
            elif replace:
                only_over = etag
            elif found.data and found.data == record.data:
                return True  # the answer to an earlier attempt was lost
            else:
                try:
                    self.bucket.put(name, found.fresh().encode(), only_over=etag)
                    return False
                except ConditionError:
                    continue

    def _remove(self, key: str, record: Record, etag: str) -> bool:
        """Remove what has this ETag; False if it was changed meanwhile. The tombstone decides, the rest tidies up."""
        if record.data:
            # Whoever finds this state later looks whether the record still names the data.
            self.bucket.put(state_name(record.data), SessionState(key=key, closing=True).encode())
        begin = time.monotonic()
        try:
            tombstone = self.bucket.put(_name(key), Record(deleted=True).encode(), only_over=etag)
        except ConditionError:
            if record.data:
                self.bucket.delete(state_name(record.data))
            return False
        if record.data:
            self.bucket.delete(data_name(record.data))
        if time.monotonic() - begin < BURIAL_S:
            self.bucket.delete(_name(key), only=tombstone)
        if record.data:
            self.bucket.delete(state_name(record.data))
        return True

    def _require(self, key: str) -> Record:
        record, etag = self._load(key)
        if not record.deleted:
            return record
        if time.time() - record.modified_ns / 1e9 > 4 * TAKE_OVER_S:
            self._bury(key, etag)
        raise NotFoundError(f"there is no {key}")

    def _bury(self, key: str, etag: str) -> None:
        """Remove a tombstone whose writer died before it could."""
        begin = time.monotonic()
        try:
            tombstone = self.bucket.put(_name(key), Record(deleted=True).encode(), only_over=etag)
        except ConditionError:
            return
        if time.monotonic() - begin < BURIAL_S:
            self.bucket.delete(_name(key), only=tombstone)

    def _reader(self, record: Record) -> ObjectReader:
        return ObjectReader(self.bucket, data_name(record.data), record.data_bytes)

    def _load(self, key: str) -> tuple[Record, str]:
        try:
            found = self.bucket.get(_name(key))
        except NotFoundError as exc:
            raise NotFoundError(f"there is no {key}") from exc
        return Record.decode(found.body), found.etag


def _name(key: str) -> str:
    return f"keys/{key}"
