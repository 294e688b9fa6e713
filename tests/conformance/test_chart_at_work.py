"""DVCR as the Helm chart installs it, on a real kube-apiserver: with the chart's settings, logins, Services and rights.

No kubelet: the parts are processes of the tests, started from the objects in the API server, and machines' pods stay
pending. The API server's audit log tells what the controller asked for.
"""

import base64
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import yaml
from pydantic import SecretStr

from controller.api.kinds import KINDS
from controller.api.resource import (
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    DISK,
    IMAGE,
    MACHINE,
    OPERATION,
    POD,
    PVC,
    SECRET,
    Resource,
)
from controller.consoles.registration import API_SERVICE_NAME
from controller.cpumodels.default import DEFAULT_MODEL
from controller.cpumodels.nodes import CAPABILITY_ANNOTATION
from controller.launcher.capability import Capability
from controller.runtime.cluster import Cluster
from dvcr.client.credentials import Credentials
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.errors import RegistryError
from tests.support import go_tool, hostile
from tests.support.certificates import self_signed
from tests.support.file_server import serving
from tests.support.helm import CHART, NAMESPACE, RELEASE, helm
from tests.support.installed import InstalledChart
from tests.support.kubernetes import KubernetesProcess, free_port
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

PORTS = ("registry", "redis", "machineApi", "webhooks", "uploader", "controller", "worker")
TEAM = "team"
CONTROLLER = f"system:serviceaccount:{NAMESPACE}:dvcr-controller"
SUBRESOURCES = f"/apis/subresources.virtualization.deckhouse.io/v1alpha2/namespaces/{TEAM}/virtualmachines"
NOT_ASKED_HERE = {
    # Moves make and remove these, and a move begins with a machine that runs.
    "create virtualmachineoperations", "delete secrets",
    # Asked by the API server itself when an owner is named that waits for what it owns: see the options of the fixture.
    *(f"update {kind.resource.plural}/finalizers" for kind in KINDS),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    server: KubernetesProcess
    cluster: Cluster
    installed: InstalledChart
    registry: requests.Session
    """That trusts the registry's certificate."""
    ports: dict[str, int]

    @property
    def registry_url(self) -> str:
        return f"https://127.0.0.1:{self.ports['registry']}"

    def as_user(self, user: str, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """kubectl by somebody else than the administrator."""
        return self.server.try_kubectl("--as", user, "--as-group", "system:authenticated", *arguments, stdin=stdin)

    def phase(self, resource: Resource, name: str) -> str:
        obj = self.cluster.get(resource, name, TEAM if resource.namespaced else None)
        return str(((obj or {}).get("status") or {}).get("phase"))

    def asked(self) -> list[dict[str, Any]]:
        """What the controller asked of the API server."""
        lines = (self.server.root / "audit.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["user"]["username"] == CONTROLLER]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess]:
    """A control plane with nothing of DVCR, which keeps a log of what it is asked."""
    root = tmp_path_factory.mktemp("kubernetes")
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
    (root / "audit-policy.yaml").write_text(yaml.safe_dump(policy))
    options = (
        f"--audit-policy-file={root}/audit-policy.yaml",
        f"--audit-log-path={root}/audit.log",
        "--enable-aggregator-routing=true",  # to what Services' EndpointSlices name, without a proxy
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
    )
    with KubernetesProcess(root, defines_kinds=False, options=options) as server:
        yield server


@pytest.fixture(scope="module")
def world(audited: KubernetesProcess) -> Iterator[World]:
    """The chart is installed, and its parts run."""
    server, root = audited, audited.root
    ports = {name: free_port() for name in PORTS}
    values = {
        "monitoring": {"port": ports["controller"]},
        "registry": {
            "port": ports["registry"],
            "tls": {"existingSecret": "registry-tls", "hasAuthority": True},
        },
        "uploader": {"port": ports["uploader"]},
        "controller": {"ports": {"machineApi": ports["machineApi"], "webhooks": ports["webhooks"]}},
        "config": {
            "importer": {"source_addresses": "any"},  # the source is on loopback
            "controller": {"machine_cidrs": ["10.77.0.0/24"], "operation_ttl_s": 0},
        },
    }
    server.kubectl("create", "namespace", NAMESPACE)
    authority = _make_certificate(server)
    helm("install", RELEASE, CHART, "-n", NAMESPACE, "--kubeconfig", server.kubeconfig, values=values)
    server.kubectl("create", "-f", "-", stdin=yaml.safe_dump(_endpoints(ports)))
    cluster = Cluster.connect(server.kubeconfig)
    services = {
        f"dvcr-redis.{NAMESPACE}.svc:6379": f"127.0.0.1:{ports['redis']}",
        f"dvcr-registry.{NAMESPACE}.svc": "127.0.0.1",
    }
    (root / "installed").mkdir()
    with InstalledChart(cluster, root / "installed", services) as installed:
        installed.start("Deployment", "dvcr-redis", "--port", str(ports["redis"]), "--bind", "127.0.0.1")
        installed.start("StatefulSet", "dvcr-registry")
        installed.start("Deployment", "dvcr-worker", DVCR__MONITORING__PORT=str(ports["worker"]))
        installed.start("Deployment", "dvcr-uploader")
        kubeconfig = _kubeconfig_of_controller(server)
        installed.start("Deployment", "dvcr-controller", DVCR__CONTROLLER__KUBECONFIG=str(kubeconfig))
        registry = requests.Session()
        registry.trust_env = False  # where authorities may be named that would win
        registry.verify = str(authority)
        found = World(server, cluster, installed, registry, ports)
        eventually(lambda: _is_ready(found), "the registry is ready", 60)
        eventually(lambda: "reconciling" in installed.log("dvcr-controller").read_text(), "the controller leads", 60)
        _make_team(server)
        eventually(lambda: _is_refused(found), "the webhooks are asked", 90)
        yield found


def test_from_an_image_to_a_pod_and_back(world: World) -> None:
    with serving(hostile.disk()) as source:
        _apply(world, "editor", _image(source.url), _disk(), _machine())
        eventually(lambda: world.phase(IMAGE, "debian") == "Ready", "the image is Ready", 60)
    eventually(lambda: world.cluster.get(PVC, "vmd-root", TEAM) is not None, "the disk has a claim", 60)
    world.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(_storage(world)))
    eventually(lambda: world.phase(DISK, "root") == "Ready", "the disk is Ready", 60)
    eventually(lambda: _pod(world) is not None, "the machine has a pod", 60)

    variables = {each["name"]: each["value"] for each in _pod(world)["spec"]["containers"][0]["env"] if "value" in each}
    assert variables["DVCR__CLIENT__CA_PEM"] == Path(str(world.registry.verify)).read_text()
    assert world.installed.password("controller") not in json.dumps(_pod(world))
    shown = base64.b64decode((world.cluster.get(SECRET, "vm-web", TEAM) or {})["data"]["registry.json"])
    claims = jwt.decode(Credentials.read(shown).token, options={"verify_signature": False})
    assert claims["access"] == [{"type": "repository", "name": f"vmi/{TEAM}/debian", "actions": ["pull"]}]
    assert claims["exp"] - claims["iat"] == 3600

    # What an administrator and the machine's user may do meanwhile.
    copied = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "debian", "namespace": TEAM}}
    _apply(world, "admin", _object(CLUSTER_IMAGE, "copy", {"dataSource": copied}))
    eventually(lambda: world.phase(CLUSTER_IMAGE, "copy") == "Ready", "the copy is Ready", 60)
    _apply(world, "editor", _machine(labels={"tier": "web"}, terminationGracePeriodSeconds=7))
    eventually(lambda: _pod(world)["metadata"]["labels"].get("tier") == "web", "the pod has the machine's label", 30)
    _apply(world, "editor", _disk(size="20Gi"), _attachment())
    eventually(lambda: world.phase(ATTACHMENT, "more") == "InProgress", "the attachment waits for its disk", 30)
    assert "phase is Scheduling" in world.as_user("editor", "get", "--raw", f"{SUBRESOURCES}/web/console").stdout
    for block in ({"virtualMachineImage": {"name": "debian"}}, {"clusterVirtualMachineImage": {"name": "copy"}}):
        [name] = block
        wrong = _machine(blockDevices=[{"type": name[0].upper() + name[1:], **block}])
        assert "spec.blockDevices[0]" in _rehearse(world, wrong | {"metadata": {"name": "not-bootable"}})
    # Twice: an event that is told again is counted.
    _operate(world, "Stop")
    eventually(lambda: _pod(world) is None, "the pod is gone", 60)
    _operate(world, "Start")
    eventually(lambda: _pod(world) is not None, "there is a pod again", 60)
    _operate(world, "Stop")
    eventually(lambda: _pod(world) is None, "the pod is gone", 60)
    eventually(lambda: world.cluster.list(OPERATION, TEAM) == [], "the operations are removed", 60)

    for user, what in (
        ("editor", "vmbda/more"), ("editor", "vm/web"), ("editor", "vmd/root"), ("admin", "cvmi/copy"),
        ("editor", "vmi/debian"),
    ):  # fmt: skip
        done = world.as_user(user, "delete", "-n", TEAM, what, "--timeout=60s")
        assert done.returncode == 0, done.stdout
    eventually(lambda: world.cluster.list(ADDRESS_LEASE) == [], "the machine's address is free again", 60)
    with pytest.raises(RegistryError) as caught:
        _client(world, "controller").repository(f"vmi/{TEAM}/debian").manifest("latest")
    assert caught.value.status == 404


