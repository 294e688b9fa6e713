"""The pods that the controller makes for users, under the Pod Security Standards of a real kube-apiserver."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.resource import NAMESPACE
from controller.disks.work import build_work_pod
from controller.launcher.spec import CaptureSpec, DiskSpec, FillSpec
from controller.machines.migration_target import build_target
from controller.machines.pod import build_pod
from controller.machines.setup import LauncherSetup
from controller.runtime.cluster import Cluster
from controller.runtime.index import Object
from dvcr.config import ClientSettings
from tests.support.kubernetes import KubernetesProcess
from tests.support.waiting import eventually
from tests.unit.controller.test_machine_pod import LAUNCH, MACHINE

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

STANDARDS = ("restricted", "baseline", "privileged")
OWNER = {"apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualMachineDisk", "name": "x", "uid": "u"}
DISK = DiskSpec(name="vmd-root", kind="disk", path="/disks/work/disk.qcow2", size_bytes=2**30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess]:
    """A control plane with a namespace of each standard, and what machines' pods name."""
    process = KubernetesProcess(tmp_path_factory.mktemp("kubernetes"))
    with process:
        cluster = Cluster.connect(process.kubeconfig)
        for standard in STANDARDS:
            labels = {"pod-security.kubernetes.io/enforce": standard}
            cluster.create(NAMESPACE, {"metadata": {"name": standard, "labels": labels}})
        accounts = [f"{process.url}/api/v1/namespaces/{name}/serviceaccounts/default" for name in STANDARDS]
        eventually(lambda: all(process.session().get(url, timeout=10).ok for url in accounts), "accounts", 60)
        process.kubectl("create", "priorityclass", "high", "--value=1000")
        yield process


def setup(node_cache_dir: Path | None = None) -> LauncherSetup:
    registry = ClientSettings(url="http://registry.test")
    return LauncherSetup(
        ("dvcr-launcher",), "dvcr", registry, node_cache_dir=node_cache_dir, kvm_resource="squat.ai/kvm"
    )


def machine(namespace: str, node_cache_dir: Path | None = None) -> Object:
    metadata = {"name": "web", "namespace": namespace, "uid": "u", "labels": {"app": "shop"}}
    return build_pod(metadata, OWNER, MACHINE, LAUNCH, setup(node_cache_dir))


def moved(namespace: str) -> Object:
    source = machine(namespace)
    source["spec"]["nodeName"] = "a"
    return build_target("vm-web-12345678", source, MACHINE)


def fill(namespace: str) -> Object:
    metadata = {"name": "fill-1", "namespace": namespace, "ownerReferences": [OWNER]}
    return build_work_pod(metadata, "vmd-root", DISK, "fill", FillSpec(disk=DISK), setup())


def capture(namespace: str) -> Object:
    metadata = {"name": "capture-1", "namespace": namespace, "ownerReferences": [OWNER]}
    spec = CaptureSpec(repository="vmi/x/y", tags=("latest",), origin="x", disk=DISK)
    return build_work_pod(metadata, "vmd-root", DISK, "capture", spec, setup())


def rehearse(server: KubernetesProcess, pod: Object) -> dict[str, Any]:
    """What the API server answers to the pod, with warnings; it makes none."""
    url = f"{server.url}/api/v1/namespaces/{pod['metadata']['namespace']}/pods?dryRun=All&fieldValidation=Strict"
    response = server.session().post(url, json=pod, timeout=30)
    answer: dict[str, Any] = response.json()
    assert "Warning" not in response.headers
    return answer


@pytest.mark.parametrize("build", [machine, moved, fill, capture])
def test_baseline_takes_every_pod(server: KubernetesProcess, build: Any) -> None:
    answer = rehearse(server, build("baseline"))

    assert answer["kind"] == "Pod", answer.get("message")


@pytest.mark.parametrize("build", [fill, capture])
def test_restricted_takes_what_works_on_disks(server: KubernetesProcess, build: Any) -> None:
    answer = rehearse(server, build("restricted"))

    assert answer["kind"] == "Pod", answer.get("message")


@pytest.mark.parametrize("build", [machine, moved])
def test_restricted_misses_nothing_in_machines_but_a_seccomp_profile(server: KubernetesProcess, build: Any) -> None:
    message = rehearse(server, build("restricted"))["message"]

    assert message.partition(": violates ")[2] == (
        'PodSecurity "restricted:latest": seccompProfile (pod or container "machine" must set '
        'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    ), message


def test_a_cache_of_the_nodes_takes_a_namespace_without_a_standard(server: KubernetesProcess) -> None:
    refused = rehearse(server, machine("baseline", Path("/var/cache/dvcr")))
    taken = rehearse(server, machine("privileged", Path("/var/cache/dvcr")))

    assert 'violates PodSecurity "baseline:latest": hostPath volumes (volume "cache")' in refused["message"]
    assert taken["kind"] == "Pod", taken.get("message")
