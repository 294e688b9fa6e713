"""The embedded cluster under the official Python client: typed, dynamic and its watch."""

from typing import Any

import pytest
from kubernetes import client, config, dynamic, watch

from tests.support.cluster import ClusterProcess


@pytest.fixture(scope="module")
def api_client(shared_cluster: ClusterProcess) -> Any:
    return config.new_client_from_config(str(shared_cluster.kubeconfig))


def test_core_objects_and_conflicts(api_client: Any) -> None:
    core = client.CoreV1Api(api_client)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed"), data={"a": "1"})
    made = core.create_namespaced_config_map("default", body)
    core.patch_namespaced_config_map("typed", "default", {"data": {"b": "2"}})
    assert core.read_namespaced_config_map("typed", "default").data == {"a": "1", "b": "2"}
    with pytest.raises(client.ApiException) as refused:
        core.replace_namespaced_config_map("typed", "default", made)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    core.delete_namespaced_config_map("typed", "default")
    with pytest.raises(client.ApiException) as gone:
        core.read_namespaced_config_map("typed", "default")
    assert gone.value.status == 404


def test_pods_nodes_and_leases_are_valid_typed_objects(api_client: Any) -> None:
    core, coordination = client.CoreV1Api(api_client), client.CoordinationV1Api(api_client)
    container = client.V1Container(name="main", image="x")
    pod = client.V1Pod(metadata=client.V1ObjectMeta(name="p"), spec=client.V1PodSpec(containers=[container]))
    assert core.create_namespaced_pod("default", pod).status.phase == "Pending"
    assert [each.metadata.name for each in core.list_pod_for_all_namespaces().items] == ["p"]
    assert {each.metadata.name for each in core.list_namespace().items} == {"default", "kube-system"}
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=client.V1LeaseSpec(holder_identity="me"))
    made = coordination.create_namespaced_lease("kube-system", lease)
    made.spec.holder_identity = "you"
    coordination.replace_namespaced_lease("l", "kube-system", made)
    assert coordination.read_namespaced_lease("l", "kube-system").spec.holder_identity == "you"
    core.delete_namespaced_pod("p", "default")


def test_custom_objects_and_watch(api_client: Any) -> None:
    custom = client.CustomObjectsApi(api_client)
    where = ("virtualization.deckhouse.io", "v1alpha2", "default", "virtualmachinedisks")
    body = {
        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
        "kind": "VirtualMachineDisk",
        "metadata": {"name": "d"},
        "spec": {"persistentVolumeClaim": {"size": "1Gi"}},
    }
    version = custom.list_namespaced_custom_object(*where)["metadata"]["resourceVersion"]
    custom.create_namespaced_custom_object(*where, body)
    custom.patch_namespaced_custom_object_status(*where, "d", {"status": {"phase": "Ready"}})
    assert custom.get_namespaced_custom_object(*where, "d")["status"] == {"phase": "Ready"}
    custom.delete_namespaced_custom_object(*where, "d")
    events = watch.Watch().stream(
        custom.list_namespaced_custom_object, *where, resource_version=version, timeout_seconds=1
    )
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    with pytest.raises(client.ApiException) as refused:
        list(
            watch.Watch().stream(
                custom.list_namespaced_custom_object, *where, resource_version="99999999", timeout_seconds=1
            )
        )
    assert refused.value.status == 410


def test_dynamic_client_discovers_everything(api_client: Any) -> None:
    found = dynamic.DynamicClient(api_client)
    kinds = {resource.kind for resource in found.resources.search()}
    assert {"Pod", "Secret", "Lease", "StorageClass", "VirtualMachine", "CustomResourceDefinition"} <= kinds
    disks = found.resources.get(api_version="virtualization.deckhouse.io/v1alpha2", kind="VirtualMachineDisk")
    disks.create(
        {"metadata": {"name": "dyn"}, "spec": {"persistentVolumeClaim": {"size": "1Gi"}}, "kind": disks.kind,
         "apiVersion": disks.group_version}, namespace="default",
    )  # fmt: skip
    assert [each.metadata.name for each in disks.get(namespace="default").items] == ["dyn"]
    disks.delete(name="dyn", namespace="default")
