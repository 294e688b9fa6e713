"""Objects that nobody may create, changes that nobody may make, each with its wrong field; and some that are fine.

One table for every place that judges: the admission code, the webhooks, the embedded API server, and a real one by the
CustomResourceDefinitions alone.
"""

import base64
import copy
from dataclasses import dataclass
from typing import Any

from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    IMAGE,
    MACHINE,
    OPERATION,
    Resource,
)

Object = dict[str, Any]
SOURCE = "spec.dataSource"
SIZE = "spec.persistentVolumeClaim.size"


@dataclass(frozen=True)
class Refused:
    """An object, or what one that is there is to become, and why it is not accepted."""

    resource: Resource
    what: str
    field: str
    spec: Object
    before: Object | None = None
    """The spec that is to be changed."""
    status: Object | None = None
    """Of the object that is to be changed."""
    name: str = "wrong"
    cel_field: str = ""
    """Where CEL cannot name `field` itself."""

    @property
    def object(self) -> Object:
        return self._with(self.spec)

    @property
    def old(self) -> Object | None:
        if self.before is None:
            return None
        return self._with(self.before) | ({"status": self.status} if self.status else {})

    def _with(self, spec: Object) -> Object:
        metadata = {"name": self.name} | ({"namespace": "default"} if self.resource.namespaced else {})
        type_ = {"apiVersion": self.resource.api_version, "kind": self.resource.kind}
        return {**type_, "metadata": metadata, "spec": copy.deepcopy(spec)}

    def __str__(self) -> str:
        return f"{self.resource.short_names[0]}: {self.what}"


HTTP: Object = {"type": "HTTP", "http": {"url": "https://example.com/disk.qcow2"}}
_CONTAINER = {"image": "registry.example.com/folder/disk:1"}
_SOURCES: dict[Resource, Object] = {CLUSTER_IMAGE: {}, IMAGE: {}, DISK: {"persistentVolumeClaim": {"size": "1Gi"}}}


def _of(resource: Resource, source: Object) -> Object:
    return {**_SOURCES[resource], "dataSource": source}


def _http(**fields: Any) -> Object:
    return {"dataSource": {"type": "HTTP", "http": {**HTTP["http"], **fields}}}


def disk(size: str | None = None, source: Object | None = None, **claim: str) -> Object:
    """The spec of a VirtualMachineDisk."""
    spec: Object = {"persistentVolumeClaim": {**claim, **({"size": size} if size else {})}}
    return spec | ({"dataSource": source} if source else {})


def device(name: str, kind: str = "VirtualMachineDisk") -> Object:
    return {"type": kind, kind[0].lower() + kind[1:]: {"name": name}}


def machine(*devices: Object, **fields: Any) -> Object:
    """The spec of a VirtualMachine, with one disk unless others are given."""
    return {
        "cpu": {"cores": 1},
        "memory": {"size": "1Gi"},
        "blockDevices": list(devices) or [device("root")],
        **fields,
    }


def _provisioning(**fields: Any) -> Object:
    return machine(provisioning=fields)


def _named_device(name: str) -> str:
    return f"spec.blockDevices[0].virtualMachineDisk.{name}"


_STOP = {"type": "Stop", "virtualMachineName": "web"}
_ATTACHED = {"virtualMachineName": "web", "blockDevice": device("data")}
_LEASED = {"claimRef": {"name": "web", "namespace": "default"}}

