from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.guest import build
from tests.support.kubernetes import VOLUMES_BY_NODES, KubernetesProcess
from tests.support.product import Product, running_product


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Product]:
    """One `dvcr up` for all tests that do not restart it; with --kubernetes on a real API server."""
    data = tmp_path_factory.mktemp("product") / "data"
    if not request.config.getoption("--kubernetes"):
        with running_product(data) as running:
            yield running
        return
    server = KubernetesProcess(tmp_path_factory.mktemp("kubernetes"), controllers=VOLUMES_BY_NODES)
    try:
        server.start()
        with running_product(data, kubeconfig=server.kubeconfig) as running:
            yield running
    finally:
        if server.process is not None:
            server.stop()


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bootable guest, as qcow2."""
    return build(tmp_path_factory.mktemp("guest") / "guest.qcow2")
