from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.local.schema import apply_defaults, of_object, prune, validate

NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "port": {"x-kubernetes-int-or-string": True},
        "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        "when": {"type": "string", "format": "date-time"},
        "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 2},
        "empty": {"type": "string", "nullable": True},
        "items": {
            "type": "array",
            "maxItems": 2,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"],
            "items": {
                "type": "object",
                "required": ["id"],
                "properties": {"id": {"type": "string"}, "on": {"type": "boolean", "default": True}},
            },
        },
        "either": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                   "x-kubernetes-preserve-unknown-fields": True},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"size": 0}, "size", "FieldValueInvalid"),
        ({"size": 11}, "size", "FieldValueInvalid"),
        ({"size": "1"}, "size", "FieldValueTypeInvalid"),
        ({"size": True}, "size", "FieldValueTypeInvalid"),
        ({"size": 1.5}, "size", "FieldValueTypeInvalid"),
        ({"size": None}, "size", "FieldValueTypeInvalid"),
        ({"port": []}, "port", "FieldValueTypeInvalid"),
        ({"mode": "C"}, "mode", "FieldValueNotSupported"),
        ({"name": "A1"}, "name", "FieldValueInvalid"),
        ({"name": "abcd"}, "name", "FieldValueTooLong"),
        ({"when": "yesterday"}, "when", "FieldValueInvalid"),
        ({"ratio": 0}, "ratio", "FieldValueInvalid"),
        ({"labels": {"a": 1}}, "labels.a", "FieldValueTypeInvalid"),
        ({"labels": {"a": "", "b": "", "c": ""}}, "labels", "FieldValueInvalid"),
        ({"items": [{}]}, "items[0].id", "FieldValueRequired"),
        ({"items": [{"id": "a"}, {"id": "a"}]}, "items[1]", "FieldValueDuplicate"),
        ({"items": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}, "items", "FieldValueTooMany"),
        ({"either": {"a": 1, "b": 1}}, "either", "FieldValueInvalid"),
        ({"either": {}}, "either", "FieldValueInvalid"),
    ],
)
def test_each_wrong_field_is_named(value: dict[str, Any], field: str, reason: str) -> None:
    assert [(cause.field, cause.reason) for cause in validate(value, NESTED)] == [(field, reason)]


def test_what_is_right_passes() -> None:
    value = {
        "size": 1, "port": "http", "mode": "B", "name": "abc", "when": "2026-01-01T00:00:00Z", "ratio": 0.5,
        "free": {"any": [1]}, "labels": {"a": "b"}, "empty": None, "items": [{"id": "a"}], "either": {"a": 1},
    }  # fmt: skip
    assert validate(value, NESTED) == []
    assert validate({"port": 80}, NESTED) == []


def test_defaults_reach_into_lists_and_are_not_shared() -> None:
    first: dict[str, Any] = {"items": [{"id": "a"}, {"id": "b", "on": False}], "mode": None}
    apply_defaults(first, NESTED)
    assert first == {"mode": "A", "items": [{"id": "a", "on": True}, {"id": "b", "on": False}]}
    schema = {"type": "object", "properties": {"list": {"type": "array", "default": []}}}
    one: dict[str, Any] = {}
    other: dict[str, Any] = {}
    apply_defaults(one, schema)
    one["list"].append(1)
    apply_defaults(other, schema)
    assert other == {"list": []}


def test_a_null_counts_as_absent_unless_it_is_allowed() -> None:
    value = {
        "size": None,
        "port": None,
        "mode": None,
        "empty": None,
        "items": [{"id": None}, None],
        "labels": {"a": None},
    }
    apply_defaults(value, NESTED)
    assert value == {"mode": "A", "empty": None, "items": [{"on": True}, None], "labels": {}}


def test_unknown_fields_are_removed_and_named() -> None:
    value = {"typo": 1, "items": [{"id": "a", "x": 1}], "free": {"y": 1}, "labels": {"z": "1"}}
    assert prune(value, NESTED) == ["typo", "items[0].x"]
    assert value == {"items": [{"id": "a"}], "free": {"y": 1}, "labels": {"z": "1"}}


def test_metadata_is_part_of_every_object() -> None:
    obj = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "lables": {}}, "size": 1}
    assert prune(obj, of_object(NESTED)) == ["metadata.lables"]
    wrong = {"metadata": {"labels": {"a": 1}, "ownerReferences": [{}]}}
    assert {cause.field for cause in validate(wrong, of_object(NESTED))} == {
        "metadata.labels.a",
        *(f"metadata.ownerReferences[0].{name}" for name in ("apiVersion", "kind", "name", "uid")),
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NESTED["properties"], "x"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_either_fine_or_explained(value: Any) -> None:
    prune(value, NESTED)
    apply_defaults(value, NESTED)
    for cause in validate(value, NESTED):
        assert cause.message
    assert prune(value, NESTED) == []
