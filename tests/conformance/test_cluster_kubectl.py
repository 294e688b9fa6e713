"""The embedded cluster under the real kubectl, with the kubeconfig that it writes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import ClusterProcess
from tests.support.kubelet import answering

# Another kubectl to run the same tests with: `make test-kubernetes` does with the newest.
KUBECTL = os.environ.get("KUBECTL", "kubectl")

pytestmark = pytest.mark.skipif(
    shutil.which(KUBECTL) is None and os.environ.get("CI") != "true", reason="kubectl is not installed"
)

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME, labels: {app: NAME}}
data: {a: "1"}
"""
DISK = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineDisk
metadata: {name: NAME}
spec:
  persistentVolumeClaim: {size: 1Gi}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  containers:
  - {name: main, image: x, command: ["true"], env: [{name: A, value: "1"}]}
"""
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Colour, type: string, jsonPath: .spec.colour}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [colour]
            properties: {colour: {type: string, enum: [red, blue]}}
"""


class Kubectl:
    def __init__(self, cluster: ClusterProcess) -> None:
        self.cluster = cluster

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(*arguments, stdin=stdin, program=KUBECTL)

    def refused(self, *arguments: str, stdin: str | None = None) -> str:
        done = self.cluster.try_kubectl(*arguments, stdin=stdin, program=KUBECTL)
        assert done.returncode != 0, done.stdout
        return done.stdout

    def follow(self, *arguments: str) -> "subprocess.Popen[str]":
        cluster = self.cluster
        command = [KUBECTL, "--kubeconfig", str(cluster.kubeconfig), "--cache-dir", str(cluster.root / "kubectl-cache")]
        return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def kubectl(shared_cluster: ClusterProcess) -> Kubectl:
    return Kubectl(shared_cluster)


def test_apply_creates_configures_and_leaves_alone(kubectl: Kubectl) -> None:
    manifest = CONFIG_MAP.replace("NAME", "applied")
    assert kubectl("apply", "-f", "-", stdin=manifest) == "configmap/applied created\n"
    assert kubectl("apply", "-f", "-", stdin=manifest) == "configmap/applied unchanged\n"
    changed = manifest.replace('a: "1"', 'b: "2"')
    assert kubectl("apply", "-f", "-", stdin=changed) == "configmap/applied configured\n"
    assert json.loads(kubectl("get", "cm", "applied", "-o", "json"))["data"] == {"b": "2"}
    assert kubectl("get", "cm", "-l", "app=applied", "-o", "name") == "configmap/applied\n"
    assert kubectl("delete", "-f", "-", stdin=changed).startswith('configmap "applied" deleted')
    assert "NotFound" in kubectl.refused("get", "cm", "applied")


def test_server_side_apply(kubectl: Kubectl) -> None:
    manifest = CONFIG_MAP.replace("NAME", "owned")
    apply = ("apply", "--server-side", "-f", "-", "--field-manager")
    assert kubectl(*apply, "one", stdin=manifest) == "configmap/owned serverside-applied\n"
    refused = kubectl.refused(*apply, "two", stdin=manifest.replace('a: "1"', 'a: "2"'))
    assert 'conflict with "one"' in refused
    kubectl(*apply, "two", "--force-conflicts", stdin=manifest.replace('a: "1"', 'a: "2"'))
    kubectl(*apply, "one", stdin=manifest.replace('a: "1"', 'b: "1"'))
    assert json.loads(kubectl("get", "cm", "owned", "-o", "json"))["data"] == {"a": "2", "b": "1"}
    kubectl("delete", "cm", "owned")


def test_apply_merges_pods_by_the_names_of_their_lists(kubectl: Kubectl) -> None:
    manifest = POD.replace("NAME", "merged")
    kubectl("apply", "-f", "-", stdin=manifest)
    assert kubectl("apply", "-f", "-", stdin=manifest) == "pod/merged unchanged\n"
    assert kubectl("apply", "-f", "-", stdin=manifest.replace("image: x", "image: other")) == "pod/merged configured\n"
    pod = json.loads(kubectl("get", "pod", "merged", "-o", "json"))
    container = pod["spec"]["containers"][0]
    assert (container["image"], container["env"]) == ("other", [{"name": "A", "value": "1"}])
    assert container["terminationMessagePath"] == "/dev/termination-log"
    assert "Pending" in kubectl("get", "pods", "-o", "wide")
    assert "Containers:" in kubectl("describe", "pod", "merged")
    assert kubectl("delete", "pod", "merged").startswith('pod "merged" deleted')


