"""Authorization as registries ask for it: none, Basic, or Bearer tokens (Docker token protocol)."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.auth import AuthBase, _basic_auth_str

from dvcr.client.credentials import Credentials, Source
from dvcr.errors import RegistryError

_CHALLENGE = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,]+))')
# A token that says nothing of its life lives for 60 s (Docker token protocol, "Requesting a Token").
_DEFAULT_LIFE_S = 60.0

Query = Mapping[str, str | Sequence[str]]
FetchToken = Callable[[str, Query, str | None], Mapping[str, object]]


class Header(AuthBase):
    """Sets the Authorization header, or none. As an `auth` object it keeps requests from reading ~/.netrc instead."""

    def __init__(self, value: str | None) -> None:
        self.value = value

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self.value is not None:
            request.headers["Authorization"] = self.value
        return request


@dataclass(frozen=True)
class IssuedToken:
    """What a token server gave."""

    token: str = field(repr=False)
    life_s: float
    """From when it was asked for."""


@dataclass(frozen=True)
class _Accepted:
    header: str
    expires_at: float
    challenge: str


class Authenticator:
    """Answers the challenges of one registry, and remembers the answers per scope. Thread-safe."""

    def __init__(self, registry_url: str, credentials: Source, fetch: FetchToken) -> None:
        """`fetch(realm, query, authorization)` gets the JSON answer of a token server."""
        self._secure = urlsplit(registry_url).scheme == "https"
        self._credentials = credentials
        self._fetch = fetch
        self._accepted: dict[str, _Accepted] = {}
        self._lock = threading.Lock()

    def header(self, scope: str) -> str | None:
        """The Authorization to begin with; None: none, until the registry asks for it.

        A token that was given is shown at once. Else it is what the registry accepted last for `scope`, renewed where
        it ran out.
        """
        credentials = self._credentials()
        if credentials.token:
            return _bearer(credentials.token)
        with self._lock:
            known = self._accepted.get(scope)
            if known is not None and known.expires_at <= time.monotonic():
                known = self._accepted[scope] = self._answer(known.challenge, credentials)
            return known.header if known else None

    def challenged(self, response: Response, scope: str, used: str | None) -> str:
        """The Authorization to try after a 401 to a request that carried `used`.

        Raises RegistryError where the challenge cannot be answered; retryable with a token that was given, in place of
        which there may be another one in a moment.
        """
        credentials = self._credentials()
        challenge = response.headers.get("WWW-Authenticate", "")
        if credentials.token:
            if _bearer(credentials.token) == used:
                raise _refused(challenge)
            return _bearer(credentials.token)
        with self._lock:
            known = self._accepted.get(scope)
            if known is None or known.header == used:
                known = self._accepted[scope] = self._answer(challenge, credentials)
            return known.header

    def issue(self, challenge: str, scopes: Sequence[str], life_s: int) -> IssuedToken | None:
        """A token for `scopes` and nothing else, from the server that the challenge names; None where it names none.

        It lives `life_s` where the server grants as much. Raises RegistryError.
        """
        credentials = self._credentials()
        # A token gets no other one.
        if not _is_bearer(challenge) or credentials.token:
            return None
        return self._fetch_token(challenge, credentials, {"scope": scopes, "expires_in": str(life_s)})

    def _answer(self, challenge: str, credentials: Credentials) -> _Accepted:
        if _is_bearer(challenge):
            asked_at = time.monotonic()
            issued = self._fetch_token(challenge, credentials, {})
            # A tenth early, so that a token does not run out while a request is on its way.
            return _Accepted(_bearer(issued.token), asked_at + issued.life_s * 0.9, challenge)
        is_basic = challenge.partition(" ")[0].lower() == "basic"
        if is_basic and credentials.username:
            return _Accepted(_basic_auth_str(credentials.username, credentials.password), float("inf"), challenge)
        raise _denied(
            "the registry asks for a user name and password; set client.username and client.password"
            if is_basic
            else f"the registry asks for an authentication that is not known: {challenge or 'nothing named'}"
        )

    def _fetch_token(self, challenge: str, credentials: Credentials, more: Query) -> IssuedToken:
        parameters = _parameters(challenge)
        realm = parameters.get("realm", "")
        scheme = urlsplit(realm).scheme
        if scheme not in ("http", "https"):
            raise _denied(f"the token server of the registry has no usable address: {realm!r}")
        query: dict[str, str | Sequence[str]] = {k: parameters[k] for k in ("service", "scope") if k in parameters}
        basic = None
        if credentials.username:
            if scheme != "https" and self._secure:
                raise _denied(f"the registry wants the password sent unencrypted to {realm}; refused")
            basic = _basic_auth_str(credentials.username, credentials.password)
            query["account"] = credentials.username
        answer = self._fetch(realm, {**query, **more}, basic)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise _denied(f"the token server {realm} answered without a token")
        life = answer.get("expires_in")
        return IssuedToken(token, float(life) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE_S)


def _is_bearer(challenge: str) -> bool:
    return challenge.partition(" ")[0].lower() == "bearer"


def _parameters(challenge: str) -> dict[str, str]:
    return {key.lower(): quoted or plain for key, quoted, plain in _CHALLENGE.findall(challenge)}


def _bearer(token: str) -> str:
    return f"Bearer {token}"


def _refused(challenge: str) -> RegistryError:
    parameters = _parameters(challenge)
    why = ", ".join(parameters[key] for key in ("error", "scope") if parameters.get(key))
    message = f"the registry does not accept the token that was given for it ({why or 'no reason told'})"
    return _denied(message, retryable=True)


def _denied(message: str, *, retryable: bool = False) -> RegistryError:
    return RegistryError(message, code="UNAUTHORIZED", status=401, reason="RegistryDenied", retryable=retryable)
