"""Authorization as registries ask for it: none, Basic, or Bearer tokens (Docker token protocol)."""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.auth import AuthBase, _basic_auth_str

from dvcr.errors import RegistryError

_CHALLENGE = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,]+))')
# A token that says nothing of its life lives for 60 s (Docker token protocol, "Requesting a Token").
_DEFAULT_LIFE_S = 60.0

FetchToken = Callable[[str, Mapping[str, str], str | None], Mapping[str, object]]


class Header(AuthBase):
    """Sets the Authorization header, or none. As an `auth` object it keeps requests from reading ~/.netrc instead."""

    def __init__(self, value: str | None) -> None:
        self.value = value

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self.value is not None:
            request.headers["Authorization"] = self.value
        return request


@dataclass(frozen=True)
class _Token:
    header: str
    expires_at: float
    challenge: str


class Authenticator:
    """Answers the challenges of one registry, and remembers the answers per scope. Thread-safe."""

    def __init__(self, registry_url: str, username: str, password: str, fetch: FetchToken) -> None:
        """`fetch(realm, query, authorization)` gets the JSON answer of a token server."""
        self._secure = urlsplit(registry_url).scheme == "https"
        self._username = username
        self._basic = _basic_auth_str(username, password) if username else None
        self._fetch = fetch
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.Lock()

    def header(self, scope: str) -> str | None:
        """The Authorization that the registry accepted last for `scope`, renewed where it ran out; None before."""
        with self._lock:
            token = self._tokens.get(scope)
            if token is not None and token.expires_at <= time.monotonic():
                token = self._tokens[scope] = self._answer(token.challenge)
            return token.header if token else None

    def challenged(self, response: Response, scope: str, used: str | None) -> str:
        """The Authorization to try after a 401 to a request that carried `used`.

        Raises RegistryError where the challenge cannot be answered.
        """
        with self._lock:
            token = self._tokens.get(scope)
            if token is None or token.header == used:
                token = self._tokens[scope] = self._answer(response.headers.get("WWW-Authenticate", ""))
            return token.header

    def _answer(self, challenge: str) -> _Token:
        scheme = challenge.partition(" ")[0].lower()
        if scheme == "bearer":
            return self._bearer(challenge)
        if scheme == "basic" and self._basic is not None:
            return _Token(self._basic, float("inf"), challenge)
        raise _denied(
            "the registry asks for a user name and password; set client.username and client.password"
            if scheme == "basic"
            else f"the registry asks for an authentication that is not known: {challenge or 'nothing named'}"
        )

    def _bearer(self, challenge: str) -> _Token:
        parameters = {key.lower(): quoted or plain for key, quoted, plain in _CHALLENGE.findall(challenge)}
        realm = parameters.get("realm", "")
        scheme = urlsplit(realm).scheme
        if scheme not in ("http", "https"):
            raise _denied(f"the token server of the registry has no usable address: {realm!r}")
        if scheme != "https" and self._secure and self._basic is not None:
            raise _denied(f"the registry wants the password sent unencrypted to {realm}; refused")
        query = {key: parameters[key] for key in ("service", "scope") if key in parameters}
        if self._basic is not None:
            query["account"] = self._username
        asked_at = time.monotonic()
        answer = self._fetch(realm, query, self._basic)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise _denied(f"the token server {realm} answered without a token")
        life = answer.get("expires_in")
        life_s = float(life) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE_S
        # A tenth early, so that a token does not run out while a request is on its way.
        return _Token(f"Bearer {token}", asked_at + life_s * 0.9, challenge)


def _denied(message: str) -> RegistryError:
    return RegistryError(message, code="UNAUTHORIZED", status=401, reason="RegistryDenied")
