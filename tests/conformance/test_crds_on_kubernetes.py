"""`dvcr crds` as docs/operations.md has it, on a real kube-apiserver."""

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from controller.resources import register
from tests.support.kubernetes import KubernetesProcess

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


@pytest.fixture(params=[(), ("--emulated-version=1.33",)], ids=["own version", "1.33"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess]:
    """A control plane that has none of the kinds; also one that knows of CEL what the oldest that it can be knew."""
    root = tmp_path_factory.mktemp("kubernetes")
    process = KubernetesProcess(root, defines_kinds=False, options=request.param)
    with process:
        yield process


def test_kubectl_installs_what_is_printed_and_again(server: KubernetesProcess) -> None:
    app = typer.Typer()
    register(app)
    printed = CliRunner().invoke(app, ["crds"]).stdout

    first = server.kubectl("apply", "--server-side", "-f", "-", stdin=printed).splitlines()
    established = server.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all").splitlines()
    second = server.kubectl("apply", "--server-side", "-f", "-", stdin=printed).splitlines()

    assert len(first) == len(second) == 9
    assert all(line.endswith("serverside-applied") for line in [*first, *second])
    assert len(established) == 9
    assert all(line.endswith("condition met") for line in established)
