from typing import Any

import pytest

from controller.api.errors import StatusError
from controller.local.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, apply_patch

POD: dict[str, Any] = {
    "metadata": {"name": "p", "finalizers": ["a"]},
    "spec": {
        "containers": [
            {"name": "one", "image": "x", "ports": [{"containerPort": 80, "name": "http"}]},
            {"name": "two", "image": "y", "args": ["a", "b"]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
}


def patched(patch: dict[str, Any], obj: dict[str, Any] = POD) -> dict[str, Any]:
    return apply_patch(obj, patch, STRATEGIC_PATCH, custom=False)


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        # The examples of RFC 7396, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: dict[str, Any], patch: dict[str, Any], expected: dict[str, Any]) -> None:
    assert apply_patch(target, patch, MERGE_PATCH, custom=True) == expected


def test_lists_merge_by_key() -> None:
    result = patched({"spec": {"containers": [{"name": "two", "image": "z"}, {"name": "three", "image": "t"}]}})
    assert [(each["name"], each["image"]) for each in result["spec"]["containers"]] == [
        ("one", "x"),
        ("two", "z"),
        ("three", "t"),
    ]
    assert result["spec"]["containers"][1]["args"] == ["a", "b"]
    ports = patched({"spec": {"containers": [{"name": "one", "ports": [{"containerPort": 443}]}]}})
    assert [each["containerPort"] for each in ports["spec"]["containers"][0]["ports"]] == [80, 443]


def test_directives() -> None:
    deleted = patched({"spec": {"containers": [{"name": "one", "$patch": "delete"}]}})
    assert [each["name"] for each in deleted["spec"]["containers"]] == ["two"]
    replaced = patched({"spec": {"containers": [{"$patch": "replace"}, {"name": "new"}]}})
    assert replaced["spec"]["containers"] == [{"name": "new"}]
    order = {"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}]}
    assert [each["name"] for each in patched({"spec": order})["spec"]["containers"]] == ["two", "one"]
    assert patched({"spec": {"$patch": "replace", "hostname": "h"}})["spec"] == {"hostname": "h"}
    kept = patched({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"a": 1}}]}})
    assert kept["spec"]["volumes"] == [{"name": "v", "secret": {"a": 1}}]
    finalizers = {"metadata": {"finalizers": ["b"], "$deleteFromPrimitiveList/finalizers": ["a"]}}
    assert patched(finalizers)["metadata"]["finalizers"] == ["b"]
    assert patched({"spec": {"containers": [{"name": "two", "args": ["c"]}]}})["spec"]["containers"][1]["args"] == ["c"]


def test_the_object_itself_is_left_alone() -> None:
    before = repr(POD)
    patched({"spec": {"$setElementOrder/containers": [{"name": "two"}], "containers": [{"name": "one", "image": "n"}]}})
    apply_patch(POD, [{"op": "remove", "path": "/spec/containers/0"}], JSON_PATCH, custom=False)
    assert repr(POD) == before


@pytest.mark.parametrize(
    ("patch", "content_type", "code"),
    [
        ([{"op": "remove", "path": "/nowhere"}], JSON_PATCH, 422),
        ([{"op": "test", "path": "/metadata/name", "value": "q"}], JSON_PATCH, 422),
        ([{"op": "fly", "path": "/metadata"}], JSON_PATCH, 400),
        ({"op": "remove"}, JSON_PATCH, 400),
        ([], MERGE_PATCH, 400),
        ({}, "application/json", 415),
    ],
)
def test_what_cannot_be_applied_is_refused(patch: Any, content_type: str, code: int) -> None:
    with pytest.raises(StatusError) as refused:
        apply_patch(POD, patch, content_type, custom=False)
    assert refused.value.code == code
