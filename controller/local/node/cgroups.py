"""CPU weight and limit of pods, by cgroup v2, where the system lets the agent have it.

    <the agent's own cgroup, or the nearest above it that can be divided>/dvcr-<node>/<pod's UID>/

A weight counts only where processors are scarce: a machine of `coreFraction: 25%` then gets a quarter of what one of
100 % gets. A limit counts always.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import structlog

from controller.local.node.heartbeat import Fact

Object = dict[str, Any]

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
CPU_WEIGHTS = "PodCPUWeights"
"""Condition of the Node: whether pods get the share of the processors that they ask for."""
PERIOD_US = 100_000
_log = structlog.get_logger(__name__)


class CpuGroups:
    """The cgroups of a node's pods."""

    def __init__(self, folder: Path | None, trouble: str = "") -> None:
        self._folder = folder
        self.trouble = trouble
        """Why pods have no weights and limits here; empty where they have."""

    @classmethod
    def find(cls, node: str, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> Self:
        """A place for cgroups, made if need be."""
        if not (root / "cgroup.controllers").exists():
            return cls(None, f"there is no cgroup v2 at {root}")
        place = next((line[3:].strip("/") for line in own.read_text().splitlines() if line.startswith("0::")), "")
        trouble = f"no cgroup from {root / place} upwards has the controller cpu"
        for folder in _upwards(root, root / place):
            try:
                if "cpu" not in (folder / "cgroup.controllers").read_text().split():
                    continue
                _divide(folder)
                mine = folder / f"dvcr-{node}"
                mine.mkdir(exist_ok=True)
                _divide(mine)
            except OSError as exc:
                # Not ours, or it has processes itself: perhaps the one above.
                trouble = f"cannot divide the cgroup {folder}: {exc.strerror}"
                continue
            return cls(mine)
        return cls(None, trouble)

    def fact(self) -> Fact:
        """For the Node."""
        if self.trouble:
            return Fact(False, "NoCgroup", f"pods have no CPU weights and limits: {self.trouble}")
        return Fact(True, "CgroupV2", "pods have CPU weights and limits")

    def group_of(self, pod: Object) -> str:
        """The folder of the pod's cgroup, with its weight and limit set; empty where there is none."""
        if self._folder is None:
            return ""
        group = self._folder / str(pod["metadata"]["uid"])
        try:
            group.mkdir(exist_ok=True)
            (group / "cpu.weight").write_text(f"{weight(requested_millicores(pod))}\n")
            limit = limit_millicores(pod)
            quota = "max" if limit is None else str(limit * PERIOD_US // 1000)
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}\n")
        except OSError as exc:
            _log.warning("a pod runs without its CPU weight", pod=pod["metadata"]["name"], error=str(exc))
            return ""
        return str(group)

    def remove(self, uid: str) -> None:
        """Remove the cgroup of a pod whose processes have ended. Idempotent."""
        if self._folder is None:
            return
        try:
            (self._folder / uid).rmdir()
        except FileNotFoundError:
            return
        except OSError as exc:
            _log.warning("cannot remove a pod's cgroup", uid=uid, error=str(exc))


def weight(millicores: int) -> int:
    """`cpu.weight` (1 to 10000) for a request, by way of cgroup v1's shares, as Kubernetes does it."""
    shares = min(max(millicores * 1024 // 1000, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def requested_millicores(pod: Object) -> int:
    """What the pod's containers ask for, together."""
    return sum(_millicores(container, "requests") or 0 for container in pod["spec"]["containers"])


def limit_millicores(pod: Object) -> int | None:
    """What the pod's containers may use together; None if one of them has no limit."""
    limits = [_millicores(container, "limits") for container in pod["spec"]["containers"]]
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def _millicores(container: Object, kind: str) -> int | None:
    quantity = ((container.get("resources") or {}).get(kind) or {}).get("cpu")
    if quantity is None:
        return None
    text = str(quantity)
    return int(text[:-1]) if text.endswith("m") else int(Decimal(text) * 1000)


def _upwards(root: Path, folder: Path) -> Iterator[Path]:
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _divide(folder: Path) -> None:
    control = folder / "cgroup.subtree_control"
    if "cpu" not in control.read_text().split():
        control.write_text("+cpu")
