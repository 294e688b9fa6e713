"""Who sends a request: the owner of the kubeconfig, or a ServiceAccount with a token that was made for it."""

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from controller.local.store import Image, Key

SERVICE_ACCOUNTS = "serviceaccounts"
MASTERS = "system:masters"
ADMIN = "dvcr"
DEFAULT_TOKEN_LIFETIME = timedelta(hours=1)
_ISSUER = "dvcr-cluster"
_ALGORITHM = "HS256"


@dataclass(frozen=True)
class User:
    """A caller, as RBAC's subjects name it."""

    name: str
    groups: tuple[str, ...]


class Authenticator:
    """Knows callers by their bearer tokens. `signing_key` signs those of ServiceAccounts."""

    def __init__(self, admin_token: str, signing_key: bytes) -> None:
        self._admin = admin_token.encode()
        self._key = signing_key

    def user(self, image: Image, authorization: str) -> User | None:
        """The caller with this Authorization header; None for one that is not known (any more)."""
        kind, _, token = authorization.partition(" ")
        # RFC 9110, section 11.1: the scheme in any case; the Kubernetes client in a pod writes it small.
        if kind.lower() != "bearer":
            return None
        if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._admin):
            return User(ADMIN, (MASTERS, "system:authenticated"))
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM], issuer=_ISSUER)
        except jwt.InvalidTokenError:
            return None
        account = claims["kubernetes.io"]
        stored = image.get(Key(SERVICE_ACCOUNTS, account["namespace"], account["name"]))
        if stored is None or stored.uid != account["uid"]:
            return None
        return service_account(account["namespace"], account["name"])

    def issue(self, account: dict[str, Any], lifetime: timedelta) -> tuple[str, datetime]:
        """A token for a ServiceAccount, good until it is deleted or the time is over; and that time."""
        metadata = account["metadata"]
        expires = datetime.now(UTC).replace(microsecond=0) + lifetime
        claims = {
            "iss": _ISSUER,
            "exp": expires,
            "sub": service_account(metadata["namespace"], metadata["name"]).name,
            "kubernetes.io": {key: metadata[key] for key in ("namespace", "name", "uid")},
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM), expires


def service_account(namespace: str, name: str) -> User:
    """The user that a ServiceAccount is."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups)
