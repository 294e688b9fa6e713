"""The tables of docs/resources.md, read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/resources.md"


@dataclass(frozen=True)
class KindRow:
    """A line of the table of kinds; the columns with brackets where those are."""

    kind: str
    scope: str
    plural: str
    short_names: list[str]
    columns: list[str]


@dataclass(frozen=True)
class FieldRow:
    """A line of a table of fields: whose, the whole path, and what the page says of values and default."""

    kind: str
    path: str
    values: str
    default: str


def kind_rows() -> list[KindRow]:
    found = [cells for _, head, cells in _lines() if head == "kind"]
    return [
        KindRow(kind, scope, plural, short_names.split(", "), columns.split(", "))
        for kind, scope, plural, short_names, columns in found
    ]


def field_rows() -> Iterator[FieldRow]:
    """Of all kinds; a line that is said of several is one for each."""
    short_names = {row.kind: row.short_names[0] for row in kind_rows()}
    for heading, head, cells in _lines():
        prefix = head.strip("`")
        if prefix.split(".")[0] not in ("spec", "status"):
            continue
        path, values, *whose, default, _ = cells
        of_all = [kind for kind in short_names if "every kind" in heading or re.search(rf"\b{kind}\b", heading)]
        named = [name for name in whose[0].split(", ") if name] if whose else []
        for kind in of_all:
            if not named or short_names[kind] in named:
                yield FieldRow(kind, f"{prefix}.{path.strip('`')}", values, default)


def _lines() -> Iterator[tuple[str, str, list[str]]]:
    """Of each line of a table the heading above, the first cell of its head, and its cells."""
    heading, head = "", ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            head = ""
            continue
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if not head:
            head = cells[0]
        elif set(cells[0]) != {"-"}:
            yield heading, head, cells
