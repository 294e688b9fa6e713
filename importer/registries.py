"""Registries by the names that people give images: `cvmi/debian` is in ours, `quay.io/org/name:1` in another."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.client.transport import Transport
from dvcr.config import ClientSettings
from dvcr.errors import ConfigError
from importer.logins import DOCKER_HUB, login_of_user
from importer.reference import ImageReference

_DOCKER_HUB = (DOCKER_HUB, "index.docker.io")
_DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries other than that of the settings are spoken to."""

    plain_http: bool = False
    ca_file: Path | None = None
    insecure_skip_verify: bool = False


@dataclass(frozen=True)
class Place:
    """A tag or digest in a repository of some registry."""

    host: str
    """Empty for the registry of the settings."""
    repository: Repository
    reference: ImageReference

    def __str__(self) -> str:
        return f"{self.host}/{self.reference}" if self.host else str(self.reference)


class Registries:
    """Opens places in registries, other ones with the user's own login; the same repository is opened once."""

    def __init__(self, ours: ClientSettings, options: RegistryOptions) -> None:
        self._settings = ours
        self._options = options
        self._ours = RegistryClient.from_settings(ours)
        self._others: dict[tuple[str, str], RegistryClient] = {}

    def open(self, name: str) -> Place:
        """The place that `name` spells; nothing is asked of its registry yet. ConfigError where it is no name."""
        host, slash, rest = name.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, rest = "", name
        if host == urlsplit(self._settings.url).netloc:
            host = ""
        reference = ImageReference.parse(rest)
        if host in _DOCKER_HUB and "/" not in reference.repository:
            reference = replace(reference, repository=f"library/{reference.repository}")
        return Place(host, reference.of(self._client(host, reference.repository)), reference)

    def _client(self, host: str, repository: str) -> RegistryClient:
        if not host:
            return self._ours
        # A login may be for some folders of a registry only.
        key = host, repository
        if key not in self._others:
            options = self._options
            if options.ca_file is not None and not options.ca_file.is_file():
                raise ConfigError(f"--ca-file: there is no file {options.ca_file}")
            server = _DOCKER_HUB_HOST if host in _DOCKER_HUB else host
            login = login_of_user(DOCKER_HUB if host in _DOCKER_HUB else host, repository)
            self._others[key] = RegistryClient(
                Transport(
                    f"{'http' if options.plain_http else 'https'}://{server}",
                    username=login.username,
                    password=login.password,
                    ca_file=str(options.ca_file) if options.ca_file else None,
                    insecure_skip_verify=options.insecure_skip_verify,
                    timeout_s=self._settings.timeout_s,
                )
            )
        return self._others[key]
