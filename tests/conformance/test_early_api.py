"""Manifests written for the module's early API: they apply unchanged, to either API server."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from controller.api.kinds import KINDS, crds
from controller.local.schema import apply_defaults
from tests.support.cluster import ClusterProcess

pytestmark = pytest.mark.timeout(900)

FILE = Path(__file__).parent / "manifests/early-api.yaml"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text()))
PATHS = {kind.resource.kind: kind.resource.path("default") for kind in KINDS}
SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for crd in crds()
}
SOURCES = {"HTTP", "ContainerImage", "VirtualMachineImage", "ClusterVirtualMachineImage", "Upload"}


def test_every_kind_and_every_source_is_among_them() -> None:
    assert {manifest["kind"] for manifest in MANIFESTS} == set(PATHS)
    for kind in ("ClusterVirtualMachineImage", "VirtualMachineImage", "VirtualMachineDisk"):
        specs = [manifest["spec"] for manifest in MANIFESTS if manifest["kind"] == kind]
        assert {spec["dataSource"]["type"] for spec in specs if "dataSource" in spec} == SOURCES


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}/{each['metadata']['name']}")
def test_what_is_read_back_is_what_was_sent_and_defaults(server: ClusterProcess, manifest: dict[str, Any]) -> None:
    is_lease = manifest["kind"] == "VirtualMachineIPAddressLease"
    name = "ip-192-0-2-99" if is_lease else f"read-{manifest['metadata']['name']}"
    metadata = {**manifest["metadata"], "name": name}

    made = sent(server, {**manifest, "metadata": metadata})
    assert made.status_code == 201, made.text

    stored = server.session().get(f"{server.url}{PATHS[manifest['kind']]}/{name}", timeout=30).json()
    expected = copy.deepcopy(manifest["spec"])
    apply_defaults(expected, SCHEMAS[manifest["kind"]])
    assert stored["spec"] == expected
    for part in ("labels", "annotations"):
        assert stored["metadata"].get(part) == metadata.get(part)


def test_a_machine_that_says_little_gets_the_defaults(server: ClusterProcess) -> None:
    manifest = next(each for each in MANIFESTS if each["metadata"]["name"] == "small")
    spec = sent(server, {**manifest, "metadata": {"name": "defaults"}}).json()["spec"]

    assert spec == {
        "runPolicy": "AlwaysOnUnlessStoppedManually",
        "cpu": {"cores": 1, "coreFraction": "100%", "modelName": "generic-v1"},
        "memory": {"size": "512Mi"},
        "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "of-image"}}],
        "bootloader": "BIOS",
        "osType": "Generic",
        "enableParavirtualization": True,
        "disruptions": {"restartApprovalMode": "Manual"},
        "terminationGracePeriodSeconds": 60,
    }


@pytest.mark.skipif(
    shutil.which("kubectl") is None and os.environ.get("CI") != "true", reason="kubectl is not installed"
)
def test_kubectl_applies_the_file_and_finds_nothing_to_change_then(server: ClusterProcess) -> None:
    first = server.kubectl("apply", "-f", str(FILE)).splitlines()
    second = server.kubectl("apply", "-f", str(FILE)).splitlines()

    assert len(first) == len(MANIFESTS)
    assert all(line.endswith(" created") for line in first), first
    assert all(line.endswith(" unchanged") for line in second), second


def sent(server: ClusterProcess, manifest: dict[str, Any]) -> requests.Response:
    url = server.url + PATHS[manifest["kind"]]
    return server.session().post(f"{url}?fieldValidation=Strict", json=manifest, timeout=30)
