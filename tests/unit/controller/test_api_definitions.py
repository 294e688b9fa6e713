"""The definitions, and the tables of docs/resources.md: what one says, the other says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.kinds import crds
from tests.support.resource_tables import FieldRow, KindRow, field_rows, kind_rows

Node = dict[str, Any]
DEFINITIONS = {crd["spec"]["names"]["kind"]: crd for crd in crds()}
NAME_LENGTH = 253


def schema(kind: str) -> Node:
    (version,) = DEFINITIONS[kind]["spec"]["versions"]
    properties: Node = version["schema"]["openAPIV3Schema"]["properties"]
    return properties


def test_the_page_knows_every_kind() -> None:
    assert [row.kind for row in kind_rows()] == list(DEFINITIONS)
    assert len(DEFINITIONS) == 9


@pytest.mark.parametrize("row", kind_rows(), ids=lambda row: row.kind)
def test_names_scope_and_columns(row: KindRow) -> None:
    crd = DEFINITIONS[row.kind]
    spec, names = crd["spec"], crd["spec"]["names"]
    assert crd["metadata"]["name"] == f"{row.plural}.virtualization.deckhouse.io"
    assert (spec["scope"], names["plural"], names["shortNames"]) == (row.scope, row.plural, row.short_names)
    assert (names["singular"], names["listKind"]) == (row.kind.lower(), f"{row.kind}List")
    assert names["categories"] == ["virtualization"] + (["all"] if row.scope == "Namespaced" else [])
    (version,) = spec["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha2", True, True)
    assert version["subresources"] == {"status": {}}
    shown = [f"({c['name']})" if c.get("priority") else c["name"] for c in version["additionalPrinterColumns"]]
    assert shown == row.columns


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_field_is_on_the_page_with_its_values_and_default(kind: str) -> None:
    described = [row for row in field_rows() if row.kind == kind]
    defined = [row for part in ("spec", "status") for row in rows(kind, schema(kind)[part], part)]

    assert sorted(described, key=str) == sorted(defined, key=str)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_schemas_are_structural(kind: str) -> None:
    def walk(node: Node, path: str) -> None:
        assert not {"$ref", "$defs", "title", "const"} & node.keys(), path
        assert {"type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"} & node.keys(), path
        for name, part in node.get("properties", {}).items():
            walk(part, f"{path}.{name}")
        if "items" in node:
            walk(node["items"], f"{path}[]")

    walk(schema(kind)["spec"], f"{kind}.spec")
    walk(schema(kind)["status"], f"{kind}.status")


def rows(kind: str, node: Node, path: str) -> Iterator[FieldRow]:
    """What the page has to say of the fields below `path`; of those that only hold others, if they are required."""
    inner = node["items"] if node.get("type") == "array" else node
    at = f"{path}[]" if inner is not node else path
    for name, part in inner.get("properties", {}).items():
        is_required = name in inner.get("required", ())
        holds_others = bool(part.get("properties") or part.get("items", {}).get("properties"))
        if is_required or not holds_others:
            yield FieldRow(kind, f"{at}.{name}", values(part), default(part, is_required))
        yield from rows(kind, part, f"{at}.{name}")


def values(node: Node) -> str:
    if "enum" in node:
        return " ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    match node.get("type"):
        case "string" if node.get("maxLength") == NAME_LENGTH:
            return "name"
        case "string":
            return "text" + bounds(None, node.get("maxLength"))
        case "integer":
            return "number" + bounds(node.get("minimum"), node.get("maximum"))
        case "array":
            return "list" + bounds(node.get("minItems"), node.get("maxItems"), " of")
        case None:
            return "any"
        case other:
            return str(other)


def bounds(low: int | None, high: int | None, word: str = "") -> str:
    if low is None:
        return "" if high is None else f"{word} up to {high}"
    return f"{word} from {low}" if high is None else f"{word} {low} to {high}"


def default(node: Node, is_required: bool) -> str:
    if is_required:
        return "required"
    if "default" not in node:
        return ""
    value = node["default"]
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"
