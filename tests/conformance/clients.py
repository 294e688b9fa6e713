"""How tests run real clients."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def run(*command: str | Path, **environment: str) -> str:
    """What the command prints; fails with its error output unless it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def needs(program: str) -> pytest.MarkDecorator:
    """Skips a test where the program is not installed; in CI it fails there."""
    missing = shutil.which(program) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


def blobs(layout: Path) -> dict[str, bytes]:
    """Every blob of an OCI image layout, by the hex digits of its digest."""
    return {path.name: path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
