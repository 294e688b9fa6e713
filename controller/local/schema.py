"""Structural schemas (apiextensions/v1): defaults, unknown fields, validation with the path of each wrong field.

CEL rules (`x-kubernetes-validations`) are not evaluated: the kinds of this project state such rules in admission.
"""

import copy
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from controller.api.errors import FieldCause

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_STRINGS: Schema = {"type": "object", "additionalProperties": _STRING}
_CONVENTIONS = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
_DESCRIPTIONS = {
    "apiVersion": "APIVersion defines the versioned schema of this representation of an object. Servers should convert "
    "recognized schemas to the latest internal value, and may reject unrecognized values. More info: "
    f"{_CONVENTIONS}#resources",
    "kind": "Kind is a string value representing the REST resource this object represents. Servers may infer this from "
    "the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
    f"{_CONVENTIONS}#types-kinds",
}
_TEXTS = ("name", "generateName", "namespace", "uid", "resourceVersion", "selfLink", "deletionTimestamp")
OBJECT_META: Schema = {
    "type": "object",
    "description": f"Standard object's metadata. More info: {_CONVENTIONS}#metadata",
    "properties": {
        **dict.fromkeys(_TEXTS, _STRING),
        "creationTimestamp": {"type": "string", "nullable": True},
        "generation": {"type": "integer"},
        "deletionGracePeriodSeconds": {"type": "integer"},
        "labels": _STRINGS,
        "annotations": _STRINGS,
        "finalizers": {"type": "array", "items": _STRING},
        "managedFields": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        "ownerReferences": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["apiVersion", "kind", "name", "uid"],
                "properties": {
                    **dict.fromkeys(("apiVersion", "kind", "name", "uid"), _STRING),
                    "controller": {"type": "boolean"},
                    "blockOwnerDeletion": {"type": "boolean"},
                },
            },
        },
    },
}  # fmt: skip


def of_object(schema: Schema) -> Schema:
    """The schema of a whole object: what the kind states, and the type and metadata that every object has."""
    described = {name: {**_STRING, "description": text} for name, text in _DESCRIPTIONS.items()}
    properties = {**(schema.get("properties") or {}), **described, "metadata": OBJECT_META}
    return {**schema, "type": "object", "properties": properties}


def apply_defaults(value: Any, schema: Schema) -> None:
    """Fill in the defaults, in place; a field that is null where the schema forbids that counts as absent."""
    if isinstance(value, dict):
        for name, sub in (schema.get("properties") or {}).items():
            if name in value and value[name] is None and not sub.get("nullable"):
                del value[name]
            if "default" in sub and name not in value:
                value[name] = copy.deepcopy(sub["default"])
            if name in value:
                apply_defaults(value[name], sub)
        rest = schema.get("additionalProperties")
        if isinstance(rest, dict):
            for name, each in list(value.items()):
                if each is None and not rest.get("nullable"):
                    del value[name]
                else:
                    apply_defaults(each, rest)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for each in value:
            apply_defaults(each, schema["items"])


def prune(value: Any, schema: Schema, path: str = "") -> list[str]:
    """Remove the fields that the schema does not know, in place; returns their paths."""
    removed: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        keeps = schema.get("x-kubernetes-preserve-unknown-fields") or rest is True
        for name in list(value):
            at = f"{path}.{name}" if path else name
            if name in properties:
                removed += prune(value[name], properties[name], at)
            elif isinstance(rest, dict):
                removed += prune(value[name], rest, at)
            elif not keeps and schema.get("type", "object") == "object":
                del value[name]
                removed.append(at)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, each in enumerate(value):
            removed += prune(each, schema["items"], f"{path}[{index}]")
    return removed


def validate(value: Any, schema: Schema, path: str = "") -> list[FieldCause]:
    """Everything about `value` that the schema forbids."""
    return list(_validate(value, schema, path))


