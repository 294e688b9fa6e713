"""The Secret that a pod mounts, which has its name."""

import base64
from collections.abc import Mapping

from controller.api.resource import SECRET
from controller.runtime.errors import AlreadyExistsError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort


def encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    """Files as the `data` of a Secret."""
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def build_secret(name: str, namespace: str, owner: Object, files: Mapping[str, bytes]) -> Object:
    """A Secret with these files, to be deleted with its owner."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner]},
        "type": "Opaque",
        "data": encoded(files),
    }


def put_secret(cluster: ClusterPort, secret: Object) -> None:
    """Make the Secret, or have the one of its name hold its files and belong to its owner."""
    metadata = secret["metadata"]
    try:
        cluster.create(SECRET, secret)
    except AlreadyExistsError:
        patch = {"data": secret["data"], "metadata": {"ownerReferences": metadata["ownerReferences"]}}
        cluster.patch(SECRET, metadata["name"], patch, metadata["namespace"])


def give_secret(cluster: ClusterPort, pod: Object) -> None:
    """Have the Secret of the pod's name, if there is one, end with the pod. Idempotent."""
    name, namespace, uid = (pod["metadata"][field] for field in ("name", "namespace", "uid"))
    if cluster.get(SECRET, name, namespace) is not None:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        cluster.patch(SECRET, name, {"metadata": {"ownerReferences": [owner]}}, namespace)
