"""Chunks that were stored before: found again by the hash of their bytes, so that nothing is compressed nor sent."""

from typing import Protocol, Self

import redis
import structlog

from dvcr.client.repository import Repository
from dvcr.config import BrokerSettings
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest, InvalidDigestError
from dvcr.errors import DvcrError
from importer.staging import StagedChunks

_TIMEOUT_S = 1.0

log = structlog.get_logger(__name__)


class ChunkIndex(Protocol):
    """What blob holds a chunk, by the BLAKE3 hash of its bytes. May forget, and may be wrong about the registry.

    Never about the content: the hash is a cryptographic one, so nobody can make a chunk that is taken for another.
    """

    def get(self, fingerprint: bytes) -> Descriptor | None:
        """The blob that once held the chunk."""
        ...

    def put(self, fingerprint: bytes, descriptor: Descriptor) -> None:
        """Remember it."""
        ...


class RedisChunkIndex:
    """An index in Redis, for so many seconds since a chunk was last seen. Where Redis fails, nothing is known."""

    def __init__(self, connection: redis.Redis, lifetime_s: int) -> None:
        self._connection = connection
        self._lifetime_s = lifetime_s
        self._failed = False

    @classmethod
    def from_settings(cls, settings: BrokerSettings, lifetime_s: int) -> Self:
        """The index in the broker's Redis. Nothing is sent yet."""
        url = settings.url.get_secret_value().replace("redis+socket://", "unix://", 1)
        connection = redis.Redis.from_url(url, socket_connect_timeout=_TIMEOUT_S, socket_timeout=_TIMEOUT_S)
        return cls(connection, lifetime_s)

    def get(self, fingerprint: bytes) -> Descriptor | None:
        """The blob that once held the chunk, now remembered for longer."""
        try:
            value = self._connection.getex(_key(fingerprint), ex=self._lifetime_s)
            self._failed = False
            if isinstance(value, bytes):
                digest, size, media_type = value.decode().split(" ")
                return Descriptor(media_type, Digest.parse(digest), int(size))
        except redis.RedisError as error:
            self._note(error)
        except (ValueError, InvalidDigestError) as error:
            log.warning("an entry of the index of chunks cannot be read", error=str(error))
        return None

    def put(self, fingerprint: bytes, descriptor: Descriptor) -> None:
        """Remember the blob."""
        value = f"{descriptor.digest} {descriptor.size_bytes} {descriptor.media_type}"
        try:
            self._connection.set(_key(fingerprint), value, ex=self._lifetime_s)
        except redis.RedisError as error:
            self._note(error)

    def _note(self, error: redis.RedisError) -> None:
        if not self._failed:
            log.warning("the index of chunks does not answer; all are compressed anew", error=str(error))
        self._failed = True


class RecalledChunks:
    """The converter's RecallingStore: asks the index first, and takes nothing for stored that the registry lacks."""

    def __init__(self, staged: StagedChunks, repository: Repository, index: ChunkIndex) -> None:
        self._staged = staged
        self._repository = repository
        self._index = index

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """As StagedChunks."""
        self._staged.put(descriptor, data)

    def recall(self, fingerprint: bytes) -> Descriptor | None:
        """The chunk's blob, which is in the repository now; None where neither index nor registry know it."""
        descriptor = self._index.get(fingerprint)
        if descriptor is None:
            return None
        upload = self._repository.mount_or_begin(descriptor.digest)
        if upload is None:
            self._staged.hold(descriptor.digest)
            return descriptor
        try:
            upload.abort()
        except DvcrError as error:
            # It ends by itself after a day.
            log.warning("an upload session is left to expire", repository=self._repository.name, error=error.message)
        return None

    def remember(self, fingerprint: bytes, descriptor: Descriptor) -> None:
        """Tell the index."""
        self._index.put(fingerprint, descriptor)


def _key(fingerprint: bytes) -> str:
    return f"dvcr:chunk:{fingerprint.hex()}"
