"""What pods show to the registry: a token for exactly their repositories, in a Secret, replaced before it runs out.

Where the registry issues no tokens it is the controller's own password, for want of anything less; where the controller
shows nothing to the registry, pods don't either.
"""

import copy
import hashlib
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from controller.api.resource import GROUP, POD, SECRET
from controller.launcher.spec import CREDENTIALS_PATH
from controller.pod_secret import build_secret, encoded, give_secret, put_secret
from controller.runtime.conditions import Clock, utc_now, write_time
from controller.runtime.errors import MissingError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.access.scope import Action, repository_scope
from dvcr.client.auth import IssuedToken
from dvcr.client.credentials import Credentials, Source
from dvcr.errors import RegistryError
from dvcr.registry.errors import NameInvalidError
from dvcr.registry.names import repository_name

ACCESS_ANNOTATION = f"{GROUP}/registry-access"
"""Of a pod with credentials: what they are for, as a fingerprint, and when they are to be replaced."""
_FILE = CREDENTIALS_PATH.rpartition("/")[2]
# The registry's settings say how much of it there is to have.
_WANTED_LIFE_S = 86400
# After half of it pods get the controller's password again, which may be another one by then.
_PASSWORD_LIFE_S = 3600
_RETRY = timedelta(seconds=10)

log = structlog.get_logger(__name__)


class TokenIssuer(Protocol):
    """Where tokens come from."""

    def issue_token(self, scopes: Sequence[str], life_s: int) -> IssuedToken | None:
        """As RegistryClient."""
        ...


@dataclass(frozen=True)
class Grant:
    """Credentials for a pod."""

    credentials: Credentials
    note: str
    """What ACCESS_ANNOTATION says of them."""

    @property
    def files(self) -> dict[str, bytes]:
        """What the pod's Secret holds, by name."""
        return {_FILE: self.credentials.write()}


class RegistryAccess:
    """Gives pods what they need for the registry, and no more. Thread-safe."""

    def __init__(self, issuer: TokenIssuer, own: Source | None, clock: Clock = utc_now) -> None:
        """`own`: the controller's credentials; None: it shows none to the registry."""
        self._issuer = issuer
        self._own = own
        self._clock = clock
        self._lent: dict[frozenset[str], Grant] = {}
        self._failure: tuple[datetime, RegistryError] | None = None
        self._lock = threading.Lock()

    def grant(self, scopes: Collection[str]) -> Grant | None:
        """New credentials for `scopes`; None where the registry is shown none. Raises RegistryError.

        After a failure none is asked for some seconds: the passes of many machines must not wait for a registry that
        does not answer.
        """
        if self._own is None:
            return None
        if not scopes:
            return Grant(Credentials(), _fingerprint(scopes))
        now, failure = self._clock(), self._failure
        if failure is not None and now < failure[0] + _RETRY:
            # A copy: an error that is raised twice mixes up whose it is.
            raise copy.copy(failure[1])
        try:
            issued = self._issuer.issue_token(sorted(scopes), _WANTED_LIFE_S)
            credentials = Credentials(token=issued.token) if issued is not None else self._own()
        except RegistryError as exc:
            self._failure = now, exc
            raise
        life_s = issued.life_s if issued is not None else _PASSWORD_LIFE_S
        return Grant(credentials, f"{_fingerprint(scopes)} {write_time(now + timedelta(seconds=life_s / 2))}")

    def lend(self, scopes: Collection[str]) -> Credentials | None:
        """As `grant`, for who asks again and again: the same ones until they are to be replaced."""
        key = frozenset(scopes)
        with self._lock:
            self._lent = {known: grant for known, grant in self._lent.items() if not self._is_due(grant.note, known)}
            found = self._lent.get(key)
        if found is None:
            found = self.grant(scopes)
            if found is None:
                return None
            with self._lock:
                self._lent[key] = found
        return found.credentials

    def create(self, cluster: ClusterPort, pod: Object, scopes: Collection[str]) -> Object:
        """Make the pod, and before it the Secret that it mounts and that ends with it. Raises RegistryError."""
        grant = self.grant(scopes)
        if grant is None:
            return cluster.create(POD, pod)
        metadata = pod["metadata"]
        metadata["annotations"] = {**metadata.get("annotations", {}), ACCESS_ANNOTATION: grant.note}
        # Until there is a pod to belong to, it belongs to whom the pod does.
        [owner] = metadata["ownerReferences"]
        put_secret(cluster, build_secret(metadata["name"], metadata["namespace"], owner, grant.files))
        made = cluster.create(POD, pod)
        give_secret(cluster, made)
        return made

    def keep_fresh(self, cluster: ClusterPort, pod: Object, scopes: Collection[str]) -> Object:
        """As `renew`; where the registry gives none now, the pod goes on with what it has, which is only logged."""
        try:
            return self.renew(cluster, pod, scopes)
        except RegistryError as exc:
            metadata = pod["metadata"]
            where = {"pod": metadata["name"], "namespace": metadata["namespace"]}
            log.warning("a pod's credentials are not replaced", **where, why=exc.message)
        return pod

    def renew(self, cluster: ClusterPort, pod: Object, scopes: Collection[str]) -> Object:
        """The pod, once its Secret holds credentials for `scopes` that do not run out soon. Idempotent.

        RegistryError where the registry gives none now; the next call tries again. A pod that was made without
        credentials gets none.
        """
        metadata = pod["metadata"]
        note = (metadata.get("annotations") or {}).get(ACCESS_ANNOTATION)
        if note is None or not self._is_due(note, scopes):
            return pod
        name, namespace = metadata["name"], metadata["namespace"]
        try:
            grant = self.grant(scopes)
            if grant is None:
                return pod
            cluster.patch(SECRET, name, {"data": encoded(grant.files)}, namespace)
            # Last: a change of the pod also makes the node look at the Secret, which it would do a minute later else.
            patch = {"metadata": {"uid": metadata["uid"], "annotations": {ACCESS_ANNOTATION: grant.note}}}
            return cluster.patch(POD, name, patch, namespace)
        except MissingError:
            log.info("a pod is gone before its credentials are replaced", pod=name, namespace=namespace)
        return pod

    def _is_due(self, note: str, scopes: Collection[str]) -> bool:
        fingerprint, _, due = note.partition(" ")
        # Times of one form sort as texts, also where somebody has changed the annotation.
        return fingerprint != _fingerprint(scopes) or (bool(due) and due <= write_time(self._clock()))


def pulls(repositories: Iterable[str], namespace: str) -> set[str]:
    """The scopes to read these, as far as pods of the namespace have any business there.

    Which repositories these are may come from annotations that people of the namespace can change: they must not get at
    what is another namespace's.
    """
    own = ("cvmi/", f"vmi/{namespace}/", f"vmd/{namespace}/")
    return {_scope(name, Action.PULL) for name in repositories if name.startswith(own) and _is_name(name)}


def pushes(repository: str) -> set[str]:
    """The scopes to write there, and to read what is there already."""
    return {_scope(repository, Action.PULL, Action.PUSH)}


def _scope(repository: str, *actions: Action) -> str:
    return str(repository_scope(repository, *actions))


def _is_name(text: str) -> bool:
    try:
        repository_name(text)
    except NameInvalidError:
        return False
    return True


def _fingerprint(scopes: Collection[str]) -> str:
    return hashlib.sha256(" ".join(sorted(scopes)).encode()).hexdigest()[:16]
