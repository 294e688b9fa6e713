"""The main job at a registry that lets nobody in without a login: every pod reads and writes by tokens of its own."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from controller.api.resource import POD, SECRET
from controller.launcher.cloudinit import seed_iso
from controller.launcher.spec import CloudInit
from controller.runtime.cluster import Cluster
from demo.server import serve_folder
from dvcr.client.credentials import Credentials
from tests.e2e.conftest import StartProduct
from tests.e2e.resources import cluster_image, disk, machine, operation
from tests.e2e.test_golden_image import boots, golden_image
from tests.support.access import write_passwords
from tests.support.product import Product
from tests.support.waiting import eventually

PASSWORD = "of all parts and no pod"


class Pods:
    """What pods have been given, as it was seen."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def held(self, name: str) -> Credentials | None:
        """What the Secret of that name holds now."""
        secret = self._cluster.get(SECRET, name, "default")
        return Credentials.read(base64.b64decode(secret["data"]["registry.json"])) if secret else None

    def access(self, name: str) -> dict[str, set[str]]:
        """Actions by repository of the token there."""
        held = self.held(name)
        assert held is not None
        claims: dict[str, Any] = jwt.decode(held.token, options={"verify_signature": False})
        return {entry["name"]: set(entry["actions"]) for entry in claims["access"]}

    def all(self) -> list[dict[str, Any]]:
        return self._cluster.list(POD, "default")


@pytest.mark.timeout(600)
def test_from_an_image_to_golden_ones(tmp_path: Path, guest: Path, start_product: StartProduct) -> None:
    write_passwords(tmp_path / "htpasswd", {"dvcr": PASSWORD})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / guest.name).symlink_to(guest)
    tools = CloudInit(user_data="#!/bin/sh", instance_id="tools", hostname="tools")
    (tmp_path / "images" / "tools.iso").write_bytes(seed_iso(tools))
    settings = {
        "DVCR__ACCESS__HTPASSWD_FILE": str(tmp_path / "htpasswd"),
        "DVCR__ACCESS__TOKEN_KEY_DIR": str(tmp_path / "keys"),
        "DVCR__ACCESS__TOKEN_LIFE_S": "10",
        "DVCR__ACCESS__PULL_TOKEN_LIFE_S": "10",
        "DVCR__CLIENT__USERNAME": "dvcr",
        "DVCR__CLIENT__PASSWORD": PASSWORD,
    }
    with start_product(settings) as product, serve_folder(tmp_path / "images") as server:
        product.apply(
            cluster_image("base", f"{server}/{guest.name}"),
            cluster_image("tools", f"{server}/tools.iso"),
            disk("root", image="base"),
        )
        product.wait_for_phase("cvmi", "tools", "Ready")
        product.wait_for_phase("cvmi", "base", "Ready")
        follow(product, Pods(Cluster.connect(product.data / "kubeconfig")))


def follow(product: Product, pods: Pods) -> None:
    web = machine("web", "root")
    cdrom = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "tools"}}
    web["spec"]["blockDevices"].append(cdrom)
    product.apply(web)
    boots(product, "web", 1)
    # Once the disk stands alone, the machine only reads what it shows.
    eventually(lambda: pods.access("vm-web") == {"cvmi/tools": {"pull"}}, "a token for the CD-ROM alone", 60)
    (pod,) = pods.all()
    mounted = product.data / "node" / "pods" / pod["metadata"]["uid"] / "volumes" / "machine" / "registry.json"
    first = mounted.read_bytes()
    eventually(lambda: mounted.read_bytes() != first, "a newer token in the pod's folder", 60)

    product.apply(golden_image("running", "root"))
    product.wait_for_phase("cvmi", "running", "Ready")
    assert product.get("vm", "web")["status"]["phase"] == "Running"

    product.apply(operation("off", "Stop", "web"))
    product.wait_for_phase("vm", "web", "Stopped")
    product.apply(golden_image("resting", "root"))
    capture = f"capture-{product.get('cvmi', 'resting')['metadata']['uid']}"
    eventually(lambda: pods.held(capture) is not None, "a token for the capture", 60)
    assert pods.access(capture) == {"cvmi/resting": {"pull", "push"}, "cvmi/base": {"pull"}}
    assert PASSWORD not in json.dumps(pods.all())
    product.wait_for_phase("cvmi", "resting", "Ready")
    eventually(lambda: pods.held(capture) is None, "the Secret goes with its pod", 60)

    eager = disk("copy", image="resting")
    eager["spec"]["provisioning"] = "Eager"
    product.apply(eager)
    fill = f"fill-{product.get('vmd', 'copy')['metadata']['uid']}"
    eventually(lambda: pods.held(fill) is not None, "a token for the copy", 60)
    assert pods.access(fill) == {"cvmi/resting": {"pull"}}
    product.wait_for_phase("vmd", "copy", "Ready")
    product.apply(machine("second", "copy"))
    boots(product, "second", 2)
    assert pods.held("vm-second") == Credentials(), "a disk that stands alone needs no registry"