def test_users_may_what_their_role_says(world: World) -> None:
    def can(user: str, verb: str, what: str, *more: str) -> bool:
        return world.as_user(user, "auth", "can-i", verb, what, *more).stdout.splitlines()[-1] == "yes"

    group = "virtualization.deckhouse.io"
    at = ("-n", TEAM)
    for kind in ("virtualmachines", "virtualmachinedisks", "virtualmachineimages", "virtualmachineoperations"):
        assert can("viewer", "list", f"{kind}.{group}", *at)
        assert not can("viewer", "create", f"{kind}.{group}", *at)
        assert can("editor", "create", f"{kind}.{group}", *at)
        assert can("editor", "delete", f"{kind}.{group}", *at)
        assert not can("stranger", "list", f"{kind}.{group}", *at)
        assert not can("editor", "list", f"{kind}.{group}", "-n", "default")
    for way in ("console", "vnc", "screenshot", "portforward/22"):
        path = f"{SUBRESOURCES}/none/{way}"
        assert "(Forbidden)" in world.as_user("viewer", "get", "--raw", path).stdout
        assert "(NotFound)" in world.as_user("editor", "get", "--raw", path).stdout
    assert "(NotFound)" in world.as_user("viewer", "get", "--raw", f"{SUBRESOURCES}/none/log").stdout
    assert "(Forbidden)" in world.as_user("stranger", "get", "--raw", f"{SUBRESOURCES}/none/log").stdout
    # What all namespaces use is seen by everyone, and changed by administrators of the cluster.
    assert can("stranger", "list", f"clustervirtualmachineimages.{group}")
    assert not can("editor", "create", f"clustervirtualmachineimages.{group}")
    assert can("admin", "create", f"clustervirtualmachineimages.{group}")
    assert not can("stranger", "list", f"virtualmachineipaddressleases.{group}")
    # What may be copied into an image of the cluster.
    for kind in ("virtualmachineimages", "virtualmachinedisks"):
        asked = (f"{kind}.{group}", "--subresource=source", *at)
        assert [can(user, "create", *asked) for user in ("viewer", "editor", "admin")] == [False, True, True]


