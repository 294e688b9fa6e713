"""Leader election by a Lease: at most one controller works at a time.

The official `kubernetes.leaderelection` is not used: see docs/decisions/leader-election.md.
"""

import copy
import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from controller.api.resource import LEASE
from controller.runtime.errors import ClusterError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort

DURATION_S = 15
"""For how long nobody else takes the lease once it was renewed."""
RENEW_DEADLINE_S = 10
"""How long after the last renewal its holder still leads."""
RETRY_S = 2.0
"""Between two attempts to take or renew it."""

_log = structlog.get_logger(__name__)


class LeaderLease:
    """The right to lead, held by renewing a Lease.

    Another holder's time is measured from when we last saw its Lease change, our own from before we sent the renewal,
    both by our own monotonic clock: clocks of different machines are never compared, and a leader that reaches nobody
    knows that its time is over before another can know it.
    """

    def __init__(
        self,
        cluster: ClusterPort,
        identity: str,
        *,
        name: str = "dvcr-controller",
        namespace: str = "default",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cluster` should give up on a request well before RENEW_DEADLINE_S."""
        self._cluster = cluster
        self._identity = identity
        self._name = name
        self._namespace = namespace
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        self._deadline = -math.inf

    @property
    def held(self) -> bool:
        """Whether we lead, asking nobody."""
        return self._clock() < self._deadline

    def acquire(self, stopping: threading.Event) -> bool:
        """Wait until we lead; False if `stopping` was set first."""
        while not stopping.is_set():
            if self.try_once():
                return True
            stopping.wait(RETRY_S * random.uniform(1, 1.2))
        return False

    def keep(self, finished: threading.Event) -> None:
        """Renew until `finished` is set or the right is lost."""
        while self.held and not finished.wait(RETRY_S):
            self.try_once()

    def outlast(self, finished: threading.Event) -> bool:
        """Wait until the right is lost (True) or `finished` is set (False), whatever requests are under way."""
        while (left_s := self._deadline - self._clock()) > 0:
            if finished.wait(min(left_s, RETRY_S)):
                return False
        return True

    def try_once(self) -> bool:
        """Take or renew the lease; whether that was done."""
        asked = self._clock()
        try:
            lease = self._cluster.get(LEASE, self._name, self._namespace)
            if lease is None:
                self._cluster.create(LEASE, self._lease(None))
            elif self._is_others(lease):
                self._deadline = -math.inf
                return False
            else:
                self._cluster.update(LEASE, self._lease(lease))
        except ClusterError as exc:
            _log.warning("cannot renew the lease", error=exc.message)
            return False
        self._deadline = asked + RENEW_DEADLINE_S
        return True

    def release(self) -> None:
        """Let another lead at once. Only when all work has ended."""
        self._deadline = -math.inf
        try:
            lease = self._cluster.get(LEASE, self._name, self._namespace)
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease = copy.deepcopy(lease)
                lease["spec"]["holderIdentity"] = ""
                self._cluster.update(LEASE, lease)
        except ClusterError as exc:
            _log.warning("cannot give the lease back", error=exc.message)

    def _is_others(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        expired = self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or 0)
        return spec.get("holderIdentity") not in (None, "", self._identity) and not expired

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
                "leaseDurationSeconds": DURATION_S,
                "acquireTime": old.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if ours else 1),
            },
        }
