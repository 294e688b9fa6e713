"""What whoever makes an object must be allowed in other namespaces, whose objects it names. Pure."""

from dataclasses import dataclass
from typing import Any

from controller.api.data_source import ClusterImageDataSource
from controller.api.errors import ObjectName, StatusError, forbidden
from controller.api.resource import CLUSTER_IMAGE, DISK, GROUP, IMAGE, SECRET

CLONING = "source"
"""The subresource of images and disks that stands for copying them elsewhere; it has no path of its own."""


@dataclass(frozen=True)
class Right:
    """What RBAC is asked: `resource` is `plural` or `plural/subresource`. `field` is the reference that needs it."""

    field: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str


def rights_needed(obj: dict[str, Any], old: dict[str, Any] | None) -> list[Right]:
    """Of a valid object that is to be created (`old` is None) or changed; none for what it named before.

    Only objects of the cluster name a namespace. To copy an image or a disk out of one takes `create` of its
    subresource `source`; to have a Secret used, `get` of it.
    """
    known = _rights(old) if old is not None else []
    return [right for right in _rights(obj) if right not in known]


def missing(about: ObjectName, user: str, right: Right) -> StatusError:
    """The 403 that says what the user may not, and for which field."""
    why = (
        f'{right.field}: User "{user}" cannot {right.verb} resource "{right.resource}" '
        f'in API group "{right.group}" in the namespace "{right.namespace}"'
    )
    return forbidden(about, why)


def _rights(obj: dict[str, Any]) -> list[Right]:
    if (obj.get("apiVersion"), obj.get("kind")) != (CLUSTER_IMAGE.api_version, CLUSTER_IMAGE.kind):
        return []
    source, path = ClusterImageDataSource.read(obj["spec"]["dataSource"]), "spec.dataSource"
    copied = [
        (f"{path}.virtualMachineImage", IMAGE, source.virtual_machine_image),
        (f"{path}.virtualMachineDisk", DISK, source.virtual_machine_disk),
    ]
    read = [
        (f"{path}.http.secretRef", source.http and source.http.secret_ref),
        (f"{path}.containerImage.imagePullSecret", source.container_image and source.container_image.image_pull_secret),
    ]
    return [
        Right(field, "create", GROUP, f"{resource.plural}/{CLONING}", named.namespace, named.name)
        for field, resource, named in copied
        if named
    ] + [Right(field, "get", "", SECRET.plural, named.namespace, named.name) for field, named in read if named]
