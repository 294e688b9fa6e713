"""The pod of a machine, and the file with what its launcher is to run. Pure."""

import base64
import hashlib
import json
import re

from controller.api.eviction import MOVE, STRATEGY_ANNOTATION
from controller.api.machine import BlockDevice
from controller.api.machine import MachineSpec as ApiMachineSpec
from controller.api.model import ApiModel
from controller.api.quantity import parse_bytes
from controller.api.resource import GROUP, MACHINE
from controller.disks.mount import disk_mount
from controller.launcher.spec import (
    ADDRESS_VARIABLE,
    CONTAINER_NAME,
    HEALTH_PORT,
    SNAPSHOTS_FOLDER,
    SPEC_PATH,
    STATUS_PORT,
    MachineSpec,
    Termination,
    TerminationReason,
)
from controller.machines.launch import Launch
from controller.machines.memory import chunk_memory_bytes, pod_memory_bytes
from controller.machines.processor import on_capable_nodes
from controller.machines.security import container_security, machine_security
from controller.machines.setup import LauncherSetup, bounded
from controller.machines.visit import KILL_MARGIN_S
from controller.pod_secret import encoded
from controller.runtime.index import Object

NAME_LABEL = f"vm.{GROUP}/name"
MOVE_LABEL = f"vm.{GROUP}/move"
"""Which move made the pod, as its name tells; a machine's first pod has none."""
APPLIED_ANNOTATION = f"{GROUP}/applied-spec"
"""What of the machine's spec the pod was made from, as JSON; changes of it need a restart."""
LABELS_ANNOTATION = f"{GROUP}/machine-labels"
"""The names of the pod's labels that come from its machine, as JSON."""
GRACE_PERIOD_ANNOTATION = f"{GROUP}/grace-period-seconds"
"""What the launcher was told last."""
RENEWAL_ANNOTATION = f"{GROUP}/certificate-renewal"
"""Whose the launcher's certificate is and when it is to be replaced, in MachineAuthority's words."""
_RESTART_FIELDS = (
    "cpu", "memory", "blockDevices", "provisioning", "bootloader", "osType", "enableParavirtualization",
    "virtualMachineIPAddressClaimName",
)  # fmt: skip
_RUN_BYTES = 16 * 2**20
_PLACEMENT = (
    "node_selector", "affinity", "tolerations", "topology_spread_constraints", "priority_class_name",
)  # fmt: skip


def pod_name(machine: str) -> str:
    """Name of the pod and of the Secret of a machine: fixed, so there can never be two."""
    return f"vm-{machine}"


def active_pod_name(machine: Object) -> str:
    """Name of the pod that the machine runs in or would be started in: another one than the first after a move."""
    return str((machine.get("status") or {}).get("activePod") or pod_name(machine["metadata"]["name"]))


def moved_pod_name(machine: str, operation_uid: str) -> str:
    """Name of the pod that the operation moves the machine to."""
    return f"{pod_name(machine)}-{hashlib.sha256(operation_uid.encode()).hexdigest()[:8]}"


def machine_names(pod: str) -> list[str]:
    """Machines that the pod could be of, by its name."""
    if not pod.startswith("vm-"):
        return []
    name = pod.removeprefix("vm-")
    moved = re.fullmatch(r"(.+)-[0-9a-f]{8}", name)
    return [name, moved[1]] if moved else [name]


def machine_uid(pod: Object) -> str:
    """UID of the machine that the pod belongs to; empty if it is none's."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("kind") == MACHINE.kind), "")


def restart_relevant(spec: ApiModel) -> Object:
    """The part of a machine's spec that a running machine cannot take over."""
    wire = spec.write()
    return {field: wire[field] for field in _RESTART_FIELDS if field in wire}


