from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.guest import build
from tests.support.product import Product, running_product


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One `dvcr up` for all tests that do not restart it."""
    with running_product(tmp_path_factory.mktemp("product") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bootable guest, as qcow2."""
    return build(tmp_path_factory.mktemp("guest") / "guest.qcow2")
