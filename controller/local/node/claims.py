"""Persistent volumes: a folder for every claim of a storage class of our provisioners; with a file in it that stands
for the device where the claim's volume mode is Block. Folders of one provisioner are on a node, of the other on all.

    claim ──(this node takes it)──▶ folder, volume ──▶ both Bound ──▶ grows when asked ──▶ deleted with the claim

A claim that a pod still uses is kept until the pod is gone, as is a volume until its folder is. A folder is only ever
removed because the API says that its claim was deleted, never because something could not be found.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.api.quantity import parse_bytes
from controller.api.resource import PV, PVC, STORAGE_CLASS
from controller.disks.storage_class import ACCESS_MODE_ANNOTATION
from controller.local.node.devices import BlockDevices
from controller.local.node.events import NodeEvents
from controller.runtime.cluster import Cluster
from controller.runtime.errors import AlreadyExistsError, ConflictError
from controller.runtime.informer import Informer

Object = dict[str, Any]

CLASS, SHARED_CLASS = "local", "shared"
PROVISIONER, SHARED_PROVISIONER = "virtualization.deckhouse.io/node", "virtualization.deckhouse.io/shared-folder"
CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "virtualization.deckhouse.io/volume-folder"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_NODE = "volume.kubernetes.io/selected-node"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class ClaimBinder:
    """Brings the claims and volumes of one provisioner to where they should be, one at a time.

    Every method may be called again at any time, and for shared folders on any node: what one node has done for a
    claim, another may do again, so that none has to wait for a node that is gone.
    """

    def __init__(
        self,
        cluster: Cluster,
        node: str,
        folder: Path,
        events: NodeEvents,
        users: Callable[[str, str], list[str]],
        *,
        shared: bool = False,
    ) -> None:
        self._shared = shared
        self._provisioner = SHARED_PROVISIONER if shared else PROVISIONER
        self._cluster = cluster
        self._node = node
        self._folder = folder
        self._devices = BlockDevices(folder)
        self._events = events
        self._users = users

    def ensure_class(self) -> None:
        """Make the storage class if nobody did; the one that is not shared as the default one."""
        name = SHARED_CLASS if self._shared else CLASS
        annotations = {ACCESS_MODE_ANNOTATION: "ReadWriteMany"} if self._shared else {_DEFAULT_CLASS: "true"}
        storage_class = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name, "annotations": annotations},
            "provisioner": self._provisioner,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
            "allowVolumeExpansion": True,
        }
        if self._cluster.get(STORAGE_CLASS, name) is None:
            try:
                self._cluster.create(STORAGE_CLASS, storage_class)
            except AlreadyExistsError:
                return  # another agent was first

    def sync_claim(self, namespace: str, name: str, volumes: Informer) -> None:
        """Bind, grow or release the claim; frees its volume if the claim is gone."""
        claim = self._cluster.get(PVC, name, namespace)
        if claim is None:
            for volume in volumes.list():
                reference = volume["spec"].get("claimRef") or {}
                if (reference.get("namespace"), reference.get("name")) == (namespace, name):
                    self.sync_volume(volume["metadata"]["name"])
            return
        if not self._provides(claim["spec"].get("storageClassName") or CLASS):
            return
        if claim["metadata"].get("deletionTimestamp"):
            self._release(claim)
        elif self._shared or (claim["metadata"].get("annotations") or {}).get(_NODE, self._node) == self._node:
            self._bind(claim)

    def _provides(self, name: str) -> bool:
        """Whether volumes of the storage class are our folders: the class is ours, or one that people made."""
        storage_class = self._cluster.get(STORAGE_CLASS, name)
        return storage_class is not None and storage_class["provisioner"] == self._provisioner

    def sync_volume(self, name: str) -> None:
        """Delete the volume and its folder if its claim is gone, or if the volume itself is being deleted."""
        volume = self._cluster.get(PV, name)
        if volume is None or not self._is_ours(volume):
            return
        reference = volume["spec"]["claimRef"]
        claim = self._cluster.get(PVC, reference["name"], reference["namespace"])
        if claim is not None and claim["metadata"]["uid"] == reference["uid"]:
            return
        self._devices.close(name)
        shutil.rmtree(self._folder / name, ignore_errors=True)
        metadata = volume["metadata"]
        if (volume.get("status") or {}).get("phase") == "Bound":
            # Kubernetes keeps a volume that is deleted for as long as it is bound.
            self._cluster.patch(PV, name, {"status": {"phase": "Released"}}, subresource="status")
        self._cluster.delete(PV, name, uid=metadata["uid"])
        if VOLUME_FINALIZER in (metadata.get("finalizers") or ()):
            rest = [entry for entry in metadata["finalizers"] if entry != VOLUME_FINALIZER]
            if self._cluster.get(PV, name) is not None:
                self._cluster.patch(PV, name, {"metadata": {"finalizers": rest}})

    def folder_changed(self, claim: Object, volume: Object | None) -> bool:
        """Whether the folder of a claim's volume came or went without anybody having told."""
        if volume is None or not self._is_ours(volume):
            return False
        is_bound = (claim.get("status") or {}).get("phase") == "Bound"
        return (self._folder / str(claim["spec"].get("volumeName", ""))).is_dir() is not is_bound

    def _is_ours(self, volume: Object) -> bool:
        """Whether the volume is a folder of this node, or of all, that goes with its claim."""
        spec = volume["spec"]
        annotations = volume["metadata"].get("annotations") or {}
        return bool(
            annotations.get(_PROVISIONED_BY) == self._provisioner
            and spec.get("persistentVolumeReclaimPolicy") == "Delete"
            and "claimRef" in spec
            and (self._shared or node_of(volume) == self._node)
        )

    def _bind(self, claim: Object) -> None:
        metadata, spec = claim["metadata"], claim["spec"]
        if self._shared and spec.get("volumeMode") == "Block":
            message = "shared volumes have the mode Filesystem only; change spec.volumeMode"
            self._events.record(claim, "ProvisioningFailed", message, warning=True)
            return
        name = spec.get("volumeName") or f"pvc-{metadata['uid']}"
        class_name = spec.get("storageClassName") or CLASS
        wanted = spec["resources"]["requests"]["storage"]
        status = claim.get("status") or {}
        if status.get("phase") in ("Bound", "Lost"):
            if self._is_there(claim, name):
                self._grow(claim, name, wanted)
            return
        taken_by = (metadata.get("annotations") or {}).get(_NODE)
        if taken_by is None or (taken_by != self._node and not self._shared):
            finalizers = sorted({*(metadata.get("finalizers") or ()), CLAIM_FINALIZER})
            annotations = {_NODE: self._node, "volume.kubernetes.io/storage-provisioner": self._provisioner}
            patch = {
                "metadata": {
                    # Of two agents that want the claim, the one with the older version is refused.
                    "resourceVersion": metadata["resourceVersion"],
                    "annotations": annotations,
                    "finalizers": finalizers,
                }
            }
            try:
                claim = self._cluster.patch(PVC, metadata["name"], patch, metadata["namespace"])
            except ConflictError:
                return  # the change that was in between calls us again
        self._make(name, claim, wanted)
        try:
            volume = self._cluster.create(PV, self._volume(name, claim, wanted))
        except AlreadyExistsError:
            volume = self._cluster.get(PV, name) or {}
        self._cluster.patch(PV, name, {"status": {"phase": "Bound"}}, subresource="status")
        self._cluster.patch(
            PVC, metadata["name"], {"spec": {"volumeName": name, "storageClassName": class_name}}, metadata["namespace"]
        )
        capacity = volume.get("spec", {}).get("capacity", {"storage": wanted})
        bound = {"phase": "Bound", "accessModes": spec.get("accessModes") or ["ReadWriteOnce"], "capacity": capacity}
        self._cluster.patch(PVC, metadata["name"], {"status": bound}, metadata["namespace"], "status")
        self._events.record(claim, "ProvisioningSucceeded", f"Successfully provisioned volume {name}")

    def _is_there(self, claim: Object, name: str) -> bool:
        """Whether the bound claim's volume and its folder exist; the claim's phase says so too."""
        there = (self._folder / name).is_dir() and self._cluster.get(PV, name) is not None
        phase = "Bound" if there else "Lost"
        if claim["status"]["phase"] != phase:
            metadata = claim["metadata"]
            self._cluster.patch(PVC, metadata["name"], {"status": {"phase": phase}}, metadata["namespace"], "status")
            if there:
                self._events.record(claim, "VolumeFound", f"volume {name} is back")
            else:
                self._events.record(claim, "VolumeLost", f"the folder of volume {name} is gone", warning=True)
        return there

    def _grow(self, claim: Object, name: str, wanted: str) -> None:
        present = claim["status"]["capacity"]["storage"]
        if parse_bytes(wanted) <= parse_bytes(present):
            return
        metadata = claim["metadata"]
        self._make(name, claim, wanted)
        self._cluster.patch(PV, name, {"spec": {"capacity": {"storage": wanted}}})
        status = {"capacity": {"storage": wanted}}
        self._cluster.patch(PVC, metadata["name"], {"status": status}, metadata["namespace"], "status")
        self._events.record(claim, "FileSystemResizeSuccessful", f"Resized from {present} to {wanted}")

    def _make(self, name: str, claim: Object, size: str) -> None:
        (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        if claim["spec"].get("volumeMode") == "Block":
            self._devices.create(name, parse_bytes(size))

    def _release(self, claim: Object) -> None:
        metadata = claim["metadata"]
        if CLAIM_FINALIZER not in (metadata.get("finalizers") or ()):
            return
        users = self._users(metadata["namespace"], metadata["name"])
        if users:
            message = f"waiting for the pods that use it: {', '.join(users)}"
            self._events.record(claim, "InUse", message)
            return
        rest = [entry for entry in metadata["finalizers"] if entry != CLAIM_FINALIZER]
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": rest}}
        try:
            self._cluster.patch(PVC, metadata["name"], patch, metadata["namespace"])
        except ConflictError:
            return  # as above

    def _volume(self, name: str, claim: Object, capacity: str) -> Object:
        metadata = claim["metadata"]
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [self._node]}]}
        here = {} if self._shared else {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": name,
                "finalizers": [VOLUME_FINALIZER],
                "annotations": {_PROVISIONED_BY: self._provisioner},
            },
            "spec": {
                "capacity": {"storage": capacity},
                "accessModes": claim["spec"].get("accessModes") or ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": claim["spec"].get("storageClassName") or CLASS,
                "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
                "local": {"path": str((self._folder / name).absolute())},
                **here,
            },
        }


def node_of(volume: Object) -> str:
    """The node that the volume is on; empty if it says none."""
    for term in volume["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", ()):
        for expression in term.get("matchExpressions", ()):
            if expression["key"] == "kubernetes.io/hostname":
                return str(expression["values"][0])
    return ""
