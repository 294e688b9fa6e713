"""Write docs/configuration.md from the settings' own types, defaults and explanations; `--check` only compares."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from dvcr.config import ENVIRONMENT_PREFIX, Settings

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

Every setting has a default. A TOML file (`dvcr --config FILE`, or the variable `DVCR_CONFIG`) wins over the defaults,
the environment over the file. A key that does not exist, or a value of the wrong kind, refuses to start and is named.

    [registry]              # in the file
    port = 5000

    DVCR__REGISTRY__PORT=5000   # the same in the environment

`dvcr up` sets what the processes of one machine need to find each other; everything else may be set in its environment.
This page is made of `dvcr/config.py` by `make docs`.
"""


def render() -> str:
    """The page."""
    sections = [HEAD]
    for name, field in Settings.model_fields.items():
        rows = "\n".join(_rows((name,), field.default))
        sections.append(f"## {name}\n\n| key | default | what |\n|---|---|---|\n{rows}\n")
    return "\n".join(sections)


def _rows(path: tuple[str, ...], section: BaseModel) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _rows((*path, name), value)
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if isinstance(value, tuple):
            value = list(value)
        default = "" if value in ("", None) else f"`{value}`"
        choices = " · ".join(f"`{c}`" for c in get_args(field.annotation) if isinstance(c, str))
        what = " ".join((field.description or "").split()) + (f" One of {choices}." if choices else "")
        variable = ENVIRONMENT_PREFIX + "__".join((*path, name)).upper()
        yield f"| `{'.'.join((*path, name)[1:])}`<br>`{variable}` | {default} | {what} |"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(render())
    elif PAGE.read_text() != render():
        sys.exit(f"{PAGE.name} does not say what the settings are; run `make docs`")