def test_our_kinds(kubectl: Kubectl) -> None:
    manifest = DISK.replace("NAME", "disk")
    assert "created" in kubectl("apply", "-f", "-", stdin=manifest)
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=manifest)
    listed = kubectl("get", "vmd").splitlines()
    assert (listed[0].split(), listed[1].split()[0]) == (["NAME", "PHASE", "CAPACITY", "AGE"], "disk")
    assert "disk" in kubectl("get", "virtualization,vmds")
    assert "Persistent Volume Claim:" in kubectl("describe", "vmd", "disk")
    patch = '{"spec": {"persistentVolumeClaim": {"size": "2Gi"}}}'
    assert "patched" in kubectl("patch", "vmd", "disk", "--type=merge", "-p", patch)
    replaced = kubectl("get", "vmd", "disk", "-o", "yaml").replace("2Gi", "3Gi")
    assert "replaced" in kubectl("replace", "-f", "-", stdin=replaced)
    refused = kubectl.refused("apply", "-f", "-", stdin=manifest.replace("1Gi", "1Mi"))
    assert "spec.persistentVolumeClaim.size" in refused
    kubectl("label", "vmd", "disk", "a=b")
    kubectl("annotate", "vmd", "disk", "a=b")
    kubectl("delete", "vmd", "--all")


def test_an_unknown_field_is_refused_or_warned_about(kubectl: Kubectl) -> None:
    said = kubectl.cluster.try_kubectl(
        "apply", "-f", "-", stdin=DISK.replace("NAME", "unknown") + "  typo: 1\n", program=KUBECTL
    ).stdout
    assert 'unknown field "spec.typo"' in said


def test_edit(kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl("apply", "-f", "-", stdin=CONFIG_MAP.replace("NAME", "edited"))
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^  a: .*/  a: changed/' \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("KUBE_EDITOR", str(editor))
    assert "edited" in kubectl("edit", "cm", "edited")
    assert kubectl("get", "cm", "edited", "-o", "jsonpath={.data.a}") == "changed"


def test_a_crd_of_the_user(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CRD)
    kubectl("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s")
    widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {colour: red}\n"
    kubectl("create", "-f", "-", stdin=widget)
    assert [line.split() for line in kubectl("get", "wd").splitlines()] == [["NAME", "COLOUR"], ["w", "red"]]
    assert "Unsupported value" in kubectl.refused("apply", "-f", "-", stdin=widget.replace("red", "green"))
    kubectl("delete", "crd", "widgets.example.com")


def test_create_namespace_and_delete_it(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "mine")
    kubectl("create", "configmap", "x", "--from-literal=a=b", "-n", "mine")
    kubectl("create", "secret", "generic", "s", "--from-literal=a=b", "-n", "mine")
    assert "mine" in kubectl("get", "cm,secret", "-A")
    assert kubectl("delete", "namespace", "mine").startswith('namespace "mine" deleted')
    assert "NotFound" in kubectl.refused("get", "ns", "mine")


def test_watch_and_wait(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DISK.replace("NAME", "watched"))
    watching = kubectl.follow("get", "vmd", "watched", "-w", "--no-headers")
    waiting = kubectl.follow("wait", "--for=condition=Ready", "vmd/watched", "--timeout=20s")
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("watched")
        condition = {"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                     "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
        cluster = kubectl.cluster
        answer = cluster.session().patch(
            f"{cluster.url}/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualmachinedisks/watched/status",
            json={"status": {"phase": "Ready", "conditions": [condition]}},
            headers={"Content-Type": "application/merge-patch+json"},
        )
        assert answer.status_code == 200, answer.text
        assert watching.stdout.readline().split()[:2] == ["watched", "Ready"]
        assert waiting.communicate(timeout=20)[0].endswith("watched condition met\n")
    finally:
        watching.kill()
        watching.communicate()
        waiting.kill()
        waiting.communicate()
    kubectl("delete", "vmd", "watched")


def test_delete_waits_for_finalizers(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DISK.replace("NAME", "held"))
    kubectl("patch", "vmd", "held", "--type=merge", "-p", '{"metadata": {"finalizers": ["test/hold"]}}')
    with kubectl.follow("delete", "vmd", "held") as deleting:
        assert deleting.stdout is not None
        # It says so when the server has marked the object, and then waits.
        assert deleting.stdout.readline().startswith('virtualmachinedisk.virtualization.deckhouse.io "held" deleted')
        assert deleting.poll() is None
        kubectl("patch", "vmd", "held", "--type=json", "-p", '[{"op": "remove", "path": "/metadata/finalizers"}]')
        assert deleting.wait(20) == 0


def test_logs_and_events(kubectl: Kubectl) -> None:
    cluster = kubectl.cluster
    kubectl("apply", "-f", "-", stdin=POD.replace("NAME", "talker"))
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    kubectl("create", "-f", "-", stdin=json.dumps(node))
    http, merge = cluster.session(), {"Content-Type": "application/merge-patch+json"}
    pods = f"{cluster.url}/api/v1/namespaces/default/pods"
    http.post(f"{pods}/talker/binding", json={"target": {"name": "n"}}).raise_for_status()
    with answering(b"hello from the pod\n") as kubelet:
        node_status = f"{cluster.url}/api/v1/nodes/n/status"
        http.patch(node_status, json={"status": kubelet.status()}, headers=merge).raise_for_status()
        assert kubectl("logs", "talker") == "hello from the pod\n"
    pod = http.get(f"{pods}/talker").json()
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "talker.1", "namespace": "default"},
        "involvedObject": {
            "kind": "Pod", "name": "talker", "namespace": "default", "uid": pod["metadata"]["uid"], "apiVersion": "v1",
        },
        "type": "Normal", "reason": "Spoke", "message": "it spoke", "count": 1,
        "firstTimestamp": pod["metadata"]["creationTimestamp"], "lastTimestamp": pod["metadata"]["creationTimestamp"],
        "source": {"component": "test"},
    }  # fmt: skip
    kubectl("create", "-f", "-", stdin=json.dumps(event))
    assert "it spoke" in kubectl("describe", "pod", "talker")
    assert "Spoke" in kubectl("get", "events")
    kubectl("delete", "pod", "talker", "--grace-period=0", "--force")
    assert "NotFound" in kubectl.refused("get", "pod", "talker")


