"""What a client shows to a registry: given once, or read from a file that somebody else keeps up to date."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from dvcr.config import ClientSettings
from dvcr.errors import RegistryError


@dataclass(frozen=True)
class Credentials:
    """A user name and a password, or a token; all empty: nobody in particular. Nothing secret is printed."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """Shown to the registry as it is."""

    def write(self) -> bytes:
        """As JSON, under the names that docker's configuration has for them."""
        values = {"username": self.username, "password": self.password, "registrytoken": self.token}
        return json.dumps({name: value for name, value in values.items() if value}).encode()

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The inverse of `write`; ValueError for anything else."""
        values = json.loads(data)
        names = ("username", "password", "registrytoken")
        if not isinstance(values, dict) or not all(isinstance(values.get(name, ""), str) for name in names):
            raise ValueError("no JSON object with username and password, or with registrytoken")
        return cls(*(values.get(name, "") for name in names))


Source = Callable[[], Credentials]
"""The credentials as of now; may raise RegistryError."""


def credentials_of(settings: ClientSettings) -> Source | None:
    """What the settings name; None where they name nobody."""
    if settings.credentials_file is not None:
        return credentials_in(settings.credentials_file)
    given = Credentials(settings.username, settings.password.get_secret_value())
    return (lambda: given) if given.username else None


def credentials_in(file: Path) -> Source:
    """Reads the file each time. RegistryError, retryable, where that fails: it is brought, or replaced, by others."""

    def read() -> Credentials:
        try:
            return Credentials.read(file.read_bytes())
        except (OSError, ValueError) as exc:
            # ValueError's own words may quote what is in the file.
            why = exc.strerror if isinstance(exc, OSError) else "it holds no credentials"
            raise RegistryError(
                f"cannot read the credentials for the registry in {file}: {why}",
                code="UNAUTHORIZED",
                status=401,
                reason="RegistryDenied",
                retryable=True,
            ) from exc

    return read