def check_schema(schema: Any, path: str) -> Iterator[FieldCause]:
    """What is wrong with a schema itself: unknown types, patterns that are no regular expressions."""
    if not isinstance(schema, dict):
        yield FieldCause.invalid(path, schema, "must be a schema object")
        return
    if "type" in schema and schema["type"] not in _TYPES:
        yield FieldCause.unsupported(f"{path}.type", schema["type"], _TYPES)
    try:
        re.compile(schema.get("pattern", ""))
    except (re.error, TypeError) as exc:
        yield FieldCause.invalid(f"{path}.pattern", schema["pattern"], f"must be a regular expression: {exc}")
    for name, each in (schema.get("properties") or {}).items():
        yield from check_schema(each, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties", "not"):
        if name in schema and not isinstance(schema[name], bool):
            yield from check_schema(schema[name], f"{path}.{name}")
    for name in ("allOf", "anyOf", "oneOf"):
        for index, each in enumerate(schema.get(name) or ()):
            yield from check_schema(each, f"{path}.{name}[{index}]")


def _validate(value: Any, schema: Schema, path: str) -> Iterator[FieldCause]:
    if value is None and (schema.get("nullable") or not schema.get("type")):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not _is(value, "integer") and not isinstance(value, str):
            yield _mistyped(value, "integer,string", path)
            return
    elif schema.get("type") and not _is(value, schema["type"]):
        yield _mistyped(value, schema["type"], path)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield FieldCause.unsupported(path, value, schema["enum"])
    if isinstance(value, str):
        yield from _validate_string(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _validate_number(value, schema, path)
    elif isinstance(value, list):
        yield from _validate_array(value, schema, path)
    elif isinstance(value, dict):
        yield from _validate_object(value, schema, path)
    yield from _validate_combined(value, schema, path)


def _validate_string(value: str, schema: Schema, path: str) -> Iterator[FieldCause]:
    if len(value) < schema.get("minLength", 0):
        yield FieldCause.invalid(path, value, f"{path} in body should be at least {schema['minLength']} chars long")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield FieldCause(path, f"Too long: may not be longer than {schema['maxLength']}", "FieldValueTooLong")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield FieldCause.invalid(path, value, f"{path} in body should match '{schema['pattern']}'")
    if schema.get("format") == "date-time" and not _is_date_time(value):
        yield FieldCause.invalid(path, value, f"{path} in body must be of type date-time: {value!r}")


def _validate_number(value: float, schema: Schema, path: str) -> Iterator[FieldCause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield FieldCause.invalid(path, value, f"{path} in body should be {word} {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield FieldCause.invalid(path, value, f"{path} in body should be {word} {high}")
    if schema.get("multipleOf") and value % schema["multipleOf"]:
        yield FieldCause.invalid(path, value, f"{path} in body should be a multiple of {schema['multipleOf']}")


def _validate_array(value: list[Any], schema: Schema, path: str) -> Iterator[FieldCause]:
    if len(value) < schema.get("minItems", 0):
        yield FieldCause.invalid(path, value, f"{path} in body should have at least {schema['minItems']} items")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield FieldCause(path, f"Too many: {len(value)}: must have at most {schema['maxItems']} items",
                         "FieldValueTooMany")  # fmt: skip
    if isinstance(schema.get("items"), dict):
        for index, each in enumerate(value):
            yield from _validate(each, schema["items"], f"{path}[{index}]")
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", ())
    if kind in ("map", "set"):
        seen: list[Any] = []
        for index, each in enumerate(value):
            identity = {key: each.get(key) for key in keys} if kind == "map" and isinstance(each, dict) else each
            if identity in seen:
                yield FieldCause.duplicate(f"{path}[{index}]", identity)
            seen.append(identity)


def _validate_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[FieldCause]:
    properties = schema.get("properties") or {}
    rest = schema.get("additionalProperties")
    for name in schema.get("required") or ():
        if name not in value:
            yield FieldCause.required(f"{path}.{name}" if path else name)
    for name, each in value.items():
        sub = properties.get(name, rest)
        if isinstance(sub, dict):
            yield from _validate(each, sub, f"{path}.{name}" if path else name)
    if len(value) < schema.get("minProperties", 0):
        yield FieldCause.invalid(
            path, value, f"{path} in body should have at least {schema['minProperties']} properties"
        )
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield FieldCause.invalid(
            path, value, f"{path} in body should have at most {schema['maxProperties']} properties"
        )


def _validate_combined(value: Any, schema: Schema, path: str) -> Iterator[FieldCause]:
    for sub in schema.get("allOf") or ():
        yield from _validate(value, sub, path)
    matches = [not validate(value, sub, path) for sub in schema.get("oneOf") or ()]
    if matches and sum(matches) != 1:
        yield FieldCause.invalid(path, value, f"{path} in body must validate one and only one schema (oneOf)")
    if schema.get("anyOf") and not any(not validate(value, sub, path) for sub in schema["anyOf"]):
        yield FieldCause.invalid(path, value, f"{path} in body must validate at least one schema (anyOf)")
    if "not" in schema and not validate(value, schema["not"], path):
        yield FieldCause.invalid(path, value, f"{path} in body must not validate the schema (not)")


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) or (isinstance(value, float) and value.is_integer())) and not isinstance(value, bool)
    ),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}


def _is(value: Any, type_: str) -> bool:
    return _TYPES[type_](value)


def _mistyped(value: Any, type_: str, path: str) -> FieldCause:
    found = next((name for name in ("object", "array", "string", "boolean", "integer", "number") if _is(value, name)),
                 "null")  # fmt: skip
    return FieldCause(
        path, f'Invalid value: "{found}": {path} in body must be of type {type_}: "{found}"', "FieldValueTypeInvalid"
    )


def _is_date_time(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return "T" in value
