"""Pods that work on a disk without a machine: they mount its claim, tell how far they are, and leave a last word."""

from typing import Protocol

import requests
from pydantic import BaseModel, ValidationError

from controller.api.resource import GROUP
from controller.disks.claim import disk_bytes, is_block, pinned_image
from controller.disks.mount import disk_mount
from controller.launcher.spec import (
    ADDRESS_VARIABLE,
    CREDENTIALS_PATH,
    STATUS_PORT,
    DiskSpec,
    ImageReference,
    WorkEnd,
    WorkStatus,
)
from controller.machines.security import container_security, work_security
from controller.machines.setup import LauncherSetup
from controller.runtime.index import Object

DISK_PATH = "/disks/work/disk.qcow2"
WORK_LABEL = f"{GROUP}/work"
"""What such a pod does: by this label network policies know it."""
MEMORY_BYTES = 512 * 2**20
"""Chunks on their way, and QEMU's tools."""
_GRACE_PERIOD_S = 5
_TIMEOUT_S = 2


class WorkProgress(Protocol):
    """How far the work of a pod is."""

    def read(self, address: str) -> WorkStatus | None:
        """What the pod tells; None if it does not answer."""
        ...


class HttpWorkProgress:
    """WorkProgress over `GET /status`."""

    def read(self, address: str) -> WorkStatus | None:
        host = f"[{address}]" if ":" in address else address
        try:
            response = requests.get(f"http://{host}:{STATUS_PORT}/status", timeout=_TIMEOUT_S)
            response.raise_for_status()
            return WorkStatus.model_validate_json(response.content)
        except (requests.RequestException, ValidationError):
            return None  # it begins, or ends: the pod's own state tells


def work_disk(disk: str, claim: Object) -> DiskSpec:
    """The disk in that claim, as such a pod finds it."""
    pinned = pinned_image(claim)
    return DiskSpec(
        name=disk,
        kind="disk",
        path=DISK_PATH,
        device=is_block(claim),
        size_bytes=disk_bytes(claim),
        image=ImageReference(repository=pinned[0], digest=pinned[1]) if pinned else None,
    )


def build_work_pod(
    metadata: Object, claim: str, disk: DiskSpec, work: str, spec: BaseModel, setup: LauncherSetup
) -> Object:
    """The pod that runs `dvcr-launcher <work> <spec>` where the disk, in the claim of that name, is.

    Where the registry is shown credentials, the Secret of the pod's name holds them.
    """
    mounts = disk_mount("disk", disk)
    mounts["volumeMounts"] = [*mounts.get("volumeMounts", []), setup.cache_mount()]
    volumes: list[Object] = [
        {"name": "disk", "persistentVolumeClaim": {"claimName": claim}},
        setup.cache_volume(),
    ]
    if setup.shows_credentials:
        volumes.append({"name": "registry", "secret": {"secretName": metadata["name"]}})
        folder = CREDENTIALS_PATH.rpartition("/")[0]
        mounts["volumeMounts"].append({"name": "registry", "mountPath": folder, "readOnly": True})
    container: Object = {
        "name": work,
        "image": setup.image,
        "command": [*setup.command, work, spec.model_dump_json()],
        "env": [
            {"name": ADDRESS_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *setup.environment(),
        ],
        "resources": {
            "requests": {"cpu": "100m", "memory": str(MEMORY_BYTES)},
            "limits": {"memory": str(2 * MEMORY_BYTES)},
        },
        "ports": [{"name": "status", "containerPort": STATUS_PORT}],
        "securityContext": container_security(),
        **mounts,
        "terminationMessagePath": "/dev/termination-log",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "labels": {WORK_LABEL: work}},
        "spec": {
            "restartPolicy": "Never",
            # It asks nothing of the cluster.
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": _GRACE_PERIOD_S,
            "securityContext": work_security(),
            "containers": [container],
            "volumes": volumes,
        },
    }


def work_end(pod: Object) -> WorkEnd:
    """The last word; an interruption, to be tried again, if there is none."""
    status = pod.get("status") or {}
    detail = status.get("message") or status.get("reason") or "the pod ended"
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            try:
                return WorkEnd.model_validate_json(ended.get("message") or "")
            except ValueError:
                detail = f"exit code {ended.get('exitCode')}: {ended.get('message') or ended.get('reason') or 'killed'}"
    return WorkEnd(reason="Interrupted", message=f"the work on the disk was cut off ({detail})", retryable=True)
