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
from controller.runtime.index import Object
from controller.runtime.informer import Informer
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
    """Pods, and the Secrets of them, as they are and as they were: a capture is over in a second or two."""

    def __init__(self, cluster: Cluster) -> None:
        self.seen: dict[str, Object] = {}
        """Each pod that there has been, as it was last, by its name."""
        self._given: dict[str, Object] = {}
        self._secrets = cluster.inform(SECRET, lambda *key: self._note(self._secrets, self._given, key))
        self._pods = cluster.inform(POD, lambda *key: self._note(self._pods, self.seen, key))
        self._followed = (self._secrets, self._pods)
        assert all(informer.wait_synced(20) for informer in self._followed)

    def stop(self) -> None:
        for informer in self._followed:
            informer.stop()

    def held(self, name: str) -> Credentials | None:
        """What the Secret of that name holds now."""
        secret = self._secrets.get(name, "default")
        return _credentials(secret) if secret else None

    def was_given(self, name: str) -> bool:
        """Whether there has been a Secret of that name."""
        return name in self._given

    def access(self, name: str) -> dict[str, set[str]]:
        """Actions by repository of the token that the Secret of that name held last."""
        token = _credentials(self._given[name]).token
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return {entry["name"]: set(entry["actions"]) for entry in claims["access"]}

    def _note(self, informer: Informer, seen: dict[str, Object], key: tuple[str, str]) -> None:
        namespace, name = key
        obj = informer.get(name, namespace)
        if namespace == "default" and obj is not None:
            seen[name] = obj


def _credentials(secret: Object) -> Credentials:
    return Credentials.read(base64.b64decode(secret["data"]["registry.json"]))


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
        pods = Pods(Cluster.connect(product.data / "kubeconfig"))
        try:
            follow(product, pods)
        finally:
            pods.stop()


def follow(product: Product, pods: Pods) -> None:
    web = machine("web", "root")
    cdrom = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "tools"}}
    web["spec"]["blockDevices"].append(cdrom)
    product.apply(web)
    boots(product, "web", 1)
    # Once the disk stands alone, the machine only reads what it shows.
    eventually(lambda: pods.access("vm-web") == {"cvmi/tools": {"pull"}}, "a token for the CD-ROM alone", 60)
    (pod,) = pods.seen.values()
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
    eventually(lambda: pods.was_given(capture), "a token for the capture", 60)
    assert pods.access(capture) == {"cvmi/resting": {"pull", "push"}, "cvmi/base": {"pull"}}
    product.wait_for_phase("cvmi", "resting", "Ready")
    assert {"vm-web", capture} == pods.seen.keys()
    assert PASSWORD not in json.dumps(pods.seen)
    eventually(lambda: pods.held(capture) is None, "the Secret goes with its pod", 60)

    eager = disk("copy", image="resting")
    eager["spec"]["provisioning"] = "Eager"
    product.apply(eager)
    fill = f"fill-{product.get('vmd', 'copy')['metadata']['uid']}"
    eventually(lambda: pods.was_given(fill), "a token for the copy", 60)
    assert pods.access(fill) == {"cvmi/resting": {"pull"}}
    product.wait_for_phase("vmd", "copy", "Ready")
    product.apply(machine("second", "copy"))
    boots(product, "second", 2)
    assert pods.held("vm-second") == Credentials(), "a disk that stands alone needs no registry"
