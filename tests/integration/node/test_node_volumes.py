"""Volumes of a node's pods: from Secrets to devices."""

import base64
import json
import os
from typing import Any

from controller.api.pod_claims import ADDITIONAL_CLAIMS_ANNOTATION, CLAIMS_MOUNTED_CONDITION
from controller.api.resource import CONFIG_MAP, POD, PV, PVC, SECRET
from controller.local.node.devices import BlockDevices
from tests.support.node_site import SLEEP, Site
from tests.support.waiting import eventually

Object = dict[str, Any]


def test_volumes_of_every_kind(site: Site) -> None:
    site.cluster.create(
        SECRET,
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "default"},
         "data": {"machine.json": base64.b64encode(b"{}").decode()}},
    )  # fmt: skip
    site.cluster.create(
        CONFIG_MAP,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "conf", "namespace": "default"},
            "data": {"a": "1"},
        },
    )
    pod = site.pod(
        "volumes", *SLEEP,
        container={"volumeMounts": [
            {"name": "key", "mountPath": "/etc/dvcr"},
            {"name": "conf", "mountPath": "/conf"},
            {"name": "empty", "mountPath": "/run/empty"},
        ]},
        volumes=[
            {"name": "key", "secret": {"secretName": "key", "defaultMode": 0o400}},
            {"name": "conf", "configMap": {"name": "conf", "items": [{"key": "a", "path": "x/b"}]}},
            {"name": "empty", "emptyDir": {}},
        ],
    )  # fmt: skip
    site.until_phase("volumes", "Running")
    root = site.root(pod)
    assert (root / "etc/dvcr/machine.json").read_bytes() == b"{}"
    assert (root / "etc/dvcr/machine.json").stat().st_mode & 0o777 == 0o400
    assert (root / "conf/x/b").read_text() == "1"
    assert list((root / "run/empty").iterdir()) == []


def test_a_missing_secret_is_waited_for_and_named(site: Site) -> None:
    site.pod("waits", "true", volumes=[{"name": "key", "secret": {"secretName": "later"}}])
    site.until("waits", lambda _, s: "'later' not found" in str(s["state"]), "the reason is told")
    site.cluster.create(
        SECRET,
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later", "namespace": "default"}, "data": {}},
    )
    site.until_phase("waits", "Succeeded")


def claim(size: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "disk", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def claim_status(site: Site) -> Object:
    found = site.cluster.get(PVC, "disk", "default")
    return dict((found or {}).get("status") or {})


def block_claim(name: str, size: str) -> Object:
    spec = {
        "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "resources": {"requests": {"storage": size}},
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def test_a_claim_is_bound_grows_is_kept_while_used_and_goes_with_its_folder(site: Site) -> None:
    site.cluster.create(PVC, claim("1Gi"))
    eventually(lambda: claim_status(site).get("phase") == "Bound", "bound")
    volume = site.cluster.list(PV)[0]
    assert volume["status"]["phase"] == "Bound"
    folder = site.data_dir / "volumes" / volume["metadata"]["name"]

    site.pod(
        "user", "sh", "-c", "echo data > data/file; exec sleep 1000",
        container={"volumeMounts": [{"name": "disk", "mountPath": "/data"}]},
        volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
    )  # fmt: skip
    eventually((folder / "file").exists, "the pod writes to its volume")

    site.cluster.patch(PVC, "disk", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}, "default")
    eventually(lambda: claim_status(site)["capacity"] == {"storage": "2Gi"}, "grown")
    assert site.cluster.list(PV)[0]["spec"]["capacity"] == {"storage": "2Gi"}

    site.cluster.delete(PVC, "disk", "default")
    eventually(lambda: "InUse" in site.reasons(), "told that it is in use")
    assert (folder / "file").read_text() == "data\n"

    site.cluster.delete(POD, "user", "default", grace_period_s=1)
    eventually(lambda: not site.cluster.list(PV), "the volume is gone")
    assert site.cluster.get(PVC, "disk", "default") is None
    assert not folder.exists()


def test_a_block_volume_is_a_device_of_its_size_that_grows_and_goes(site: Site) -> None:
    site.cluster.create(PVC, block_claim("raw", "1Mi"))
    pod = site.pod(
        "raw", "sh", "-c", "printf data > dev/disk; exec sleep 1000",
        container={"volumeDevices": [{"name": "disk", "devicePath": "/dev/disk"}]},
        volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "raw"}}],
    )  # fmt: skip
    device = site.root(pod) / "dev/disk"

    def size() -> int:
        with device.open("rb") as file:
            return file.seek(0, os.SEEK_END)

    eventually(lambda: device.exists() and device.open("rb").read(4) == b"data", "the pod writes to its device")
    if os.geteuid() == 0:
        assert device.is_block_device()
    assert size() == 2**20

    site.cluster.patch(PVC, "raw", {"spec": {"resources": {"requests": {"storage": "3Mi"}}}}, "default")
    eventually(lambda: size() == 3 * 2**20, "grown under the pod")

    site.cluster.delete(POD, "raw", "default", grace_period_s=0)
    eventually(lambda: site.status("raw")["phase"] == "Gone", "the pod is gone")
    devices = BlockDevices(site.data_dir / "volumes")
    eventually(lambda: devices.opened() == set(), "the device is given back")
    (volume,) = site.cluster.list(PV)
    assert (site.data_dir / "volumes" / volume["metadata"]["name"] / "device").read_bytes()[:4] == b"data"
    site.cluster.delete(PVC, "raw", "default")
    eventually(lambda: not site.cluster.list(PV), "the volume is gone")


