"""Helm itself on the chart: what it renders, and what it does to a cluster."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support import go_tool

CHART = Path(__file__).parents[2] / "charts/dvcr"
MATRIX = sorted((CHART / "ci").glob("*-values.yaml"))
"""Values that between them ask for everything that the chart can make."""
RELEASE, NAMESPACE = "dvcr", "dvcr-system"
KUBERNETES = "v1.36.3"
"""Of what cluster charts are rendered for; a Helm that is built out of its module knows no version."""

Object = dict[str, Any]


def try_helm(
    *arguments: object, values: Mapping[str, Any] | None = None, program: str = go_tool.HELM
) -> "subprocess.CompletedProcess[str]":
    """Helm with these arguments, and with `values` where there are some; whatever the exit code."""
    given = ("--values", "-") if values is not None else ()
    return subprocess.run(
        [go_tool.build(program), *(str(each) for each in arguments), *given],
        input=json.dumps(values) if values is not None else None,
        env={key: value for key, value in os.environ.items() if not key.startswith("KUBE")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def helm(*arguments: object, values: Mapping[str, Any] | None = None, program: str = go_tool.HELM) -> str:
    """As `try_helm`; what it prints. Raises on failure."""
    done = try_helm(*arguments, values=values, program=program)
    assert done.returncode == 0, f"helm {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def render(values: Mapping[str, Any] | None = None, *files: Path, program: str = go_tool.HELM) -> list[Object]:
    """The chart's objects, without asking a cluster."""
    options = [f"--kube-version={KUBERNETES}", *(f"--values={file}" for file in files)]
    text = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *options, values=values or {}, program=program)
    return [each for each in yaml.safe_load_all(text) if each]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of the kind and name."""
    [found] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def workloads(objects: list[Object]) -> list[Object]:
    """Those that make pods."""
    return [each for each in objects if each["kind"] in ("Deployment", "StatefulSet")]


def environment(workload: Object) -> dict[str, Object]:
    """The variables of a workload's one container, by name."""
    [container] = workload["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each for each in container.get("env", ())}
