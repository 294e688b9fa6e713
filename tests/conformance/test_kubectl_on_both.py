"""kubectl of kube-apiserver's version, on that and on the embedded API server: what a user sees is compared."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import VOLUMES_BY_NODES, KubernetesProcess, program

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

ALL = "-l", "app=x"
# A server's own, or told in another order; kube-apiserver and its controllers add what nothing here needs.
_OWN = re.compile(
    r"^\s*(uid|UID|resourceVersion|Resource Version|creationTimestamp|Creation Timestamp|Age|selfLink|Priority"
    r"|Service Account|Finalizers|Session Affinity|Desired|Total):.*\n",
    re.MULTILINE,
)
# What client-go logs of itself, as of a watch that a busy machine begins late.
_LOG = re.compile(r"^[IWEF]\d{4} [\d:.]+ .*\n", re.MULTILINE)
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_AGE = re.compile(r"(?<=\s)(\d+[smhd]){1,2}(?=\s|$)")
_SPACES = re.compile(r"[ \t]+")


@dataclass
class Kubectl:
    process: ClusterProcess

    def __call__(self, *arguments: str, stdin: str | None = None) -> tuple[int, str]:
        """Exit status and output, without what is each server's own."""
        done = self.process.try_kubectl(*arguments, stdin=stdin, program=str(program("kubectl")))
        return done.returncode, normal(done.stdout)


def normal(text: str) -> str:
    for pattern, word in ((_OWN, ""), (_LOG, ""), (_TIME, "TIME"), (_AGE, "AGE"), (_SPACES, " ")):
        text = pattern.sub(word, text)
    return "\n".join(line.strip() for line in text.splitlines())


def metadata(name: str) -> dict[str, object]:
    return {"name": name, "labels": {"app": "x"}}


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": metadata("pod"),
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "main",
                "image": "img:1",
                "command": ["true"],
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
            }
        ],
    },
}
DISK: dict[str, Any] = {
    "apiVersion": "virtualization.deckhouse.io/v1alpha2",
    "kind": "VirtualMachineDisk",
    "metadata": metadata("disk"),
    "spec": {"persistentVolumeClaim": {"size": "1Gi"}},
}
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": metadata("conf"),
    "data": {"a": "1", "b": "2"},
    "binaryData": {"c": "aGk="},
}
RBAC = "rbac.authorization.k8s.io"
MANIFESTS = [
    CONFIG_MAP,
    POD,
    DISK,
    {"apiVersion": "v1", "kind": "Secret", "metadata": metadata("secret"), "data": {"a": "MQ=="}},
    {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata("claim"),
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    },
    {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata("volume"),
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "none", "volumeMode": "Filesystem",
            "claimRef": {"namespace": "other", "name": "claim"}, "hostPath": {"path": "/x", "type": ""},
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata("service"),
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    },
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("reader")},
    {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": metadata("reader"),
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
    },
    {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata("reader"),
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "reader"},
        "subjects": [
            {"kind": "ServiceAccount", "name": "reader", "namespace": "default"},
            {"kind": "User", "name": "ann", "apiGroup": RBAC},
        ],
    },
    {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata("lease"),
        "spec": {"holderIdentity": "me"},
    },
    {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {**metadata("fast"), "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/p",
    },
]  # fmt: skip
KINDS = ["cm", "pod", "vmd", "secret", "pvc", "pv", "svc", "sa", "role", "rolebinding", "lease", "sc"]
MANIFEST = yaml.safe_dump_all(MANIFESTS)
ACCOUNT = "system:serviceaccount:default:reader"

Scenario = Callable[[Kubectl], Iterator[tuple[int, str]]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kubectl, Kubectl]]:
    """The embedded server and the real one, with the same objects."""
    folders = [tmp_path_factory.mktemp("cluster") for _ in range(2)]
    options = ("--disable-admission-plugins=DefaultTolerationSeconds,Priority",)
    with (
        ClusterProcess(folders[0]) as embedded,
        KubernetesProcess(folders[1], controllers=VOLUMES_BY_NODES, options=options) as real,
    ):
        yield Kubectl(embedded), Kubectl(real)