def test_alerts_and_dashboard_speak_of_metrics_that_there_are(world: World) -> None:
    shown = {name: _metrics(f"http://127.0.0.1:{world.ports[name]}") for name in ("uploader", "controller", "worker")}
    shown["registry"] = world.registry.get(f"{world.registry_url}/metrics", timeout=10).text
    kinds = re.findall(r"^# TYPE (dvcr_\w+) (\w+)$", "".join(shown.values()), re.MULTILINE)
    endings = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    there = {name + ending for name, kind in kinds for ending in endings[kind]}
    texts = [(CHART / "files" / name).read_text() for name in ("alerts.yaml", "dashboard.json")]
    spoken_of = [set(re.findall(r"\bdvcr_\w+", text)) for text in (*texts, (CHART / "values.yaml").read_text())]

    assert spoken_of[0] | spoken_of[1] | spoken_of[2] <= there
    assert [len(names) > 5 for names in spoken_of[:2]] == [True, True]
    assert "\ndvcr_controller_leader 1.0\n" in shown["controller"]
    ready = 'dvcr_controller_phase_changes_total{kind="VirtualMachineImage",phase="Ready"} 1.0'
    assert ready in shown["controller"]
    done = r'dvcr_controller_reconcile_seconds_count{kind="VirtualMachine",result="done"} [1-9]'
    assert re.search(done, shown["controller"])


