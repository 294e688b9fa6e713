"""The main path with a real Debian 12: from its image to a machine that is used, changed, moved and copied.

The tests follow each other: each finds the machine as the one before left it. `make e2e` runs them.
"""

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from demo.server import serve_folder
from tests.e2e.debian.image import build
from tests.e2e.resources import cluster_image, disk, machine, operation
from tests.e2e.test_attachments import attached_to, attachment
from tests.e2e.test_golden_image import golden_image
from tests.support.product import Product, running_product
from tests.support.second_node import second_node
from tests.support.waiting import eventually

pytestmark = [pytest.mark.debian, pytest.mark.timeout(1500)]

# A Debian under emulation, on a machine that may do other things besides.
PATIENCE_S = 600
INTERVAL_S = 2.0
NAME = "debian"
MEMORY = "1Gi"
FILE, FILE_MIB = "/var/tmp/noise", 64
# A line for each tenth of a second that the guest runs, by the clock that goes on during a migration.
COUNTER = "while sleep 0.1; do date +%s.%N; done > /var/tmp/ticks"
MAX_STANDSTILL_S = 2.0


class Guest:
    """The machine and how its user reaches it."""

    def __init__(self, product: Product, key: Path, name: str = NAME) -> None:
        self.product = product
        self.name = name
        self._key = key

    def user_data(self) -> str:
        """cloud-init: the host name comes with the machine, the key is the user's."""
        public = self._key.with_suffix(".pub").read_text().strip()
        return f"#cloud-config\nssh_authorized_keys:\n  - {public}\n"

    def ssh(self, command: str, *, check: bool = True) -> str:
        """What a command in the guest prints."""
        known_hosts = f"UserKnownHostsFile={self._key.parent / 'known_hosts'}"
        target = ("-i", self._key, "-o", known_hosts, f"debian@{self.name}")
        return self.product.dvcr("vm", "ssh", *target, "--", command, check=check).stdout

    def answers(self) -> None:
        """Its sshd lets the user in."""
        eventually(
            lambda: self.ssh("echo here", check=False) == "here\n", f"{self.name} answers", PATIENCE_S, INTERVAL_S
        )

    def sees(self, serial: str) -> str:
        """The size in bytes that the guest sees of the disk with this serial number; empty if it has none."""
        for line in self.ssh("lsblk --nodeps --noheadings --bytes --output SERIAL,SIZE").splitlines():
            if line.split()[0] == serial:
                return line.split()[1]
        return ""

    def has(self, serial: str, size: str) -> None:
        """It comes to see that disk in that size."""
        eventually(lambda: self.sees(serial) == size, f"{serial} of {size or 'no'} bytes", 120, INTERVAL_S)

    def digest(self) -> str:
        """Of the file that must survive everything."""
        return self.ssh(f"sha256sum < {FILE}").split()[0]

    def boot_id(self) -> str:
        """Another one after each boot."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id")

    def wait(self, *phases: str) -> None:
        """For one of the phases."""
        self.product.wait_for_phase("vm", self.name, *phases, timeout_s=PATIENCE_S)

    def stands_alone(self) -> bool:
        """Whether its disk needs no image any more."""
        message = self.product.get("vm", self.name)["status"].get("message") or ""
        return "copied" not in message


def shared_disk(name: str, size: str, image: str = "") -> dict[str, Any]:
    """A disk that every node sees."""
    made = disk(name, image, size)
    made["spec"]["persistentVolumeClaim"]["storageClassName"] = "shared"
    return made


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product with two nodes and volumes that both see."""
    folder = tmp_path_factory.mktemp("debian")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVCR__NODE__SHARED_VOLUMES_DIR", str(folder / "shared"))
        with running_product(folder / "data") as product, second_node(product, folder / "shared"):
            yield product


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key of the user's."""
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def guest(product: Product, key: Path) -> Guest:
    """The machine, once its user can log in."""
    guest = Guest(product, key)
    image = build()
    root = shared_disk("debian-root", "3Gi", image="debian")
    vm = machine(NAME, "debian-root", user_data=guest.user_data())
    vm["spec"] |= {"cpu": {"cores": 2}, "memory": {"size": MEMORY}, "terminationGracePeriodSeconds": 120}
    with serve_folder(image.parent) as server:
        product.apply(cluster_image("debian", f"{server}/{image.name}"), root, vm)
        product.wait_for_phase("cvmi", "debian", "Ready", timeout_s=PATIENCE_S)
    guest.wait("Running")
    guest.answers()
    return guest


