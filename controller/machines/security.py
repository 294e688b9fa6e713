"""What pods of machines and disks may do on a cluster. Where pods are processes, launchers confine QEMU themselves."""

from controller.runtime.index import Object

USER_ID = 107
"""The user of QEMU in images of libvirt and KubeVirt: volumes that they wrote can be read."""

_USER: Object = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
}
"""A user without rights, whom the pod's volumes belong to."""


def machine_security() -> Object:
    """For a machine's whole pod.

    No seccomp profile: QEMU and passt have stricter filters of their own, and the runtime's default would keep passt
    out of the empty file system that it locks itself into.
    """
    # A guest's ssh is to answer at port 22; the sysctl counts as safe.
    return {**_USER, "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}


def work_security() -> Object:
    """For the whole pod that works on a disk, without a guest."""
    return {**_USER, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> Object:
    """For the container of either: no capability, and no way to get one."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
