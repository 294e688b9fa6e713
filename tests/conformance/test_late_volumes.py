"""A storage class whose volumes wait for their first consumer, under either API server. The node is played."""

from collections.abc import Iterator

import pytest

from controller.api.resource import DISK, MACHINE, POD, PVC, STORAGE_CLASS
from tests.integration.test_controller_process import Running
from tests.support.cluster import ClusterProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def running(server: ClusterProcess) -> Iterator[Running]:
    controller = Running(server)
    yield controller
    controller.stop()


def test_the_pod_of_a_machine_is_made_before_the_volume_of_its_disk(running: Running) -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"},
        "provisioner": "example.com/nobody", "volumeBindingMode": "WaitForFirstConsumer",
    }  # fmt: skip
    running.cluster.create(STORAGE_CLASS, storage_class)
    running.apply(DISK, "late", {"persistentVolumeClaim": {"size": "1Gi", "storageClassName": "late"}})
    running.wait_phase(DISK, "late", "Ready")
    assert ((running.get(PVC, "vmd-late") or {}).get("status") or {}).get("phase") != "Bound"

    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "late"}}
    machine = {"cpu": {"cores": 1}, "memory": {"size": "128Mi"}, "blockDevices": [device]}
    running.apply(MACHINE, "early", machine)
    eventually(lambda: running.get(POD, "vm-early"), "the machine's pod")
