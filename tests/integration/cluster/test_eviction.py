"""Evictions, as clients that drain a node ask for them."""

from typing import Any

from controller.api.eviction import MOVE, REQUESTED_ANNOTATION, STRATEGY_ANNOTATION
from tests.support.cluster import ClusterProcess, shared_cluster

__all__ = ["shared_cluster"]

PODS = "/api/v1/namespaces/default/pods"


def create(cluster: ClusterProcess, name: str, **annotations: str) -> None:
    pod: dict[str, Any] = {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "main", "command": ["true"]}]},
    }
    assert cluster.session().post(f"{cluster.url}{PODS}", json=pod, timeout=30).status_code == 201


def evict(cluster: ClusterProcess, name: str, query: str = "") -> Any:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    return cluster.session().post(f"{cluster.url}{PODS}/{name}/eviction{query}", json=eviction, timeout=30)


def get(cluster: ClusterProcess, name: str) -> Any:
    return cluster.session().get(f"{cluster.url}{PODS}/{name}", timeout=30)


def test_clients_find_the_eviction(shared_cluster: ClusterProcess) -> None:
    http, url = shared_cluster.session(), shared_cluster.url

    groups = http.get(f"{url}/apis", timeout=30).json()["groups"]
    resources = http.get(f"{url}/api/v1", timeout=30).json()["resources"]

    assert [g["preferredVersion"]["groupVersion"] for g in groups if g["name"] == "policy"] == ["policy/v1"]
    # As with Kubernetes, an eviction is only something to be created below a pod.
    listed = http.get(f"{url}/apis/policy/v1", timeout=30).json()["resources"]
    assert [item["name"] for item in listed] == ["poddisruptionbudgets", "poddisruptionbudgets/status"]
    (found,) = [r for r in resources if r["name"] == "pods/eviction"]
    assert (found["group"], found["version"], found["kind"]) == ("policy", "v1", "Eviction")


def test_a_pod_is_deleted(shared_cluster: ClusterProcess) -> None:
    create(shared_cluster, "plain")

    assert evict(shared_cluster, "plain", "?dryRun=All").status_code == 201
    assert get(shared_cluster, "plain").status_code == 200
    assert evict(shared_cluster, "plain").status_code == 201
    assert get(shared_cluster, "plain").status_code == 404
    assert evict(shared_cluster, "plain").status_code == 404


def test_a_pod_that_is_moved_is_kept_and_knows_that_it_was_asked(shared_cluster: ClusterProcess) -> None:
    create(shared_cluster, "machine", **{STRATEGY_ANNOTATION: MOVE})

    answer = evict(shared_cluster, "machine")

    assert (answer.status_code, answer.json()["reason"]) == (429, "TooManyRequests")
    assert answer.headers["Retry-After"] == "5"
    assert REQUESTED_ANNOTATION in get(shared_cluster, "machine").json()["metadata"]["annotations"]


def test_a_pod_that_has_ended_is_not_moved(shared_cluster: ClusterProcess) -> None:
    create(shared_cluster, "ended", **{STRATEGY_ANNOTATION: MOVE})
    url = f"{shared_cluster.url}{PODS}/ended/status"
    merge = {"Content-Type": "application/merge-patch+json"}
    shared_cluster.session().patch(url, json={"status": {"phase": "Succeeded"}}, headers=merge, timeout=30)

    assert evict(shared_cluster, "ended").status_code == 201
    assert get(shared_cluster, "ended").status_code == 404