def test_without_a_login_nobody_reaches_an_image(world: World) -> None:
    for method, path in (("GET", "/v2/"), ("POST", "/v2/cvmi/debian/blobs/uploads/"), ("GET", "/v2/_catalog")):
        assert world.registry.request(method, world.registry_url + path, timeout=10).status_code == 401
    for name in ("controller", "worker", "uploader"):
        login = (name, world.installed.password(name))
        assert world.registry.get(f"{world.registry_url}/v2/", auth=login, timeout=10).status_code == 200
        assert world.registry.get(f"{world.registry_url}/v2/", auth=(name, "wrong"), timeout=10).status_code == 401


@pytest.mark.parametrize("program", [go_tool.HELM, go_tool.HELM_3], ids=["helm 4", "helm 3"])
def test_an_upgrade_leaves_what_the_controller_filled_in(world: World, program: str) -> None:
    def authorities() -> list[str]:
        webhooks = json.loads(world.server.kubectl("get", "validatingwebhookconfiguration", "dvcr", "-o", "json"))
        api = json.loads(world.server.kubectl("get", "apiservice", API_SERVICE_NAME, "-o", "json"))
        found = [each["clientConfig"].get("caBundle", "") for each in webhooks["webhooks"]]
        return [*found, api["spec"].get("caBundle", "")]

    before = authorities()
    where = ("-n", NAMESPACE, "--kubeconfig", world.server.kubeconfig)
    helm(
        "upgrade",
        RELEASE,
        CHART,
        *where,
        "--reuse-values",
        "--set",
        "podDisruptionBudgets.enabled=false",
        program=program,
    )

    assert before == [before[0]] * 3 != [""] * 3
    assert authorities() == before
    assert _is_refused(world)


def test_the_controller_has_the_rights_that_it_uses_and_no_others(world: World) -> None:
    """Last: of all that the tests before have made it do."""
    events = [event for event in world.asked() if event["stage"] == "ResponseComplete" or event["verb"] == "watch"]

    refused = [event["requestURI"] for event in events if event.get("responseStatus", {}).get("code") in (401, 403)]
    assert refused == []
    references = [(event["verb"], event["objectRef"]) for event in events if "objectRef" in event]
    used = {f"{verb} {'/'.join(filter(None, (r['resource'], r.get('subresource'))))}" for verb, r in references}
    assert sorted(_granted(world) - used) == sorted(NOT_ASKED_HERE)
    assert used >= {"create pods", "delete pods", "create secrets", "get secrets", "update leases"}


def test_nothing_is_written_where_the_container_is_read_only(world: World) -> None:
    for name in world.installed.processes:
        assert list(world.installed.work_folder(name).iterdir()) == []


