"""The Helm chart on a real kube-apiserver, by Helm itself. No kubelet: nothing of it runs."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from tests.support import foreign_kinds, go_tool
from tests.support.helm import CHART, MATRIX, NAMESPACE, RELEASE, helm, render, workloads
from tests.support.kubernetes import KubernetesProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

DISK = {
    "apiVersion": "virtualization.deckhouse.io/v1alpha2",
    "kind": "VirtualMachineDisk",
    "metadata": {"name": "data", "namespace": "default"},
    "spec": {"persistentVolumeClaim": {"size": "1Gi"}},
}
STORAGE = [
    {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "growing"},
        "provisioner": "example.com/nobody",
        "allowVolumeExpansion": True,
    },
    {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "images"},
        "spec": {
            "storageClassName": "growing",
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/nowhere"},
        },
    },
]
"""What the registry's claim is bound to: one that is not cannot grow."""
NO_WEBHOOKS = {"controller": {"webhooks": {"enabled": False}}}
"""There is no controller to ask."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess]:
    """A control plane without DVCR's kinds, with others', and with a namespace that takes restricted pods only."""
    process = KubernetesProcess(tmp_path_factory.mktemp("kubernetes"), defines_kinds=False)
    with process:
        process.define(foreign_kinds.definitions())
        process.kubectl("create", "namespace", NAMESPACE)
        process.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield process


@pytest.fixture(scope="module", params=MATRIX, ids=lambda path: path.name.removesuffix("-values.yaml"))
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The chart's objects with values of the matrix."""
    return render(None, request.param)


def test_the_api_server_takes_every_object(server: KubernetesProcess, rendered: list[dict[str, Any]]) -> None:
    told = server.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-",
        stdin=yaml.safe_dump_all(rendered),
    )  # fmt: skip

    assert len(told.splitlines()) == len(rendered)
    assert told.count("serverside-applied (server dry run)") == len(rendered), told


def test_restricted_namespaces_take_every_pod(server: KubernetesProcess, rendered: list[dict[str, Any]]) -> None:
    found = workloads(rendered)
    for workload in found:
        template = workload["spec"]["template"]
        answer = _rehearse_pod(server, {key: v for key, v in template["spec"].items() if key != "serviceAccountName"})
        assert answer["kind"] == "Pod", answer.get("message")
    assert {each["metadata"]["name"].rpartition("-")[2] for each in found} >= {"registry", "worker", "controller"}


def test_restricted_namespaces_refuse_others(server: KubernetesProcess) -> None:
    answer = _rehearse_pod(server, {"containers": [{"name": "main", "image": "x"}]})

    assert 'violates PodSecurity "restricted:latest"' in answer["message"]


def test_upgrades_and_removal_keep_what_users_have(server: KubernetesProcess) -> None:
    server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(STORAGE))
    _release(server, "install", registry={"persistence": {"storageClass": "growing"}})
    server.kubectl("wait", "-n", NAMESPACE, "--for=jsonpath={.status.phase}=Bound", "pvc/dvcr-registry")
    server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(DISK))
    before = _kept(server)
    redis = _data(server, "secret", "dvcr-redis")

    _release(server, "upgrade", registry={"persistence": {"storageClass": "growing"}})
    assert _kept(server) == before
    assert _data(server, "secret", "dvcr-redis") == redis

    larger = {"persistence": {"storageClass": "growing", "size": "200Gi"}}
    _release(server, "upgrade", registry=larger, access={"users": {"alice": "$2y$05$x"}})
    grown = _kept(server)
    assert grown["claim"]["requests"] == {"storage": "200Gi"}
    assert grown["claim"]["uid"] == before["claim"]["uid"]
    assert grown["access"].pop("htpasswd") != before["access"].pop("htpasswd")
    assert (grown["access"], grown["disk"], grown["kinds"]) == (before["access"], before["disk"], before["kinds"])

    helm("uninstall", RELEASE, *_where(server))
    left = _kept(server)
    left["access"].pop("htpasswd")
    assert left == grown
    assert server.try_kubectl("get", "secret", "dvcr-redis", "-n", NAMESPACE).returncode == 1

    _release(server, "install", registry=larger)
    again = _kept(server)
    again["access"].pop("htpasswd")
    assert (again["access"], again["disk"], again["kinds"]) == (grown["access"], grown["disk"], grown["kinds"])
    assert again["claim"]["uid"] == before["claim"]["uid"]
    helm("uninstall", RELEASE, *_where(server))


