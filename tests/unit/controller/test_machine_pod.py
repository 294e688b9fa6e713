"""The pod of a machine, whole: as a cluster gets it."""

import json

from controller.api.machine import AttachedDevice, BlockDeviceType, MachineSpec
from controller.launcher.spec import DiskSpec
from controller.machines.launch import Device, Launch
from controller.machines.pod import build_pod
from controller.machines.setup import LauncherSetup
from controller.runtime.index import Object
from dvcr.config import ClientSettings, LauncherSettings

MIB, GIB = 2**20, 2**30
LIMIT = str(4096 * MIB + 224 * MIB + 2 * 48 * MIB + 128 * MIB)
METADATA = {"name": "web", "namespace": "shop", "uid": "uid-1", "labels": {"app": "shop", "tier": "front"}}
OWNER = {"apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualMachine", "name": "web", "uid": "uid-1"}
PLACED_BY_USER: Object = {
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "vms", "operator": "Exists", "effect": "NoSchedule"}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "shop"}},
        }
    ],
    "priorityClassName": "high",
}
ANTI_AFFINITY: Object = {
    "requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "shop"}}}
    ]
}
ZONE: Object = {"key": "zone", "operator": "In", "values": ["a"]}
MODEL: Object = {
    "key": "cpu-model.virtualization.deckhouse.io/generic-v1",
    "operator": "NotIn",
    "values": ["false"],
}
SPEC: Object = {
    "cpu": {"cores": 4, "coreFraction": "25%"},
    "memory": {"size": "4Gi"},
    "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}],
    "terminationGracePeriodSeconds": 90,
    **PLACED_BY_USER,
    "affinity": {
        "podAntiAffinity": ANTI_AFFINITY,
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [ZONE]}]}
        },
    },
}


MACHINE = MachineSpec.read(SPEC)
DISK = DiskSpec(name="vmd-root", kind="disk", path="/disks/root/disk.qcow2", size_bytes=GIB)
LAUNCH = Launch(devices=[Device(DISK, AttachedDevice(type=BlockDeviceType.DISK), "vmd-root")])


def pod_of(kvm_resource: str = "", **launcher: object) -> Object:
    setup = LauncherSetup(
        ("dvcr-launcher",),
        "registry.example.com/dvcr:1",
        ClientSettings(url="http://registry.test"),
        LauncherSettings.model_validate(launcher),
        kvm_resource=kvm_resource,
    )
    return build_pod(METADATA, OWNER, MACHINE, LAUNCH, setup)


def test_the_whole_pod() -> None:
    pod = pod_of()
    applied = json.loads(pod["metadata"]["annotations"].pop("virtualization.deckhouse.io/applied-spec"))

    assert applied.keys() == {
        "cpu", "memory", "blockDevices", "bootloader", "osType", "enableParavirtualization",
    }  # fmt: skip
    assert pod == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "vm-web",
            "namespace": "shop",
            # A Service finds the machine by the machine's labels.
            "labels": {"app": "shop", "tier": "front", "vm.virtualization.deckhouse.io/name": "web"},
            "annotations": {
                "virtualization.deckhouse.io/eviction": "Move",
                "virtualization.deckhouse.io/grace-period-seconds": "90",
                "virtualization.deckhouse.io/machine-labels": (
                    '["app", "tier", "vm.virtualization.deckhouse.io/name"]'
                ),
            },
            "ownerReferences": [OWNER],
        },
        "spec": {
            **PLACED_BY_USER,
            "affinity": {
                "podAntiAffinity": ANTI_AFFINITY,
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [ZONE, MODEL]}]
                    }
                },
            },
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 105,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 107,
                "runAsGroup": 107,
                "fsGroup": 107,
                "fsGroupChangePolicy": "OnRootMismatch",
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
            },
            "containers": [
                {
                    "name": "machine",
                    "image": "registry.example.com/dvcr:1",
                    "command": ["dvcr-launcher"],
                    "env": [
                        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "DVCR__CLIENT__URL", "value": "http://registry.test"},
                        {"name": "DVCR__LAUNCHER__CACHE_DIR", "value": "/var/cache/dvcr"},
                    ],
                    "resources": {
                        # A quarter of each of the four.
                        "requests": {"cpu": "1000m", "memory": LIMIT},
                        "limits": {"memory": LIMIT},
                    },
                    "ports": [
                        {"name": "status", "containerPort": 61080},
                        {"name": "health", "containerPort": 61081},
                    ],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 61081}, "periodSeconds": 1},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [
                        {"name": "machine", "mountPath": "/etc/dvcr", "readOnly": True},
                        {"name": "run", "mountPath": "/run"},
                        {"name": "snapshots", "mountPath": "/var/lib/dvcr/snapshots"},
                        {"name": "cache", "mountPath": "/var/cache/dvcr"},
                        {"name": "disk-0", "mountPath": "/disks/root"},
                    ],
                    "terminationMessagePath": "/dev/termination-log",
                }
            ],
            "volumes": [
                {"name": "machine", "secret": {"secretName": "vm-web"}},
                {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": str(16 * MIB)}},
                {"name": "snapshots", "emptyDir": {"sizeLimit": str(11 * GIB + 64 * MIB)}},
                {"name": "cache", "emptyDir": {"sizeLimit": str(4 * GIB * 110 // 100 + 64 * MIB)}},
                {"name": "disk-0", "persistentVolumeClaim": {"claimName": "vmd-root"}},
            ],
        },
    }


def test_kvm_comes_by_a_resource_of_the_clusters_device_plugin() -> None:
    limits = pod_of(kvm_resource="squat.ai/kvm")["spec"]["containers"][0]["resources"]["limits"]

    assert limits == {"memory": LIMIT, "squat.ai/kvm": "1"}


def test_what_never_emulates_needs_no_room_for_translated_code() -> None:
    resources = pod_of(accelerator="kvm")["spec"]["containers"][0]["resources"]

    on_kvm = str(4096 * MIB + 224 * MIB + 2 * 48 * MIB)
    assert (resources["requests"]["memory"], resources["limits"]) == (on_kvm, {"memory": on_kvm})
