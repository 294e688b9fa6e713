"""Starting a machine: everything it needs, then its Secret, then its pod."""

import base64
import binascii

from controller.api.machine import MachineSpec, MachineStatus, Provisioning
from controller.api.resource import POD, SECRET
from controller.images.registry import ImageRegistry
from controller.machines.devices import Device, NotReady, resolve_devices
from controller.machines.pod import LauncherSetup, build_pod, build_secret, launcher_spec, pod_name
from controller.runtime.informer import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

BLOCK_DEVICES_READY = "BlockDevicesReady"
PROVISIONING_READY = "ProvisioningReady"


class MachineStart:
    """Makes the pod of a machine, or says in its conditions what is missing."""

    def __init__(self, cluster: ClusterPort, registry: ImageRegistry, setup: LauncherSetup) -> None:
        self._cluster = cluster
        self._registry = registry
        self._setup = setup

    def start(self, machine: Subject[MachineStatus], spec: MachineSpec) -> Object | NotReady:
        """The new pod, or what the machine waits for."""
        namespace = machine.namespace or ""
        devices = resolve_devices(self._cluster, self._registry, namespace, spec.block_devices)
        if isinstance(devices, NotReady):
            machine.condition(BLOCK_DEVICES_READY, False, devices.reason, devices.message)
            return devices
        machine.condition(BLOCK_DEVICES_READY, True, "Ready", "all block devices can be attached")
        user_data = self._user_data(namespace, spec.provisioning)
        if isinstance(user_data, NotReady):
            machine.condition(PROVISIONING_READY, False, user_data.reason, user_data.message)
            return user_data
        machine.condition(PROVISIONING_READY, True, "Ready", "the provisioning data is there")
        machine.status.block_devices_attached = [device.attached for device in devices]
        return self._create(machine, spec, devices, user_data)

    def _create(
        self, machine: Subject[MachineStatus], spec: MachineSpec, devices: list[Device], user_data: str | None
    ) -> Object:
        metadata, owner = machine.obj["metadata"], machine.owner_reference()
        secret = build_secret(metadata, owner, launcher_spec(metadata, spec, devices, user_data))
        old = self._cluster.get(SECRET, pod_name(machine.name), machine.namespace)
        if old is None:
            self._cluster.create(SECRET, secret)
        elif old.get("data") != secret["data"]:
            patch = {"data": secret["data"], "metadata": {"ownerReferences": [owner]}}
            self._cluster.patch(SECRET, pod_name(machine.name), patch, machine.namespace)
        return self._cluster.create(POD, build_pod(metadata, owner, spec, devices, self._setup))

    def _user_data(self, namespace: str, provisioning: Provisioning | None) -> str | NotReady | None:
        if provisioning is None:
            return None
        if provisioning.user_data is not None:
            return provisioning.user_data
        if provisioning.user_data_secret_ref is None:
            return NotReady("ProvisioningNotSupported", f"provisioning by {provisioning.type.value} is not there yet")
        name = provisioning.user_data_secret_ref.name
        secret = self._cluster.get(SECRET, name, namespace)
        if secret is None:
            return NotReady("SecretNotFound", f"waits for Secret {name!r}, which does not exist")
        data = secret.get("data") or {}
        for key in ("userData", "userdata", "user-data"):
            if key in data:
                try:
                    return base64.b64decode(data[key], validate=True).decode()
                except (binascii.Error, UnicodeDecodeError):
                    return NotReady("SecretInvalid", f"key {key!r} of Secret {name!r} is no text in UTF-8")
        return NotReady("SecretInvalid", f"Secret {name!r} has no key 'userData'")
