from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.api.errors import StatusError
from controller.local.builtin import BUILT_IN
from controller.local.cascade import timestamp
from controller.local.definition import Column, Definition
from controller.local.durations import human_duration
from controller.local.selectors import matcher
from controller.local.table import find, table

POD = next(each for each in BUILT_IN if each.kind == "Pod")
OBJ: dict[str, Any] = {
    "metadata": {"name": "n", "namespace": "s", "labels": {"app": "web", "empty": ""}},
    "spec": {"nodeName": "local"},
    "status": {
        "phase": "Running",
        "conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}],
        "ips": ["1", "2"],
        "a.b": 1,
    },
}


@pytest.mark.parametrize(
    ("labels", "matches"),
    [
        ("app=web", True), ("app==web", True), ("app!=web", False), ("app!=db", True), ("none!=x", True),
        ("app", True), ("!app", False), ("!none", True), ("none", False), ("empty=", True),
        ("app in (web, db)", True), ("app in (db)", False), ("app notin (db)", True), ("app notin (web,db)", False),
        ("app in (web,db),!none,empty", True), ("app=web,none", False),
    ],
)  # fmt: skip
def test_label_selectors(labels: str, matches: bool) -> None:
    predicate = matcher(POD, labels, "")
    assert predicate is not None
    assert predicate(OBJ) is matches


@pytest.mark.parametrize(
    ("fields", "matches"),
    [("metadata.name=n", True), ("spec.nodeName!=local", False), ("status.phase==Running,metadata.namespace=s", True),
     ("spec.nodeName=", False), ("status.podIP=", True)],
)  # fmt: skip
def test_field_selectors(fields: str, matches: bool) -> None:
    predicate = matcher(POD, "", fields)
    assert predicate is not None
    assert predicate(OBJ) is matches


@pytest.mark.parametrize(
    ("labels", "fields"), [("a b", ""), ("a in b", ""), ("", "spec.host=x"), ("", "metadata.name")]
)
def test_malformed_selectors_are_refused(labels: str, fields: str) -> None:
    with pytest.raises(StatusError) as refused:
        matcher(POD, labels, fields)
    assert refused.value.code == 400


def test_no_selector_selects_everything() -> None:
    assert matcher(POD, "", "") is None


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".metadata.name", ["n"]),
        ("$.metadata.name", ["n"]),
        (".status.conditions[?(@.type=='Ready')].status", ["True"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[*].type", ["A", "Ready"]),
        (".status.ips[1]", ["2"]),
        (".status.ips[-1]", ["2"]),
        (".status.ips[7]", []),
        (".status['phase']", ["Running"]),
        (r".status.a\.b", [1]),
        (".status.none.deeper", []),
        (".status[", []),
    ],
)
def test_json_path(path: str, found: list[Any]) -> None:
    assert find(OBJ, path) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (185, "3m5s"), (3600, "60m"), (3 * 3600, "3h"), (5 * 3600 + 60, "5h1m"),
     (9 * 3600, "9h"), (2 * 86400 + 3600, "2d1h"), (9 * 86400, "9d"), (800 * 86400, "2y70d"), (-5, "0s")],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_a_table_types_its_cells() -> None:
    definition = Definition(
        "g", "v1", "K", "ks",
        columns=(Column("N", ".n", "integer"), Column("B", ".b", "boolean"), Column("L", ".l"),
                 Column("Age", ".metadata.creationTimestamp", "date"), Column("Bad", ".n", "date", priority=1)),
    )  # fmt: skip
    created = timestamp(datetime.now(UTC) - timedelta(hours=2))
    obj = {"metadata": {"name": "x", "creationTimestamp": created}, "n": 3, "b": False, "l": ["a", "b"]}
    made = table(definition, [obj, {"metadata": {"name": "y"}}], {}, "Metadata")
    assert [row["cells"] for row in made["rows"]] == [
        ["x", 3, False, "a,b", "120m", "<invalid>"],
        ["y", None, None, None, None, None],
    ]
    assert [each["priority"] for each in made["columnDefinitions"]] == [0, 0, 0, 0, 0, 1]
    assert made["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
