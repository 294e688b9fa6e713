"""The certificate authority of machines' pods, kept in a Secret of the controller's namespace, and what it issues."""

import base64
import hashlib
import ssl
import threading
from collections.abc import Mapping
from datetime import timedelta

from controller.api.resource import SECRET
from controller.certificates import Authority, KeyPair, lifetime_left
from controller.launcher.spec import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    CONTROLLER_IDENTITY,
    KEY_FILE,
    machine_identity,
)
from controller.runtime.conditions import Clock, read_time, utc_now, write_time
from controller.runtime.errors import AlreadyExistsError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.errors import ConfigError

SECRET_NAME = "dvcr-machine-authority"  # noqa: S105
LIFETIME = timedelta(days=1)
RENEW_BELOW = 0.5
"""The part of its lifetime that a certificate has left when it is replaced."""


class MachineAuthority:
    """Issues certificates to machines and to the controller itself. Thread-safe.

    The Secret is made when it is first needed; of several controllers the first makes it, the others use it.
    """

    def __init__(self, cluster: ClusterPort, namespace: str, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._clock = clock
        self._known: Authority | None = None
        self._client: tuple[KeyPair, ssl.SSLContext] | None = None
        self._lock = threading.Lock()

    def issue(self, uid: str) -> dict[str, bytes]:
        """The files that the pods of the machine with this UID find beside their specification."""
        authority, name = self._authority(), machine_identity(uid)
        # Both: when a machine moves, one of its pods is the other's client.
        pair = authority.issue(name, [name], self._clock(), LIFETIME, server=True, client=True)
        return {AUTHORITY_FILE: authority.pair.certificate, CERTIFICATE_FILE: pair.certificate, KEY_FILE: pair.key}

    def renewal(self) -> str:
        """What to note beside a certificate that is issued now: whose it is, and when it is to be replaced."""
        return f"{self._fingerprint()} {write_time(self._clock() + LIFETIME * (1 - RENEW_BELOW))}"

    def is_due(self, renewal: str) -> bool:
        """Whether a certificate with this note is to be replaced; an empty note: it is."""
        fingerprint, _, due = renewal.partition(" ")
        return fingerprint != self._fingerprint() or read_time(due) <= self._clock()

    def client_context(self) -> ssl.SSLContext:
        """TLS as the controller, towards launchers; the same context until its certificate has to be replaced."""
        authority = self._authority()
        with self._lock:
            if self._client is None or lifetime_left(self._client[0].certificate, self._clock()) < RENEW_BELOW:
                pair = authority.issue(
                    CONTROLLER_IDENTITY, [CONTROLLER_IDENTITY], self._clock(), LIFETIME, server=False, client=True
                )
                self._client = pair, pair.client_context(authority.pair.certificate)
            return self._client[1]

    def serve(self, name: str) -> tuple[KeyPair, bytes]:
        """A certificate for the controller as a server that is called `name`, and the authority (PEM) of it."""
        authority = self._authority()
        pair = authority.issue(name, [name], self._clock(), LIFETIME, server=True, client=False)
        return pair, authority.pair.certificate

    def _fingerprint(self) -> str:
        return hashlib.sha256(self._authority().pair.certificate).hexdigest()[:16]

    def _authority(self) -> Authority:
        with self._lock:
            if self._known is None:
                self._known = self._load()
            return self._known

    def _load(self) -> Authority:
        secret = self._cluster.get(SECRET, SECRET_NAME, self._namespace)
        if secret is None:
            made = Authority.create("dvcr-machines", self._clock())
            try:
                self._cluster.create(SECRET, self._secret(made.pair))
            except AlreadyExistsError:
                secret = self._cluster.get(SECRET, SECRET_NAME, self._namespace)
            else:
                return made
        return self._read(secret or {})

    def _read(self, secret: Object) -> Authority:
        data: Mapping[str, str] = secret.get("data") or {}
        try:
            return Authority(KeyPair(base64.b64decode(data[CERTIFICATE_FILE]), base64.b64decode(data[KEY_FILE])))
        except (KeyError, ValueError) as exc:
            message = f"Secret {SECRET_NAME!r} in namespace {self._namespace!r} holds no authority; delete it"
            raise ConfigError(message) from exc

    def _secret(self, pair: KeyPair) -> Object:
        data = {CERTIFICATE_FILE: pair.certificate, KEY_FILE: pair.key}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET_NAME, "namespace": self._namespace},
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(content).decode() for name, content in data.items()},
        }
