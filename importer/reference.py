"""Names of images as people write them: `cvmi/debian`, `cvmi/debian:12`, `cvmi/debian@sha256:...`."""

from dataclasses import dataclass

from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.digest import Digest, InvalidDigestError
from dvcr.errors import ConfigError

DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A repository, and a tag or digest in it."""

    repository: str
    reference: str | Digest = DEFAULT_TAG

    @classmethod
    def parse(cls, text: str) -> "ImageReference":
        """The reference that `text` spells; ConfigError where it cannot be one."""
        name, at, digest = text.partition("@")
        if at:
            try:
                return cls(name, Digest.parse(digest))
            except InvalidDigestError as exc:
                raise ConfigError(f"{text!r}: {exc}") from exc
        name, colon, tag = text.rpartition(":")
        return cls(name, tag) if colon else cls(text)

    def of(self, client: RegistryClient) -> Repository:
        """The repository at the registry; ConfigError where its name is none."""
        try:
            return client.repository(self.repository)
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc

    def __str__(self) -> str:
        return f"{self.repository}{'@' if isinstance(self.reference, Digest) else ':'}{self.reference}"
