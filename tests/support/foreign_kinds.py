"""The kinds of others that the chart may make objects of, as their projects publish them: in their Go modules."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

_DEFINITIONS = {
    "sigs.k8s.io/gateway-api@v1.5.0": ["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
    "github.com/cert-manager/cert-manager@v1.21.2": ["deploy/crds/cert-manager.io_certificates.yaml"],
    "github.com/kedacore/keda/v2@v2.21.0": [
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
    ],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
}


@cache
def definitions() -> list[dict[str, Any]]:
    """Their CustomResourceDefinitions. Without Go the test is skipped, and fails where CI=true."""
    if shutil.which("go") is None and os.environ.get("CI") != "true":
        pytest.skip("others' kinds are in Go modules, and Go is not installed")
    return [
        yaml.safe_load((_folder(module) / path).read_text()) for module, paths in _DEFINITIONS.items() for path in paths
    ]


def _folder(module: str) -> Path:
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(json.loads(done.stdout)["Dir"])