def test_cloud_init_sets_it_up_and_the_agent_tells_of_it(guest: Guest) -> None:
    assert guest.ssh("hostname") == f"{NAME}\n"
    assert guest.ssh("cloud-init status --wait").splitlines()[-1] == "status: done"

    def agent() -> str:
        status = guest.product.get("vm", NAME)["status"]
        return str((status.get("guestOSInfo") or {}).get("id", ""))

    eventually(lambda: agent() == "debian", "the guest agent's word", PATIENCE_S, INTERVAL_S)
    status = guest.product.get("vm", NAME)["status"]
    assert next(c["status"] for c in status["conditions"] if c["type"] == "AgentReady") == "True"
    guest.ssh(f"head -c {FILE_MIB}M /dev/urandom > {FILE}; sync {FILE}")


def test_disks_come_grow_and_go_while_it_runs(guest: Guest) -> None:
    product, boot = guest.product, guest.boot_id()
    product.apply(shared_disk("debian-data", "1Gi"), attachment("debian-data", NAME, "debian-data"))
    attached_to(product, "debian-data", NAME)
    guest.has("vmd-debian-data", str(2**30))

    product.apply(shared_disk("debian-data", "4Gi"), shared_disk("debian-root", "4Gi", image="debian"))
    for serial in ("vmd-debian-data", "vmd-debian-root"):
        guest.has(serial, str(4 * 2**30))

    product.dvcr("delete", "vmbda", "debian-data")
    guest.has("vmd-debian-data", "")
    assert guest.boot_id() == boot


def test_a_file_survives_the_copy_and_a_stop(guest: Guest) -> None:
    written = guest.digest()
    eventually(guest.stands_alone, "the disk stands alone", PATIENCE_S, INTERVAL_S)
    assert guest.digest() == written
    boot = guest.boot_id()
    guest.product.apply(operation("debian-stop", "Stop", NAME))
    guest.wait("Stopped")
    guest.product.apply(operation("debian-start", "Start", NAME))
    guest.wait("Running")
    guest.answers()
    assert guest.boot_id() != boot
    assert guest.digest() == written


def test_it_moves_to_the_other_node_while_it_counts(guest: Guest) -> None:
    product, written, boot = guest.product, guest.digest(), guest.boot_id()
    node = product.get("vm", NAME)["status"]["nodeName"]
    guest.ssh(f"nohup sh -c '{COUNTER}' >/dev/null 2>&1 </dev/null &")
    eventually(lambda: len(gaps_s(guest)) > 100, "ticks at rest", PATIENCE_S, INTERVAL_S)
    at_rest_s = max(gaps_s(guest))
    product.apply(operation("debian-move", "Migrate", NAME))
    moved = product.wait_for_phase("vmop", "debian-move", "Completed", "Failed", timeout_s=PATIENCE_S)
    assert moved["status"]["phase"] == "Completed", moved["status"]
    assert product.get("vm", NAME)["status"]["nodeName"] != node
    guest.answers()
    assert (guest.boot_id(), guest.digest()) == (boot, written)
    moving_s = max(gaps_s(guest))
    print(f"longest gap between ticks: {at_rest_s:.2f} s at rest, {moving_s:.2f} s with the move")
    assert moving_s < at_rest_s + MAX_STANDSTILL_S


def gaps_s(guest: Guest) -> list[float]:
    """Seconds between the guest's ticks."""
    ticks = [float(line) for line in guest.ssh("cat /var/tmp/ticks").splitlines() if re.fullmatch(r"\d+\.\d+", line)]
    return [after - before for before, after in pairwise(ticks)]


def test_its_disk_becomes_an_image_for_another_machine(guest: Guest, key: Path) -> None:
    product, written = guest.product, guest.digest()
    # Nothing syncs it: it is on the disk only because the agent froze the file system.
    guest.ssh("echo kept > /var/tmp/unsynced")
    product.apply(golden_image("debian-golden", "debian-root"))
    made = product.wait_for_phase("cvmi", "debian-golden", "Ready", "Failed", timeout_s=PATIENCE_S)
    assert made["status"]["phase"] == "Ready", made["status"]
    second = Guest(product, key, "second")
    vm = machine("second", "second-root", user_data=second.user_data())
    vm["spec"] |= {"cpu": {"cores": 2}, "memory": {"size": MEMORY}, "terminationGracePeriodSeconds": 120}
    guest.product.apply(operation("debian-end", "Stop", NAME))
    guest.wait("Stopped")
    product.apply(disk("second-root", "debian-golden"), vm)
    second.wait("Running")
    second.answers()
    assert second.ssh("hostname") == "second\n"
    assert second.digest() == written
    assert second.ssh("cat /var/tmp/unsynced") == "kept\n"
