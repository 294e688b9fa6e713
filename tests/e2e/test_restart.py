"""`dvcr up` ends without a trace, and goes on where it was."""

from pathlib import Path

from demo.processes import processes_of
from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine
from tests.support.product import Product, running_product
from tests.support.waiting import eventually


def _boots(product: Product) -> str:
    return product.dvcr("logs", "vm/again", check=False).stdout


def test_ctrl_c_leaves_no_process_and_the_next_start_brings_the_machine_back(tmp_path: Path, guest: Path) -> None:
    data = tmp_path / "data"
    with running_product(data) as product, serve_folder(guest.parent) as server:
        product.apply(
            cluster_image("guest", f"{server}/{guest.name}"),
            disk("root", image="guest"),
            machine("again", "root", run_policy="AlwaysOn"),
        )
        eventually(lambda: "DVCR-GUEST boot=1" in _boots(product), "the first boot", 90)
        assert product.stop() == 0
        assert processes_of(data) == []
    with running_product(data) as product:
        assert product.get("cvmi", "guest")["status"]["phase"] == "Ready"
        eventually(lambda: "DVCR-GUEST boot=2" in _boots(product), "the second boot", 90)
    assert processes_of(data) == []
