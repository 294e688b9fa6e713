"""Label and field selectors."""

import re
from collections.abc import Callable
from typing import Any

from controller.api.errors import StatusError, bad_request
from controller.local.definition import Definition

Predicate = Callable[[dict[str, Any]], bool]

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^)]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_EXISTS = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s!=,()]+)$")


def matcher(definition: Definition, labels: str, fields: str) -> Predicate | None:
    """A predicate over objects, or None if everything matches. Raises StatusError 400 for a malformed selector."""
    tests = [_label_test(each) for each in _requirements(labels)]
    tests += [_field_test(definition, each) for each in _requirements(fields)]
    if not tests:
        return None
    return lambda obj: all(test(obj) for test in tests)


def value_at(obj: Any, path: str) -> str:
    """The value at a dotted path as field selectors compare it: text, empty if absent."""
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, dict) else None
    if obj is None:
        return ""
    return str(obj).lower() if isinstance(obj, bool) else str(obj)


def _requirements(selector: str) -> list[str]:
    # Commas inside parentheses separate the values of a set.
    parts = re.split(r",(?![^(]*\))", selector)
    return [part.strip() for part in parts if part.strip()]


def _label_test(requirement: str) -> Predicate:
    def labels(obj: dict[str, Any]) -> dict[str, str]:
        return obj["metadata"].get("labels") or {}

    if found := _SET.match(requirement):
        key, values = found["key"], {each.strip() for each in found["values"].split(",")}
        if found["operator"] == "in":
            return lambda obj: labels(obj).get(key) in values
        return lambda obj: labels(obj).get(key) not in values
    if found := _EQUAL.match(requirement):
        key, value = found["key"], found["value"]
        if found["operator"] == "!=":
            return lambda obj: labels(obj).get(key) != value
        return lambda obj: labels(obj).get(key) == value
    if found := _EXISTS.match(requirement):
        key, absent = found["key"], bool(found["absent"])
        return lambda obj: (key not in labels(obj)) == absent
    raise bad_request(f"unable to parse requirement: {requirement!r} is no label selector")


def _field_test(definition: Definition, requirement: str) -> Predicate:
    found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", requirement)
    if not found:
        raise bad_request(f"invalid field selector: {requirement!r}")
    path, operator, wanted = found.groups()
    if path not in ("metadata.name", "metadata.namespace", *definition.selectable_fields):
        raise StatusError(400, "BadRequest", f"field label not supported: {path}")
    negated = operator == "!="
    return lambda obj: (value_at(obj, path) == wanted) != negated
