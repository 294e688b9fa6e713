"""Which containers of a pod are ready: each run of a container that has a probe gets a prober."""

from collections.abc import Callable
from typing import Any

from controller.local.node.containers import Container
from controller.local.node.probes import Prober, ProbeTarget

Object = dict[str, Any]


class Readiness:
    """The probers of a pod's containers. Not thread-safe: belongs to its pod's worker."""

    def __init__(self) -> None:
        self._probers: dict[str, tuple[str, Prober]] = {}
        """With the run that each asks, by container."""

    def probe(
        self, pod: Object, container: Container, target: Callable[[], ProbeTarget], on_change: Callable[[str], None]
    ) -> None:
        """Have a prober for the container's present run. `target` is asked only where it is a new one."""
        probe = container.spec.get("readinessProbe")
        run = _run_of(container)
        if not probe or self._probers.get(container.name, ("",))[0] == run:
            return
        ready = container.name not in self._probers and _was_ready(pod, container, run)
        self.stop(container)
        self._probers[container.name] = (run, Prober(probe, target(), on_change, ready=ready))

    def of(self, container: Container) -> bool:
        """Whether the container's present run is ready; without a probe it is at once."""
        if not container.spec.get("readinessProbe"):
            return True
        known, prober = self._probers.get(container.name, ("", None))
        return prober is not None and known == _run_of(container) and prober.ready

    def stop(self, container: Container) -> None:
        """Ask the container no more. Idempotent."""
        if container.name in self._probers:
            self._probers[container.name][1].stop()

    def close(self) -> None:
        """Ask no container any more."""
        for _, prober in self._probers.values():
            prober.stop()


def _run_of(container: Container) -> str:
    return str(container.process.folder) if container.process else ""


def _was_ready(pod: Object, container: Container, run: str) -> bool:
    """Whether the API knows this very run as ready: true of a container that was adopted."""
    number = run.rpartition("/")[2]
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any(
        s["name"] == container.name and s["ready"] and s.get("containerID", "").endswith(f"/{number}") for s in statuses
    )
