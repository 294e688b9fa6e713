"""The S3 driver where the contract suite does not look: parts, other servers, death at any point, clear refusals."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from dvcr.digest import Digest
from dvcr.errors import NoSpaceError, NotFoundError, StorageError
from dvcr.registry.errors import BlobUnknownError, DigestMismatchError
from dvcr.registry.registry import Registry
from dvcr.storage.bucket import Bucket
from dvcr.storage.driver import SessionBusyError
from dvcr.storage.s3 import S3Storage
from dvcr.storage.s3_upload import S3Session, part_bytes
from tests.support.certificates import self_signed
from tests.support.s3_server import S3Server, run_versitygw

MIB = 2**20


def names(server: S3Server, bucket: str, prefix: str) -> list[str]:
    return [item["Key"] for item in server.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())]


def test_ten_thousand_parts_hold_a_tebibyte() -> None:
    sizes = [part_bytes(number) for number in range(1, 10_001)]
    assert sum(sizes) >= 2**40
    assert sizes[0] >= 5 * MIB  # the least that S3 takes
    assert sizes[-1] <= 5 * 2**30


def test_a_large_upload_goes_from_server_to_server(s3_server: S3Server) -> None:
    settings = s3_server.bucket()
    one, other = S3Storage(settings), S3Storage(settings)
    data = os.urandom(21 * MIB + 5)
    session = one.begin_upload()
    for begin in range(0, 10 * MIB, MIB):
        session.append(data[begin : begin + MIB])
    assert session.size_bytes == 10 * MIB
    with pytest.raises(SessionBusyError):
        other.resume_upload(session.id).append(b"x")
    session.flush()
    second = other.resume_upload(session.id)
    assert second.size_bytes == 10 * MIB
    second.append(data[10 * MIB : 17 * MIB])
    second.flush()
    third = one.resume_upload(session.id)
    third.append(data[17 * MIB :])
    with third.open() as reader:
        assert reader.read() == data
    assert third.size_bytes == len(data)
    third.commit("a")
    with other.open("a", 9 * MIB) as reader:
        assert reader.read() == data[9 * MIB :]
    assert other.stat("a").size_bytes == len(data)
    assert list(other.uploads()) == []
    other.delete("a")
    assert names(s3_server, settings.bucket, "data") == names(s3_server, settings.bucket, "keys") == []


def test_nothing_is_read_at_a_commit_on_another_server(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = s3_server.bucket()
    one, other = (Registry(S3Storage(settings)) for _ in range(2))
    data = os.urandom(21 * MIB + 5)
    upload_id = one.uploads.begin().id
    for number, server in enumerate((one, other, one)):
        upload = server.uploads.resume(upload_id)
        for begin in range(number * 7 * MIB, (number + 1) * 7 * MIB, MIB):
            upload.append(data[begin : begin + MIB])
        upload.flush()

    def read(*_: object) -> None:
        raise AssertionError("the bytes are read again")

    last = other.uploads.resume(upload_id)
    last.append(data[21 * MIB :])
    with monkeypatch.context() as watched:
        watched.setattr(S3Session, "open", read)
        last.commit("a", Digest.of(data))
    with one.blobs.open(Digest.of(data)) as reader:
        assert reader.read() == data


def test_a_session_that_grew_meanwhile_is_not_committed_as_what_it_was(s3_server: S3Server) -> None:
    registry, other = (Registry(S3Storage(settings)) for settings in [s3_server.bucket()] * 2)
    upload = registry.uploads.begin()
    upload.append(b"data")
    upload.flush()
    late, more = registry.uploads.resume(upload.id), other.uploads.resume(upload.id)
    more.append(b"more")
    more.flush()
    with pytest.raises(DigestMismatchError, match="the 8 bytes received"):
        late.commit("a", Digest.of(b"data"))
    with pytest.raises(BlobUnknownError):
        registry.blobs.size_bytes("a", Digest.of(b"data"))


def test_a_writer_that_was_overtaken_is_told(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvcr.storage.s3_upload.LEASE_S", -1)  # as if the writer had been silent for longer
    settings = s3_server.bucket()
    slow, fast = S3Storage(settings).begin_upload(), S3Storage(settings)
    slow.append(b"slow")
    session = fast.resume_upload(slow.id)
    session.append(b"fast")
    session.flush()
    with pytest.raises(SessionBusyError):
        slow.flush()
    fast.resume_upload(slow.id).commit("a")
    assert fast.read("a") == b"fast"


def test_equal_data_is_kept_once(s3_server: S3Server) -> None:
    settings = s3_server.bucket()
    storage = S3Storage(settings)
    for _ in range(2):
        session = storage.begin_upload()
        session.append(b"x" * 9 * MIB)
        session.commit("a")
    assert len(names(s3_server, settings.bucket, "data")) == 1


def test_an_aborted_upload_leaves_no_parts(s3_server: S3Server) -> None:
    settings = s3_server.bucket()
    storage = S3Storage(settings)
    session = storage.begin_upload()
    session.append(b"x" * 20 * MIB)
    session.flush()
    storage.resume_upload(session.id).abort()
    assert "Uploads" not in s3_server.client.list_multipart_uploads(Bucket=settings.bucket)
    assert names(s3_server, settings.bucket, "uploads") == []


class Death(BaseException):
    """The server is killed."""


class DyingBucket(Bucket):
    """A bucket whose server is killed after so many calls that write."""

    calls_left = 10**9
    WRITES = ("put", "delete", "begin_parts", "put_part", "complete_parts", "abort_parts")

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        if name not in DyingBucket.WRITES:
            return call

        def counted(*args: Any, **options: Any) -> Any:
            if self.calls_left <= 0:
                raise Death
            self.calls_left -= 1
            return call(*args, **options)

        return counted


@pytest.mark.parametrize("size", [100, 9 * MIB])
def test_death_at_any_point_of_a_push_or_deletion_leaves_all_or_nothing(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("dvcr.storage.s3_upload.LEASE_S", -1)  # the dead server's lease is over
    settings, data = moto_server.bucket(), os.urandom(size)
    dying, survivor = S3Storage(settings), S3Storage(settings)
    dying.bucket = bucket = DyingBucket(settings)
    for calls in range(100):
        bucket.calls_left = calls
        dying.writers.clear()
        acknowledged = removed = False
        try:
            session = dying.begin_upload()
            session.append(data)
            session.commit("a")
            acknowledged = True
            removed = dying.delete_unmodified_since("a", datetime.now(UTC) + timedelta(hours=1))
        except Death:
            pass
        value = survivor.record("a")
        if value is not None:
            assert survivor.read("a") == data
        assert value is None or not removed
        if acknowledged and value is None:
            assert calls > 5  # only its deletion can have taken it
        for session_id, _ in list(survivor.uploads()):
            survivor.resume_upload(session_id).abort()
        assert list(survivor.uploads()) == []
        kept = [f"data/{value.data}"] if value else []
        assert names(moto_server, settings.bucket, "data") == kept
        assert "Uploads" not in moto_server.client.list_multipart_uploads(Bucket=settings.bucket)
        survivor.delete("a")
        moto_server.client.delete_object(Bucket=settings.bucket, Key="keys/a")
        if removed:
            return
    pytest.fail("it takes more steps than were tried")


class TestRefusals:
    def test_a_missing_bucket(self, s3_server: S3Server) -> None:
        settings = s3_server.bucket().model_copy(update={"bucket": "no-such-bucket"})
        with pytest.raises(StorageError, match=r"there is no bucket no-such-bucket; make it, or correct storage\.s3"):
            S3Storage(settings)

    def test_a_wrong_secret(self, s3_server: S3Server) -> None:
        settings = s3_server.bucket().model_copy(update={"secret_access_key": SecretStr("wrong-secret")})
        with pytest.raises(StorageError, match=r"S3 refused access .* check storage\.s3\.access_key_id") as caught:
            S3Storage(settings)
        assert (caught.value.reason, caught.value.retryable) == ("AccessDenied", False)
        assert "wrong-secret" not in str(caught.value)

    def test_a_server_that_is_not_there(self, s3_server: S3Server) -> None:
        update = {"endpoint_url": "http://127.0.0.1:9", "attempts": 1}
        with pytest.raises(StorageError, match=r"Could not connect to the endpoint URL"):
            S3Storage(s3_server.bucket().model_copy(update=update))

    def test_a_full_store(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        from botocore.exceptions import ClientError

        bucket = Bucket(s3_server.bucket())
        full = ClientError({"Error": {"Code": "QuotaExceeded", "Message": "no room"}}, "PutObject")
        with pytest.raises(NoSpaceError, match="no room"), bucket.translated("x"):
            raise full

    def test_a_server_without_conditional_writes(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        def ignoring(self: Bucket, name: str, body: bytes, **conditions: object) -> str:
            return ""

        monkeypatch.setattr(Bucket, "put", ignoring)
        with pytest.raises(StorageError, match="ignores If-None-Match"):
            S3Storage(s3_server.bucket())


def test_readers_can_be_sent_to_the_bucket(s3_server: S3Server) -> None:
    storage = S3Storage(s3_server.bucket().model_copy(update={"redirect": True}))
    storage.write("small", b"x")
    session = storage.begin_upload()
    session.append(b"0123456789")
    session.commit("a")
    assert storage.url("small") is None
    url = storage.url("a")
    assert url is not None
    assert requests.get(url, headers={"Range": "bytes=2-4"}, timeout=10).content == b"234"
    with pytest.raises(NotFoundError):
        storage.url("missing")


def test_registries_share_a_bucket_under_prefixes(s3_server: S3Server) -> None:
    settings = s3_server.bucket()
    one, other = (S3Storage(settings.model_copy(update={"prefix": prefix})) for prefix in ("one", "other/"))
    one.write("a", b"1")
    with pytest.raises(NotFoundError):
        other.read("a")
    other.write("a", b"2")
    assert (one.read("a"), other.read("a")) == (b"1", b"2")


def test_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    with run_versitygw(self_signed(tmp_path, "localhost")) as server:
        settings = server.bucket()
        S3Storage(settings).write("a", b"data")
        assert S3Storage(settings).read("a") == b"data"
        with pytest.raises(StorageError, match="certificate verify failed"):
            S3Storage(settings.model_copy(update={"ca_file": None})).read("a")