def annotate(site: Site, pod: str, claims: Object | None) -> None:
    annotation = {ADDITIONAL_CLAIMS_ANNOTATION: None if claims is None else json.dumps(claims)}
    site.cluster.patch(POD, pod, {"metadata": {"annotations": annotation}}, "default")


def mounted(site: Site, pod: str) -> tuple[str, str] | None:
    conditions = site.status(pod)["conditions"]
    return next(
        ((c["status"], c.get("message", "")) for c in conditions if c["type"] == CLAIMS_MOUNTED_CONDITION), None
    )


def test_claims_come_and_go_while_a_pod_runs_and_are_kept_while_it_has_them(site: Site) -> None:
    pod = site.pod("open", *SLEEP)
    site.until_phase("open", "Running")
    assert mounted(site, "open") is None
    annotate(site, "open", {"disk": {"container": "main", "mountPath": "/disks/data"},
                            "raw": {"container": "main", "devicePath": "/dev/raw"}})  # fmt: skip
    eventually(lambda: (mounted(site, "open") or ("",))[0] == "False", "told what is missing")
    assert "persistentvolumeclaim 'disk' not found" in (mounted(site, "open") or ("", ""))[1]

    site.cluster.create(PVC, claim("1Gi"))
    site.cluster.create(PVC, block_claim("raw", "1Mi"))
    eventually(lambda: mounted(site, "open") == ("True", ""), "mounted", 15)
    folder, device = site.root(pod) / "disks/data", site.root(pod) / "dev/raw"
    (folder / "file").write_text("data")
    assert device.exists()

    site.cluster.delete(PVC, "disk", "default")
    eventually(lambda: "InUse" in site.reasons(), "told that it is in use")
    # Whoever takes the node over unmounts what its predecessor mounted.
    record = site.data_dir / "pods" / pod["metadata"]["uid"] / "additional.json"
    assert json.loads(record.read_text()) == sorted([str(device), str(folder)])
    annotate(site, "open", {"raw": {"container": "main", "devicePath": "/dev/raw"}})
    eventually(lambda: not folder.is_symlink(), "unmounted")
    eventually(lambda: site.cluster.get(PVC, "disk", "default") is None, "the claim is gone")
    assert device.exists()
    annotate(site, "open", None)
    eventually(lambda: not device.is_symlink(), "unmounted too")
    assert site.status("open")["phase"] == "Running"
    annotate(site, "open", {"raw": {"container": "main"}})
    eventually(lambda: "needs either mountPath or devicePath" in str(mounted(site, "open")), "told what is wrong")
    annotate(site, "open", None)
    site.cluster.delete(PVC, "raw", "default")
    eventually(lambda: not site.cluster.list(PV), "the volumes are gone")


def test_a_volume_whose_folder_is_gone_is_lost_until_it_is_back(site: Site) -> None:
    site.cluster.create(PVC, claim("1Gi"))
    eventually(lambda: claim_status(site).get("phase") == "Bound", "bound")
    (volume,) = site.cluster.list(PV)
    folder = site.data_dir / "volumes" / volume["metadata"]["name"]
    folder.rename(site.data_dir / "away")
    eventually(lambda: claim_status(site)["phase"] == "Lost", "lost", 30)
    (site.data_dir / "away").rename(folder)
    eventually(lambda: claim_status(site)["phase"] == "Bound", "found", 30)
    site.cluster.delete(PVC, "disk", "default")
    eventually(lambda: not site.cluster.list(PV), "the volume is gone")