def _granted(world: World) -> set[str]:
    """`VERB RESOURCE` for each that a rule of the chart gives, but for those of others' roles."""
    roles = yaml.safe_load(world.server.kubectl("get", "clusterrole,role", "-A", "-l",
        "app.kubernetes.io/component=controller", "-o", "yaml"))["items"]  # fmt: skip
    rules = [rule for role in roles for rule in role["rules"]]
    assert not [rule for rule in rules if "*" in json.dumps(rule)]
    return {f"{verb} {resource}" for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def _metrics(url: str) -> str:
    assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
    return requests.get(f"{url}/metrics", timeout=10).text


def _apply(world: World, user: str, *objects: dict[str, Any]) -> None:
    done = world.as_user(user, "apply", "-n", TEAM, "-f", "-", stdin=yaml.safe_dump_all(objects))
    assert done.returncode == 0, done.stdout


def _is_refused(world: World) -> bool:
    wrong = _disk() | {"metadata": {"name": "wrong"}, "spec": {"persistentVolumeClaim": {"size": "-1Gi"}}}
    return "spec.persistentVolumeClaim.size" in _rehearse(world, wrong)


def _rehearse(world: World, obj: dict[str, Any]) -> str:
    """What the API server says of the object, which is not made."""
    options = ("create", "--dry-run=server", "-n", TEAM, "-f", "-")
    return world.as_user("editor", *options, stdin=yaml.safe_dump(obj)).stdout


def _make_certificate(server: KubernetesProcess) -> Path:
    """The Secret with the registry's certificate, which is its own authority; the file with it."""
    (server.root / "registry").mkdir()
    certificate, key = self_signed(server.root / "registry", "127.0.0.1")
    server.kubectl("create", "secret", "generic", "registry-tls", "-n", NAMESPACE, f"--from-file=tls.crt={certificate}",
        f"--from-file=tls.key={key}", f"--from-file=ca.crt={certificate}")  # fmt: skip
    return certificate


def _is_ready(world: World) -> bool:
    try:
        return world.registry.get(f"{world.registry_url}/readyz", timeout=5).ok
    except requests.RequestException:
        return False


def _client(world: World, name: str) -> RegistryClient:
    password = SecretStr(world.installed.password(name))
    settings = ClientSettings(url=world.registry_url, username=name, password=password)
    return RegistryClient.from_settings(settings.model_copy(update={"ca_file": Path(str(world.registry.verify))}))


def _make_team(server: KubernetesProcess) -> None:
    server.kubectl("create", "-f", "-", stdin=yaml.safe_dump(_node()))
    server.kubectl("create", "namespace", TEAM)
    server.kubectl("label", "namespace", TEAM, "pod-security.kubernetes.io/enforce=baseline")
    for user, role in (("viewer", "view"), ("editor", "edit")):
        server.kubectl("create", "rolebinding", user, "-n", TEAM, f"--clusterrole={role}", f"--user={user}")
    server.kubectl("create", "clusterrolebinding", "admin-of-all", "--clusterrole=admin", "--user=admin")
    server.kubectl("create", "secret", "generic", "cloud-init", "-n", TEAM, "--from-literal=userData=#cloud-config")
    server.kubectl("create", "secret", "generic", "source-login", "-n", TEAM, "--from-literal=username=u",
        "--from-literal=password=p")  # fmt: skip


def _kubeconfig_of_controller(server: KubernetesProcess) -> Path:
    token = server.kubectl("create", "token", "dvcr-controller", "-n", NAMESPACE).strip()
    config = yaml.safe_load(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = server.root / "controller.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def _endpoints(ports: dict[str, int]) -> dict[str, Any]:
    """The controller's process, for its Service: at this machine's address, since loopback is not allowed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "dvcr-controller-of-tests",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": "dvcr-controller"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [
            {"name": "machine-api", "port": ports["machineApi"]},
            {"name": "webhooks", "port": ports["webhooks"]},
        ],
    }


def _image(url: str) -> dict[str, Any]:
    http = {"url": url, "secretRef": {"name": "source-login"}}
    return _object(IMAGE, "debian", {"dataSource": {"type": "HTTP", "http": http}})


def _disk(**claim: str) -> dict[str, Any]:
    source = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "debian"}}
    spec = {"persistentVolumeClaim": {"storageClassName": "manual", **claim}, "dataSource": source}
    return _object(DISK, "root", spec)


def _attachment() -> dict[str, Any]:
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "none"}}
    return _object(ATTACHMENT, "more", {"virtualMachineName": "web", "blockDevice": device})


def _pod(world: World) -> Any:
    return world.cluster.get(POD, "vm-web", TEAM)


def _node() -> dict[str, Any]:
    """A node that no pod fits, and that tells of its processor as a node's agent would."""
    told = Capability.of("tcg", ["sse"], {DEFAULT_MODEL: ["sse"]}).model_dump_json()
    metadata = {"name": "far-away", "annotations": {CAPABILITY_ANNOTATION: told}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def _operate(world: World, kind: str) -> None:
    operation = _object(OPERATION, "", {"type": kind, "virtualMachineName": "web"})
    operation["metadata"] = {"generateName": "web-"}
    done = world.as_user("editor", "create", "-n", TEAM, "-f", "-", stdin=yaml.safe_dump(operation))
    assert done.returncode == 0, done.stdout


def _machine(labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    machine = _object(
        MACHINE,
        "web",
        {
            "cpu": {"cores": 1},
            "memory": {"size": "256Mi"},
            "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}],
            "provisioning": {"type": "UserDataSecret", "userDataSecretRef": {"name": "cloud-init"}},
            **spec,
        },
    )
    machine["metadata"]["labels"] = labels or {}
    return machine


def _storage(world: World) -> list[dict[str, Any]]:
    """What the disk's claim is bound to."""
    claim = world.cluster.get(PVC, "vmd-root", TEAM)
    assert claim is not None
    volume = {
        "storageClassName": "manual",
        "capacity": {"storage": "10Gi"},
        "accessModes": claim["spec"]["accessModes"],
        "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
        "hostPath": {"path": "/nowhere"},
    }
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "manual"},
            "provisioner": "example.com/nobody",
            "allowVolumeExpansion": True,
        },
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "root"}, "spec": volume},
    ]


def _object(resource: Resource, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
