"""What the steps of one pass over a machine share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import structlog

from controller.api.machine import MachineSpec, MachineStatus, Power
from controller.api.resource import POD, PVC
from controller.launcher.spec import MachineStatus as LauncherState
from controller.machines.request import PowerRequest
from controller.runtime.errors import concerns_users
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import MAINTAINED, Subject
from dvcr.errors import DvcrError

_log = structlog.get_logger(__name__)
_REFUSED_AGAIN_S = 30.0
KILL_MARGIN_S = 15
"""After the guest's grace period: what the launcher has to end QEMU and to say how the machine ended."""


class Flow(Enum):
    """What comes after a step."""

    ON = "on"
    """The next step."""
    END = "end"
    """Nothing more in this pass: the status is written."""
    GONE = "gone"
    """Nothing more at all: there is no status to write any more."""


@dataclass
class Visit:
    """One pass over one machine: the world as read at its beginning, and the status that is written at its end."""

    cluster: ClusterPort
    machine: Subject[MachineStatus]
    spec: MachineSpec
    power: Power
    """The memory, part of the status."""
    pod: Object | None
    """The pod that runs the machine."""
    request: PowerRequest | None
    """What an operation asks for."""
    now: datetime
    launcher: LauncherState | None = None
    """What the launcher says of a machine that runs; None if it does not answer or there is none."""
    held_up: str = ""
    """What the launcher of a machine that does not run yet waits for."""
    again_s: float | None = None
    """When to look again though nothing changed."""
    failure: DvcrError | None = None
    """What is raised once the status is written, so that there is another pass after a while that grows."""
    after_save: list[Callable[[], object]] = field(default_factory=list)
    """What may only happen once the status is written."""
    _claims: dict[str, Object | None] = field(default_factory=dict)

    @property
    def status(self) -> MachineStatus:
        return self.machine.status

    @property
    def asked(self) -> PowerRequest | None:
        """The request, unless its effect is there already."""
        return self.request if self.request is not None and self.power.operation != self.request.uid else None

    def claim(self, name: str) -> Object | None:
        """A PersistentVolumeClaim of the machine's namespace, read once in a pass."""
        if name not in self._claims:
            self._claims[name] = self.cluster.get(PVC, name, self.machine.namespace)
        return self._claims[name]

    def look_again(self, in_s: float) -> None:
        """Have the machine visited again after that time at the latest."""
        self.again_s = in_s if self.again_s is None else min(self.again_s, in_s)

    def delete_pod(self, pod: Object, *, grace_period_s: int | None = None) -> None:
        """Have the pod stopped, in the machine's grace period if none is given; never a successor of its name."""
        if grace_period_s is None:
            grace_period_s = self.spec.termination_grace_period_seconds + KILL_MARGIN_S
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        self.cluster.delete(POD, name, self.machine.namespace, grace_period_s=grace_period_s, uid=uid)


Step = Callable[[Visit], Flow]
"""Looks at the visit, does its part, and says how the pass goes on. Idempotent: the next pass does it again."""


def upkeep(step: Step) -> Step:
    """The step, which holds up no other one where cluster or registry refuse it: that is told, and tried again."""

    def kept_up(visit: Visit) -> Flow:
        try:
            return step(visit)
        except DvcrError as exc:
            if not concerns_users(exc):
                raise
            _log.warning("upkeep refused", machine=visit.machine.name, reason=exc.reason, error=exc.message)
            visit.machine.note_trouble(MAINTAINED, exc)
            visit.look_again(_REFUSED_AGAIN_S)
            return Flow.ON

    return kept_up