def applying(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    yield kubectl("apply", "-f", "-", "--dry-run=server", stdin=MANIFEST)
    yield kubectl("diff", "-f", "-", stdin=json.dumps(CONFIG_MAP))[0], ""
    yield kubectl("apply", "-f", "-", stdin=MANIFEST)
    yield kubectl("apply", "-f", "-", stdin=MANIFEST)
    yield kubectl("apply", "-f", "-", stdin=json.dumps({**CONFIG_MAP, "data": {"a": "2"}}))
    yield kubectl("get", "cm", "conf", "-o", "jsonpath={.data}")
    yield kubectl("apply", "-f", "-", stdin=json.dumps(CONFIG_MAP))
    # Refused, each in its own words: a field that is unknown, and a disk that would shrink.
    yield kubectl("apply", "-f", "-", stdin=json.dumps({**DISK, "spec": {**DISK["spec"], "typo": 1}}))[0], ""
    yield (
        kubectl("apply", "-f", "-", stdin=json.dumps({**DISK, "spec": {"persistentVolumeClaim": {"size": "1Mi"}}}))[0],
        "",
    )
    yield kubectl("create", "-f", "-", stdin=json.dumps(DISK))
    yield kubectl("replace", "-f", "-", stdin=json.dumps({**DISK, "metadata": metadata("none")}))


def applying_on_the_server(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    def of(manager: str, *options: str, **data: str) -> tuple[int, str]:
        obj = {**CONFIG_MAP, "metadata": metadata("owned"), "data": data}
        return kubectl("apply", "--server-side", "--field-manager", manager, *options, "-f", "-", stdin=json.dumps(obj))

    yield of("one", a="1", b="1")
    yield of("one", a="1", b="1")
    yield of("two", a="2")
    yield of("two", "--force-conflicts", a="2")
    yield of("one", b="2")
    yield of("one", "--dry-run=server", b="3")
    # Both list managers by the second of their last change.
    for manager in ("one", "two"):
        yield kubectl("get", "cm", "owned", "-o", f'jsonpath={{.metadata.managedFields[?(@.manager=="{manager}")]}}')
    yield kubectl("delete", "cm", "owned")
    # What was applied by the client before goes over to the server: what is left out then goes.
    late = {**CONFIG_MAP, "metadata": metadata("late"), "data": {"a": "1", "b": "1"}}
    yield kubectl("apply", "-f", "-", stdin=json.dumps(late))
    yield kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(late))
    yield kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps({**late, "data": {"a": "2"}}))
    yield kubectl("get", "cm", "late", "-o", "jsonpath={.data}")
    yield kubectl("delete", "cm", "late")


