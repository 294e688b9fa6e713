"""Images of the cluster that are made of what a namespace holds, by users who may and who may not, on both API servers.

Users are ServiceAccounts with tokens, who may make images of the cluster; on the real server the webhooks ask for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from controller.api.resource import CLUSTER_IMAGE, GROUP, VALIDATING_WEBHOOKS
from controller.machines.authority import MachineAuthority
from controller.runtime.cluster import Cluster
from controller.service import Service
from controller.webhooks.registration import NAME
from controller.webhooks.site import WebhookSite
from dvcr.config import ControllerSettings, WebhookSettings
from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import KubernetesProcess
from tests.support.waiting import eventually

IMAGES = CLUSTER_IMAGE.path()
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES = {
    "stranger": [],
    "reader": [{"apiGroups": [GROUP], "resources": ["virtualmachineimages", "virtualmachinedisks"], "verbs": ["get"]}],
    "owner": [
        {
            "apiGroups": [GROUP],
            "resources": ["virtualmachineimages/source", "virtualmachinedisks/source"],
            "verbs": ["create"],
        },
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["login"], "verbs": ["get"]},
    ],
}


@dataclass
class World:
    server: ClusterProcess
    sessions: dict[str, requests.Session]

    def make(self, user: str, name: str, source: dict[str, Any]) -> requests.Response:
        image = {"apiVersion": CLUSTER_IMAGE.api_version, "kind": CLUSTER_IMAGE.kind, "metadata": {"name": name}}
        image |= {"spec": {"dataSource": source}}
        return self.sessions[user].post(self.server.url + IMAGES, json=image, timeout=30)


@pytest.fixture(scope="module", params=["embedded", pytest.param("kubernetes", marks=pytest.mark.kubernetes)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp(request.param)
    server = ClusterProcess(root) if request.param == "embedded" else KubernetesProcess(root)
    with server:
        world = World(server, {user: _session(server, user) for user in ROLES})
        if request.param == "embedded":
            yield world
            return
        cluster = Cluster.connect(server.kubeconfig)
        settings = ControllerSettings(webhooks=WebhookSettings(enabled=True, external_name="127.0.0.1"))
        with Service(WebhookSite(cluster, MachineAuthority(cluster, "default"), settings)):
            eventually(lambda: cluster.get(VALIDATING_WEBHOOKS, NAME) is not None, "the webhooks are registered", 60)
            # The API server learns of them with delay.
            eventually(lambda: _is_refused(world), "the webhooks are asked", 60)
            yield world


def _session(server: ClusterProcess, user: str) -> requests.Session:
    """Of a new account that may make images of the cluster, and what its role says in the namespace default."""
    admin = server.session()

    def post(path: str, obj: dict[str, Any]) -> Any:
        made = admin.post(server.url + path, json=obj, timeout=30)
        assert made.status_code == 201, made.text
        return made.json()

    post("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": user}})
    subject = {"kind": "ServiceAccount", "name": user, "namespace": "default"}
    group = "rbac.authorization.k8s.io"
    makes = [{"apiGroups": [GROUP], "resources": [CLUSTER_IMAGE.plural], "verbs": ["create", "patch", "get"]}]
    for kind, place, rules in (("ClusterRole", RBAC, makes), ("Role", f"{RBAC}/namespaces/default", ROLES[user])):
        post(f"{place}/{kind.lower()}s", {"metadata": {"name": user}, "rules": rules})
        bound = {"roleRef": {"apiGroup": group, "kind": kind, "name": user}, "subjects": [subject]}
        post(f"{place}/{kind.lower()}bindings", {"metadata": {"name": user}, **bound})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = post(f"/api/v1/namespaces/default/serviceaccounts/{user}/token", asked)["status"]["token"]
    session = server.session()
    session.headers["Authorization"] = f"Bearer {token}"
    return session


def _is_refused(world: World) -> bool:
    source = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root", "namespace": "default"}}
    answer = world.make("stranger", "probe", source)
    world.server.session().delete(f"{world.server.url}{IMAGES}/probe", timeout=30)
    return answer.status_code == 403


def named(block: str, name: str = "root", namespace: str = "default") -> dict[str, Any]:
    return {"type": block[0].upper() + block[1:], block: {"name": name, "namespace": namespace}}


def with_secret(name: str) -> dict[str, Any]:
    secret = {"name": name, "namespace": "default"}
    return {"type": "HTTP", "http": {"url": "https://example.com/a.img", "secretRef": secret}}


def with_pull_secret(name: str) -> dict[str, Any]:
    secret = {"name": name, "namespace": "default"}
    return {"type": "ContainerImage", "containerImage": {"image": "example.com/a", "imagePullSecret": secret}}


@pytest.mark.parametrize("user", ["stranger", "reader"])
@pytest.mark.parametrize("block", ["virtualMachineImage", "virtualMachineDisk"])
def test_who_may_not_copy_out_of_a_namespace_is_refused(user: str, block: str, world: World) -> None:
    answer = world.make(user, "copy", named(block))

    assert (answer.status_code, answer.json()["reason"]) == (403, "Forbidden")
    assert (
        f'spec.dataSource.{block}: User "system:serviceaccount:default:{user}" cannot create resource '
        f'"{block.lower()}s/source" in API group "{GROUP}" in the namespace "default"'
    ) in answer.json()["message"]


@pytest.mark.parametrize("source", [with_secret("login"), with_pull_secret("login")], ids=["http", "container"])
def test_who_may_not_read_a_secret_cannot_have_it_used(source: dict[str, Any], world: World) -> None:
    answer = world.make("reader", "fetched", source)

    assert (answer.status_code, answer.json()["reason"]) == (403, "Forbidden")
    assert 'cannot get resource "secrets" in API group "" in the namespace "default"' in answer.json()["message"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("of-image", named("virtualMachineImage")),
        ("of-disk", named("virtualMachineDisk")),
        ("of-url", with_secret("login")),
        ("of-container", with_pull_secret("login")),
    ],
)
def test_who_may_is_let_through(name: str, source: dict[str, Any], world: World) -> None:
    assert world.make("owner", name, source).status_code == 201

    # Others may change what takes nothing.
    patch = {"metadata": {"labels": {"seen": "yes"}}}
    kind = {"Content-Type": "application/merge-patch+json"}
    url = f"{world.server.url}{IMAGES}/{name}"
    assert world.sessions["stranger"].patch(url, json=patch, headers=kind, timeout=30).status_code == 200


def test_a_right_is_one_of_a_namespace_and_of_a_name(world: World) -> None:
    assert world.make("owner", "elsewhere", named("virtualMachineDisk", namespace="kube-system")).status_code == 403
    assert world.make("owner", "other", with_secret("other")).status_code == 403


def test_what_takes_nothing_from_a_namespace_needs_no_more(world: World) -> None:
    source = {"type": "HTTP", "http": {"url": "https://example.com/a.img"}}

    assert world.make("stranger", "plain", source).status_code == 201
