"""Tables as the server renders them, shown on the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Object = dict[str, Any]

_COLOURS = {
    "Ready": "green", "Running": "green", "Completed": "green", "Bound": "green", "Attached": "green", "True": "green",
    "Failed": "red", "ImageLost": "red", "PVCLost": "red", "Error": "red", "CrashLoopBackOff": "red", "Lost": "red",
    "Pending": "yellow", "Provisioning": "yellow", "Starting": "yellow", "Stopping": "yellow", "Terminating": "yellow",
    "WaitForUserUpload": "yellow", "InProgress": "yellow", "Resizing": "yellow", "Scheduling": "yellow",
}  # fmt: skip


def shown_columns(table: Object, *, wide: bool) -> list[int]:
    """The columns to show: those of priority 0, or all."""
    columns = table["columnDefinitions"]
    return [index for index, column in enumerate(columns) if wide or column.get("priority", 0) == 0]


def cells(row: Object, columns: Iterable[int]) -> list[str]:
    """The texts of a row; what is not known shows as nothing."""
    return ["" if row["cells"][index] is None else str(row["cells"][index]) for index in columns]


def render(
    tables: Sequence[tuple[str, Object]], *, wide: bool, namespaces: bool, at_least: Table | None = None
) -> Table:
    """One table of several of the same columns; each comes with a prefix for its names (`vm/`), which may be empty.

    Its columns are no narrower than those of `at_least`, so that it can continue that table.
    """
    columns = shown_columns(tables[0][1], wide=wide)
    out = Table(box=None, pad_edge=False, header_style="bold")
    if namespaces:
        out.add_column("NAMESPACE", no_wrap=True)
    for index in columns:
        out.add_column(tables[0][1]["columnDefinitions"][index]["name"].upper(), no_wrap=True)
    for prefix, table in tables:
        for row in table["rows"]:
            texts = cells(row, columns)
            texts[0] = prefix + texts[0]
            metadata = (row.get("object") or {}).get("metadata") or {}
            out.add_row(*([metadata.get("namespace", "")] if namespaces else []), *map(_coloured, texts))
    if at_least is not None:
        for column, wider in zip(out.columns, at_least.columns, strict=True):
            column.min_width = max(
                cell_len(str(wider.header)), *(Text.from_markup(str(c)).cell_len for c in wider.cells)
            )
    return out


def console() -> Console:
    """Standard output. Where it is no terminal, lines are never cut or folded."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=1000, no_color=True)


def _coloured(text: str) -> str:
    colour = _COLOURS.get(text)
    return f"[{colour}]{escape(text)}[/]" if colour else escape(text)
