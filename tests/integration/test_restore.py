"""A cluster and its registry that are lost, and come back from backups as docs/operations.md says."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.resources import cluster_image, disk, machine
from tests.support import hostile
from tests.support.file_server import serving
from tests.support.kubernetes import VOLUMES_BY_NODES, KubernetesProcess
from tests.support.product import running_product

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


def test_what_was_there_at_the_backup_is_there_again_without_its_source(tmp_path: Path) -> None:
    (tmp_path / "kubernetes").mkdir()
    server = KubernetesProcess(tmp_path / "kubernetes", controllers=VOLUMES_BY_NODES)
    data, snapshot, registry = tmp_path / "data", tmp_path / "etcd.db", tmp_path / "registry"
    with server:
        with running_product(data, kubeconfig=server.kubeconfig) as product, serving(hostile.disk()) as source:
            product.apply(cluster_image("kept", source.url), disk("root", "kept"), machine("web", "root"))
            product.apply(cluster_image("gone", source.url))
            before = product.wait_for_phase("cvmi", "kept", "Ready")
            product.wait_for_phase("cvmi", "gone", "Ready")
            product.wait_for_phase("vmd", "root", "Ready")
            product.wait_for_phase("vm", "web", "Running")

            server.back_up(snapshot)
            # What happens in between is in one of them.
            product.dvcr("delete", "cvmi", "gone")
            product.apply(cluster_image("later", source.url))
            product.wait_for_phase("cvmi", "later", "Ready")
            shutil.copytree(data / "registry", registry)

            product.dvcr("delete", "vm", "web")
            product.dvcr("delete", "vmd", "root")
            product.dvcr("delete", "cvmi", "kept")
        server.stop()

        shutil.rmtree(data / "registry")
        shutil.copytree(registry, data / "registry")
        server.restore(snapshot)
        server.start()
        with running_product(data, kubeconfig=server.kubeconfig) as product:
            # Of what was removed after the backup, the bytes are gone.
            assert product.wait_for_phase("cvmi", "gone", "ImageLost")["status"]["phase"] == "ImageLost"
            after = product.wait_for_phase("cvmi", "kept", "Ready")
            assert (after["metadata"]["uid"], after["status"]["target"]) == (
                before["metadata"]["uid"],
                before["status"]["target"],
            )
            assert product.dvcr("get", "cvmi", "later", check=False).returncode != 0
            # The source is away.
            product.apply(disk("another", "kept"), machine("other", "another"))
            product.wait_for_phase("vmd", "another", "Ready")
            product.wait_for_phase("vm", "other", "Running")