def showing(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    for kind in KINDS:
        yield kubectl("get", kind, *ALL)
        yield kubectl("get", kind, *ALL, "-o", "wide")
    for kind in set(KINDS) - {"pod", "pvc", "pv", "svc"}:  # these have more fields there
        yield kubectl("get", kind, *ALL, "-o", "yaml")
    yield kubectl("get", "cm,secret,vmd", *ALL)
    yield kubectl("get", "vmd", "-A", "--show-labels", *ALL)
    yield kubectl("get", "vmd", *ALL, "--no-headers", "-o", "custom-columns=A:.metadata.name,B:.spec")
    yield kubectl("get", "vmd", *ALL, "--sort-by", ".metadata.name", "-o", "name")
    yield kubectl("get", "vmd", "none")
    yield kubectl("get", "nonsense")
    yield kubectl("get", "pods", "--field-selector", "spec.nodeName=x")
    yield kubectl("get", "pods", "--field-selector", "nope=x")
    yield kubectl("get", "--raw", "/nope")


def describing(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    for name in ("cm/conf", "secret/secret", "vmd/disk", "pod/pod", "svc/service", "sa/reader", "role/reader",
                 "rolebinding/reader", "lease/lease", "sc/fast"):  # fmt: skip
        yield kubectl("describe", name, "--show-events=false")
    yield kubectl("describe", "vmd", "none")


def explaining(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    for path in ("vmd", "vmd.spec", "vm.spec.cpu", "vm.spec.blockDevices", "vm.status", "vm.nope"):
        yield kubectl("explain", path)
    yield kubectl("explain", "vmop.spec", "--recursive")
    yield kubectl("api-resources", "--api-group", "virtualization.deckhouse.io")
    yield kubectl("api-resources", "--categories", "virtualization", "-o", "name")


def asking_what_one_may(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    yield kubectl("auth", "can-i", "create", "pods")
    for verb, what in (("list", "configmaps"), ("list", "secrets"), ("get", "configmaps/conf"), ("delete", "vmd")):
        yield kubectl("auth", "can-i", verb, what, "--as", ACCOUNT)
    yield kubectl("auth", "whoami", "--as", ACCOUNT)
    yield kubectl("auth", "whoami", "--as", "ann", "--as-group", "readers")
    code, listed = kubectl("auth", "can-i", "--list", "--as", ACCOUNT)
    # Paths beside resources are open to everybody here, and listed one by one there.
    yield code, "\n".join(line for line in listed.splitlines() if not line.startswith("[/") and "[*]" not in line)
    yield kubectl("get", "cm", "conf", "-o", "name", "--as", "ann")
    yield kubectl("get", "secrets", "--as", ACCOUNT)
    yield kubectl("delete", "cm", "conf", "--as", ACCOUNT)


def changing(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    for words in (["k=v"], ["k=w"], ["k=w", "--overwrite"], ["k-"]):
        yield kubectl("label", "cm", "conf", *words)
        yield kubectl("annotate", "cm", "conf", *words)
    yield kubectl("label", "cm", "none", "k=v")
    yield kubectl("patch", "cm", "conf", "-p", '{"data": {"z": "1"}}')
    yield kubectl("patch", "cm", "conf", "--type=merge", "-p", '{"data": {"z": null}}')
    yield kubectl("patch", "cm", "conf", "--type=json", "-p", '[{"op": "add", "path": "/data/y", "value": "1"}]')
    yield kubectl("patch", "cm", "conf", "--type=json", "-p", '[{"op": "remove", "path": "/data/none"}]')[0], ""
    yield kubectl("patch", "vmd", "disk", "-p", '{"spec": {}}')[0], ""
    yield kubectl("patch", "vmd", "disk", "--type=merge", "-p", '{"spec": {"nope": 1}}')
    yield kubectl("patch", "pod", "pod", "-p", '{"spec": {"containers": [{"name": "main", "image": "img:2"}]}}')
    yield kubectl("get", "pod", "pod", "-o", "jsonpath={.spec.containers[*].image} {.spec.containers[*].env}")
    yield kubectl("get", "cm", "conf", "-o", "yaml")


def waiting(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    yield kubectl("wait", "vmd/disk", "--for=condition=Ready", "--timeout=1s")
    conditions = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Ready",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    status = json.dumps({"status": {"phase": "Ready", "conditions": conditions}})
    yield kubectl("patch", "vmd", "disk", "--subresource=status", "--type=merge", "-p", status)
    yield kubectl("wait", "vmd/disk", "--for=condition=Ready", "--timeout=20s")
    yield kubectl("wait", "vmd/disk", "--for=jsonpath={.status.phase}=Ready", "--timeout=20s")
    yield kubectl("wait", "cm/conf", "--for=create", "--timeout=20s")
    yield kubectl("wait", "vmd/none", "--for=delete", "--timeout=20s")
    yield kubectl("get", "vmd", *ALL)


def telling(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "disk.1", "namespace": "default"},
        "involvedObject": {"kind": "VirtualMachineDisk", "name": "disk", "namespace": "default"},
        "type": "Warning", "reason": "Slow", "message": "it takes its time", "count": 3,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "test", "host": "here"},
    }  # fmt: skip
    yield kubectl("create", "-f", "-", stdin=json.dumps(event))
    about_it = "involvedObject.name=disk"
    yield kubectl("get", "events", "--field-selector", about_it)
    yield kubectl("get", "events", "--field-selector", about_it, "-o", "wide")
    yield kubectl("events", "--for", "vmd/disk")
    yield kubectl("logs", "none")


def removing(kubectl: Kubectl) -> Iterator[tuple[int, str]]:
    yield kubectl("delete", "cm", "none")
    yield kubectl("delete", "cm", "none", "--ignore-not-found")
    yield kubectl("delete", "vmd", "disk", "--dry-run=server")
    yield kubectl("patch", "vmd", "disk", "--type=merge", "-p", '{"metadata": {"finalizers": ["example.com/held"]}}')
    # kubectl has a warning for watches that last less than a second.
    yield kubectl("delete", "vmd", "disk", "--wait", "--timeout=2s")
    yield kubectl("patch", "vmd", "disk", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    yield kubectl("delete", "pod", "pod", "--wait", "--grace-period=1")
    yield kubectl("delete", "vmd,cm,secret,svc,sa,role,rolebinding,lease,sc", *ALL)
    yield kubectl("get", "cm,vmd", *ALL)


SCENARIOS: list[Scenario] = [
    applying, applying_on_the_server, showing, describing, explaining, asking_what_one_may, changing, waiting, telling,
    removing,
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_both_show_the_same(scenario: Scenario, both: tuple[Kubectl, Kubectl]) -> None:
    """In this order: each goes on from what the one before left."""
    embedded, real = both
    for number, (ours, theirs) in enumerate(zip(scenario(embedded), scenario(real), strict=True)):
        assert ours == theirs, f"answer {number}:\n{ours[1]}\n--- kube-apiserver:\n{theirs[1]}"
