"""kubectl's tables: rows of printer columns, found by the subset of JSONPath that columns use."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from controller.local.definition import Column, Definition
from controller.local.durations import human_duration

_STEP = re.compile(
    r"\.?(?P<name>[A-Za-z0-9_-]+(?:\\\.[A-Za-z0-9_-]+)*)"
    r"|\[(?P<index>-?\d+)\]"
    r"|\[?\.?\*\]?(?P<all>)"
    r"|\['(?P<quoted>[^']+)'\]"
    r"|\[\?\(@\.(?P<path>[\w.]+)\s*==\s*[\"'](?P<value>[^\"']*)[\"']\)\]"
)


def table(
    definition: Definition, objects: Iterable[dict[str, Any]], list_meta: dict[str, Any], include: str
) -> dict[str, Any]:
    """A meta.k8s.io/v1 Table. `include` says how much of each object a row carries: None, Metadata or Object."""
    name = definition.shown_name
    columns = [*([Column("Name", name, description="Name of the object")] if name else []), *definition.columns]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": [
            {
                "name": column.name,
                # Ages come as text, whatever their type: the server turns dates into durations.
                "type": "string" if column.type == "date" and not definition.custom else column.type,
                "format": "name" if column.name == "Name" else "",
                "description": column.description,
                "priority": column.priority,
            }
            for column in columns
        ],
        "rows": [{"cells": [_cell(obj, column) for column in columns], **_included(obj, include)} for obj in objects],
    }


def partial_metadata(obj: dict[str, Any]) -> dict[str, Any]:
    """The PartialObjectMetadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def find(obj: Any, path: str) -> list[Any]:
    """The values at a JSONPath; fields, indexes, `*`, and filters of the form `[?(@.a=="b")]`."""
    values, at = [obj], 0
    path = path.strip().removeprefix("$")
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or step.end() == at:
            return []
        values = [found for value in values for found in _take(value, step)]
        at = step.end()
    return values


def _take(value: Any, step: re.Match[str]) -> list[Any]:
    name = step["name"] or step["quoted"]
    if name is not None:
        name = name.replace("\\.", ".")
        return [value[name]] if isinstance(value, dict) and name in value else []
    if step["index"] is not None:
        index = int(step["index"])
        return [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []
    if step["path"] is not None:
        items = value if isinstance(value, list) else []
        return [each for each in items if find(each, f".{step['path']}") == [step["value"]]]
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []


def _cell(obj: dict[str, Any], column: Column) -> Any:
    if not isinstance(column.path, str):
        return column.path(obj)
    values = find(obj, column.path)
    if not values or values[0] is None:
        return None
    value = values[0]
    if column.type == "date":
        try:
            since = datetime.now(UTC) - datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return "<invalid>"
        return human_duration(since.total_seconds())
    if column.type in ("integer", "number", "boolean"):
        return value
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _included(obj: dict[str, Any], include: str) -> dict[str, Any]:
    if include == "None":
        return {}
    return {"object": obj if include == "Object" else partial_metadata(obj)}
