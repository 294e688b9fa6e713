"""The webhooks under a real kube-apiserver: what it lets through, and what it answers where they refuse."""

from collections.abc import Iterator

import pytest
import requests

from controller.api.eviction import MOVE, REQUESTED_ANNOTATION, STRATEGY_ANNOTATION
from controller.api.resource import CLUSTER_IMAGE, GROUP, MACHINE, POD, VALIDATING_WEBHOOKS
from controller.machines.authority import MachineAuthority
from controller.runtime.cluster import Cluster
from controller.runtime.errors import InvalidError
from controller.service import Service
from controller.webhooks.registration import NAME
from controller.webhooks.site import WebhookSite
from dvcr.config import ControllerSettings, WebhookSettings
from tests.support.kubernetes import KubernetesProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess]:
    """A control plane whose requests the webhooks judge."""
    process = KubernetesProcess(tmp_path_factory.mktemp("kubernetes"))
    with process:
        cluster = Cluster.connect(process.kubeconfig)
        new_image(cluster, "disk", cdrom=False)
        settings = ControllerSettings(webhooks=WebhookSettings(enabled=True, external_name="127.0.0.1"))
        with Service(WebhookSite(cluster, MachineAuthority(cluster, "default"), settings)):
            eventually(lambda: is_asked(cluster), "the webhooks are asked", 60)
            yield process


@pytest.fixture(scope="module")
def cluster(server: KubernetesProcess) -> Cluster:
    return Cluster.connect(server.kubeconfig)


def machine(image: str) -> dict[str, object]:
    """A machine that is to boot from an image of the cluster."""
    devices = [{"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": image}}]
    return {
        "apiVersion": MACHINE.api_version,
        "kind": MACHINE.kind,
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "blockDevices": devices},
    }


def new_image(cluster: Cluster, name: str, *, cdrom: bool) -> None:
    source = {"type": "HTTP", "http": {"url": "https://example.com/image"}}
    image = {"apiVersion": CLUSTER_IMAGE.api_version, "kind": CLUSTER_IMAGE.kind, "metadata": {"name": name}}
    made = cluster.create(CLUSTER_IMAGE, {**image, "spec": {"dataSource": source}})
    cluster.update_status(CLUSTER_IMAGE, {**made, "status": {"phase": "Ready", "cdrom": cdrom}})


def is_asked(cluster: Cluster) -> bool:
    """Whether an object that only the webhooks refuse is refused; the API server learns of them with delay."""
    if cluster.get(VALIDATING_WEBHOOKS, NAME) is None:
        return False
    try:
        cluster.create(MACHINE, machine("disk"))
    except InvalidError:
        return True
    cluster.delete(MACHINE, "probe", "default")
    return False


def evict(server: KubernetesProcess, name: str, query: str = "") -> requests.Response:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    url = f"{server.url}/api/v1/namespaces/default/pods/{name}/eviction{query}"
    return server.session().post(url, json=eviction, timeout=30)


def new_pod(cluster: Cluster, name: str, strategy: str) -> None:
    metadata = {"name": name, "namespace": "default", "annotations": {STRATEGY_ANNOTATION: strategy}}
    cluster.create(POD, {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": "x"}]}})


def test_what_no_schema_forbids_is_refused_with_its_field(cluster: Cluster) -> None:
    with pytest.raises(InvalidError) as caught:
        cluster.create(MACHINE, machine("disk"))

    assert [cause.field for cause in caught.value.causes] == ["spec.blockDevices[0]"]
    assert f'VirtualMachine.{GROUP} "probe" is invalid: spec.blockDevices[0]' in caught.value.message
    assert cluster.get(MACHINE, "probe", "default") is None


def test_what_is_right_goes_through(cluster: Cluster) -> None:
    new_image(cluster, "installer", cdrom=True)
    made = cluster.create(MACHINE, machine("installer"))
    made["spec"]["memory"]["size"] = "2Gi"

    assert cluster.update(MACHINE, made)["spec"]["memory"]["size"] == "2Gi"


def test_an_eviction_becomes_a_move(server: KubernetesProcess, cluster: Cluster) -> None:
    new_pod(cluster, "vm-moves", MOVE)

    rehearsed = evict(server, "vm-moves", "?dryRun=All")
    before = cluster.get(POD, "vm-moves", "default")
    answer = evict(server, "vm-moves")
    after = cluster.get(POD, "vm-moves", "default")

    assert (rehearsed.status_code, answer.status_code) == (429, 429)
    assert "its virtual machine moves to another node first" in answer.json()["message"]
    assert before is not None
    assert REQUESTED_ANNOTATION not in before["metadata"]["annotations"]
    assert after is not None
    assert REQUESTED_ANNOTATION in after["metadata"]["annotations"]


def test_other_pods_are_evicted(server: KubernetesProcess, cluster: Cluster) -> None:
    new_pod(cluster, "vm-goes", "Delete")

    assert evict(server, "vm-goes").status_code == 201
    assert cluster.get(POD, "vm-goes", "default") is None


def test_the_webhook_is_asked_about_pods_of_machines_only(server: KubernetesProcess, cluster: Cluster) -> None:
    new_pod(cluster, "web-server", MOVE)

    assert evict(server, "web-server").status_code == 201
