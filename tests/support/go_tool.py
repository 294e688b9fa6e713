"""Go programs of pinned versions for tests, through `scripts/go-tool`.

`python -m tests.support.go_tool` builds those that are missing, so that no test waits for it.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

CONFORMANCE = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"
CRANE = "github.com/google/go-containerregistry/cmd/crane@v0.22.1"
ORAS = "oras.land/oras/cmd/oras@v1.3.6"
REGCTL = "github.com/regclient/regclient/cmd/regctl@v0.11.7"
CTR = "github.com/containerd/containerd/v2/cmd/ctr@v2.4.2"
CONTAINERD = "github.com/containerd/containerd/v2/cmd/containerd@v2.4.2"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
HELM = "helm.sh/helm/v4/cmd/helm@v4.3.1"
HELM_3 = "helm.sh/helm/v3/cmd/helm@v3.22.0"
OF_TESTS = (VERSITYGW, CRANE, ORAS, REGCTL, CTR, CONTAINERD, HELM, HELM_3)

_SCRIPT = Path(__file__).parents[2] / "scripts/go-tool"


@cache
def build(package: str) -> str:
    """The path of the program, built if it is not yet. Without Go the test is skipped, and fails where CI=true."""
    if shutil.which("go") is None and os.environ.get("CI") != "true":
        pytest.skip(f"{package.rpartition('@')[0]} needs Go, which is not installed")
    done = subprocess.run([_SCRIPT, package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def main() -> None:
    """Build what the tests need, telling what comes; without Go say what is left out."""
    if shutil.which("go") is None:
        left_out = ", ".join(package.rpartition("/")[2] for package in OF_TESTS)
        print(f"Go is not installed: tests that need {left_out} are left out", file=sys.stderr)
        return
    for number, package in enumerate(OF_TESTS, 1):
        print(f"[{number}/{len(OF_TESTS)}] {package}", flush=True)
        subprocess.run([_SCRIPT, package], check=True, capture_output=True)


if __name__ == "__main__":
    main()
