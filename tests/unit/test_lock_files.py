"""The two lock files against each other and against what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    """Every package of a lock file, with its version, marker and hashes as they are written."""
    entries = re.split(r"(?m)^(?=\w)", (ROOT / name).read_text())
    return {re.split("==", entry)[0]: entry for entry in entries if entry}


def test_the_container_image_gets_what_was_tested() -> None:
    tested, runtime = pins("requirements.lock"), pins("requirements-runtime.lock")
    assert runtime.items() <= tested.items()


def test_the_container_image_gets_all_that_is_needed_to_run_and_nothing_for_developing() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    runtime = set(pins("requirements-runtime.lock"))
    assert needed <= runtime
    assert not runtime & {"mypy", "pytest", "ruff", "moto"}
