"""Registries by the names that people give images: `cvmi/debian` is in ours, `quay.io/org/name:1` in another.

Another registry is logged in to with what `docker login` or `podman login` left in the first of these files that
knows it: $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json (else ~/.docker), $XDG_RUNTIME_DIR/containers/auth.json (else
/run/containers/UID).
"""

import base64
import binascii
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.client.transport import Transport
from dvcr.config import ClientSettings
from dvcr.errors import ConfigError
from importer.reference import ImageReference

_DOCKER_HUB = ("docker.io", "index.docker.io")
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
    """Opens places in registries; the same registry is opened once."""

    def __init__(self, ours: ClientSettings, options: RegistryOptions) -> None:
        self._settings = ours
        self._options = options
        self._ours = RegistryClient.from_settings(ours)
        self._others: dict[str, RegistryClient] = {}

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
        return Place(host, reference.of(self._client(host)), reference)

    def _client(self, host: str) -> RegistryClient:
        if not host:
            return self._ours
        if host not in self._others:
            options = self._options
            if options.ca_file is not None and not options.ca_file.is_file():
                raise ConfigError(f"--ca-file: there is no file {options.ca_file}")
            username, password = credentials(host)
            server = _DOCKER_HUB_HOST if host in _DOCKER_HUB else host
            self._others[host] = RegistryClient(
                Transport(
                    f"{'http' if options.plain_http else 'https'}://{server}",
                    username=username,
                    password=password,
                    ca_file=str(options.ca_file) if options.ca_file else None,
                    insecure_skip_verify=options.insecure_skip_verify,
                    timeout_s=self._settings.timeout_s,
                )
            )
        return self._others[host]


def credentials(host: str) -> tuple[str, str]:
    """User and password for a registry as a login left them; two empty strings where nobody logged in.

    ConfigError for a file that cannot be read, and for credentials that are in a helper's keeping.
    """
    keys = [host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    if host in _DOCKER_HUB:
        keys = [*_DOCKER_HUB, "https://index.docker.io/v1/"]
    for file in _login_files():
        config = _read(file)
        auths = config.get("auths") or {}
        for entry in (auths[key] for key in keys if isinstance(auths.get(key), dict)):
            if entry.get("auth"):
                return _decode(str(entry["auth"]), file, host)
            if entry.get("username"):
                return str(entry["username"]), str(entry.get("password", ""))
        helper = (config.get("credHelpers") or {}).get(host) or (host in auths and config.get("credsStore"))
        if helper:
            raise ConfigError(
                f"{file} leaves the login for {host} to the helper {helper!r}, which is not supported; "
                f"log in with `podman login {host}`, which keeps it in a file"
            )
    return "", ""


def _login_files() -> Iterator[Path]:
    explicit, runtime = os.environ.get("REGISTRY_AUTH_FILE"), os.environ.get("XDG_RUNTIME_DIR")
    candidates = [
        *([Path(explicit)] if explicit else []),
        Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json",
        (Path(runtime) / "containers" if runtime else Path(f"/run/containers/{os.getuid()}")) / "auth.json",
    ]
    return (file for file in candidates if file.is_file())


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the logins in {file}: {exc}") from exc
    if not isinstance(value, dict):
        raise ConfigError(f"cannot read the logins in {file}: it is no JSON object")
    return value


def _decode(auth: str, file: Path, host: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(auth).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise ConfigError(f"the login for {host} in {file} is damaged: {exc}; log in again") from exc
    if not colon:
        raise ConfigError(f"the login for {host} in {file} is damaged: it has no password; log in again")
    return username, password.rstrip("\0")
