"""What a machine's pod may do on a cluster. Where pods are processes, its launcher confines QEMU by itself.

No seccomp profile: QEMU and passt have stricter filters of their own, and the runtime's default would keep passt out of
the empty file system that it locks itself into.
"""

from controller.runtime.index import Object

USER_ID = 107
"""The user of QEMU in images of libvirt and KubeVirt: volumes that they wrote can be read."""


def pod_security() -> Object:
    """For the whole pod: a user without rights, whom its volumes belong to."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        # A guest's ssh is to answer at port 22; the sysctl counts as safe.
        "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
    }


def container_security() -> Object:
    """For its container: no capability, and no way to get one."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
