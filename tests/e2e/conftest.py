from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from demo.guest import build
from tests.support.kubernetes import VOLUMES_BY_NODES, KubernetesProcess
from tests.support.product import Product, running_product

StartProduct = Callable[[Mapping[str, str]], AbstractContextManager[Product]]


@pytest.fixture(scope="session")
def start_product(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> StartProduct:
    """`dvcr up` with these variables in its environment; with --kubernetes on a real API server of its own."""

    @contextmanager
    def start(settings: Mapping[str, str]) -> Iterator[Product]:
        data = tmp_path_factory.mktemp("product") / "data"
        if not request.config.getoption("--kubernetes"):
            with running_product(data, settings) as running:
                yield running
            return
        server = KubernetesProcess(tmp_path_factory.mktemp("kubernetes"), controllers=VOLUMES_BY_NODES)
        with server, running_product(data, settings, server.kubeconfig) as running:
            yield running

    return start


@pytest.fixture(scope="session")
def product(start_product: StartProduct) -> Iterator[Product]:
    """One for all tests that do not restart it."""
    with start_product({}) as running:
        yield running


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bootable guest, as qcow2."""
    return build(tmp_path_factory.mktemp("guest") / "guest.qcow2")
