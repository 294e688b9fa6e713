"""The object that a pass of a reconciler is about: its finalizer, its conditions, one status write, its events."""

import copy
import uuid
from typing import Any, Generic, TypeVar

import structlog

from controller.api.model import ApiModel, Condition
from controller.api.resource import EVENT, GROUP, Resource
from controller.runtime.conditions import Clock, set_condition, write_time
from controller.runtime.errors import ClusterError, MissingError
from controller.runtime.informer import Object
from controller.runtime.port import ClusterPort

_log = structlog.get_logger(__name__)
FINALIZER = f"{GROUP}/dvcr"
MAIN_CONDITIONS = ("Ready", "Running", "Completed")
"""Of each kind, the one that says what the phase says; events repeat its message."""
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
        self._phase = self._phase_now()

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
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.obj["metadata"]

    @property
    def finalized(self) -> bool:
        """Whether our finalizer is gone."""
        return FINALIZER not in self.obj["metadata"].get("finalizers", [])

    def hold(self) -> None:
        """Put our finalizer on, so that the object stays until `let_go`. Written at once."""
        if self.finalized:
            self._write_finalizers([*self.obj["metadata"].get("finalizers", []), FINALIZER])

    def let_go(self) -> None:
        """Take our finalizer off. Written at once."""
        if not self.finalized:
            rest = [f for f in self.obj["metadata"]["finalizers"] if f != FINALIZER]
            try:
                self._write_finalizers(rest)
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
        """Write the status if it changed. ConflictError if somebody else changed the object meanwhile."""
        generation: Any = self.obj["metadata"].get("generation")
        setattr(self.status, "observed_generation", generation)  # noqa: B010  every status has it
        wire = self.status.write()
        if wire == self.obj.get("status"):
            return
        self.obj = self._cluster.update_status(self._resource, {**self.obj, "status": wire})
        if self._phase_now() != self._phase:
            self._phase = self._phase_now()
            self._record_event()

    def _write_finalizers(self, finalizers: list[str]) -> None:
        obj = copy.deepcopy(self.obj)
        obj["metadata"]["finalizers"] = finalizers
        self.obj = self._cluster.update(self._resource, obj)

    def _phase_now(self) -> str:
        return str(getattr(self.status, "phase", None) or "")

    def _record_event(self) -> None:
        main = next((c for c in self._conditions if c.type in MAIN_CONDITIONS), None)
        failed = self._phase in ("Failed", "ImageLost", "PVCLost")
        now = write_time(self._clock())
        message = getattr(self.status, "failure_message", None) or (main.message if main else "")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{self.name}.{uuid.uuid4().hex[:16]}", "namespace": self.namespace or "default"},
            "involvedObject": {
                "apiVersion": self._resource.api_version,
                "kind": self._resource.kind,
                "name": self.name,
                "uid": self.uid,
            }
            | ({"namespace": self.namespace} if self.namespace else {}),
            "type": "Warning" if failed else "Normal",
            "reason": self._phase,
            "message": message or f"the phase is now {self._phase}",
            "source": {"component": "dvcr-controller"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._cluster.create(EVENT, event)
        except ClusterError as exc:
            # The status says it all; an event is a convenience, and a namespace that is being deleted takes none.
            _log.warning("cannot record an event", kind=self._resource.kind, name=self.name, error=exc.message)
