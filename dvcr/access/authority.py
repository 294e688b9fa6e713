"""Who is it: every kind of credentials, turned into a caller."""

import hashlib
import hmac
import secrets
import threading
import time
from typing import Self

import structlog

from dvcr.access.caller import Caller
from dvcr.access.errors import CredentialsError
from dvcr.access.header import Bearer, Password
from dvcr.access.htpasswd import Htpasswd
from dvcr.access.issuers import Issuer, unverified_issuer
from dvcr.access.keys import TokenKeys
from dvcr.access.policy import Policy
from dvcr.access.recent import Recent
from dvcr.access.tokens import Tokens
from dvcr.config import AccessSettings
from dvcr.errors import ConfigError

log = structlog.get_logger(__name__)

_REMEMBERED = 4096
_REMEMBERED_S = 60.0
_LOOK_INTERVAL_S = 1.0


class Authority:
    """Recognises callers. What was found good is remembered for a minute at most, under a keyed hash that only this
    process can make, and forgotten as soon as passwords or keys change; what was not is checked again each time."""

    def __init__(
        self, policy: Policy, tokens: Tokens, keys: TokenKeys, htpasswd: Htpasswd | None, issuers: dict[str, Issuer]
    ) -> None:
        self.policy = policy
        self.tokens = tokens
        self._keys = keys
        self._htpasswd = htpasswd
        self._issuers = issuers
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._recent: Recent[bytes, Caller] = Recent(_REMEMBERED, _REMEMBERED_S)
        self._generation = 0
        self._looked_at = time.monotonic()

    @classmethod
    def from_settings(cls, settings: AccessSettings) -> Self:
        """Reads the files that the settings name; raises ConfigError."""
        issuers = {issuer.issuer: Issuer(issuer) for issuer in settings.issuers}
        names = {issuer.name for issuer in settings.issuers}
        if len(issuers) != len(settings.issuers) or len(names) != len(settings.issuers) or settings.service in issuers:
            raise ConfigError("access.issuers: every name and every issuer is there once, and no issuer is the service")
        keys = TokenKeys(settings.token_key_dir)
        htpasswd = Htpasswd(settings.htpasswd_file) if settings.htpasswd_file else None
        tokens = Tokens(keys, settings.service, settings.token_life_s, pull_life_s=settings.pull_token_life_s)
        return cls(Policy(settings), tokens, keys, htpasswd, issuers)

    def recall(self, credentials: Password | Bearer) -> Caller | None:
        """The caller, if these credentials were found good a moment ago. Quick."""
        with self._lock:
            self._refresh()
            return self._recent.get(self._seal(credentials))

    def authenticate(self, credentials: Password | Bearer) -> Caller:
        """The caller; raises CredentialsError. Blocking: hashes a password, or may ask an issuer for its keys."""
        with self._lock:
            self._refresh()
            generation = self._generation
        caller, life_s = self._verify(credentials)
        with self._lock:
            if generation == self._generation:
                self._recent.put(self._seal(credentials), caller, life_s)
        return caller

    def _verify(self, credentials: Password | Bearer) -> tuple[Caller, float]:
        if isinstance(credentials, Bearer):
            return self._verify_token(credentials.token)
        if self._issuers and credentials.password.count(".") == 2 and credentials.password.startswith("ey"):
            # `docker login` can send nothing but a password: an issuer's token may be one, whatever the user's name.
            caller, life_s = self._verify_token(credentials.password)
            if caller.scopes is not None:
                raise CredentialsError("a token of this registry is no password")
            return caller, life_s
        if self._htpasswd is None or not self._htpasswd.check(credentials.user, credentials.password):
            raise CredentialsError("the user name or the password is wrong")
        return Caller(credentials.user), _REMEMBERED_S

    def _verify_token(self, token: str) -> tuple[Caller, float]:
        issuer = self._issuers.get(unverified_issuer(token))
        caller, expires_at = issuer.verify(token) if issuer else self.tokens.verify(token)
        return caller, expires_at - time.time()

    def _refresh(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_INTERVAL_S:
            return
        self._looked_at = time.monotonic()
        changed = self._htpasswd is not None and self._htpasswd.refresh()
        try:
            changed |= self._keys.refresh()
        except ConfigError as exc:
            log.error("token keys are not taken over", error=exc.message)  # noqa: TRY400  the message says it all
        if changed:
            self._recent.clear()
            self._generation += 1

    def _seal(self, credentials: Password | Bearer) -> bytes:
        if isinstance(credentials, Bearer):
            parts = (b"bearer", credentials.token.encode())
        else:
            parts = (b"basic", credentials.user.encode() + b"\0" + credentials.password.encode())
        return hmac.digest(self._secret, parts[0] + b"\0" + parts[1], hashlib.sha256)
