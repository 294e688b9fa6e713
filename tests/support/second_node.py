"""A second node beside the one of `dvcr up`, on the same host."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.product import BIN, Product


@contextmanager
def second_node(product: Product, shared: Path) -> Iterator[None]:
    """`dvcr node` beside the one of `dvcr up`."""
    folder = product.data.parent / "second"
    folder.mkdir()
    settings = {
        "DVCR__CONTROLLER__KUBECONFIG": product.data / "kubeconfig",
        "DVCR__NODE__NAME": "second",
        "DVCR__NODE__DATA_DIR": folder / "node",
        "DVCR__NODE__POD_CIDR": "127.68.0.0/16",
        "DVCR__NODE__SHARED_VOLUMES_DIR": shared,
        "DVCR__LAUNCHER__CACHE_DIR": folder / "cache",
    }
    environment = os.environ | {key: str(value) for key, value in settings.items()}
    with (folder / "log").open("w") as log:
        agent = subprocess.Popen([BIN / "dvcr", "node"], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(90)
