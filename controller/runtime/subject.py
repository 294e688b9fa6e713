"""The object that a pass of a reconciler is about: its finalizer, its conditions, one status write, its events."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from controller.api.model import ApiModel, Condition
from controller.api.resource import GROUP, Resource
from controller.runtime.conditions import Clock, find_condition, set_condition, write_time
from controller.runtime.errors import ClusterError, MissingError, concerns_users
from controller.runtime.events import record_event
from controller.runtime.index import Identity, Object, key_of
from controller.runtime.metrics import PHASE_CHANGES
from controller.runtime.port import ClusterPort
from dvcr.errors import DvcrError

FINALIZER = f"{GROUP}/dvcr"
MAIN_CONDITIONS = ("Ready", "Running", "Completed", "Attached")
"""Of each kind, the one that says what the phase says; events repeat its message."""
NOT_RUNNING = "NotRunning"
"""The reason of conditions that mean nothing for a machine that is off."""
MAINTAINED = "Maintained"
"""The condition of an object that is as it should be, but of whose upkeep something was refused once."""
_HAPPENINGS = ("Migrating", "Resized", "Retrying", "RegistryAvailable", "ImageAvailable", MAINTAINED)
"""Conditions that are there only once something happened."""
_WAITING = ("ImageNotReady", "DiskNotReady", "CPUModelNotReady", "IPAddressNotReady")
"""Reasons to wait for an object that tells itself how far it is."""
_FAILED_PHASES = ("Failed", "ImageLost", "PVCLost")
S = TypeVar("S", bound=ApiModel)


class Subject(Generic[S]):
    """One object during one pass. Change `status`, then `save` once."""

    def __init__(self, cluster: ClusterPort, resource: Resource, obj: Object, status: type[S], clock: Clock) -> None:
        self._cluster = cluster
        self._resource = resource
        self._clock = clock
        self.obj = obj
        self.status = status.read(obj.get("status"))
        self._conditions: list[Condition] = getattr(self.status, "conditions")  # noqa: B009  every status has them
        self._in_trouble = False

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        namespace: str | None = self.obj["metadata"].get("namespace")
        return namespace

    @property
    def uid(self) -> str:
        return str(self.obj["metadata"]["uid"])

    @property
    def identity(self) -> Identity:
        return self._resource, key_of(self.obj)

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.obj["metadata"]

    @property
    def finalized(self) -> bool:
        """Whether our finalizer is gone."""
        return FINALIZER not in self.obj["metadata"].get("finalizers", [])

    def hold(self) -> None:
        """Put our finalizer on, so that the object stays until `let_go`. Written at once."""
        if self.finalized:
            self._write_finalizers([*self.obj["metadata"].get("finalizers", []), FINALIZER], "put on")

    def let_go(self) -> None:
        """Take our finalizer off. Written at once."""
        if not self.finalized:
            rest = [f for f in self.obj["metadata"]["finalizers"] if f != FINALIZER]
            try:
                self._write_finalizers(rest, "taken off")
            except MissingError:
                return

    def owner_reference(self) -> Object:
        """For objects that are to be deleted with this one."""
        return {
            "apiVersion": self._resource.api_version,
            "kind": self._resource.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    def condition(self, condition_type: str, holds: bool, reason: str, message: str = "") -> None:
        """Set a condition of the status."""
        set_condition(
            self._conditions,
            Condition(
                type=condition_type,
                status="True" if holds else "False",
                reason=reason,
                message=message,
                observed_generation=self.obj["metadata"].get("generation"),
                last_transition_time=write_time(self._clock()),
            ),
        )

    def save(self) -> None:
        """Write the status if it changed, and tell of its transitions.

        ConflictError if somebody else changed the object meanwhile.
        """
        if not self._in_trouble and find_condition(self._conditions, MAINTAINED) is not None:
            self.condition(MAINTAINED, True, MAINTAINED, "nothing of its upkeep is refused any more")
        generation: Any = self.obj["metadata"].get("generation")
        setattr(self.status, "observed_generation", generation)  # noqa: B010  every status has it
        # A condition that the pass left as it was holds for what it has seen, too.
        self._conditions[:] = [each.model_copy(update={"observed_generation": generation}) for each in self._conditions]
        wire = self.status.write()
        if wire == self.obj.get("status"):
            return
        before = self.obj.get("status") or {}
        self.obj = self._cluster.update_status(self._resource, {**self.obj, "status": wire})
        if (phase := wire.get("phase")) and phase != before.get("phase"):
            PHASE_CHANGES.labels(self._resource.kind, phase).inc()
        about = {"apiVersion": self._resource.api_version, "kind": self._resource.kind} | self.obj
        for transition in transitions(before, wire):
            record_event(
                self._cluster,
                about,
                transition.reason,
                transition.message,
                warning=transition.warning,
                now=write_time(self._clock()),
            )

    def tell_trouble(self, condition_type: str, error: DvcrError) -> None:
        """Have the condition say what keeps the object from getting on, at once, if it is anything for users.

        What holds goes on to hold while something of its upkeep is refused; MAINTAINED tells of that.
        """
        if not concerns_users(error):
            return
        known = find_condition(self._conditions, condition_type)
        holds = known is not None and known.status == "True" and not self.deleting
        self.note_trouble(MAINTAINED if holds else condition_type, error)
        self.save()

    def note_trouble(self, condition_type: str, error: DvcrError) -> None:
        """Have the condition say it once the status is saved; MAINTAINED until a pass is saved without any trouble."""
        self._in_trouble = True
        self.condition(condition_type, False, error.reason, error.message)

    def _write_finalizers(self, finalizers: list[str], done: str) -> None:
        obj = copy.deepcopy(self.obj)
        obj["metadata"]["finalizers"] = finalizers
        try:
            self.obj = self._cluster.update(self._resource, obj)
        except ClusterError as exc:
            raise exc.during(f"the finalizer {FINALIZER} cannot be {done}") from exc


def refused_upkeep(conditions: list[Condition]) -> str:
    """What the conditions of an object say of its upkeep that is refused now, for what waits for it; else empty."""
    maintained = find_condition(conditions, MAINTAINED)
    return maintained.message if maintained is not None and maintained.status == "False" else ""


@dataclass(frozen=True)
class Transition:
    """Something in a status that became different."""

    reason: str
    message: str
    warning: bool = False


def transitions(before: Object, after: Object) -> Iterator[Transition]:
    """What the change from one status to the next is worth telling: its phase, and each condition that turned. Pure.

    The main condition says what the phase says, so it is told only where the phase stays; so are conditions that turn
    for the better. The first word of a condition is no turn, unless the condition is there only because something
    happens; nor is that a machine does not run, nor that a new object waits for one that is on its way.
    """
    phase = after.get("phase", "")
    moved = phase != before.get("phase", "")
    conditions = {condition["type"]: condition for condition in after.get("conditions") or ()}
    main: Object = next((conditions[name] for name in MAIN_CONDITIONS if name in conditions), {})
    if moved and (before.get("phase") or main.get("reason") not in _WAITING):
        message = after.get("failureMessage") or main.get("message") or f"the phase is now {phase}"
        yield Transition(phase, message, phase in _FAILED_PHASES)
    old = {condition["type"]: condition for condition in before.get("conditions") or () if _says_something(condition)}
    for name, condition in conditions.items():
        known = old.get(name, {} if name in _HAPPENINGS else condition)
        if all(known.get(key) == condition[key] for key in ("status", "reason")) or not _says_something(condition):
            continue
        better = condition["status"] == "True" and name not in _HAPPENINGS
        if not (moved and (name in MAIN_CONDITIONS or better)):
            reason = name if condition["status"] == "True" else condition["reason"]
            yield Transition(reason, condition.get("message") or f"{name} is now {condition['status']}")


def _says_something(condition: Object) -> bool:
    return condition["reason"] != NOT_RUNNING or condition["type"] in _HAPPENINGS
