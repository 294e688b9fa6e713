"""What reconcilers rely on, over the cluster in memory, the real client against the embedded cluster, and its cache."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.resource import DISK, MACHINE, POD, SECRET, Resource
from controller.runtime.cached import CachedCluster
from controller.runtime.cluster import Cluster
from controller.runtime.errors import AlreadyExistsError, ConflictError, InvalidError, MissingError
from controller.runtime.index import Index, Object
from controller.runtime.port import ClusterPort
from tests.support.cluster import ClusterProcess
from tests.support.memory_cluster import MemoryCluster
from tests.support.waiting import eventually


@pytest.fixture(params=["memory", "embedded", "cached"])
def port(request: pytest.FixtureRequest) -> Iterator[ClusterPort]:
    if request.param == "memory":
        yield MemoryCluster()
        return
    process: ClusterProcess = request.getfixturevalue("shared_cluster")
    cluster = Cluster.connect(process.kubeconfig)
    cached = CachedCluster(cluster)
    if request.param == "cached":
        for resource in (SECRET, DISK, MACHINE, POD):
            assert cached.follow(resource).wait_synced(10)
    yield cached if request.param == "cached" else cluster
    cached.stop()
    for resource in (SECRET, DISK):
        for obj in cluster.list(resource, "default"):
            cluster.delete(resource, obj["metadata"]["name"], "default")


def secret(name: str, **metadata: Any) -> Object:
    metadata = {"name": name, "namespace": "default", **metadata}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"a": "YQ=="}}


def disk(name: str, size: str = "1Gi", **metadata: Any) -> Object:
    return {
        "apiVersion": DISK.api_version,
        "kind": DISK.kind,
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"persistentVolumeClaim": {"size": size}},
    }


def known(port: ClusterPort, resource: Resource, name: str) -> Object:
    obj = port.get(resource, name, "default")
    assert obj is not None
    return obj


def test_an_object_that_is_not_there(port: ClusterPort) -> None:
    assert port.get(SECRET, "none", "default") is None
    port.delete(SECRET, "none", "default")
    with pytest.raises(MissingError):
        port.patch(SECRET, "none", {"data": {}}, "default")


def test_create_get_list(port: ClusterPort) -> None:
    made = port.create(SECRET, secret("made"))
    assert made["metadata"]["uid"]
    assert port.get(SECRET, "made", "default") == made
    assert made in port.list(SECRET, "default")
    assert made in port.list(SECRET)
    with pytest.raises(AlreadyExistsError):
        port.create(SECRET, secret("made"))


def _label(obj: Object) -> Iterator[str]:
    yield (obj["metadata"].get("labels") or {}).get("colour", "none")


BY_COLOUR = Index(SECRET, _label)


def test_find_sees_at_once_what_was_written(port: ClusterPort) -> None:
    assert port.find(BY_COLOUR, "red") == []
    made = port.create(SECRET, secret("coloured", labels={"colour": "red"}))
    assert port.find(BY_COLOUR, "red") == [made]
    changed = port.patch(SECRET, "coloured", {"metadata": {"labels": {"colour": "blue"}}}, "default")
    assert (port.find(BY_COLOUR, "red"), port.find(BY_COLOUR, "blue")) == ([], [changed])


def test_an_update_of_an_old_version_conflicts(port: ClusterPort) -> None:
    old = port.create(DISK, disk("conflict"))
    port.update_status(DISK, {**old, "status": {"phase": "Pending"}})
    for update in (port.update, port.update_status):
        with pytest.raises(ConflictError):
            update(DISK, {**old, "status": {"phase": "Ready"}})


def test_status_and_spec_are_written_apart(port: ClusterPort) -> None:
    made = port.create(DISK, disk("apart"))
    assert made["metadata"]["generation"] == 1
    told = port.update_status(DISK, {**made, "spec": {}, "status": {"phase": "Ready"}})
    assert (told["status"], told["spec"]) == ({"phase": "Ready"}, made["spec"])
    grown = {"persistentVolumeClaim": {"size": "2Gi"}}
    changed = port.update(DISK, {**told, "spec": grown, "status": {"phase": "Failed"}})
    assert (changed["status"]["phase"], changed["metadata"]["generation"]) == ("Ready", 2)


def test_what_breaks_a_rule_is_refused_with_the_field(port: ClusterPort) -> None:
    port.create(DISK, disk("shrinking", "2Gi"))
    with pytest.raises(InvalidError) as refused:
        port.patch(DISK, "shrinking", {"spec": {"persistentVolumeClaim": {"size": "1Gi"}}}, "default")
    assert [cause.field for cause in refused.value.causes] == ["spec.persistentVolumeClaim.size"]


def test_a_merge_patch_removes_what_is_null(port: ClusterPort) -> None:
    port.create(SECRET, secret("patched", annotations={"a": "1", "b": "2"}))
    patched = port.patch(SECRET, "patched", {"metadata": {"annotations": {"a": None, "c": "3"}}}, "default")
    assert patched["metadata"]["annotations"] == {"b": "2", "c": "3"}


def test_a_finalizer_holds_an_object(port: ClusterPort) -> None:
    port.create(DISK, disk("held", finalizers=["dvcr.test/hold"]))
    port.delete(DISK, "held", "default")
    eventually(lambda: "deletionTimestamp" in known(port, DISK, "held")["metadata"], "the deletion is known")
    held = copy.deepcopy(known(port, DISK, "held"))
    held["metadata"]["finalizers"] = []
    port.update(DISK, held)
    eventually(lambda: port.get(DISK, "held", "default") is None, "the disk is gone")


def test_only_the_object_that_was_meant_is_deleted(port: ClusterPort) -> None:
    port.create(SECRET, secret("successor"))
    port.delete(SECRET, "successor", "default", uid="of-a-predecessor")
    assert port.get(SECRET, "successor", "default") is not None


def test_a_pod_without_a_node_goes_at_once(port: ClusterPort) -> None:
    spec = {"containers": [{"name": "a", "image": "a"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    port.create(POD, pod)
    port.delete(POD, "p", "default")
    eventually(lambda: port.get(POD, "p", "default") is None, "the pod is gone")
    assert port.list(MACHINE, "default") == []
