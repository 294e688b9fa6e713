"""Leader election by a Lease: at most one controller works at a time.

The official `kubernetes.leaderelection` is not used: see docs/decisions/leader-election.md.
"""

import copy
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from controller.api.resource import LEASE
from controller.runtime.errors import ClusterError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort

_log = structlog.get_logger(__name__)


class LeaderLease:
    """The right to lead, held by renewing a Lease.

    Another holder's time is measured from when we last saw its Lease change, by our own monotonic clock: clocks of
    different machines are never compared.
    """

    def __init__(
        self,
        cluster: ClusterPort,
        identity: str,
        *,
        name: str = "dvcr-controller",
        namespace: str = "default",
        duration_s: float = 15,
        renew_s: float = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._identity = identity
        self._name = name
        self._namespace = namespace
        self._duration_s = duration_s
        self._renew_s = renew_s
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)

    def acquire(self, stopping: threading.Event) -> bool:
        """Wait until we lead; False if `stopping` was set first."""
        while not stopping.is_set():
            if self.try_once():
                return True
            stopping.wait(self._renew_s)
        return False

    def keep(self, stopping: threading.Event) -> bool:
        """Renew until `stopping` is set (True, the lease is given back) or the right is lost (False)."""
        renewed = self._clock()
        while not stopping.wait(self._renew_s):
            if self.try_once():
                renewed = self._clock()
            elif self._clock() - renewed > self._duration_s * 2 / 3:
                return False
        self._release()
        return True

    def try_once(self) -> bool:
        """Take or renew the lease; whether we hold it now."""
        try:
            lease = self._cluster.get(LEASE, self._name, self._namespace)
            if lease is None:
                self._cluster.create(LEASE, self._lease(None))
                return True
            spec = lease.get("spec") or {}
            version = lease["metadata"]["resourceVersion"]
            if self._seen[0] != version:
                self._seen = (version, self._clock())
            holder = spec.get("holderIdentity")
            expired = self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or 0)
            if holder and holder != self._identity and not expired:
                return False
            self._cluster.update(LEASE, self._lease(lease))
        except ClusterError as exc:
            _log.warning("cannot renew the lease", error=exc.message)
            return False
        return True

    def _release(self) -> None:
        try:
            lease = self._cluster.get(LEASE, self._name, self._namespace)
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease = copy.deepcopy(lease)
                lease["spec"]["holderIdentity"] = ""
                self._cluster.update(LEASE, lease)
        except ClusterError as exc:
            _log.warning("cannot give the lease back", error=exc.message)

    def _lease(self, current: Object | None) -> Object:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        old = (current or {}).get("spec") or {}
        ours = old.get("holderIdentity") == self._identity
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": (current or {}).get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._duration_s),
                "acquireTime": old.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if ours else 1),
            },
        }
