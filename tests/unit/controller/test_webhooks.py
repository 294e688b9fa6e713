"""What the webhooks answer, and how the cluster is told to ask them."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from controller.api.errors import StatusError
from controller.api.eviction import MOVE, REQUESTED_ANNOTATION, STRATEGY_ANNOTATION
from controller.api.resource import (
    CLUSTER_IMAGE,
    DISK,
    GROUP,
    POD,
    SUBJECT_ACCESS_REVIEW,
    VALIDATING_WEBHOOKS,
    VERSION,
    Resource,
)
from controller.webhooks.registration import NAME, register
from controller.webhooks.review import answer
from controller.webhooks.rules import Rules
from tests.support.memory_cluster import MemoryCluster

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def rules(cluster: MemoryCluster) -> Rules:
    return Rules(cluster, lambda: NOW)


def review(kind: str, plural: str, obj: dict[str, Any], old: dict[str, Any] | None = None, **more: Any) -> Any:
    request = {
        "uid": "u-1",
        "kind": {"group": GROUP, "version": VERSION, "kind": kind},
        "resource": {"group": GROUP, "version": VERSION, "resource": plural},
        "name": obj["metadata"]["name"],
        "namespace": "default",
        "operation": "UPDATE" if old else "CREATE",
        "object": obj,
        "oldObject": old,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**request, **more}}


def disk(size: str) -> dict[str, Any]:
    spec = {"persistentVolumeClaim": {"size": size}}
    return {"apiVersion": DISK.api_version, "kind": DISK.kind, "metadata": {"name": "root"}, "spec": spec}


def machine(image: str) -> dict[str, Any]:
    devices = [{"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": image}}]
    spec = {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "blockDevices": devices}
    metadata = {"name": "web", "namespace": "default"}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "VirtualMachine", "metadata": metadata, "spec": spec}


def test_what_is_right_is_allowed(rules: Rules) -> None:
    allowed = answer(review(DISK.kind, DISK.plural, disk("1Gi")), rules.validate)

    assert allowed == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "u-1", "allowed": True},
    }


def test_a_refusal_names_the_field(rules: Rules) -> None:
    refused = answer(review(DISK.kind, DISK.plural, disk("1Gi"), disk("2Gi")), rules.validate)["response"]

    assert (refused["uid"], refused["allowed"], refused["status"]["code"]) == ("u-1", False, 422)
    (cause,) = refused["status"]["details"]["causes"]
    assert cause["field"] == "spec.persistentVolumeClaim.size"
    assert refused["status"]["message"].startswith(
        f'VirtualMachineDisk.{GROUP} "root" is invalid: spec.persistentVolumeClaim.size: Invalid value: "1Gi": '
    )


@pytest.mark.parametrize(("cdrom", "allowed"), [(True, True), (False, False)])
def test_a_machine_is_compared_with_the_image_that_it_boots_from(
    cdrom: bool, allowed: bool, cluster: MemoryCluster, rules: Rules
) -> None:
    image = {"apiVersion": CLUSTER_IMAGE.api_version, "kind": CLUSTER_IMAGE.kind, "metadata": {"name": "debian"}}
    source = {"type": "HTTP", "http": {"url": "https://example.com/debian.qcow2"}}
    made = cluster.create(CLUSTER_IMAGE, {**image, "spec": {"dataSource": source}})
    cluster.update_status(CLUSTER_IMAGE, {**made, "status": {"phase": "Ready", "cdrom": cdrom}})

    asked = review("VirtualMachine", "virtualmachines", machine("debian"))

    assert answer(asked, rules.validate)["response"]["allowed"] is allowed


class Judged(MemoryCluster):
    """A cluster that allows one user everything, and remembers what it was asked about others."""

    def __init__(self, allowed: str) -> None:
        super().__init__()
        self.allowed = allowed
        self.asked: list[dict[str, Any]] = []

    def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        if resource != SUBJECT_ACCESS_REVIEW:
            return super().create(resource, obj)
        self.asked.append(obj["spec"])
        return {**obj, "status": {"allowed": obj["spec"]["user"] == self.allowed}}


def copy_of_disk(namespace: str) -> dict[str, Any]:
    named = {"name": "root", "namespace": namespace}
    spec = {"dataSource": {"type": "VirtualMachineDisk", "virtualMachineDisk": named}}
    return {
        "apiVersion": CLUSTER_IMAGE.api_version,
        "kind": CLUSTER_IMAGE.kind,
        "metadata": {"name": "x"},
        "spec": spec,
    }


def test_what_is_taken_from_a_namespace_takes_a_right_there() -> None:
    cluster = Judged("owner")
    judge = Rules(cluster, lambda: NOW).validate
    jane = {"username": "jane", "uid": "7", "groups": ["team"], "extra": {"scopes": ["all"]}}

    def asked_by(user: dict[str, Any], old: dict[str, Any] | None = None) -> Any:
        obj = copy_of_disk("prod")
        return answer(review(CLUSTER_IMAGE.kind, CLUSTER_IMAGE.plural, obj, old, userInfo=user), judge)["response"]

    refused = asked_by(jane)

    assert (refused["status"]["code"], refused["status"]["reason"]) == (403, "Forbidden")
    assert refused["status"]["message"] == (
        f'clustervirtualmachineimages.{GROUP} "x" is forbidden: spec.dataSource.virtualMachineDisk: User "jane" cannot '
        f'create resource "virtualmachinedisks/source" in API group "{GROUP}" in the namespace "prod"'
    )
    attributes = {
        "verb": "create",
        "group": GROUP,
        "resource": "virtualmachinedisks",
        "subresource": "source",
        "namespace": "prod",
        "name": "root",
    }
    assert cluster.asked == [
        {"user": "jane", "uid": "7", "groups": ["team"], "extra": {"scopes": ["all"]}, "resourceAttributes": attributes}
    ]
    assert asked_by({"username": "owner"})["allowed"] is True
    # Who changes a label of it takes nothing.
    assert asked_by(jane, copy_of_disk("prod"))["allowed"] is True


def test_a_machine_of_another_project_is_not_ours_to_judge(rules: Rules) -> None:
    other = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"}, "spec": {}}

    assert answer(review("VirtualMachine", "virtualmachines", other), rules.validate)["response"]["allowed"] is True


@pytest.mark.parametrize(
    "asked", [None, [], {}, {"apiVersion": "v1", "kind": "Pod"}, review(DISK.kind, DISK.plural, disk("1Gi"), uid=1)]
)
def test_what_is_no_review_is_a_bad_request(asked: Any, rules: Rules) -> None:
    if asked and "request" in asked:
        del asked["request"]["resource"]
    with pytest.raises(StatusError) as caught:
        answer(asked, rules.validate)
    assert caught.value.code == 400


def eviction(**more: Any) -> Any:
    kind = {"group": "policy", "version": "v1", "kind": "Eviction"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    metadata = {"name": "vm-web", "namespace": "default"}
    asked = review("", "", {"metadata": metadata})
    asked["request"] |= {"kind": kind, "resource": resource, "subResource": "eviction", **more}
    return asked


def pod(strategy: str, phase: str = "Running") -> dict[str, Any]:
    metadata = {"name": "vm-web", "namespace": "default", "annotations": {STRATEGY_ANNOTATION: strategy}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": phase}}


def test_an_eviction_becomes_a_move(cluster: MemoryCluster, rules: Rules) -> None:
    cluster.create(POD, pod(MOVE))

    refused = answer(eviction(), rules.evict)["response"]

    assert (refused["allowed"], refused["status"]["code"], refused["status"]["reason"]) == (
        False,
        429,
        "TooManyRequests",
    )
    noted = cluster.get(POD, "vm-web", "default")
    assert noted is not None
    assert noted["metadata"]["annotations"][REQUESTED_ANNOTATION] == "2026-01-02T03:04:05Z"


def test_a_dry_run_is_refused_and_changes_nothing(cluster: MemoryCluster, rules: Rules) -> None:
    made = cluster.create(POD, pod(MOVE))

    assert answer(eviction(dryRun=True), rules.evict)["response"]["allowed"] is False
    assert cluster.get(POD, "vm-web", "default") == made


@pytest.mark.parametrize("other", [pod("Delete"), pod(MOVE, "Succeeded"), None])
def test_other_pods_are_evicted(other: dict[str, Any] | None, cluster: MemoryCluster, rules: Rules) -> None:
    if other is not None:
        cluster.create(POD, other)

    assert answer(eviction(), rules.evict)["response"]["allowed"] is True


def webhooks(cluster: MemoryCluster) -> list[dict[str, Any]]:
    found = cluster.get(VALIDATING_WEBHOOKS, NAME)
    assert found is not None
    return list(found["webhooks"])


def test_the_cluster_is_told_once_and_of_each_new_authority(cluster: MemoryCluster) -> None:
    register(cluster, "https://127.0.0.1:9443", b"first")
    first = cluster.get(VALIDATING_WEBHOOKS, NAME)
    register(cluster, "https://127.0.0.1:9443", b"first")
    assert cluster.get(VALIDATING_WEBHOOKS, NAME) == first
    register(cluster, "https://127.0.0.1:9443", b"second")

    assert [each["clientConfig"] for each in webhooks(cluster)] == [
        {"url": f"https://127.0.0.1:9443/{path}", "caBundle": base64.b64encode(b"second").decode()}
        for path in ("validate", "evict")
    ]


def test_what_is_installed_already_gets_the_authority_only(cluster: MemoryCluster) -> None:
    register(cluster, "", b"authority")
    assert cluster.get(VALIDATING_WEBHOOKS, NAME) is None
    service = {"service": {"namespace": "dvcr", "name": "dvcr-controller", "port": 443, "path": "/validate"}}
    installed = {"metadata": {"name": NAME}, "webhooks": [{"name": "a", "clientConfig": service}]}
    cluster.create(VALIDATING_WEBHOOKS, installed)

    register(cluster, "", b"authority")

    bundle = base64.b64encode(b"authority").decode()
    assert webhooks(cluster) == [{"name": "a", "clientConfig": {**service, "caBundle": bundle}}]
