"""Three machines, one for each run policy that runs, against everything that can end a machine or what runs it.

The machines share one image and are treated alike in every round; what differs is what follows.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.api.resource import DISK, EVENT, MACHINE, POD
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError
from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine
from tests.support.machine_processes import kill, launcher_of, part_of, qemu_of
from tests.support.product import Product
from tests.support.waiting import eventually

ALWAYS, UNLESS, MANUAL = "policy-always", "policy-unless", "policy-manual"
POLICIES = {ALWAYS: "AlwaysOn", UNLESS: "AlwaysOnUnlessStoppedManually", MANUAL: "Manual"}
# Boots of three guests at once under emulation, on a machine that may do other things besides.
PATIENCE_S = 150
# Guests under emulation need the processors more than whoever watches them.
INTERVAL_S = 0.5


class Fleet:
    """The machines, and how often each of them has booted."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.boots = dict.fromkeys(POLICIES, 0)
        self._cluster = Cluster.connect(product.data / "kubeconfig")

    def status(self, name: str) -> dict[str, Any]:
        obj = self._cluster.get(MACHINE, name, "default")
        return (obj or {}).get("status") or {}

    def running(self, name: str) -> dict[str, Any]:
        """The condition Running."""
        conditions = self.status(name).get("conditions", [])
        return next((c for c in conditions if c["type"] == "Running"), {"status": "Unknown", "reason": ""})

    def console(self, name: str) -> str:
        """What the guest has written since its last boot; empty if it does not run."""
        try:
            return b"".join(self._cluster.logs(f"vm-{name}", "default")).decode(errors="replace")
        except ClusterError:
            return ""

    def has_booted(self, *names: str) -> None:
        """Each of these machines boots once more."""
        for name in names:
            self.boots[name] += 1
        for name in names:
            what = f"boot {self.boots[name]} of {name}: {self.status(name)}"
            eventually(partial(self._is_up, name), what, PATIENCE_S, INTERVAL_S)

    def _is_up(self, name: str) -> bool:
        console = self.console(name)
        booted = f"DVCR-GUEST boot={self.boots[name]} " in console and "DVCR-GUEST ready" in console
        return booted and self.status(name)["phase"] == "Running"

    def is_off(self, name: str, reason: str) -> None:
        """The machine is Stopped, and its condition says why."""

        def off() -> bool:
            return self.status(name).get("phase") == "Stopped" and self.running(name)["reason"] == reason

        eventually(off, f"{name} Stopped {reason}", PATIENCE_S, INTERVAL_S)
        assert qemu_of("default", name) is None

    def type(self, line: str) -> None:
        """Type a line at the consoles of all machines, and stay until they end."""
        with ThreadPoolExecutor(len(POLICIES)) as pool:
            for done in pool.map(lambda n: self.product.dvcr("vm", "console", n, stdin=line, check=False), POLICIES):
                assert "DVCR-GUEST" in done.stdout, done

    def kill(self, find: Callable[[str, str], int | None]) -> None:
        for name in POLICIES:
            kill(find("default", name))

    def start(self, *names: str) -> None:
        with ThreadPoolExecutor(len(names)) as pool:
            for done in pool.map(lambda name: self.product.dvcr("vm", "start", name), names):
                assert "Start is done" in done.stdout

    def pids(self) -> dict[str, int | None]:
        return {name: qemu_of("default", name) for name in POLICIES}

    def events(self, name: str) -> set[str]:
        return {e["reason"] for e in self._cluster.list(EVENT, "default") if e["involvedObject"]["name"] == name}

    def remove(self) -> None:
        for resource in (MACHINE, DISK):
            for name in POLICIES:
                self._cluster.delete(resource, name, "default")
        eventually(
            lambda: not any(self._cluster.get(DISK, n, "default") for n in POLICIES), "removal", PATIENCE_S, INTERVAL_S
        )
        assert not [p for p in self._cluster.list(POD, "default") if p["metadata"]["name"].startswith("vm-policy-")]


@pytest.fixture
def fleet(product: Product, guest: Path) -> Fleet:
    fleet = Fleet(product)
    with serve_folder(guest.parent) as server:
        product.apply(
            cluster_image("policies", f"{server}/{guest.name}"),
            *(disk(name, image="policies") for name in POLICIES),
            *(machine(name, name, run_policy=policy) for name, policy in POLICIES.items()),
        )
        product.wait_for_phase("cvmi", "policies", "Ready")
    return fleet


@pytest.mark.timeout(1200)
def test_each_run_policy_against_each_end(fleet: Fleet) -> None:
    product = fleet.product
    eventually(
        lambda: fleet.status(MANUAL).get("phase") == "Stopped", "the manual machine is off", PATIENCE_S, INTERVAL_S
    )
    fleet.start(MANUAL)
    fleet.has_booted(*POLICIES)

    # The kernel panics: a crash. Manual leaves the machine as it ended.
    fleet.type("echo c >/proc/sysrq-trigger\n")
    fleet.has_booted(ALWAYS, UNLESS)
    fleet.is_off(MANUAL, "GuestPanic")
    fleet.start(MANUAL)
    fleet.has_booted(MANUAL)
    assert {"Failed", "Stopped", "Running", "BlockDevicesReady"} <= fleet.events(ALWAYS)

    # The guest powers off: only AlwaysOn brings it back.
    fleet.type("poweroff\n")
    fleet.has_booted(ALWAYS)
    fleet.is_off(UNLESS, "GuestShutdown")
    fleet.is_off(MANUAL, "GuestShutdown")
    fleet.start(UNLESS, MANUAL)
    fleet.has_booted(UNLESS, MANUAL)

    fleet.kill(qemu_of)
    fleet.has_booted(ALWAYS, UNLESS)
    fleet.is_off(MANUAL, "Failed")
    assert "signal 9" in fleet.running(MANUAL)["message"]
    fleet.start(MANUAL)
    fleet.has_booted(MANUAL)

    # A reboot brings every machine back, and ends the row of crashes.
    fleet.type("reboot\n")
    fleet.has_booted(*POLICIES)

    fleet.kill(launcher_of)
    fleet.has_booted(ALWAYS, UNLESS)
    fleet.is_off(MANUAL, "Failed")
    fleet.start(MANUAL)
    fleet.has_booted(MANUAL)

    # Those who watch over machines may die without the machines' noticing; their successors follow what comes next.
    before = fleet.pids()
    for part in ("node", "controller"):
        old = part_of(product, part)
        kill(old)
        eventually(partial(_was_replaced, product, part, old), f"another {part}", 60, INTERVAL_S)
    assert fleet.pids() == before
    stopped = product.dvcr("vm", "stop", UNLESS)
    assert "Stop is done" in stopped.stdout
    assert before[ALWAYS] == qemu_of("default", ALWAYS)
    fleet.is_off(UNLESS, "Stopped")

    refused = product.dvcr("vm", "stop", ALWAYS, check=False)
    assert refused.returncode == 1
    assert "not allowed with run policy AlwaysOn" in refused.stderr
    assert "Restart is done" in product.dvcr("vm", "restart", ALWAYS, "--force").stdout
    fleet.has_booted(ALWAYS)

    product.apply(machine(ALWAYS, ALWAYS, run_policy="AlwaysOff"))
    fleet.is_off(ALWAYS, "Stopped")
    fleet.remove()
    product.dvcr("delete", "cvmi", "policies")


def _was_replaced(product: Product, part: str, old: int | None) -> bool:
    return part_of(product, part) not in (None, old)
