"""The volumes of a pod, as files and links on the node.

<pod>/volumes/<volume>/    what an emptyDir, secret or configMap holds
<data>/volumes/<pv>/       what a persistent volume holds (see claims.py), or below the folder that nodes share
<root>/<mountPath>         a link to one of them
<root>/<devicePath>        a link to the device or file of a volume of mode Block (see devices.py)
"""

import base64
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.api.resource import CONFIG_MAP, PVC, SECRET, Resource
from controller.local.node.devices import BlockDevices
from controller.runtime.cluster import Cluster
from dvcr.errors import ResourceError

Object = dict[str, Any]


class PodVolumes:
    """The volumes of one pod. `prepare` may be called again and again: it brings secrets and config maps up to date."""

    def __init__(self, cluster: Cluster, pod_folder: Path, persistent: Sequence[Path]) -> None:
        """`persistent` are the folders of persistent volumes."""
        self._cluster = cluster
        self._folder = pod_folder / "volumes"
        self._persistent = persistent

    def prepare(self, pod: Object) -> dict[str, Path]:
        """The folder, or the device, of every volume by its name.

        Raises ResourceError (retryable) while something that the pod refers to is not there.
        """
        return {v["name"]: self._prepare(v, pod) for v in pod["spec"].get("volumes") or ()}

    def _prepare(self, volume: Object, pod: Object) -> Path:
        name, namespace = volume["name"], pod["metadata"]["namespace"]
        if "persistentVolumeClaim" in volume:
            return self.claim(volume["persistentVolumeClaim"]["claimName"], namespace)
        if "hostPath" in volume:
            path = Path(str(volume["hostPath"]["path"]))
            if volume["hostPath"].get("type") == "DirectoryOrCreate":
                _make(path)
            return path
        folder: Path = self._folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if "secret" in volume:
            source = volume["secret"]
            data = self._data(SECRET, source["secretName"], namespace, bool(source.get("optional")))
            write_files(folder, selected(data, source, f"secret {source['secretName']!r}"), source)
        elif "configMap" in volume:
            source = volume["configMap"]
            data = self._data(CONFIG_MAP, source["name"], namespace, bool(source.get("optional")))
            write_files(folder, selected(data, source, f"config map {source['name']!r}"), source)
        elif "emptyDir" not in volume:
            kind = next((key for key in volume if key != "name"), "none")
            raise ResourceError(
                f"volume {name!r} has the type {kind}; this node supports persistentVolumeClaim, secret, configMap,"
                " emptyDir and hostPath",
                field="spec.volumes",
                reason="UnsupportedVolume",
            )
        return folder

    def claim(self, name: str, namespace: str) -> Path:
        """The folder of a claim's volume, or its device with volume mode Block; ResourceError while it is not there."""
        claim = self._cluster.get(PVC, name, namespace)
        if claim is None:
            raise ResourceError(f"persistentvolumeclaim {name!r} not found", reason="FailedMount", retryable=True)
        volume = str(claim["spec"].get("volumeName") or "")
        folder = next((folder for folder in self._persistent if (folder / volume).is_dir()), None)
        status: Object = claim.get("status") or {}
        if status.get("phase") != "Bound":
            raise ResourceError(f"persistentvolumeclaim {name!r} is not bound", reason="FailedMount", retryable=True)
        if folder is None:
            message = f"the folder of volume {volume!r} is not on this node"
            raise ResourceError(message, reason="FailedMount", retryable=True)
        if claim["spec"].get("volumeMode") == "Block":
            return BlockDevices(folder).open(volume)
        return folder / volume

    def _data(self, resource: Resource, name: str, namespace: str, optional: bool) -> dict[str, bytes]:
        obj = self._cluster.get(resource, name, namespace)
        if obj is None:
            if optional:
                return {}
            message = f"{resource.kind.lower()} {name!r} not found"
            raise ResourceError(message, reason="FailedMount", retryable=True)
        return contents(obj)


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        message = f"cannot make the folder {path} of the host: {exc.strerror}"
        raise ResourceError(message, reason="FailedMount", retryable=True) from exc


def contents(obj: Object) -> dict[str, bytes]:
    """The entries of a Secret or a ConfigMap."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    entries = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    return entries | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def selected(data: Mapping[str, bytes], source: Object, where: str) -> dict[str, bytes]:
    """The files that a volume shows: all entries, or those of `items` under their paths."""
    items = source.get("items")
    if not items:
        return dict(data)
    files = {}
    for item in items:
        path = Path(item["path"])
        if path.is_absolute() or ".." in path.parts:
            raise ResourceError(f"items path {item['path']!r} must be relative, without '..'", field="spec.volumes")
        if item["key"] in data:
            files[item["path"]] = data[item["key"]]
        elif not source.get("optional"):
            raise ResourceError(f"{where} has no key {item['key']!r}", reason="FailedMount", retryable=True)
    return files


def write_files(folder: Path, files: Mapping[str, bytes], source: Object) -> None:
    """Make `folder` hold exactly these files. Each is replaced at once, and only if it differs."""
    mode = source.get("defaultMode", 0o644)
    for name, data in files.items():
        path = folder / name
        if path.is_file() and path.read_bytes() == data:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"..{path.name}.new")
        new.touch(mode=0o600)
        new.write_bytes(data)
        new.chmod(mode)
        new.replace(path)
    for path in list(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()


def mounts_of(container: Object) -> list[Object]:
    """Where the container wants its volumes: the entries of volumeMounts, and those of volumeDevices as such."""
    devices = [
        {"name": entry["name"], "mountPath": entry["devicePath"]} for entry in container.get("volumeDevices") or ()
    ]
    return [*(container.get("volumeMounts") or ()), *devices]


def mount(root: Path, mounts: list[Object], volumes: Mapping[str, Path]) -> None:
    """Make a fresh root folder in which every mount path leads to its volume.

    Raises ResourceError for a mount that names no volume or leaves its folder.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "dev").mkdir()
    (root / "tmp").mkdir()
    # Outer paths first: a mount below another one is made inside that volume.
    for entry in sorted(mounts, key=lambda entry: str(entry["mountPath"])):
        if entry["name"] not in volumes:
            message = f"volumeMounts names the volume {entry['name']!r}, which the pod does not have"
            raise ResourceError(message, field="spec.containers.volumeMounts", reason="CreateContainerConfigError")
        inner = (entry.get("subPath") or "", str(entry["mountPath"]).strip("/"))
        if any(".." in Path(part).parts for part in inner) or not inner[1] or inner[0].startswith("/"):
            message = f"the mount of {entry['name']!r} must not contain '..' or be '/'"
            raise ResourceError(message, field="spec.containers.volumeMounts", reason="CreateContainerConfigError")
        target = (volumes[entry["name"]] / inner[0]).absolute()
        if entry.get("subPath") and not target.exists():
            target.mkdir(parents=True)
        link = root / inner[1]
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.symlink_to(target)
