"""Users and passwords for registries, as `docker login` and Kubernetes' pull secrets keep them; read through `oras`."""

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import oras.auth
import oras.container

from dvcr.errors import ConfigError, SourceError

DOCKER_HUB = "docker.io"


class Login(NamedTuple):
    """Two empty strings: nobody."""

    username: str = ""
    password: str = ""


def login_in(config: str, host: str, repository: str) -> Login:
    """The login for an image that a docker config.json holds itself, under the longest name that fits.

    Helpers that it names are programs of whoever wrote it, and are not run. SourceError where it cannot be read.
    """
    try:
        auths = json.loads(config).get("auths") or {}
        return _find({"auths": _by_host(auths, host, repository)}, host)
    except (ValueError, AttributeError, TypeError) as exc:
        raise SourceError(
            "the pull secret is no docker configuration; make it with `kubectl create secret docker-registry`",
            reason="SecretInvalid",
        ) from exc


def login_of_user(host: str, repository: str) -> Login:
    """The login that this user has left with docker, podman or oras, also in the keeping of a credential helper.

    ConfigError where one of the files cannot be read.
    """
    for file in _files():
        try:
            config = json.loads(file.read_bytes())
            auths = _by_host(config.get("auths") or {}, host, repository)
            login = _find({**config, "auths": auths}, host)
        except (OSError, ValueError, AttributeError, TypeError) as exc:
            raise ConfigError(f"cannot read the logins in {file}: {exc}; log in again") from exc
        if login.username:
            return login
    return Login()


def as_config(host: str, login: Login) -> str:
    """A docker config.json of this one login."""
    auth = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": auth}}})


def _by_host(auths: Mapping[str, Any], host: str, repository: str) -> dict[str, Any]:
    """`host` to the entry for it, however its name is written: https://host/v1/, host/folder (Kubernetes), aliases."""
    found: tuple[int, Any] | None = None
    for name, entry in auths.items():
        own, _, path = name.removeprefix("https://").removeprefix("http://").partition("/")
        if own in ("index.docker.io", "registry-1.docker.io"):
            own = DOCKER_HUB
        path = "" if path.strip("/") in ("v1", "v2") else path.strip("/")
        fits = own == host and (not path or f"{repository}/".startswith(f"{path}/"))
        if fits and (found is None or len(path) > found[0]):
            found = len(path), entry
    if found is None:
        return {}
    entry = dict(found[1])
    if not entry.get("auth") and entry.get("username"):
        entry["auth"] = base64.b64encode(f"{entry['username']}:{entry.get('password', '')}".encode()).decode()
    return {host: entry}


def _find(config: dict[str, Any], host: str) -> Login:
    backend = oras.auth.get_auth_backend("token")
    backend._auth_config = config  # else `load_configs` reads the configuration of this process's user too
    backend.load_configs(oras.container.Container("image", registry=host))
    auth = getattr(backend, "_basic_auth", None)
    if not auth:
        return Login()
    try:
        username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise ValueError(f"the login for {host} is damaged") from exc
    if not colon:
        raise ValueError(f"the login for {host} has no password")
    return Login(username, password.rstrip("\0"))


def _files() -> Iterator[Path]:
    explicit, runtime = os.environ.get("REGISTRY_AUTH_FILE"), os.environ.get("XDG_RUNTIME_DIR")
    candidates = [
        *([Path(explicit)] if explicit else []),
        Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json",
        (Path(runtime) / "containers" if runtime else Path(f"/run/containers/{os.getuid()}")) / "auth.json",
    ]
    return (file for file in candidates if file.is_file())
