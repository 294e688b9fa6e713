"""Go programs of pinned versions for tests, through `scripts/go-tool`."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

CONFORMANCE = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"
CRANE = "github.com/google/go-containerregistry/cmd/crane@v0.22.1"
ORAS = "oras.land/oras/cmd/oras@v1.3.6"
REGCTL = "github.com/regclient/regclient/cmd/regctl@v0.11.7"
CTR = "github.com/containerd/containerd/v2/cmd/ctr@v2.4.2"
CONTAINERD = "github.com/containerd/containerd/v2/cmd/containerd@v2.4.2"

_SCRIPT = Path(__file__).parents[2] / "scripts/go-tool"


@cache
def build(package: str) -> str:
    """The path of the program, built if it is not yet. Without Go the test is skipped, and fails where CI=true."""
    if shutil.which("go") is None and os.environ.get("CI") != "true":
        pytest.skip(f"{package.rpartition('@')[0]} needs Go, which is not installed")
    done = subprocess.run([_SCRIPT, package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
