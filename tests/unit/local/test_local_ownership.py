"""Server-side apply; test_cluster_against_kubernetes compares it with kube-apiserver's."""

import copy
from typing import Any

import pytest

from controller.api.errors import StatusError
from controller.local.ownership import Owner, Shape, applied_by, apply, update, updated_by

Object = dict[str, Any]
THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
BUILT_IN = Shape({}, custom=False)
ONE, TWO = (applied_by(name, "v1", "") for name in ("one", "two"))


def config_map(**data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


def applied(
    live: Object, config: Object, owner: Owner = ONE, *, force: bool = False, shape: Shape = BUILT_IN, now: str = THEN
) -> Object:
    before = copy.deepcopy(live)
    merged, entries = apply(live, config, shape, owner, now, force=force)
    assert live == before
    metadata: Object = {**(merged.get("metadata") or {}), "managedFields": entries}
    return {**merged, "metadata": metadata}


def fields(obj: Object) -> Object:
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"]["managedFields"]}


EMPTY: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}


def test_what_is_left_out_goes_unless_somebody_else_has_it_too() -> None:
    live = applied(EMPTY, config_map(a="1", b="2", c="3"))
    live = applied(live, config_map(b="2"), TWO)
    live = applied(live, config_map(a="1"))
    assert live["data"] == {"a": "1", "b": "2"}
    assert fields(live) == {"one": {"f:data": {"f:a": {}}}, "two": {"f:data": {"f:b": {}}}}
    del (nothing := config_map())["data"]
    assert "data" not in applied(applied(EMPTY, config_map(a="1")), nothing)


def test_a_field_of_others_is_changed_by_force_only() -> None:
    live = applied(EMPTY, config_map(a="1", b="1"))
    with pytest.raises(StatusError) as refused:
        applied(live, config_map(a="2", b="2"), TWO)
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert refused.value.message == 'Apply failed with 2 conflicts: conflicts with "one":\n- .data.a\n- .data.b'
    forced = applied(live, config_map(a="2"), TWO, force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    assert fields(forced) == {"one": {"f:data": {"f:b": {}}}, "two": {"f:data": {"f:a": {}}}}


def test_what_there_was_before_the_first_apply_has_an_owner() -> None:
    with pytest.raises(StatusError, match='"before-first-apply" using v1'):
        applied({**EMPTY, "data": {"a": "1"}}, config_map(a="2"))


def test_the_same_again_changes_nothing() -> None:
    live = applied(applied(EMPTY, config_map(a="1")), config_map(b="1"), TWO)
    assert applied(live, config_map(a="1"), now=NOW) == live


def test_who_changes_a_field_otherwise_owns_it() -> None:
    live = applied(EMPTY, config_map(a="1", b="1"))
    entries = update(live, {**live, "data": {"a": "2", "c": "3"}}, None, BUILT_IN, updated_by("three", "v1", ""), NOW)
    assert entries is not None
    # What "one" had of `b` is gone with `b`, and `a` is not its any more.
    assert [(entry["manager"], entry["operation"], entry["fieldsV1"]) for entry in entries] == [
        ("three", "Update", {"f:data": {"f:a": {}, "f:c": {}}})
    ]


def test_an_object_that_nobody_applied_has_no_record() -> None:
    assert update(EMPTY, config_map(a="1"), None, BUILT_IN, updated_by("three", "v1", ""), NOW) is None


def pod(*containers: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [*containers]}}


def test_items_of_a_list_have_owners_each() -> None:
    live = applied({"apiVersion": "v1", "metadata": {}}, pod({"name": "a", "image": "x"}, {"name": "b", "image": "x"}))
    live["spec"]["containers"][0]["pullPolicy"] = "set by default"
    live = applied(live, pod({"name": "b", "args": ["1", "2"]}), TWO)
    assert live["spec"]["containers"][1] == {"name": "b", "image": "x", "args": ["1", "2"]}
    live = applied(live, pod({"name": "b", "image": "y"}))
    assert live["spec"]["containers"] == [{"name": "b", "image": "y", "args": ["1", "2"]}]
    assert fields(live)["two"] == {
        "f:spec": {"f:containers": {'k:{"name":"b"}': {".": {}, "f:args": {}, "f:name": {}}}}
    }


def test_lists_of_other_kinds_by_their_schema() -> None:
    lists: Object = {
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type", "name"]},
        "set": {"type": "array", "x-kubernetes-list-type": "set"},
        "whole": {"type": "array"},
    }
    shape = Shape({"properties": {"spec": {"properties": lists}}}, custom=True)

    def thing(**spec: Any) -> Object:
        return {"apiVersion": "a/v1", "kind": "T", "metadata": {}, "spec": spec}

    live = applied(
        thing(), thing(keyed=[{"type": "x", "name": "1", "v": 1}], set=["a"], whole=[1]), shape=shape, force=True
    )
    live = applied(live, thing(keyed=[{"type": "x", "name": "2"}], set=["b"]), TWO, shape=shape)
    assert live["spec"]["set"] == ["a", "b"]
    assert [each["name"] for each in live["spec"]["keyed"]] == ["1", "2"]
    with pytest.raises(StatusError, match=r"\.spec\.whole"):
        applied(live, thing(whole=[1, 2]), TWO, shape=shape)
    live = applied(live, thing(), shape=shape)
    assert live["spec"] == {"keyed": [{"type": "x", "name": "2"}], "set": ["b"]}


def test_a_record_may_be_handed_over_and_ended() -> None:
    live = applied(EMPTY, config_map(a="1"))
    [entry] = live["metadata"]["managedFields"]
    handed = [{**entry, "manager": "heir"}]
    assert update(live, live, handed, BUILT_IN, updated_by("three", "v1", ""), NOW) == handed
    assert update(live, live, [{}], BUILT_IN, updated_by("three", "v1", ""), NOW) is None
    with pytest.raises(StatusError) as refused:
        update(live, live, [{"manager": "x"}], BUILT_IN, updated_by("three", "v1", ""), NOW)
    assert refused.value.code == 400
