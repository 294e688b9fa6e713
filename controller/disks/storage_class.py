"""What a storage class says of the volumes that disks are to have, in the annotations of the original module."""

from dataclasses import dataclass

from controller.api.resource import STORAGE_CLASS
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.errors import ResourceError

VOLUME_MODE_ANNOTATION = "virtualdisk.virtualization.deckhouse.io/volume-mode"
ACCESS_MODE_ANNOTATION = "virtualdisk.virtualization.deckhouse.io/access-mode"
_DEFAULT_ANNOTATION = "storageclass.kubernetes.io/is-default-class"
_VOLUME_MODES = ("Filesystem", "Block")
_ACCESS_MODES = ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")


@dataclass(frozen=True)
class VolumeProfile:
    """How the claim of a disk asks for its volume."""

    volume_mode: str = _VOLUME_MODES[0]
    access_mode: str = _ACCESS_MODES[0]


def volume_profile(cluster: ClusterPort, storage_class: str) -> VolumeProfile:
    """The profile of a storage class, the cluster's default one for an empty name.

    ResourceError `StorageClassInvalid` for an annotation that means nothing. A class that is not there says nothing:
    the claim waits for it.
    """
    found = _find(cluster, storage_class)
    if found is None:
        return VolumeProfile()
    return VolumeProfile(
        _choice(found, VOLUME_MODE_ANNOTATION, _VOLUME_MODES), _choice(found, ACCESS_MODE_ANNOTATION, _ACCESS_MODES)
    )


def waits_for_consumer(cluster: ClusterPort, storage_class: str) -> bool:
    """Whether volumes of the class, the default one for an empty name, come to be where a pod is that wants them."""
    found = _find(cluster, storage_class)
    return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"


def waits_for_volume(cluster: ClusterPort, claim: Object) -> str:
    """What is said of a claim that no volume stands behind, with what is missing, as far as storage classes tell."""
    name = claim["spec"].get("storageClassName")
    why = ""
    if name:
        missing = _find(cluster, name) is None
        why = f": there is no storage class {name!r}" if missing else f" of storage class {name!r}"
    elif name is None and _find(cluster, "") is None:
        why = ": it names no storage class, and the cluster has no default one"
    return f"waits for a volume to stand behind PersistentVolumeClaim {claim['metadata']['name']!r}{why}"


def _find(cluster: ClusterPort, storage_class: str) -> Object | None:
    for found in cluster.list(STORAGE_CLASS):
        annotations = found["metadata"].get("annotations") or {}
        if storage_class == found["metadata"]["name"] or (
            not storage_class and annotations.get(_DEFAULT_ANNOTATION) == "true"
        ):
            return found
    return None


def _choice(storage_class: Object, annotation: str, values: tuple[str, ...]) -> str:
    metadata = storage_class["metadata"]
    value = str((metadata.get("annotations") or {}).get(annotation, values[0]))
    if value not in values:
        raise ResourceError(
            f"annotation {annotation} of storage class {metadata['name']!r} is {value!r};"
            f" it can be {' or '.join(values)}",
            reason="StorageClassInvalid",
        )
    return value
