"""One S3 bucket through boto3: the few calls that the S3 driver needs, with errors translated.

Every call blocks and is safe from any thread. boto3 repeats what was not answered, with growing pauses; callers of
conditional calls recognise the repeat of one that had succeeded. Nothing else imports boto3.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from urllib3.exceptions import HTTPError

from dvcr.config import S3Settings
from dvcr.errors import NoSpaceError, NotFoundError, StorageError

CONNECTIONS = 64

_MISSING = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
_CONDITION = {"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_FULL = {"QuotaExceeded", "NoSpaceLeftOnDevice", "XMinioStorageFull", "InsufficientStorage", "507"}


class ConditionError(StorageError):
    """The object is not (any more) what the call demanded: somebody else was faster."""

    default_reason = "ConditionFailed"


@dataclass(frozen=True, slots=True)
class Found:
    """A small object."""

    body: bytes
    etag: str


class Bucket:
    """The objects of a bucket whose names begin with the configured prefix."""

    def __init__(self, settings: S3Settings) -> None:
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        key_id, secret = settings.access_key_id.get_secret_value(), settings.secret_access_key.get_secret_value()
        # A session of its own: boto3's default one is not safe to share between threads.
        session = boto3.session.Session(
            aws_access_key_id=key_id or None, aws_secret_access_key=secret or None, region_name=settings.region
        )
        with self.translated(""):
            self._client: Any = session.client(
                "s3",
                endpoint_url=settings.endpoint_url or None,
                verify=str(settings.ca_file) if settings.ca_file else None,
                config=Config(
                    signature_version="s3v4",
                    s3={
                        "addressing_style": "path" if settings.path_style else "auto",
                        # TLS guards bodies as well, without hashing them once more.
                        "payload_signing_enabled": settings.endpoint_url.startswith("http://"),
                    },
                    connect_timeout=settings.timeout_s,
                    read_timeout=settings.timeout_s,
                    retries={"mode": "standard", "total_max_attempts": settings.attempts},
                    max_pool_connections=CONNECTIONS,
                    # Checksums in trailers, boto3's default, are refused by many servers.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

    def check(self) -> None:
        """Raise StorageError unless the bucket is there and takes writes only under their conditions."""
        with self.translated(""):
            self._client.head_bucket(Bucket=self._bucket)
        self.put("probe", b"", only_new=False)
        try:
            self.put("probe", b"", only_new=True)
        except ConditionError:
            return
        raise StorageError(
            f"the server of bucket {self._bucket} ignores If-None-Match; the registry needs conditional writes, "
            "without which concurrent pushes could lose data",
            reason="ConditionalWritesMissing",
            retryable=False,
        )

    def get(self, name: str) -> Found:
        """A small object; raises NotFoundError."""
        with self.translated(name):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            return Found(answer["Body"].read(), answer["ETag"])

    def open(self, name: str, offset_bytes: int) -> Any:
        """The body of an object from `offset_bytes` on, with `read(size)` and `close()`; raises NotFoundError."""
        with self.translated(name):
            wanted = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, **wanted)["Body"]

    def metadata(self, name: str) -> dict[str, str]:
        """What `put` was given with the object; raises NotFoundError."""
        with self.translated(name):
            return cast(
                dict[str, str], self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["Metadata"]
            )

    def put(
        self,
        name: str,
        body: bytes,
        *,
        only_new: bool = False,
        only_over: str = "",
        metadata: dict[str, str] | None = None,
    ) -> str:
        """Write an object and give its ETag; ConditionError if one exists, or not the one with ETag `only_over`."""
        condition = {"IfNoneMatch": "*"} if only_new else {"IfMatch": only_over} if only_over else {}
        try:
            with self.translated(name):
                answer = self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + name, Body=body, Metadata=metadata or {}, **condition
                )
                return str(answer["ETag"])
        except NotFoundError as exc:
            raise ConditionError(f"{name} is gone") from exc

    def delete(self, name: str, *, only: str = "") -> None:
        """Remove an object, if it has the ETag `only` where the server knows that condition. Idempotent."""
        condition = {"IfMatch": only} if only else {}
        try:
            with self.translated(name):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name, **condition)
        except (NotFoundError, ConditionError):
            return

    def list(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Name and time of last modification of every object whose name starts with `prefix`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with self.translated(prefix):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"][len(self._prefix) :], item["LastModified"]

    def begin_parts(self, name: str) -> str:
        """Begin a multipart upload; gives its id."""
        with self.translated(name):
            answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._prefix + name)
            return str(answer["UploadId"])

    def put_part(self, name: str, upload: str, number: int, body: bytes) -> str:
        """Send one part, numbered from 1; gives its ETag."""
        with self.translated(name):
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=self._prefix + name, UploadId=upload, PartNumber=number, Body=body
            )
            return str(answer["ETag"])

    def complete_parts(self, name: str, upload: str, etags: Sequence[str]) -> None:
        """Make the parts an object. Idempotent."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        try:
            with self.translated(name):
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=self._prefix + name, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except NotFoundError:
            self.metadata(name)  # a repeat finds no upload any more, but its object

    def abort_parts(self, name: str) -> None:
        """Forget every multipart upload of this object. Idempotent."""
        with self.translated(name):
            full_name = self._prefix + name
            answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=full_name)
        for upload in answer.get("Uploads", ()):
            if upload["Key"] == full_name:
                with self._ignoring_missing(), self.translated(name):
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=full_name, UploadId=upload["UploadId"])

    def url(self, name: str, expiry_s: float) -> str:
        """An address where anybody can GET the object for `expiry_s`."""
        return str(
            self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": self._prefix + name}, ExpiresIn=int(expiry_s)
            )
        )

    @contextmanager
    def _ignoring_missing(self) -> Iterator[None]:
        try:
            yield
        except NotFoundError:
            return

    @contextmanager
    def translated(self, name: str) -> Iterator[None]:
        """Raise what boto3 and the connections under it raise as StorageError about the object `name`."""
        subject = name or f"bucket {self._bucket}"
        try:
            yield
        except ClientError as exc:
            code, what = str(exc.response["Error"].get("Code")), exc.response["Error"].get("Message")
            if code == "NoSuchBucket" or (not name and code in _MISSING):
                raise StorageError(
                    f"there is no bucket {self._bucket}; make it, or correct storage.s3.bucket",
                    reason="NoSuchBucket",
                    retryable=False,
                ) from exc
            if code in _MISSING:
                raise NotFoundError(f"there is no {subject}") from exc
            if code in _CONDITION:
                raise ConditionError(f"{subject} was changed meanwhile") from exc
            if code in _DENIED:
                raise StorageError(
                    f"S3 refused access to {subject} ({code}: {what}); check storage.s3.access_key_id, "
                    "storage.s3.secret_access_key and the bucket's policy",
                    reason="AccessDenied",
                    retryable=False,
                ) from exc
            if code in _FULL:
                raise NoSpaceError(f"no room for {subject} in bucket {self._bucket} ({code}: {what})") from exc
            raise StorageError(f"{subject}: {code}: {what}") from exc
        except (BotoCoreError, HTTPClientError, HTTPError, OSError) as exc:
            raise StorageError(f"{subject}: {exc}") from exc
