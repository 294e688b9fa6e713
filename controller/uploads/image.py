"""The image that is uploaded to, on the cluster."""

import time
from typing import Any

from controller.api.data_source import SourceType
from controller.api.image import ImagePhase
from controller.api.resource import CLUSTER_IMAGE, IMAGE
from controller.cli.apply import refusal
from controller.cli.waiting import Wish, wait_for
from controller.runtime.cluster import AlreadyExistsError, Cluster, ClusterError, InvalidError
from dvcr.errors import ResourceError

Object = dict[str, Any]

_POLL_S = 0.3
_ADDRESS_TIMEOUT_S = 60


class UploadedImage:
    """A VirtualMachineImage, or without a namespace a ClusterVirtualMachineImage."""

    def __init__(self, cluster: Cluster, name: str, namespace: str | None) -> None:
        self._cluster = cluster
        self._resource = IMAGE if namespace else CLUSTER_IMAGE
        self._name = name
        self._namespace = namespace
        self.title = f"{self._resource.short_names[0]}/{name}"

    @property
    def delete_command(self) -> str:
        """What a user types to be rid of it."""
        place = f" -n {self._namespace}" if self._namespace not in (None, "default") else ""
        return f"dvcr delete {self.title}{place}"

    def require_usable(self) -> Object | None:
        """The object, None if there is none yet. Raises ResourceError if a file cannot be uploaded to it."""
        obj = self._cluster.get(self._resource, self._name, self._namespace)
        if obj is None:
            return None
        if obj["metadata"].get("deletionTimestamp"):
            raise ResourceError(f"{self.title} is being deleted; wait until it is gone")
        source = obj["spec"]["dataSource"]["type"]
        if source != SourceType.UPLOAD:
            raise ResourceError(
                f"{self.title} exists, and its source is {source}; choose another name, or: {self.delete_command}",
                reason="AlreadyExists",
            )
        phase = _status(obj).get("phase")
        if phase == ImagePhase.READY:
            raise ResourceError(
                f"{self.title} is Ready already; choose another name, or: {self.delete_command}", reason="AlreadyExists"
            )
        if phase == ImagePhase.FAILED:
            raise self._failure(obj)
        return obj

    def create_or_go_on(self, sha256: str) -> None:
        """Make the object, unless it is there already and waits for this very file. Raises ResourceError."""
        obj = self.require_usable()
        if obj is None:
            metadata = {"name": self._name} | ({"namespace": self._namespace} if self._namespace else {})
            source = {"type": SourceType.UPLOAD.value, "upload": {"checksum": {"sha256": sha256}}}
            manifest = {
                "apiVersion": self._resource.api_version,
                "kind": self._resource.kind,
                "metadata": metadata,
                "spec": {"dataSource": source},
            }
            try:
                self._cluster.create(self._resource, manifest, strict=True)
            except InvalidError as exc:
                raise refusal(exc) from exc
            except AlreadyExistsError as exc:
                raise ResourceError(f"somebody else has just made {self.title}; run the command again") from exc
            return
        promised = ((obj["spec"]["dataSource"].get("upload") or {}).get("checksum") or {}).get("sha256", sha256)
        if promised.lower() != sha256:
            raise ResourceError(
                f"{self.title} waits for another file, whose sha256 is {promised}; upload that one, choose another "
                f"name, or: {self.delete_command}",
                reason="AlreadyExists",
            )

    def wait_for_address(self) -> str:
        """Where to send the file; empty if it is there already. Raises ResourceError."""
        deadline = time.monotonic() + _ADDRESS_TIMEOUT_S
        while True:
            status = _status(self._existing())
            urls = status.get("imageUploadURLs")
            if urls:
                return str(urls["external"])
            if status.get("phase") in (ImagePhase.PROVISIONING, ImagePhase.READY):
                return ""
            if time.monotonic() >= deadline:
                raise ResourceError(
                    f"{self.title} has no upload address after {_ADDRESS_TIMEOUT_S} s; does the controller run?",
                    reason="Timeout",
                )
            time.sleep(_POLL_S)

    def waits_for_bytes(self) -> bool:
        """Whether the upload is not over yet. Raises ResourceError where the image failed or is gone."""
        try:
            status = _status(self._existing())
        except ClusterError:
            return True  # the API is away for a moment: try again as for the uploader
        waiting = {ImagePhase.WAIT_FOR_USER_UPLOAD, ImagePhase.PENDING, None}
        return status.get("phase") in waiting or any(
            c["type"] == "Ready" and c.get("reason") == "Uploading" for c in status.get("conditions") or ()
        )

    def wait_until_ready(self, timeout_s: float) -> Object:
        """The object once it is Ready, with the import's progress meanwhile. Raises ResourceError."""
        wish = Wish.parse("condition=Ready")
        return wait_for(self._cluster, self._resource, self._name, self._namespace, wish, timeout_s) or {}

    def _existing(self) -> Object:
        obj = self._cluster.get(self._resource, self._name, self._namespace)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            raise ResourceError(f"{self.title} was deleted meanwhile", reason="NotFound")
        if _status(obj).get("phase") == ImagePhase.FAILED:
            raise self._failure(obj)
        return obj

    def _failure(self, obj: Object) -> ResourceError:
        status = _status(obj)
        why = ": ".join(str(part) for part in (status.get("failureReason"), status.get("failureMessage")) if part)
        return ResourceError(
            f"{self.title} has failed{': ' if why else ''}{why}; to upload anew: {self.delete_command}", reason="Failed"
        )


def _status(obj: Object) -> Object:
    return obj.get("status") or {}