_SECOND_BLOCK = [
    *(
        Refused(kind, "a second block beside the type's own", f"{SOURCE}.containerImage",
                _of(kind, {**HTTP, "containerImage": _CONTAINER}))
        for kind in _SOURCES
    ),
    Refused(IMAGE, "an upload beside a URL", f"{SOURCE}.upload", _of(IMAGE, {**HTTP, "upload": {}})),
    *(
        Refused(IMAGE, f"{block} beside an upload", f"{SOURCE}.{block}", _of(IMAGE, {"type": "Upload", block: content}))
        for block, content in (
            ("http", HTTP["http"]),
            ("containerImage", _CONTAINER),
            ("virtualMachineImage", {"name": "debian"}),
            ("clusterVirtualMachineImage", {"name": "debian"}),
            ("virtualMachineDisk", {"name": "root"}),
        )
    ),
    *(
        Refused(MACHINE, f"{second} beside a device's own block", f"spec.blockDevices[0].{second}",
                machine(device("root", kind) | {second: {"name": "root"}}))
        for kind, second in (
            ("VirtualMachineDisk", "virtualMachineImage"),
            ("VirtualMachineImage", "clusterVirtualMachineImage"),
            ("ClusterVirtualMachineImage", "virtualMachineDisk"),
        )
    ),
    *(
        Refused(MACHINE, f"{second} beside {type_}", f"spec.provisioning.{second}",
                _provisioning(**{"type": type_, block: content, second: other}))
        for type_, block, content, second, other in (
            ("UserData", "userData", "#cloud-config", "sysprepSecretRef", {"name": "answers"}),
            ("UserDataSecret", "userDataSecretRef", {"name": "data"}, "userData", "#cloud-config"),
            ("SysprepSecret", "sysprepSecretRef", {"name": "answers"}, "userDataSecretRef", {"name": "data"}),
        )
    ),
    Refused(CPU_MODEL, "features of the host's model", "spec.features", {"type": "Host", "features": ["aes"]}),
    Refused(CPU_MODEL, "a model beside features", "spec.model",
            {"type": "Features", "features": ["aes"], "model": "Nehalem"}),
]  # fmt: skip
_MISSING_BLOCK = [
    *(
        Refused(CLUSTER_IMAGE, f"no block of {type_}", f"{SOURCE}.{block}", _of(CLUSTER_IMAGE, {"type": type_}))
        for type_, block in (
            ("HTTP", "http"),
            ("ContainerImage", "containerImage"),
            ("VirtualMachineImage", "virtualMachineImage"),
            ("ClusterVirtualMachineImage", "clusterVirtualMachineImage"),
            ("VirtualMachineDisk", "virtualMachineDisk"),
        )
    ),
    Refused(IMAGE, "no block", f"{SOURCE}.http", _of(IMAGE, {"type": "HTTP"})),
    Refused(DISK, "no block", f"{SOURCE}.http", _of(DISK, {"type": "HTTP"})),
    Refused(MACHINE, "a device without its block", _named_device("")[:-1], machine({"type": "VirtualMachineDisk"})),
    *(
        Refused(MACHINE, f"no block of {type_}", f"spec.provisioning.{block}", _provisioning(type=type_))
        for type_, block in (
            ("UserData", "userData"),
            ("UserDataSecret", "userDataSecretRef"),
            ("SysprepSecret", "sysprepSecretRef"),
        )
    ),
    Refused(ATTACHMENT, "no block", "spec.blockDevice.virtualMachineDisk",
            {"virtualMachineName": "web", "blockDevice": {"type": "VirtualMachineDisk"}}),
    Refused(CPU_MODEL, "no model", "spec.model", {"type": "Model"}),
    Refused(CPU_MODEL, "no features", "spec.features", {"type": "Features"}),
    Refused(CPU_MODEL, "an empty list of features", "spec.features", {"type": "Features", "features": []}),
]  # fmt: skip
_BAD_URL = [
    Refused(IMAGE, f"the URL {url!r}", f"{SOURCE}.http.url", _http(url=url))
    for url in (
        "ftp://example.com/x",
        "http://",
        "http://a b/",
        "http://a:99999/",
        "example.com/x",
        "http://a/\u00a0 x",
    )
]
_BAD_CHECKSUM = [
    *(
        Refused(IMAGE, f"{len(digits)} digits of {algorithm}", f"{SOURCE}.http.checksum.{algorithm}",
                _http(checksum={algorithm: digits}))
        for algorithm, length in (("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128))
        for digits in ("a" * (length - 1), "a" * (length + 1), "")
    ),
    Refused(IMAGE, "a checksum that is not hexadecimal", f"{SOURCE}.http.checksum.md5",
            _http(checksum={"md5": "g" * 32})),
    Refused(IMAGE, "an upload's checksum", f"{SOURCE}.upload.checksum.sha256",
            _of(IMAGE, {"type": "Upload", "upload": {"checksum": {"sha256": "abc"}}})),
]  # fmt: skip
_BAD_QUANTITY = [
    *(Refused(DISK, f"the size {size!r}", SIZE, disk(size)) for size in ("ten", "1.2.3Gi", "-5Gi", "5 Gi", "0", "5gi")),
    Refused(MACHINE, "memory that is none", "spec.memory.size", machine(memory={"size": "much"})),
    Refused(MACHINE, "no memory", "spec.memory.size", machine(memory={"size": 0})),
]
_BAD_REFERENCE = [
    Refused(IMAGE, "an image reference", f"{SOURCE}.containerImage.image",
            _of(IMAGE, {"type": "ContainerImage", "containerImage": {"image": "UPPER/x y"}})),
    Refused(IMAGE, "the name of a pull secret", f"{SOURCE}.containerImage.imagePullSecret.name",
            _of(IMAGE, {"type": "ContainerImage", "containerImage": {**_CONTAINER, "imagePullSecret": {"name": "A"}}})),
    Refused(IMAGE, "the name of a secret", f"{SOURCE}.http.secretRef.name", _http(secretRef={"name": "a/b"})),
    Refused(IMAGE, "certificates that are none", f"{SOURCE}.http.caBundle", _http(caBundle="YWFhCg==")),
    Refused(IMAGE, "certificates that are not base64", f"{SOURCE}.http.caBundle", _http(caBundle="%%")),
    *(
        Refused(DISK, f"the name of a {kind}", f"{SOURCE}.{kind[0].lower()}{kind[1:]}.name",
                disk(source=device("A b", kind)))
        for kind in ("VirtualMachineImage", "ClusterVirtualMachineImage")
    ),
    Refused(CLUSTER_IMAGE, "no namespace", f"{SOURCE}.virtualMachineImage.namespace",
            _of(CLUSTER_IMAGE, device("debian", "VirtualMachineImage"))),
    Refused(CLUSTER_IMAGE, "a namespace", f"{SOURCE}.virtualMachineDisk.namespace",
            _of(CLUSTER_IMAGE, {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "a", "namespace": "A"}})),
    Refused(MACHINE, "the name of a disk", _named_device("name"), machine(device("Root"))),
    Refused(MACHINE, "the name of a secret", "spec.provisioning.userDataSecretRef.name",
            _provisioning(type="UserDataSecret", userDataSecretRef={"name": ""})),
    Refused(MACHINE, "the name of a claim", "spec.virtualMachineIPAddressClaimName",
            machine(virtualMachineIPAddressClaimName="web claim")),
    Refused(OPERATION, "the name of a machine", "spec.virtualMachineName", {**_STOP, "virtualMachineName": "x" * 254}),
    Refused(ATTACHMENT, "the name of a machine", "spec.virtualMachineName", {**_ATTACHED, "virtualMachineName": "A B"}),
    Refused(ATTACHMENT, "the name of a disk", "spec.blockDevice.virtualMachineDisk.name",
            {**_ATTACHED, "blockDevice": device("-")}),
    Refused(CPU_MODEL, "the name of a model", "spec.model", {"type": "Model", "model": "two words"}),
    Refused(CPU_MODEL, "the name of a feature", "spec.features[1]", {"type": "Features", "features": ["aes", "a,b"]}),
    Refused(ADDRESS_CLAIM, "an address", "spec.address", {"address": "192.0.2.256"}),
    Refused(ADDRESS_CLAIM, "the name of a lease", "spec.leaseName", {"leaseName": "ip-192-0-2"}),
    Refused(ADDRESS_CLAIM, "the lease of another address", "spec.leaseName",
            {"address": "192.0.2.7", "leaseName": "ip-192-0-2-8"}),
    Refused(ADDRESS_LEASE, "a name that is no address", "metadata.name", _LEASED),
    Refused(ADDRESS_LEASE, "the name of a claim", "spec.claimRef.name",
            {"claimRef": {"name": "A", "namespace": "default"}}, name="ip-192-0-2-9"),
]  # fmt: skip
_BAD_SIZE = [
    Refused(DISK, "an empty disk without size", SIZE, disk()),
    Refused(DISK, "a size that shrinks", SIZE, disk("1023Mi"), before=disk("1Gi")),
    Refused(DISK, "a size in other units that shrinks", SIZE, disk("1G"), before=disk("1Gi")),
    Refused(DISK, "a size that goes", SIZE, disk(source=HTTP), before=disk("1Gi", source=HTTP)),
    Refused(DISK, "less than its image gave it", SIZE, disk("1Mi", source=HTTP), before=disk(source=HTTP),
            status={"capacity": "1Gi"}),
]  # fmt: skip
_UNCHANGEABLE = [
    *(
        Refused(kind, "another source", "spec", _of(kind, {"type": "Upload"}), before=_of(kind, HTTP))
        for kind in (CLUSTER_IMAGE, IMAGE)
    ),
    Refused(IMAGE, "another storage", "spec", {**_http(), "storage": "PersistentVolumeClaim"}, before=_http()),
    Refused(DISK, "another source", SOURCE, disk("1Gi", source={"type": "Upload"}), before=disk("1Gi", source=HTTP)),
    Refused(DISK, "a source for an empty disk", SOURCE, disk("1Gi", source=HTTP), before=disk("1Gi")),
    Refused(DISK, "another storage class", "spec.persistentVolumeClaim.storageClassName",
            disk("1Gi", storageClassName="fast"), before=disk("1Gi", storageClassName="slow")),
    Refused(DISK, "another provisioning", "spec.provisioning", {**disk("1Gi"), "provisioning": "Eager"},
            before=disk("1Gi")),
    Refused(OPERATION, "another type", "spec", {**_STOP, "type": "Restart"}, before=_STOP),
    Refused(ATTACHMENT, "another disk", "spec.blockDevice", {**_ATTACHED, "blockDevice": device("other")},
            before=_ATTACHED),
    Refused(CPU_MODEL, "another type", "spec", {"type": "Host"}, before={"type": "Model", "model": "Nehalem"}),
    Refused(ADDRESS_CLAIM, "another address", "spec.address", {"address": "192.0.2.8"},
            before={"address": "192.0.2.7"}),
    Refused(ADDRESS_CLAIM, "another lease", "spec.leaseName", {"leaseName": "ip-192-0-2-8"}, before={}),
]  # fmt: skip
_OTHERS = [
    Refused(MACHINE, "a block device twice", "spec.blockDevices[2].virtualMachineDisk.name",
            machine(device("root"), device("root", "VirtualMachineImage"), device("root")),
            cel_field="spec.blockDevices"),
    Refused(MACHINE, "17 block devices", "spec.blockDevices", machine(*(device(f"disk-{n}") for n in range(17)))),
    Refused(MACHINE, "no block device", "spec.blockDevices", machine() | {"blockDevices": []}),
    Refused(MACHINE, "a name of 64 characters", "metadata.name", machine(), name="x" * 64),
    Refused(CLUSTER_IMAGE, "a name of 251 characters", "metadata.name", {"dataSource": HTTP}, name="x" * 251),
    Refused(IMAGE, "a name of 188 characters", "metadata.name", {"dataSource": HTTP}, name="x" * 188),
    Refused(DISK, "a name of 250 characters", "metadata.name", disk("1Gi"), name="x" * 250),
    Refused(CPU_MODEL, "a name of 64 characters", "metadata.name", {"type": "Host"}, name="x" * 64),
    Refused(MACHINE, "no core", "spec.cpu.cores", machine(cpu={"cores": 0})),
    Refused(MACHINE, "a share of a core", "spec.cpu.coreFraction", machine(cpu={"cores": 1, "coreFraction": "30%"})),
    Refused(OPERATION, "a Start by force", "spec.force", {**_STOP, "type": "Start", "force": True}),
    Refused(IMAGE, "a claim beside the registry", "spec.persistentVolumeClaim",
            {**_http(), "persistentVolumeClaim": {"storageClassName": "fast"}}),
    Refused(DISK, "a disk of a disk", f"{SOURCE}.type", disk(source=device("other"))),
    Refused(ATTACHMENT, "an image", "spec.blockDevice.type",
            {**_ATTACHED, "blockDevice": device("debian", "VirtualMachineImage")}),
]  # fmt: skip

REFUSED = [
    *_SECOND_BLOCK, *_MISSING_BLOCK, *_BAD_URL, *_BAD_CHECKSUM, *_BAD_QUANTITY, *_BAD_REFERENCE, *_BAD_SIZE,
    *_UNCHANGEABLE, *_OTHERS,
]  # fmt: skip

_BUNDLE = (
    b"# Issued for: everybody? <root@example.com> ~\n-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
)
ACCEPTED: list[tuple[Resource, Object]] = [
    *(
        (IMAGE, _http(url=url))
        for url in (
            "HTTPS://user:word@[2001:db8::1]:8443/disk.img?version=1&arch=amd64#part", "http://a", "http://a:65535?x",
            "http://\u043e\u0431\u0440\u0430\u0437\u044b.example/\u00e4",
        )
    ),
    *((IMAGE, _http(caBundle=base64.b64encode(_BUNDLE[start:]).decode())) for start in range(3)),
    *(
        (DISK, disk(size))
        for size in ("1", "100M", "1.5Gi", ".5Gi", "5.", "1e9", "1E2", "20k", "1E", "0.5Ei", "1073741824")
    ),
    (DISK, {"persistentVolumeClaim": {"size": 2**30}}),
    *(
        (IMAGE, _of(IMAGE, {"type": "ContainerImage", "containerImage": {"image": image}}))
        for image in ("debian", "localhost:5000/a_b/c__d/e--f:V1.2_x", f"r.example/x:1@sha512:{'0' * 128}")
    ),
    (MACHINE, machine(*(device(f"disk-{n}") for n in range(16)))),
    (MACHINE, machine(device("root"), device("root", "VirtualMachineImage"))),
    (MACHINE, machine(device("x" * 253))),
    (CPU_MODEL, {"type": "Features", "features": ["sse4.2", "AVX2", "x2apic"]}),
    (ADDRESS_CLAIM, {"address": "255.0.10.249", "leaseName": "ip-255-0-10-249"}),
]  # fmt: skip
