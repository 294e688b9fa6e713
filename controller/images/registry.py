"""What the reconcilers ask of the registry, where Ready is decided."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dvcr.artifact import staged
from dvcr.artifact.staged import Part
from dvcr.artifact.store import fetch, remove
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Artifact:
    """A disk artifact, as far as the controller needs to know it: little enough to remember many."""

    repository: str
    digest: Digest
    """Of the manifest."""
    format: str
    """Of the source."""
    cdrom: bool
    virtual_size_bytes: int
    stored_bytes: int


class ImageRegistry(Protocol):
    """The disk artifacts of a registry. Every method raises RegistryError if the registry does not answer."""

    @property
    def host(self) -> str:
        """As image references begin."""
        ...

    def find(self, repository: str, tag: str) -> Artifact | None:
        """The artifact, or None if it does not exist."""
        ...

    def find_digest(self, repository: str, tag: str) -> Digest | None:
        """The digest of the artifact, or None if it does not exist: a question that costs little, and is asked once."""
        ...

    def remove(self, repository: str, tag: str) -> None:
        """Remove the artifact and the blobs that only it needs. Idempotent."""
        ...

    def find_upload(self, repository: str) -> tuple[Digest, tuple[Part, ...]] | None:
        """What a user uploaded whole to become an image: its manifest, and its parts. None if there is nothing."""
        ...

    def remove_upload(self, repository: str, parts: Iterable[Part]) -> None:
        """Remove what a user uploaded to become an image. Idempotent."""
        ...


class RemoteImageRegistry:
    """ImageRegistry over the OCI client."""

    def __init__(self, settings: ClientSettings) -> None:
        self._client = RegistryClient.from_settings(settings)
        self._host = settings.url.split("://", 1)[-1].rstrip("/")

    @property
    def host(self) -> str:
        return self._host

    def find(self, repository: str, tag: str) -> Artifact | None:
        try:
            stored = fetch(self._client.repository(repository), tag)
        except RegistryError as exc:
            if exc.status == 404:
                return None
            raise
        disk = stored.image
        return Artifact(
            repository, stored.digest, disk.source.format, disk.cdrom, disk.virtual_size_bytes, disk.stored_bytes
        )

    def find_digest(self, repository: str, tag: str) -> Digest | None:
        return self._client.repository(repository).find_digest(tag)

    def remove(self, repository: str, tag: str) -> None:
        image = self.find(repository, tag)
        if image is not None:
            remove(self._client.repository(repository), image.digest)

    def find_upload(self, repository: str) -> tuple[Digest, tuple[Part, ...]] | None:
        return staged.find(self._client.repository(repository))

    def remove_upload(self, repository: str, parts: Iterable[Part]) -> None:
        staged.discard(self._client.repository(repository), parts)
