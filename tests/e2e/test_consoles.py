"""The ways to a running machine, as a user goes them, and who may."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine, operation
from tests.support.product import BIN, Product
from tests.support.waiting import eventually

# The first test waits for the product and a guest, which may take minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def web(product: Product, guest: Path) -> Iterator[str]:
    """A machine whose guest has booted."""
    with serve_folder(guest.parent) as server:
        product.apply(
            cluster_image("consoles", f"{server}/{guest.name}"),
            disk("consoles", image="consoles"),
            machine("consoles", "consoles"),
        )
        product.wait_for_phase("vm", "consoles", "Running")
    eventually(lambda: "DVCR-GUEST ready" in log(product), "the guest", 300)
    yield "consoles"
    for kind in ("vm", "vmd", "cvmi"):
        product.dvcr("delete", kind, "consoles")


def log(product: Product, *options: str) -> str:
    return product.dvcr("vm", "logs", "consoles", *options, check=False).stdout


def kubeconfig_of(product: Product, account: str, folder: Path, *resources: str) -> Path:
    """A kubeconfig of a new ServiceAccount that may get these resources of machines in `default`."""
    api = "rbac.authorization.k8s.io"
    metadata = {"name": account, "namespace": "default"}
    groups = ["virtualization.deckhouse.io", "subresources.virtualization.deckhouse.io"]
    rule = {"verbs": ["get"], "apiGroups": groups, "resources": [*resources]}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "default"}
    role = {"apiGroup": api, "kind": "Role", "name": account}
    product.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "subjects": [subject],
            "roleRef": role,
        },
    )
    config = yaml.safe_load((product.data / "kubeconfig").read_text())
    config["users"][0]["user"] = {"token": product.run("kubectl", "create", "token", account).stdout.strip()}
    path = folder / f"{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def test_what_is_typed_reaches_the_guest(product: Product, web: str) -> None:
    command = [str(BIN / "dvcr"), "vm", "console", web]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=product.environment, stdin=pipe, stdout=pipe, stderr=pipe) as console:
        assert console.stdin is not None
        try:
            console.stdin.write(b"echo typed=$((40 + 2))\n")
            console.stdin.flush()
            eventually(lambda: "typed=42" in log(product), "what was typed", 120)
        finally:
            console.kill()


def test_the_screen_and_the_log(product: Product, web: str, tmp_path: Path) -> None:
    product.dvcr("vm", "screenshot", web, tmp_path / "screen.png")

    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert "DVCR-GUEST boot=1" in log(product)


def test_who_may_see_machines_may_not_open_their_consoles(product: Product, web: str, tmp_path: Path) -> None:
    reader = ("--kubeconfig", kubeconfig_of(product, "reader", tmp_path, "virtualmachines"))
    watcher = ("--kubeconfig", kubeconfig_of(product, "watcher", tmp_path, "virtualmachines/screenshot"))

    assert web in product.dvcr("get", "vm", web, *reader).stdout
    for command in (("console", web), ("vnc", web), ("port-forward", "--stdio", web, "22"), ("logs", web)):
        refused = product.dvcr("vm", *command, *reader, stdin="", check=False)
        resource = {"port-forward": "portforward", "logs": "log"}.get(command[0], command[0])
        assert refused.returncode == 1, command
        assert f'cannot get resource "virtualmachines/{resource}"' in refused.stderr
    assert product.dvcr("vm", "screenshot", web, tmp_path / "allowed.png", *watcher).returncode == 0
    assert product.dvcr("get", "secrets", *watcher, check=False).returncode == 1


def test_a_run_that_is_over_can_still_be_read(product: Product, web: str) -> None:
    product.apply(operation("consoles-again", "Restart", web))
    product.wait_for_phase("vmop", "consoles-again", "Completed")

    eventually(lambda: "DVCR-GUEST boot=2" in log(product), "the second boot", 300)
    assert "DVCR-GUEST boot=1" in log(product, "--previous")
    assert "DVCR-GUEST boot=1" not in log(product)


def test_a_machine_that_is_off_says_so_and_tells_what_it_wrote_last(product: Product, web: str) -> None:
    product.run(BIN / "dvcr", "vm", "console", web, stdin="poweroff\n")
    product.wait_for_phase("vm", web, "Stopped")

    assert "DVCR-GUEST poweroff" in log(product)
    refused = product.dvcr("vm", "console", web, stdin="", check=False)

    assert refused.returncode == 1
    assert "is not running, its phase is Stopped" in refused.stderr
