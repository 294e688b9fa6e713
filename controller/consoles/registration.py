"""Telling the cluster that the controller serves the machine API: an APIService, and the Service that it names."""

import base64

from controller.api.resource import API_SERVICE, SERVICE, VERSION, Resource
from controller.consoles.paths import GROUP
from controller.runtime.index import Object
from controller.runtime.likeness import contains
from controller.runtime.port import ClusterPort

API_SERVICE_NAME = f"{VERSION}.{GROUP}"


def register(
    cluster: ClusterPort, namespace: str, service: str, external_name: str, port: int, authority: bytes
) -> None:
    """Have the cluster trust the API's certificate, which `authority` (PEM) has issued. Writes only what differs.

    With `external_name`, the host at which this process is reached, both objects are made. Without, they belong to
    whoever installed the controller, and only the authority is filled in.
    """
    bundle = base64.b64encode(authority).decode()
    if not external_name:
        installed = cluster.get(API_SERVICE, API_SERVICE_NAME)
        if installed is not None and installed["spec"].get("caBundle") != bundle:
            cluster.patch(API_SERVICE, API_SERVICE_NAME, {"spec": {"caBundle": bundle}})
    else:
        _put(cluster, SERVICE, _service(namespace, service, external_name, port))
        _put(cluster, API_SERVICE, _api_service(namespace, service, port, bundle))


def _put(cluster: ClusterPort, resource: Resource, obj: Object) -> None:
    name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace")
    found = cluster.get(resource, name, namespace)
    if found is None:
        cluster.create(resource, obj)
    elif not contains(found["spec"], obj["spec"]):
        cluster.patch(resource, name, {"spec": obj["spec"]}, namespace)


def _service(namespace: str, name: str, host: str, port: int) -> Object:
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "ExternalName", "externalName": host, "ports": [{"port": port}]},
    }


def _api_service(namespace: str, service: str, port: int, bundle: str) -> Object:
    return {
        "apiVersion": API_SERVICE.api_version,
        "kind": API_SERVICE.kind,
        "metadata": {"name": API_SERVICE_NAME},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "service": {"namespace": namespace, "name": service, "port": port},
            "caBundle": bundle,
            "groupPriorityMinimum": 1000,
            "versionPriority": 10,
        },
    }
