"""The machine API without its server: which pod, whom to believe, and what the cluster is told."""

import base64
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from controller.api.errors import StatusError
from controller.api.resource import API_SERVICE, CONFIG_MAP, MACHINE, POD, SERVICE, Resource
from controller.consoles.api import find_pod
from controller.consoles.front_proxy import FrontProxy
from controller.consoles.registration import API_SERVICE_NAME, register
from controller.runtime.port import ClusterPort
from controller.service import service_name
from dvcr.access.errors import CredentialsError
from dvcr.errors import ConfigError
from tests.support.memory_cluster import MemoryCluster

Object = dict[str, Any]
VM: Object = {"metadata": {"name": "web", "namespace": "prod", "uid": "u-1"}, "status": {"phase": "Starting"}}
AUTHORITY = b"-----BEGIN CERTIFICATE-----"


def pod(name: str, address: str, uid: str = "u-1", phase: str = "Running") -> Object:
    owners = [{"uid": uid, "kind": "VirtualMachine"}]
    metadata = {"name": name, "namespace": "prod", "ownerReferences": owners}
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "podIP": address}}


class FakeCluster:
    def __init__(self, machine: Object | None, *pods: Object) -> None:
        self._machine = machine
        self._pods = {pod["metadata"]["name"]: pod for pod in pods}

    def get(self, resource: Resource, name: str, namespace: str) -> Object | None:
        assert namespace == "prod"
        if resource == MACHINE:
            assert name == "web"
            return self._machine
        assert resource == POD
        return self._pods.get(name)


def address(machine: Object | None, *pods: Object) -> str:
    return str(find_pod(cast("ClusterPort", FakeCluster(machine, *pods)), "prod", "web")["status"]["podIP"])


def test_the_pod_is_the_one_that_the_machine_runs_in() -> None:
    assert address(VM, pod("vm-web", "127.64.0.3"), pod("vm-web-2", "127.64.0.4")) == "127.64.0.3"


def test_a_machine_that_has_moved_is_found_where_it_is() -> None:
    moved = VM | {"status": {"phase": "Running", "activePod": "vm-web-2"}}

    assert address(moved, pod("vm-web", "127.64.0.3"), pod("vm-web-2", "127.64.0.4")) == "127.64.0.4"


@pytest.mark.parametrize(
    "pods",
    [
        [],
        [pod("vm-web", "127.64.0.3", uid="u-other")],
        [pod("vm-web", "127.64.0.3", phase="Succeeded")],
        [pod("vm-web", "", phase="Pending")],
        [pod("vm-web", "")],
    ],
)
def test_a_machine_that_is_off_is_a_conflict_that_names_its_phase(pods: list[Object]) -> None:
    with pytest.raises(StatusError, match="its phase is Starting") as caught:
        address(VM, *pods)

    assert (caught.value.code, caught.value.reason) == (409, "Conflict")


def test_an_unknown_machine_is_not_found() -> None:
    with pytest.raises(StatusError, match=r'virtualmachines\.subresources.* "web" not found') as caught:
        address(None)

    assert caught.value.code == 404


def front_proxy(**data: str) -> FrontProxy:
    cluster = MemoryCluster()
    metadata = {"name": "extension-apiserver-authentication", "namespace": "kube-system"}
    cluster.create(CONFIG_MAP, {"metadata": metadata, "data": {key.replace("_", "-"): v for key, v in data.items()}})
    return FrontProxy.read(cluster)


def request(common_name: str, **headers: str) -> web.Request:
    certificate = {"subject": ((("commonName", common_name),),)} if common_name else None
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return cast("web.Request", SimpleNamespace(get_extra_info=lambda _: certificate, headers=given))


def test_the_front_proxy_is_believed_who_calls() -> None:
    proxy = front_proxy(requestheader_client_ca_file="pem", requestheader_allowed_names='["front-proxy-client"]')

    assert proxy.authority == "pem"
    assert proxy.user(request("front-proxy-client", X_Remote_User="alice")) == "alice"


@pytest.mark.parametrize("common_name", ["alice", ""])
def test_nobody_else_is_believed(common_name: str) -> None:
    proxy = front_proxy(requestheader_client_ca_file="pem", requestheader_allowed_names='["front-proxy-client"]')

    with pytest.raises(CredentialsError):
        proxy.user(request(common_name, X_Remote_User="system:admin"))


def test_a_front_proxy_that_names_nobody_is_refused() -> None:
    with pytest.raises(CredentialsError, match="names no user"):
        front_proxy(requestheader_client_ca_file="pem").user(request("any"))


def test_a_cluster_without_a_front_proxy_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--requestheader-client-ca-file"):
        front_proxy()


def test_the_controller_announces_itself_and_follows_its_port() -> None:
    cluster = MemoryCluster()

    register(cluster, "dvcr", "api", "127.0.0.1", 4001, AUTHORITY)
    register(cluster, "dvcr", "api", "127.0.0.1", 4002, AUTHORITY)

    service = cluster.get(SERVICE, "api", "dvcr")
    assert service is not None
    assert service["spec"]["externalName"] == "127.0.0.1"
    announced = cluster.get(API_SERVICE, API_SERVICE_NAME)
    assert announced is not None
    assert announced["spec"]["service"] == {"namespace": "dvcr", "name": "api", "port": 4002}
    assert base64.b64decode(announced["spec"]["caBundle"]) == AUTHORITY
    assert service_name("dvcr", "api") == "api.dvcr.svc"


def test_what_somebody_else_installed_only_gets_the_authority() -> None:
    cluster = MemoryCluster()
    installed = {"metadata": {"name": API_SERVICE_NAME}, "spec": {"service": {"name": "theirs"}}}

    register(cluster, "dvcr", "api", "", 4001, AUTHORITY)
    assert cluster.get(API_SERVICE, API_SERVICE_NAME) is None
    cluster.create(API_SERVICE, installed)
    register(cluster, "dvcr", "api", "", 4001, AUTHORITY)

    announced = cluster.get(API_SERVICE, API_SERVICE_NAME)
    assert announced is not None
    assert announced["spec"] == {"service": {"name": "theirs"}, "caBundle": base64.b64encode(AUTHORITY).decode()}
    assert cluster.get(SERVICE, "api", "dvcr") is None


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_what_is_announced_already_is_not_written_again(host: str) -> None:
    cluster = MemoryCluster()
    cluster.create(API_SERVICE, {"metadata": {"name": API_SERVICE_NAME}, "spec": {}})
    register(cluster, "dvcr", "console", host, 443, AUTHORITY)
    writes = cluster.writes

    register(cluster, "dvcr", "console", host, 443, AUTHORITY)

    assert cluster.writes == writes
