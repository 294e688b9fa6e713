"""Tokens of others: an identity provider whose public keys are known (OpenID Connect Core; RFC 7517)."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
import structlog

from dvcr.access.caller import Caller, group_names, user_name
from dvcr.access.errors import CredentialsError
from dvcr.access.tokens import CLOCK_SKEW_S
from dvcr.config import IssuerSettings
from dvcr.errors import ConfigError

log = structlog.get_logger(__name__)

# Signatures only: what a public key could be mistaken for a shared secret with is left out.
ALGORITHMS = ("EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
KEYS_LIFE_S = 300.0
# A token with an unknown key makes us look again, but nobody can make us look more often than this.
LOOK_INTERVAL_S = 10.0
_FETCH_TIMEOUT_S = 10.0
_MAX_KEYS_BYTES = 2**20


class Issuer:
    """One identity provider. Its users are `NAME:SUBJECT` here, so that they are nobody else's. Thread-safe."""

    def __init__(
        self,
        settings: IssuerSettings,
        read: Callable[[], bytes] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` gives the key set (JSON), by default from where the settings say. Nothing is read yet."""
        self._settings = settings
        self._read = read or _reader(settings)
        self._now = now
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")

    def verify(self, token: str) -> tuple[Caller, float]:
        """Whose token it is, and when it ends (Unix time); raises CredentialsError. May ask the provider for keys."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(str(header.get("kid", "")))
            if header.get("alg") != key.algorithm_name:
                raise CredentialsError("the token is signed with another algorithm than its key is for")
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": ["iss", "aud", "sub", "exp"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as exc:
            raise CredentialsError(f"the token of {self._settings.name} is not accepted: {exc}") from exc
        groups = claims.get(self._settings.groups_claim) if self._settings.groups_claim else None
        name = self._settings.name
        return (
            Caller(user_name(f"{name}:{claims['sub']}"), group_names(name, groups if isinstance(groups, list) else [])),
            float(claims["exp"]),
        )

    def _key(self, kid: str) -> jwt.PyJWK:
        with self._lock:
            age_s = self._now() - self._read_at
            if age_s > KEYS_LIFE_S or (kid not in self._keys and age_s > LOOK_INTERVAL_S):
                self._read_at = self._now()
                self._refresh()
            key = self._keys.get(kid)
        if key is None:
            raise CredentialsError(f"{self._settings.name} knows no key {kid!r}")
        return key

    def _refresh(self) -> None:
        """Take the provider's keys; what was known stays in force where they cannot be had."""
        try:
            values = json.loads(self._read())["keys"]
            self._keys = {str(value["kid"]): key for value in values if (key := _signature_key(value)) is not None}
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
            issuer = self._settings.name
            log.error("the keys of an issuer cannot be read", issuer=issuer, error=str(exc))  # noqa: TRY400  not a bug


def unverified_issuer(token: str) -> str:
    """Who a token says has issued it, which decides by whose keys it is verified; raises CredentialsError."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
    except jwt.PyJWTError as exc:
        raise CredentialsError("the token cannot be read") from exc


def _signature_key(value: Any) -> jwt.PyJWK | None:
    if not isinstance(value, dict) or value.get("use", "sig") != "sig" or "kid" not in value:
        return None
    try:
        key = jwt.PyJWK(value)
    except (jwt.PyJWTError, ValueError, TypeError, LookupError):
        return None  # of a kind that we do not know; others may be good
    return key if key.algorithm_name in ALGORITHMS else None


def _reader(settings: IssuerSettings) -> Callable[[], bytes]:
    parts = urlsplit(settings.jwks)
    if parts.scheme in ("http", "https"):
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(f"access.issuers: the keys of {settings.name} must come over https")
        return lambda: _fetch(settings.jwks)
    return Path(settings.jwks).read_bytes


def _fetch(url: str) -> bytes:
    with requests.get(url, timeout=_FETCH_TIMEOUT_S, stream=True, allow_redirects=False) as response:
        if response.status_code != 200:
            raise ValueError(f"{url} answers {response.status_code}")
        body = response.raw.read(_MAX_KEYS_BYTES + 1, decode_content=True)
        if len(body) > _MAX_KEYS_BYTES:
            raise ValueError(f"{url} answers with more than {_MAX_KEYS_BYTES} bytes")
        return bytes(body)
