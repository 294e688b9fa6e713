"""Manifests: YAML files with one or more objects."""

import sys
from pathlib import Path
from typing import Any

import yaml

from dvcr.errors import ResourceError

Object = dict[str, Any]


def read_manifests(file: str) -> list[Object]:
    """The objects of a file, or of standard input for `-`. Raises ResourceError saying where it is wrong."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise ResourceError(f"cannot read {file}: {why}") from exc
    return parse_manifests(text, "standard input" if file == "-" else file)


def parse_manifests(text: str, where: str) -> list[Object]:
    """The objects of a multi-document YAML text; the items of a List count singly. Raises ResourceError."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(exc, "problem", None) or "it cannot be parsed"
        raise ResourceError(f"{where}{line} is not valid YAML: {problem}") from exc
    objects: list[Object] = []
    for number, document in enumerate(documents, start=1):
        place = f"{where}, document {number}"
        if not isinstance(document, dict):
            raise ResourceError(f"{place} is no object but {type(document).__name__}")
        items = document.get("items") if document.get("kind") == "List" else None
        objects += [_checked(entry, place) for entry in (items if isinstance(items, list) else [document])]
    if not objects:
        raise ResourceError(f"{where} holds no objects")
    return objects


def _checked(obj: object, place: str) -> Object:
    if not isinstance(obj, dict):
        raise ResourceError(f"{place} is no object but {type(obj).__name__}")
    for field in ("apiVersion", "kind"):
        if not isinstance(obj.get(field), str) or not obj[field]:
            raise ResourceError(f"{place}: {field}: is missing", field=field)
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise ResourceError(f"{place}: metadata.name: is missing or no text", field="metadata.name")
    return obj
