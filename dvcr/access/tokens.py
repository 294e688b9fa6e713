"""Our own tokens: JWTs that say who the caller is and what the token is for (Docker token protocol, "JWT format")."""

import secrets
import time
from collections.abc import Callable, Collection
from typing import Any

import jwt

from dvcr.access.caller import Caller
from dvcr.access.errors import CredentialsError
from dvcr.access.keys import TokenKeys
from dvcr.access.scope import Action, Scope

ALGORITHM = "EdDSA"
# How far the clocks of two servers may be apart.
CLOCK_SKEW_S = 30

_REQUIRED = ["iss", "aud", "sub", "iat", "nbf", "exp", "access"]


class Tokens:
    """Issues and verifies. Issuer and audience are both the service's name: nobody else issues or accepts these."""

    def __init__(
        self,
        keys: TokenKeys,
        service: str,
        life_s: int,
        now: Callable[[], float] = time.time,
        *,
        pull_life_s: int = 0,
    ) -> None:
        """`pull_life_s`: most that a token which is for nothing but pull lives, if that is more than `life_s`."""
        self._life_s = life_s
        self._pull_life_s = max(life_s, pull_life_s)
        self._keys = keys
        self._service = service
        self._now = now

    def life_s(self, scopes: Collection[Scope], wanted_s: int | None = None) -> int:
        """How long a token for `scopes` is to live: as long as usual, or as long as is wanted, within bounds."""
        if wanted_s is None:
            return self._life_s
        pulls_only = bool(scopes) and all(s.kind == "repository" and s.actions == {Action.PULL} for s in scopes)
        return min(wanted_s, self._pull_life_s if pulls_only else self._life_s)

    def issue(self, caller: Caller, scopes: Collection[Scope], wanted_s: int | None = None) -> str:
        """A token with which `caller` may do what is in `scopes`, as long as it lives and the rules allow it."""
        kid, key = self._keys.signing()
        begin = int(self._now())
        claims = {
            "iss": self._service,
            "aud": self._service,
            "sub": caller.user,
            "iat": begin,
            "nbf": begin,
            "exp": begin + self.life_s(scopes, wanted_s),
            "jti": secrets.token_hex(8),
            "groups": sorted(caller.groups),
            "access": [{"type": s.kind, "name": s.name, "actions": sorted(s.actions)} for s in scopes],
        }
        return jwt.encode(claims, key, ALGORITHM, headers={"kid": kid})

    def verify(self, token: str) -> tuple[Caller, float]:
        """Whose token it is, and when it ends (Unix time); raises CredentialsError."""
        try:
            key = self._keys.public(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                raise CredentialsError("the token is signed with a key that is not, or no longer, accepted")
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._service,
                issuer=self._service,
                leeway=CLOCK_SKEW_S,
                options={"require": _REQUIRED, "strict_aud": True},
            )
            scopes = tuple(map(_scope, claims["access"]))
            return Caller(claims["sub"], frozenset(claims["groups"]), scopes), float(claims["exp"])
        except (jwt.PyJWTError, LookupError, TypeError, ValueError) as exc:
            raise CredentialsError(f"the token is not accepted: {exc}") from exc


def _scope(value: dict[str, Any]) -> Scope:
    return Scope(value["type"], value["name"], frozenset(value["actions"]))
