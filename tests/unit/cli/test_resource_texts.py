"""The pure parts of the resource verbs: merging, manifests, kinds, wishes, tables."""

import io
from typing import Any

import pytest
from rich.console import Console

from controller.api.resource import DISK, EVENT, IMAGE, MACHINE, POD
from controller.cli.apply import LAST_APPLIED, last_applied, refusal, three_way
from controller.cli.kinds import Kinds, split_target
from controller.cli.manifests import parse_manifests
from controller.cli.tables import render
from controller.cli.waiting import Wish, parse_duration_s
from controller.runtime.errors import Cause, InvalidError
from dvcr.errors import ResourceError


@pytest.mark.parametrize(
    ("last", "stated", "live", "patch"),
    [
        ({}, {"a": 1}, {"a": 1, "b": 2}, {}),
        ({}, {"a": 1}, {"a": 2}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}, {"b": None}),
        ({"b": 2}, {}, {}, {}),
        ({"s": {"x": 1, "y": 1}}, {"s": {"x": 2}}, {"s": {"x": 1, "y": 1, "z": 1}}, {"s": {"x": 2, "y": None}}),
        ({}, {"l": [1]}, {"l": [1, 2]}, {"l": [1]}),
        ({}, {"s": {"x": {"y": 1}}}, {}, {"s": {"x": {"y": 1}}}),
        ({}, {"n": None}, {}, {}),
    ],
)
def test_three_way_merges(last: Any, stated: Any, live: Any, patch: Any) -> None:
    assert three_way(last, stated, live) == patch


def test_a_broken_note_of_the_last_manifest_is_no_manifest() -> None:
    assert last_applied({"metadata": {"annotations": {LAST_APPLIED: "{"}}}) == {}
    assert last_applied({"metadata": {}}) == {}


def test_a_refusal_names_every_field() -> None:
    causes = (Cause("spec.a", "must be 1"), Cause("", "wrong"))
    assert refusal(InvalidError("text", status=422, reason="Invalid", causes=causes)).message == (
        "spec.a: must be 1; wrong"
    )


def test_manifests_of_many_documents() -> None:
    one = "{apiVersion: v1, kind: Pod, metadata: {name: a}}"
    listed = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: b}}]}"
    objects = parse_manifests(f"---\n{one}\n---\n# nothing\n---\n{listed}\n", "file")
    assert [obj["metadata"]["name"] for obj in objects] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file holds no objects"),
        ("- 1", "document 1 is no object but list"),
        ("a: b: c", "line 1 is not valid YAML"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: 5}}", "metadata.name"),
        ("{apiVersion: v1, metadata: {name: a}}", "kind: is missing"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_wrong_manifests_say_where(text: str, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        parse_manifests(text, "file")


def test_kinds_by_any_name() -> None:
    kinds = Kinds([POD, EVENT, DISK, IMAGE, MACHINE])
    for name in ("vm", "vms", "VirtualMachine", "virtualmachines", "virtualmachines.virtualization.deckhouse.io"):
        assert kinds.one(name) == MACHINE
    assert kinds.one("po") == POD
    assert kinds.named("all") == [DISK, IMAGE, MACHINE]
    assert kinds.named("vm,vmd,vm") == [MACHINE, DISK]
    assert kinds.of({"apiVersion": "v1", "kind": "Pod"}) == POD
    with pytest.raises(ResourceError, match="means 3"):
        kinds.one("all")
    with pytest.raises(ResourceError, match="'frog'"):
        kinds.named("vm,frog")


def test_targets_in_either_spelling() -> None:
    assert split_target("vm/linux", None) == split_target("vm", "linux") == ("vm", "linux")
    with pytest.raises(ResourceError, match="not both"):
        split_target("vm/linux", "linux")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0.5s", 0.5)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5 minutes", "-1s", "m"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ResourceError, match="is no duration"):
        parse_duration_s(text)


def test_wishes() -> None:
    ready = {"status": {"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}}
    assert Wish.parse("phase=ready").granted(ready)
    assert Wish.parse("condition=Ready").granted(ready)
    assert not Wish.parse("condition=Ready=False").granted(ready)
    assert not Wish.parse("phase=Ready").granted(None)
    assert Wish.parse("delete").granted(None)
    assert not Wish.parse("delete").granted(ready)
    failed = {"status": {"phase": "Failed", "failureReason": "R", "failureMessage": "m"}}
    assert Wish.parse("phase=Ready").hopeless(failed) == "it failed: R: m"
    assert Wish.parse("phase=Failed").hopeless(failed) == ""
    with pytest.raises(ResourceError, match="cannot wait"):
        Wish.parse("phase")


def test_a_row_can_continue_a_table() -> None:
    def table(name: str) -> Any:
        return {"columnDefinitions": [{"name": "Name"}, {"name": "Phase"}], "rows": [{"cells": [name, "Ready"]}]}

    first = render([("", table("a-long-name"))], wide=False, namespaces=False)
    row = render([("", table("b"))], wide=False, namespaces=False, at_least=first)
    row.show_header = False
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(first)
    console.print(row)
    assert len({line.index("Ready") for line in out.getvalue().splitlines()[1:]}) == 1


def test_tables_hide_wide_columns_and_empty_cells() -> None:
    table = {
        "columnDefinitions": [{"name": "Name"}, {"name": "Phase"}, {"name": "Target", "priority": 1}],
        "rows": [
            {"cells": ["a", None, "x"], "object": {"metadata": {"namespace": "n"}}},
            {"cells": ["b", "[red]Ready", "y"], "object": {"metadata": {"namespace": "n"}}},
        ],
    }

    def text(*, wide: bool, namespaces: bool) -> list[list[str]]:
        out = io.StringIO()
        Console(file=out, width=200).print(render([("vm/", table)], wide=wide, namespaces=namespaces))
        return [line.split() for line in out.getvalue().splitlines()]

    assert text(wide=False, namespaces=False) == [["NAME", "PHASE"], ["vm/a"], ["vm/b", "[red]Ready"]]
    assert text(wide=True, namespaces=True)[2] == ["n", "vm/b", "[red]Ready", "y"]
