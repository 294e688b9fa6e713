"""A registry, as its clients see it (distribution-spec 1.1)."""

from collections.abc import Iterator, Sequence
from typing import Self
from urllib.parse import urlsplit

from dvcr.client.auth import IssuedToken
from dvcr.client.cancellation import Cancellation
from dvcr.client.credentials import Source, credentials_of
from dvcr.client.repository import Repository, listing
from dvcr.client.retry import TellRetry
from dvcr.client.transport import Transport
from dvcr.config import ClientSettings
from dvcr.errors import ConfigError


class RegistryClient:
    """One registry. Blocking, thread-safe, cheap to keep; make one per process."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def from_settings(cls, settings: ClientSettings, credentials: Source | None = None) -> Self:
        """The registry that the settings name, with other `credentials` than theirs if these are given.

        Nothing is sent yet; ConfigError where a setting cannot be used.
        """
        parts = urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"client.url: {settings.url!r} is not the address of a registry; http(s)://HOST[:PORT]")
        if parts.username or parts.password:
            raise ConfigError("client.url: credentials do not belong here; use client.username and client.password")
        if settings.ca_file is not None and not settings.ca_file.is_file():
            raise ConfigError(f"client.ca_file: there is no file {settings.ca_file}")
        return cls(
            Transport(
                settings.url,
                credentials=credentials or credentials_of(settings),
                ca_file=str(settings.ca_file) if settings.ca_file else None,
                ca_pem=settings.ca_pem,
                timeout_s=settings.timeout_s,
            )
        )

    def on_behalf_of(self, cancellation: Cancellation, on_retry: TellRetry | None = None) -> "RegistryClient":
        """The same registry, as Transport says."""
        return RegistryClient(self._transport.on_behalf_of(cancellation, on_retry))

    @property
    def host(self) -> str:
        """HOST[:PORT], as names of images begin."""
        return urlsplit(self._transport.base_url).netloc

    def repository(self, name: str) -> Repository:
        """The repository of that name, which need not exist. ValueError where the name breaks the spec's grammar."""
        return Repository(self._transport, name)

    def repositories(self) -> Iterator[str]:
        """The names of all repositories, page by page (`GET /v2/_catalog`)."""
        return listing(self._transport, "v2/_catalog?n=1000", "repositories", scope="registry:catalog:*")

    def issue_token(self, scopes: Sequence[str], life_s: int) -> IssuedToken | None:
        """A token for `scopes` (`repository:NAME:pull`) and nothing else, to be shown to the registry by somebody else.

        It lives for `life_s` where the registry grants as much, and is for as much of `scopes` as this client may do.
        None where the registry issues no tokens: it asks for passwords only, or for nothing. Raises RegistryError.
        """
        return self._transport.issue_token(scopes, life_s)

    def ping(self) -> None:
        """Return if the registry answers and lets us in; RegistryError otherwise. Asks once, for those who poll."""
        with self._transport.request("GET", "v2/"):
            pass