def test_an_upgrade_makes_a_password_that_was_taken_away(server: KubernetesProcess) -> None:
    registry = {"persistence": {"existingClaim": "another"}}
    _release(server, "install", registry=registry)
    before = _data(server, "secret", "dvcr-access")
    gone = '{"data": {"worker": null, "worker.htpasswd": null}}'
    server.kubectl("patch", "secret", "dvcr-access", "-n", NAMESPACE, "--patch", gone)
    _release(server, "upgrade", registry=registry)
    after = _data(server, "secret", "dvcr-access")
    helm("uninstall", RELEASE, *_where(server))

    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"worker", "worker.htpasswd", "htpasswd"}
    user, _, found = base64.b64decode(after["worker.htpasswd"]).decode().partition(":")
    assert user == "worker"
    assert bcrypt.checkpw(base64.b64decode(after["worker"]), found.encode())


def test_an_upgrade_brings_new_fields_of_kinds(server: KubernetesProcess, tmp_path: Path) -> None:
    old = tmp_path / "dvcr"
    shutil.copytree(CHART, old)
    crd = old / "files/crds/virtualmachinedisks.yaml"
    definition = yaml.safe_load(crd.read_text())
    del definition["spec"]["versions"][0]["additionalPrinterColumns"]
    crd.write_text(yaml.safe_dump(definition))

    registry = {"persistence": {"existingClaim": "another"}}
    helm("install", RELEASE, old, *_where(server), values=NO_WEBHOOKS | {"registry": registry})
    columns = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"
    name = definition["metadata"]["name"]
    without = server.kubectl("get", "crd", name, "-o", columns)
    _release(server, "upgrade", registry=registry)
    with_them = server.kubectl("get", "crd", name, "-o", columns)
    helm("uninstall", RELEASE, *_where(server))

    assert "Phase" not in without
    assert "Phase" in with_them


def test_an_upgrade_replaces_a_registry_that_never_became_ready(server: KubernetesProcess) -> None:
    def image() -> str:
        path = "jsonpath={.spec.containers[0].image}"
        return server.try_kubectl("get", "pod", "dvcr-registry-0", "-n", NAMESPACE, "-o", path).stdout

    registry = {"persistence": {"existingClaim": "another"}}
    _release(server, "install", registry=registry, image={"tag": "misspelt"})
    eventually(lambda: image() == "dvcr:misspelt", "the pod is there, and is never started", 60)
    _release(server, "upgrade", registry=registry, image={"tag": "right"})
    eventually(lambda: image() == "dvcr:right", "the pod is another one", 60)
    helm("uninstall", RELEASE, *_where(server))


def test_a_release_may_be_upgraded_by_another_helm(server: KubernetesProcess) -> None:
    values = NO_WEBHOOKS | {"registry": {"persistence": {"existingClaim": "another"}}}
    helm("install", RELEASE, CHART, *_where(server), values=values, program=go_tool.HELM_3)
    password = _data(server, "secret", "dvcr-redis")
    helm("upgrade", RELEASE, CHART, *_where(server), values=values)
    assert _data(server, "secret", "dvcr-redis") == password
    helm("uninstall", RELEASE, *_where(server))


def _rehearse_pod(server: KubernetesProcess, spec: dict[str, Any]) -> dict[str, Any]:
    url = f"{server.url}/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldValidation=Strict"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rehearsed"}, "spec": spec}
    answer: dict[str, Any] = server.session().post(url, json=pod, timeout=30).json()
    return answer


def _where(server: KubernetesProcess) -> tuple[str, ...]:
    return ("--namespace", NAMESPACE, "--kubeconfig", str(server.kubeconfig))


def _release(server: KubernetesProcess, verb: str, **values: Any) -> None:
    helm(verb, RELEASE, CHART, *_where(server), values=NO_WEBHOOKS | values)


def _kept(server: KubernetesProcess) -> dict[str, Any]:
    """What must outlive the release."""
    claim = _get(server, "pvc", "dvcr-registry", NAMESPACE)
    disk = _get(server, "vmd", "data", "default")
    return {
        "claim": {"uid": claim["metadata"]["uid"], "requests": claim["spec"]["resources"]["requests"]},
        "access": _data(server, "secret", "dvcr-access"),
        "disk": {"uid": disk["metadata"]["uid"], "spec": disk["spec"]},
        "kinds": server.kubectl("get", "crd", "-o", 'jsonpath={range .items[*]}{.metadata.name}{.metadata.uid}{"\\n"}'),
    }


def _data(server: KubernetesProcess, kind: str, name: str) -> dict[str, str]:
    data: dict[str, str] = _get(server, kind, name, NAMESPACE)["data"]
    return data


def _get(server: KubernetesProcess, kind: str, name: str, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(server.kubectl("get", kind, name, "-n", namespace, "-o", "yaml"))
    return found
