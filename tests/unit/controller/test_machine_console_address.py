from typing import Any, cast

import pytest

from controller.api.resource import MACHINE, POD, Resource
from controller.machines.commands import running_pod
from controller.runtime.cluster import Cluster
from dvcr.errors import ResourceError

VM = {"metadata": {"name": "web", "namespace": "prod", "uid": "u-1"}, "status": {"phase": "Starting"}}


def pod(uid: str, phase: str, address: str) -> dict[str, Any]:
    return {"metadata": {"ownerReferences": [{"uid": uid}]}, "status": {"phase": phase, "podIP": address}}


class FakeCluster:
    def __init__(self, machine: dict[str, Any] | None, *pods: dict[str, Any]) -> None:
        self._machine = machine
        self._pods = pods

    def get(self, resource: Resource, name: str, namespace: str) -> dict[str, Any] | None:
        assert (resource, name, namespace) == (MACHINE, "web", "prod")
        return self._machine

    def list(self, resource: Resource, namespace: str) -> list[dict[str, Any]]:
        assert (resource, namespace) == (POD, "prod")
        return [*self._pods]


def address(machine: dict[str, Any] | None, *pods: dict[str, Any]) -> str:
    return str(running_pod(cast("Cluster", FakeCluster(machine, *pods)), "web", "prod")["status"]["podIP"])


def test_the_address_is_that_of_the_running_pod_of_the_machine() -> None:
    pods = [
        pod("u-other", "Running", "127.64.0.1"),
        pod("u-1", "Succeeded", "127.64.0.2"),
        pod("u-1", "Running", "127.64.0.3"),
        {"metadata": {}, "status": {}},
    ]

    assert address(VM, *pods) == "127.64.0.3"


@pytest.mark.parametrize("pods", [[], [pod("u-1", "Pending", "")], [pod("u-1", "Running", "")]])
def test_a_machine_without_a_running_pod_says_its_phase(pods: list[dict[str, Any]]) -> None:
    with pytest.raises(ResourceError, match="phase Starting"):
        address(VM, *pods)


def test_an_unknown_machine_is_named_with_its_namespace() -> None:
    with pytest.raises(ResourceError, match="no VirtualMachine 'web' in namespace 'prod'"):
        address(None)
