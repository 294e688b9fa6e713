"""The Authorization header (RFC 9110 §11.6.2, RFC 7617, RFC 6750) and the challenge that asks for it."""

import base64
import binascii
import re
from dataclasses import dataclass, field

from dvcr.access.errors import CredentialsError

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]|\\")


@dataclass(frozen=True)
class Password:
    """A user name and a password, which nothing prints."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Bearer:
    """A token, which nothing prints."""

    token: str = field(repr=False)


def parse_authorization(text: str) -> Password | Bearer:
    """What the header holds; raises CredentialsError."""
    scheme, _, value = text.partition(" ")
    value = value.strip(" ")
    match scheme.lower():
        case "basic":
            try:
                user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
            except (binascii.Error, ValueError) as exc:
                raise CredentialsError("the Basic credentials cannot be read") from exc
            if not colon:
                raise CredentialsError("the Basic credentials hold no colon")
            return Password(user, password)
        case "bearer" if _TOKEN.fullmatch(value):
            return Bearer(value)
        case "bearer":
            raise CredentialsError("the Bearer token cannot be read")
        case _:
            raise CredentialsError("only Basic and Bearer authorization are known here")


def challenge(scheme: str, **parameters: str) -> str:
    """A WWW-Authenticate header; parameters without a value are left out, as are characters that have no place."""
    shown = [f'{name}="{_UNQUOTABLE.sub("", value)}"' for name, value in parameters.items() if value]
    return f"{scheme} {','.join(shown)}"