def applied_spec(pod: Object) -> Object:
    """The inverse of what `build_pod` notes."""
    applied: Object = json.loads((pod["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION, "{}"))
    return applied


def applied_devices(pod: Object) -> list[BlockDevice]:
    """The block devices that the pod was made with; none where somebody broke its annotations."""
    try:
        return [BlockDevice.read(wire) for wire in applied_spec(pod).get("blockDevices") or ()]
    except (ValueError, AttributeError, TypeError):
        return []


def launcher_spec(metadata: Object, spec: ApiMachineSpec, launch: Launch) -> MachineSpec:
    """What the launcher is to run."""
    return MachineSpec(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        cores=spec.cpu.cores,
        core_percent=int(spec.cpu.core_fraction.rstrip("%")),
        processor=launch.processor,
        memory_bytes=parse_bytes(spec.memory.size),
        bootloader=spec.bootloader,
        os_type=spec.os_type,
        paravirtualization=spec.enable_paravirtualization,
        disks=tuple(device.disk for device in launch.devices),
        cloud_init=launch.cloud_init,
        sysprep=launch.sysprep,
        grace_period_s=spec.termination_grace_period_seconds,
        address=launch.address,
        chunk_memory_bytes=chunk_memory_bytes(launch.devices),
    )


def machine_files(launcher: MachineSpec) -> dict[str, bytes]:
    """The specification, under the name by which the launcher reads it."""
    return {SPEC_PATH.rpartition("/")[2]: launcher.model_dump_json().encode()}


def with_grace_period(secret: Object, grace_period_s: int) -> Object:
    """The `data` that tells the launcher another grace period, and nothing else."""
    name = SPEC_PATH.rpartition("/")[2]
    told = json.loads(base64.b64decode(secret["data"][name]))
    return encoded({name: json.dumps(told | {"grace_period_s": grace_period_s}).encode()})


def build_pod(metadata: Object, owner: Object, spec: ApiMachineSpec, launch: Launch, setup: LauncherSetup) -> Object:
    """The pod that runs the launcher."""
    name = metadata["name"]
    volumes: list[Object] = [
        {"name": "machine", "secret": {"secretName": pod_name(name)}},
        # What is in memory counts against the pod's limit.
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": str(_RUN_BYTES)}},
        {"name": "snapshots", "emptyDir": bounded(setup.launcher.snapshot_bytes)},
        setup.cache_volume(),
    ]
    milli_cores = spec.cpu.cores * 10 * int(spec.cpu.core_fraction.rstrip("%"))
    memory_bytes = pod_memory_bytes(
        parse_bytes(spec.memory.size), chunk_memory_bytes(launch.devices), may_emulate=setup.may_emulate
    )
    container: Object = {
        "name": CONTAINER_NAME,
        "image": setup.image,
        "command": list(setup.command),
        "env": [
            {"name": ADDRESS_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *setup.environment(),
        ],
        "resources": {
            "requests": {"cpu": f"{milli_cores}m", "memory": str(memory_bytes)},
            "limits": {"memory": str(memory_bytes), **setup.device_limits()},
        },
        "ports": [
            {"name": "status", "containerPort": STATUS_PORT},
            {"name": "health", "containerPort": HEALTH_PORT},
        ],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": HEALTH_PORT}, "periodSeconds": 1},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "machine", "mountPath": SPEC_PATH.rpartition("/")[0], "readOnly": True},
            {"name": "run", "mountPath": "/run"},
            {"name": "snapshots", "mountPath": SNAPSHOTS_FOLDER},
            setup.cache_mount(),
        ],
        "terminationMessagePath": "/dev/termination-log",
    }
    claimed = sorted(((d.claim, d.disk) for d in launch.devices if d.claim), key=lambda claimed: claimed[0])
    for index, (claim, disk) in enumerate(claimed):
        volumes.append({"name": f"disk-{index}", "persistentVolumeClaim": {"claimName": claim}})
        for key, entries in disk_mount(f"disk-{index}", disk).items():
            container[key] = container.get(key, []) + entries
    pod_spec: Object = {
        "restartPolicy": "Never",
        # The launcher asks nothing of the cluster.
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds + KILL_MARGIN_S,
        "securityContext": machine_security(),
        "containers": [container],
        "volumes": volumes,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(name),
            "namespace": metadata["namespace"],
            "labels": pod_labels(metadata),
            "annotations": launch.annotations
            | {
                APPLIED_ANNOTATION: json.dumps(restart_relevant(spec), sort_keys=True),
                LABELS_ANNOTATION: json.dumps(sorted(pod_labels(metadata))),
                GRACE_PERIOD_ANNOTATION: str(spec.termination_grace_period_seconds),
                STRATEGY_ANNOTATION: MOVE,
            },
            "ownerReferences": [owner],
        },
        "spec": pod_spec | placement(spec, spec.cpu.model_name),
    }


def pod_labels(metadata: Object) -> dict[str, str]:
    """What a pod's labels say of the machine with this metadata: its own labels, and its name."""
    own = {key: value for key, value in (metadata.get("labels") or {}).items() if key != MOVE_LABEL}
    return {**own, NAME_LABEL: metadata["name"]}


def placement(spec: ApiMachineSpec, cpu_model: str) -> Object:
    """The part of a pod's spec that says where it may run."""
    wire = spec.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(_PLACEMENT))
    wire["affinity"] = on_capable_nodes(spec.affinity, cpu_model)
    return wire


def is_finished(pod: Object) -> bool:
    """Whether the container has ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Whether QEMU runs."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def termination_of(pod: Object) -> Termination:
    """The launcher's last word. If it left none, Killed where the pod was to go, else Failed."""
    status = pod.get("status") or {}
    # A pod that is deleted by force is killed before its launcher can say so.
    silent = TerminationReason.KILLED if "deletionTimestamp" in pod["metadata"] else TerminationReason.FAILED
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            try:
                return Termination.model_validate_json(ended.get("message") or "")
            except ValueError:
                detail = ended.get("message") or ended.get("reason") or "no message"
                message = f"the launcher ended with exit code {ended.get('exitCode')}: {detail}"
                return Termination(reason=silent, message=message)
    message = status.get("message") or status.get("reason") or "the pod failed"
    return Termination(reason=silent, message=message)
