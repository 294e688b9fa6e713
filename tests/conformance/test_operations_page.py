"""docs/operations.md: the chart takes its values, and its table of reasons has those that resources.md tells of."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.helm import render

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operations.md").read_text()
VALUES = re.findall(r"^```yaml\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
REASON = re.compile(r"`([A-Z][a-z]*[A-Z]\w+)`")


@pytest.mark.parametrize("text", VALUES, ids=range(len(VALUES)))
def test_its_values_are_taken_by_the_chart(text: str) -> None:
    assert render(yaml.safe_load(text))


def test_it_says_where_to_look_for_every_reason_of_the_tables() -> None:
    resources = (DOCS / "resources.md").read_text()
    of_failures = _column(resources, "`failureReason`", 0)
    of_machines = _column(resources, "condition", 2)
    of_attachments = _column(resources, "reason", 0)
    explained = _column(PAGE, "reason", 0)

    assert [len(found) > 5 for found in (of_failures, of_machines, of_attachments)] == [True] * 3
    assert (of_failures | of_machines | of_attachments) - explained == set()


def test_its_reasons_are_those_of_the_code() -> None:
    source = "".join(
        path.read_text()
        for package in ("controller", "importer", "converter", "uploader", "dvcr")
        for path in (DOCS.parent / package).rglob("*.py")
    )

    assert {reason for reason in _column(PAGE, "reason", 0) if not re.search(rf"\b{reason}(Error)?\b", source)} == set()


def _column(page: str, head: str, number: int) -> set[str]:
    """The reasons in the column of the one table whose first heading is `head`."""
    [table] = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return {reason for row in table.splitlines() for reason in REASON.findall(row.split("|")[number + 1])}