def test_roles_decide_what_a_service_account_may(cluster: ClusterProcess) -> None:
    def run(*arguments: str) -> str:
        return cluster.kubectl(*arguments, program=KUBECTL)

    run("create", "serviceaccount", "reader")
    run("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    run("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader")
    config = json.loads(run("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": run("create", "token", "reader").strip()}
    cluster.kubeconfig.write_text(json.dumps(config))

    assert run("get", "configmaps").startswith("No resources found")
    refused = cluster.try_kubectl("get", "secrets", program=KUBECTL)
    assert refused.returncode == 1
    assert (
        'User "system:serviceaccount:default:reader" cannot list resource "secrets" in API group ""' in refused.stdout
    )
    assert run("auth", "can-i", "list", "configmaps").strip() == "yes"
    assert cluster.try_kubectl("auth", "can-i", "list", "configmaps", "-n", "other", program=KUBECTL).returncode == 1
    assert cluster.try_kubectl("delete", "role", "reader", program=KUBECTL).returncode == 1


def test_every_group_is_listed(shared_cluster: ClusterProcess) -> None:
    assert "virtualmachines" in shared_cluster.kubectl("api-resources", program=KUBECTL)


def test_drain_evicts_and_says_what_is_kept(cluster: ClusterProcess, tmp_path: Path) -> None:
    http, pods = cluster.session(), f"{cluster.url}/api/v1/namespaces/default/pods"
    http.post(f"{cluster.url}/api/v1/nodes", json={"metadata": {"name": "worker"}}, timeout=30)
    for name, annotations in (("plain", {}), ("kept", {"virtualization.deckhouse.io/eviction": "Move"})):
        spec = {"nodeName": "worker", "containers": [{"name": "main", "command": ["true"]}]}
        pod = {"metadata": {"name": name, "annotations": annotations}, "spec": spec}
        assert http.post(pods, json=pod, timeout=30).status_code == 201

    done = cluster.try_kubectl("drain", "worker", "--force", "--grace-period=0", "--timeout=4s", program=KUBECTL)

    assert done.returncode != 0
    assert "node/worker cordoned" in done.stdout
    assert "its virtual machine moves to another node first" in done.stdout
    assert http.get(f"{pods}/plain", timeout=30).status_code == 404
    assert http.get(f"{pods}/kept", timeout=30).status_code == 200
