"""`dvcr apply|get|describe|delete|wait|logs` against a cluster."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from controller.api.resource import DISK, MACHINE, POD
from controller.local.node.agent import Agent
from controller.resources import register
from controller.runtime.cluster import Cluster
from dvcr.cli.main import settings
from dvcr.config import NodeSettings
from dvcr.errors import DvcrError
from tests.support.cluster import ClusterProcess

DISK_MANIFEST = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineDisk
metadata: {name: NAME, labels: {app: db}}
spec:
  persistentVolumeClaim: {size: 1Gi}
"""


class Verbs:
    """Runs `dvcr` with the verbs; an error is what the user would see of it."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.app = typer.Typer()
        self.app.callback()(settings)
        register(self.app)
        self._environment = {"DVCR__CONTROLLER__KUBECONFIG": str(cluster.kubeconfig)}
        self.api = Cluster.connect(cluster.kubeconfig)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        result = CliRunner().invoke(self.app, list(arguments), input=stdin, env=self._environment)
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.stdout

    def refused(self, *arguments: str, stdin: str | None = None) -> str:
        result = CliRunner().invoke(self.app, list(arguments), input=stdin, env=self._environment)
        assert result.exit_code == 1
        if isinstance(result.exception, DvcrError):
            return result.exception.message
        assert isinstance(result.exception, SystemExit)
        return result.stderr

    def apply_disk(self, name: str) -> None:
        self("apply", "-f", "-", stdin=DISK_MANIFEST.replace("NAME", name))


@pytest.fixture
def dvcr(shared_cluster: ClusterProcess) -> Verbs:
    return Verbs(shared_cluster)


def test_apply_creates_configures_and_leaves_unchanged(dvcr: Verbs, tmp_path: Path) -> None:
    file = tmp_path / "disks.yaml"
    one, two = DISK_MANIFEST.replace("NAME", "one"), DISK_MANIFEST.replace("NAME", "two")
    file.write_text(f"{one}\n---\n{two}\n---\n")
    created = "virtualmachinedisk/one created\nvirtualmachinedisk/two created\n"
    assert dvcr("apply", "-f", str(file)) == created
    assert dvcr("apply", "-f", str(file)) == created.replace("created", "unchanged")
    file.write_text(f"{one.replace('1Gi', '2Gi').replace('labels: {app: db}', 'labels: {}')}\n---\n{two}")
    assert dvcr("apply", "-f", str(file)) == "virtualmachinedisk/one configured\nvirtualmachinedisk/two unchanged\n"
    disk = dvcr.api.get(DISK, "one", "default")
    assert disk is not None
    assert disk["spec"]["persistentVolumeClaim"]["size"] == "2Gi"
    assert not disk["metadata"].get("labels"), "what the manifest does not say any more is removed"


def test_apply_goes_on_from_kubectl(dvcr: Verbs, shared_cluster: ClusterProcess) -> None:
    manifest = DISK_MANIFEST.replace("NAME", "mixed")
    shared_cluster.kubectl("apply", "-f", "-", stdin=manifest)
    assert "configured" in dvcr("apply", "-f", "-", stdin=manifest.replace("labels: {app: db}", "labels: {}"))
    assert "configured" in shared_cluster.kubectl("apply", "-f", "-", stdin=manifest)


def test_apply_names_the_unknown_field_and_applies_the_rest(dvcr: Verbs) -> None:
    wrong = DISK_MANIFEST.replace("NAME", "wrong").replace("size:", "sise: 1Gi, size:")
    error = dvcr.refused("apply", "-f", "-", stdin=f"{wrong}\n---\n{DISK_MANIFEST.replace('NAME', 'right')}")
    assert "virtualmachinedisk/wrong" in error
    assert "spec.persistentVolumeClaim.sise" in error
    assert len(error.splitlines()) == 1
    assert dvcr.api.get(DISK, "wrong", "default") is None
    assert dvcr.api.get(DISK, "right", "default") is not None


def test_apply_names_the_wrong_field(dvcr: Verbs) -> None:
    dvcr.apply_disk("shrinks")
    error = dvcr.refused("apply", "-f", "-", stdin=DISK_MANIFEST.replace("NAME", "shrinks").replace("1Gi", "1Mi"))
    assert "spec.persistentVolumeClaim.size" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "line"),
        ("kind: X", "apiVersion"),
        ("apiVersion: v1\nkind: Pod", "metadata.name"),
        ("", "no objects"),
        ("apiVersion: v1\nkind: Unheard\nmetadata: {name: x}", "Unheard"),
    ],
)
def test_apply_says_what_is_wrong_with_a_file(dvcr: Verbs, text: str, message: str) -> None:
    assert message in dvcr.refused("apply", "-f", "-", stdin=text)


def test_get_prints_tables_documents_and_names(dvcr: Verbs) -> None:
    dvcr.apply_disk("shown")
    lines = dvcr("get", "vmd").splitlines()
    assert lines[0].split()[0] == "NAME"
    assert "PHASE" in lines[0]
    assert any(line.startswith("shown ") for line in lines)
    assert len(dvcr("get", "vmd", "shown", "-o", "wide").splitlines()[0]) > len(lines[0])
    assert dvcr("get", "virtualmachinedisk/shown", "-o", "name") == "virtualmachinedisk/shown\n"
    assert json.loads(dvcr("get", "vmds", "shown", "-o", "json"))["metadata"]["name"] == "shown"
    assert yaml.safe_load(dvcr("get", "vmd", "-o", "yaml"))["kind"] == "List"
    assert dvcr("get", "vmd", "-A").splitlines()[0].startswith("NAMESPACE")
    assert "virtualmachinedisk/shown" in dvcr("get", "cvmi,vmd,vm")
    assert "virtualmachinedisk/shown" in dvcr("get", "all")
    assert "No resources found" in dvcr("get", "vm", "-n", "kube-system")


def test_watch_prints_rows_as_they_change(dvcr: Verbs, shared_cluster: ClusterProcess) -> None:
    dvcr.apply_disk("watched")
    arguments = ["get", "vmd", "watched", "-w", "--kubeconfig", str(shared_cluster.kubeconfig)]
    command = "from controller.resources import register; from dvcr.cli.main import app; register(app); app()"
    watching = subprocess.Popen([sys.executable, "-uc", command, *arguments], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    try:
        assert watching.stdout.readline().split()[0] == "NAME"
        assert watching.stdout.readline().split()[0] == "watched"
        dvcr.api.patch(DISK, "watched", {"status": {"phase": "Ready"}}, "default", "status")
        assert watching.stdout.readline().split()[:2] == ["watched", "Ready"]
        dvcr.api.delete(DISK, "watched", "default")
        assert watching.stdout.readline() == "watched deleted\n"
    finally:
        watching.kill()
        watching.communicate()


def test_get_refuses_what_is_not_there(dvcr: Verbs) -> None:
    assert "'nothing' not found" in dvcr.refused("get", "vmd", "nothing", "-o", "yaml").replace('"', "'")
    assert "nothing" in dvcr.refused("get", "vmd", "nothing")
    assert "no resource type 'frogs'" in dvcr.refused("get", "frogs")


def test_describe_shows_the_status_and_hides_secrets(dvcr: Verbs) -> None:
    dvcr.apply_disk("described")
    conditions = [{"type": "Ready", "status": "False", "reason": "Waiting", "message": "for you"}]
    conditions[0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    status = {"phase": "Pending", "conditions": conditions}
    dvcr.api.patch(DISK, "described", {"status": status}, "default", "status")
    text = dvcr("describe", "vmd", "described")
    for part in ("Name:        described", "size: 1Gi", "phase: Pending", "Waiting  for you", "Events:"):
        assert part in text
    dvcr("apply", "-f", "-", stdin="{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: hidden}}")
    assert "aGlkZGVu" not in dvcr("describe", "secret", "s")


def test_wait_for_phase_condition_and_deletion(dvcr: Verbs) -> None:
    dvcr.apply_disk("awaited")

    def later(phase: str) -> threading.Timer:
        timer = threading.Timer(
            0.3, dvcr.api.patch, [DISK, "awaited", {"status": {"phase": phase}}, "default", "status"]
        )
        timer.start()
        return timer

    later("Ready")
    assert "condition met" in dvcr("wait", "vmd", "awaited", "--for", "phase=Ready", "--timeout", "20s")
    assert "not within 0.2 s" in dvcr.refused("wait", "vmd", "awaited", "--for", "condition=Ready", "--timeout", "0.2s")
    failed = {"phase": "Failed", "failureReason": "ChecksumMismatch", "failureMessage": "it is another file"}
    dvcr.api.patch(DISK, "awaited", {"status": failed}, "default", "status")
    error = dvcr.refused("wait", "vmd", "awaited", "--for", "phase=Ready")
    assert "ChecksumMismatch: it is another file" in error
    assert "deleted" in dvcr("delete", "vmd", "awaited")
    dvcr("wait", "vmd", "awaited", "--for", "delete", "--timeout", "5s")


def test_delete_by_file_and_by_name(dvcr: Verbs) -> None:
    dvcr.apply_disk("filed")
    assert (
        dvcr("delete", "-f", "-", stdin=DISK_MANIFEST.replace("NAME", "filed")) == "virtualmachinedisk/filed deleted\n"
    )
    assert dvcr.api.get(DISK, "filed", "default") is None
    assert "not found" in dvcr.refused("delete", "vmd", "filed")
    assert "name what to delete" in dvcr.refused("delete")


@pytest.fixture
def node(dvcr: Verbs, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(NodeSettings(name="verbs", data_dir=tmp_path / "node", pod_cidr="127.97.0.0/16"), dvcr.api)
    agent.start()
    yield agent
    for pod in dvcr.api.list(POD):
        dvcr.api.delete(POD, pod["metadata"]["name"], "default", grace_period_s=0)
    agent.stop()


def test_logs_of_a_pod_and_of_a_machine(dvcr: Verbs, node: Agent) -> None:
    dvcr.api.create(
        POD,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "vm-linux",
                "namespace": "default",
                "labels": {"vm.virtualization.deckhouse.io/name": "linux"},
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [
                    {"name": "machine", "image": "x", "command": ["sh", "-c", "echo one; sleep 1; echo two"]}
                ],
            },
        },
    )
    dvcr("wait", "pod", "vm-linux", "--for", "phase=Running", "--timeout", "20s")
    assert dvcr("logs", "vm/linux", "-f") == "one\ntwo\n"
    assert dvcr("logs", "vm-linux", "--tail", "1") == "two\n"
    assert "not found" in dvcr.refused("logs", "vm/unknown")
    assert dvcr.api.get(MACHINE, "linux", "default") is None
    assert "vm-linux deleted" in dvcr("delete", "pod", "vm-linux")
