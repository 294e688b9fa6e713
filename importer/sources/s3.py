"""Objects of S3, for the command line: the user's own AWS configuration says how to get at them."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog

from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.config import ImporterSettings
from dvcr.errors import SourceError
from importer.sources.ranges import ParallelRanges

_PIECE_BYTES = 2**20
_CONNECT_TIMEOUT_S = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 10.0
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)")

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class S3Origin:
    """An object."""

    bucket: str
    key: str
    endpoint_url: str = ""
    """Of a server other than Amazon's."""

    @classmethod
    def parse(cls, url: str, endpoint_url: str = "") -> Self:
        """SourceError where it is no s3://BUCKET/KEY."""
        match = _URL.fullmatch(url)
        if match is None:
            raise SourceError(f"{url!r} is no s3://BUCKET/KEY", reason="InvalidReference")
        return cls(match[1], match[2], endpoint_url)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class S3Download:
    """A Download of an object, by ranges over several connections, all of the same version (its ETag)."""

    def __init__(self, origin: S3Origin, settings: ImporterSettings) -> None:
        """SourceError where the AWS configuration cannot be used. Nothing is sent yet."""
        import boto3  # noqa: PLC0415 (takes a third of a second, and only this source needs it)
        from botocore.config import Config  # noqa: PLC0415

        self.total_bytes: int | None = None
        self._origin = origin
        self._retries = settings.retries
        self._etag = ""
        self.trouble = ""
        """What went wrong since the last byte, and which attempt this is."""
        self._stopped = threading.Event()
        self._cancellation = Cancellation()
        self._ranges = ParallelRanges(self._range, settings.connections)
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=settings.idle_timeout_s,
            max_pool_connections=settings.connections,
            retries={"total_max_attempts": 1, "mode": "standard"},  # it is done here, where it can be told and stopped
            # Servers other than Amazon's are mostly reached by one name for all buckets.
            s3={"addressing_style": "path" if origin.endpoint_url else "auto"},
        )
        with self._translated():
            self._client: Any = boto3.client("s3", endpoint_url=origin.endpoint_url or None, config=config)

    def pieces(self) -> Iterator[bytes]:
        """As Download says. SourceError: NotFound, Forbidden, Changed, Unavailable."""
        with closing(self._ranges):
            try:
                head = self._retried(self._head)
                self.total_bytes, self._etag = head["ContentLength"], head["ETag"]
                for piece in self._ranges.pieces(0, head["ContentLength"]):
                    self.trouble = ""
                    yield piece
            except RequestCancelledError:
                return  # by `stop`

    def read_range(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """Exactly that range of the object, from any thread; None where it is not to be had."""
        if not self._etag:
            return None
        try:
            return b"".join(self._range(offset_bytes, length_bytes))
        except (SourceError, RequestCancelledError) as exc:
            log.info("the server does not give a range", source=str(self._origin), why=exc.message)
            return None

    def identity(self) -> Mapping[str, Any] | None:
        """Nothing: the command starts over."""
        return None

    def resume(self, position: int, identity: Mapping[str, Any]) -> bool:
        """Never."""
        return False

    def stop(self) -> None:
        """End `pieces` soon, also while the server is silent."""
        self._stopped.set()
        self._cancellation.cancel()

    def close(self) -> None:
        """Free the connections."""
        self._client.close()

    def _range(self, offset: int, length: int) -> list[bytes]:
        return self._retried(lambda: self._ask(offset, length))

    def _retried(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, in one of `retries` attempts more."""
        for attempt in range(self._retries):
            try:
                return self._cancellation.run(ask)
            except SourceError as exc:
                if not exc.retryable or exc.reason == "SourceChanged":
                    raise
                self.trouble = f"{exc.message}, trying again ({attempt + 2} of {self._retries + 1})"
                self._stopped.wait(min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S))
        return self._cancellation.run(ask)

    def _head(self) -> Any:
        with self._translated():
            return self._client.head_object(Bucket=self._origin.bucket, Key=self._origin.key)

    def _ask(self, offset: int, length: int) -> list[bytes]:
        with self._translated():
            answer = self._client.get_object(
                Bucket=self._origin.bucket,
                Key=self._origin.key,
                Range=f"bytes={offset}-{offset + length - 1}",
                IfMatch=self._etag,
            )
            pieces: list[bytes] = []
            with closing(answer["Body"]) as body:
                while length > 0 and not self._stopped.is_set() and (piece := body.read(min(length, _PIECE_BYTES))):
                    pieces.append(piece)
                    length -= len(piece)
        if length and not self._stopped.is_set():
            raise SourceError(f"a part of {self._origin} ended {length} bytes early", retryable=True)
        return pieces

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The one place where errors of boto3 become ours."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # noqa: PLC0415

        name = str(self._origin)
        try:
            yield
        except NoCredentialsError as exc:
            raise SourceError(
                f"{name}: there are no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret",
                reason="SourceForbidden",
            ) from exc
        except ClientError as exc:
            status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status == 404:
                raise SourceError(f"there is no object {name}; check bucket and key", reason="SourceNotFound") from exc
            if status in (401, 403):
                message = (
                    f"{name} may not be read with these AWS credentials ({exc}); check them and the bucket's policy"
                )
                raise SourceError(message, reason="SourceForbidden") from exc
            if status == 412:
                message = f"{name} was changed during the download; try again"
                raise SourceError(message, reason="SourceChanged", retryable=True) from exc
            raise SourceError(f"{name} cannot be read: {exc}", retryable=status >= 500) from exc
        except (BotoCoreError, ValueError) as exc:
            raise SourceError(f"{name} cannot be read: {exc}", retryable=isinstance(exc, BotoCoreError)) from exc
        except OSError as exc:
            raise SourceError(f"{name} cannot be read: {exc}", retryable=True) from exc
