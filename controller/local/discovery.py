"""What clients ask before anything else: groups, resources, version, and the OpenAPI documents that kubectl needs."""

from collections.abc import Iterable
from typing import Any

from controller.api.errors import unknown_path
from controller.local import eviction
from controller.local.definition import Definition
from controller.local.schema import OBJECT_META, of_object

GroupVersions = Iterable[tuple[str, str]]
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+dvcr",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}


def core_versions() -> dict[str, Any]:
    """The answer to /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def groups(served: Iterable[Definition], elsewhere: GroupVersions) -> dict[str, Any]:
    """The answer to /apis; `elsewhere` is what other servers serve."""
    found = _groups(served, elsewhere)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(found, name) for name in found]}


def group(served: Iterable[Definition], elsewhere: GroupVersions, name: str) -> dict[str, Any]:
    """The answer to /apis/<group>. Raises StatusError 404."""
    found = _groups(served, elsewhere)
    if name not in found:
        raise unknown_path()
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(found, name)}


def resources(served: Iterable[Definition], name: str, version: str) -> dict[str, Any]:
    """The answer to /apis/<group>/<version> and /api/v1. Raises StatusError 404."""
    of_version = [each for each in served if (each.group, each.version) == (name, version)]
    if not of_version:
        raise unknown_path()
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": of_version[0].api_version,
        "resources": [entry for each in of_version for entry in _resources(each)],
    }


def openapi_v3_index(served: Iterable[Definition]) -> dict[str, Any]:
    """The answer to /openapi/v3: where the document of each group and version is."""
    paths = dict.fromkeys(_path(each) for each in served)
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def openapi_v3(served: Iterable[Definition], path: str) -> dict[str, Any]:
    """The document of one group and version: schemas for `kubectl explain`, and that PATCH knows `fieldValidation`
    and `dryRun`, by which kubectl decides to leave validation to the server. Raises StatusError 404."""
    of_version = [each for each in served if _path(each) == path]
    if not of_version:
        raise unknown_path()
    schemas, paths = {_METADATA: OBJECT_META}, {}
    for each in of_version:
        identity = {"group": each.group, "version": each.version, "kind": each.kind}
        name = f"{each.group or 'core'}.{each.version}.{each.kind}"
        schema = of_object(each.schema)
        metadata = {"description": OBJECT_META["description"], "allOf": [{"$ref": f"#/components/schemas/{_METADATA}"}]}
        properties = {**schema["properties"], "metadata": metadata}
        schemas[name] = {**schema, "properties": properties, "x-kubernetes-group-version-kind": [identity]}
        scope = "/namespaces/{namespace}" if each.namespaced else ""
        reference = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        operation = {
            "x-kubernetes-group-version-kind": identity,
            "parameters": [
                {"name": parameter, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
                for parameter in ("dryRun", "fieldManager", "fieldValidation")
            ],
            "responses": {"200": {"description": "OK", "content": reference}},
        }
        paths[f"/{path}{scope}/{each.plural}"] = {"post": {**operation, "x-kubernetes-action": "post"}}
        paths[f"/{path}{scope}/{each.plural}/{{name}}"] = {
            verb: {**operation, "x-kubernetes-action": verb} for verb in ("get", "put", "patch", "delete")
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "dvcr", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def openapi_v2() -> dict[str, Any]:
    """The answer to /openapi/v2: nothing is published there, so clients do not validate on their own."""
    return {"swagger": "2.0", "info": {"title": "dvcr", "version": VERSION["gitVersion"]}, "paths": {}}


def _path(definition: Definition) -> str:
    return f"apis/{definition.api_version}" if definition.group else f"api/{definition.version}"


def _groups(served: Iterable[Definition], elsewhere: GroupVersions) -> dict[str, list[str]]:
    """The versions of every group but the core's, in their order."""
    found: dict[str, dict[str, None]] = {}
    own = [(each.group, each.version) for each in served if each.group]
    for name, version in (*own, *elsewhere):
        found.setdefault(name, {})[version] = None
    return {name: list(versions) for name, versions in found.items()}


def _group(found: dict[str, list[str]], name: str) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in found[name]]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _resources(definition: Definition) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {
        "name": definition.plural,
        "singularName": definition.singular,
        "namespaced": definition.namespaced,
        "kind": definition.kind,
        "verbs": _VERBS,
        "shortNames": list(definition.short_names),
        "categories": list(definition.categories),
    }
    part = {"singularName": "", "namespaced": definition.namespaced, "kind": definition.kind}
    entries = [entry]
    if definition.has_status:
        entries.append({**part, "name": f"{definition.plural}/status", "verbs": ["get", "patch", "update"]})
    if definition.resource == "pods":
        entries.append({**part, "name": "pods/log", "verbs": ["get"]})
        entries.append({**part, "name": "pods/binding", "kind": "Binding", "verbs": ["create"]})
        evictions = {"group": eviction.GROUP, "version": eviction.VERSION, "kind": eviction.KIND}
        entries.append({**part, **evictions, "name": "pods/eviction", "verbs": ["create"]})
    if definition.resource == "serviceaccounts":
        identity = {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}
        entries.append({**part, **identity, "name": "serviceaccounts/token", "verbs": ["create"]})
    return entries
