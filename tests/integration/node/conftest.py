"""A node for each test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.runtime.cluster import Cluster
from tests.support.cluster import ClusterProcess
from tests.support.node_site import Site
from tests.support.pod_processes import pod_processes


@pytest.fixture
def site(tmp_path: Path, shared_cluster: ClusterProcess) -> Iterator[Site]:
    # The nodes of earlier tests are gone for good, so each has a name of its own.
    site = Site(Cluster.connect(shared_cluster.kubeconfig), f"node-{uuid.uuid4().hex[:8]}", tmp_path / "node")
    yield site
    site.clear()
    assert pod_processes(site.data_dir) == []
