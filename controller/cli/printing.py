"""`dvcr get`: objects as tables, documents or names."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import yaml

from controller.api.resource import Resource
from controller.cli.tables import console, render
from controller.runtime.cluster import Cluster, MissingError
from dvcr.errors import ResourceError

Object = dict[str, Any]


class Output(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def print_objects(
    cluster: Cluster, resources: Sequence[Resource], name: str | None, namespace: str | None, output: Output
) -> None:
    """Print one object or all of the kinds. MissingError if the named one does not exist."""
    if output in (Output.TABLE, Output.WIDE):
        _print_tables(cluster, resources, name, namespace, wide=output is Output.WIDE)
        return
    objects = [obj for resource in resources for obj in _objects(cluster, resource, name, namespace)]
    if output is Output.NAME:
        for obj in objects:
            print(f"{obj['kind'].lower()}/{obj['metadata']['name']}")
        return
    document = objects[0] if name else {"apiVersion": "v1", "kind": "List", "items": objects}
    print(
        json.dumps(document, indent=2) if output is Output.JSON else yaml.safe_dump(document, sort_keys=False), end=""
    )
    if output is Output.JSON:
        print()


def watch_objects(
    cluster: Cluster, resource: Resource, name: str | None, namespace: str | None, output: Output
) -> None:
    """Print the table, then a row for each change, until interrupted."""
    if output not in (Output.TABLE, Output.WIDE):
        raise ResourceError(f"--watch prints rows; it goes with -o table and wide, not with {output}")
    selector = f"metadata.name={name}" if name else ""
    _, version = cluster.list_page(resource, selector)
    namespaces = resource.namespaced and not namespace
    table = cluster.table(resource, name or "", namespace if resource.namespaced else None)
    first = render([("", table)], wide=output is Output.WIDE, namespaces=namespaces)
    console().print(first)
    while True:
        for event in cluster.watch(resource, version, selector):
            if event["type"] == "ERROR":
                # Too old to go on from: what changed meanwhile is shown by the next change of each.
                _, version = cluster.list_page(resource, selector)
                break
            metadata = event["object"]["metadata"]
            version = metadata.get("resourceVersion") or version
            if event["type"] == "BOOKMARK" or (namespace and metadata.get("namespace") != namespace):
                continue
            if event["type"] == "DELETED":
                console().print(f"{metadata['name']} deleted")
                continue
            try:
                table = cluster.table(resource, metadata["name"], metadata.get("namespace"))
            except MissingError:
                continue  # its deletion is the next event
            shown = render([("", table)], wide=output is Output.WIDE, namespaces=namespaces, at_least=first)
            shown.show_header = False
            console().print(shown)


def _print_tables(
    cluster: Cluster, resources: Sequence[Resource], name: str | None, namespace: str | None, *, wide: bool
) -> None:
    first = True
    for resource in resources:
        table = cluster.table(resource, name or "", namespace if resource.namespaced else None)
        if not table["rows"]:
            continue
        if not first:
            console().print()
        first = False
        prefix = f"{resource.kind.lower()}/" if len(resources) > 1 else ""
        console().print(render([(prefix, table)], wide=wide, namespaces=resource.namespaced and namespace is None))
    if first:
        where = f" in the namespace {namespace}" if namespace and resources[0].namespaced else ""
        console().print(f"No resources found{where}.")


def _objects(cluster: Cluster, resource: Resource, name: str | None, namespace: str | None) -> list[Object]:
    namespace = namespace if resource.namespaced else None
    if not name:
        return cluster.list(resource, namespace)
    obj = cluster.get(resource, name, namespace)
    if obj is None:
        raise MissingError(f"{resource.plural} {name!r} not found", status=404, reason="NotFound")
    return [obj]
