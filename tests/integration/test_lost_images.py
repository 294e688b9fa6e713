"""An artifact vanishes from a real registry and comes back; then the registry itself goes away."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, EVENT
from controller.assembly import build_loops
from controller.images.recent import RecentImages
from controller.images.registry import RemoteImageRegistry
from controller.runtime.cached import CachedCluster
from controller.runtime.cluster import Cluster
from controller.runtime.process import ControllerProcess
from dvcr.artifact.store import publish, remove
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings, ControllerSettings, Settings
from dvcr.jobs.job import JobProgress, JobState
from tests.support.artifacts import noise, push
from tests.support.cluster import ClusterProcess
from tests.support.jobs import MemoryJobBoard
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually
from tests.unit.controller.test_reconcile_story import IMAGE_SPEC
from tests.unit.controller.world import MemoryLaunchers

HASTE = 100
"""How much faster time passes for what the controller remembers of the registry."""


@dataclass
class Story:
    cluster: Cluster
    server: RegistryServer
    client: RegistryClient
    board: MemoryJobBoard

    def status(self) -> dict[str, Any]:
        return (self.cluster.get(CLUSTER_IMAGE, "debian") or {}).get("status") or {}

    def condition(self, name: str) -> tuple[str, str]:
        found = {c["type"]: (c["status"], c["reason"]) for c in self.status().get("conditions") or ()}
        return found.get(name, ("", ""))

    def wait_phase(self, phase: str) -> None:
        eventually(lambda: self.status().get("phase") == phase, phase)


@pytest.fixture
def story(cluster: ClusterProcess, fresh_registry: RegistryServer) -> Iterator[Story]:
    """A controller in threads, with an image to import."""
    client = ClientSettings(url=fresh_registry.url)
    live = Cluster.connect(cluster.kubeconfig)
    cached = CachedCluster(live)
    registry = RecentImages(RemoteImageRegistry(client), lambda: time.monotonic() * HASTE)
    settings = Settings(client=client, controller=ControllerSettings(image_check_s=0.2))
    board = MemoryJobBoard()
    loops = build_loops(cached, board, registry, MemoryLaunchers(), settings)
    stopping = threading.Event()
    process = ControllerProcess(cached, loops, workers=2, resync_s=300)
    thread = threading.Thread(target=process.run, args=(stopping,))
    thread.start()
    try:
        metadata = {"name": "debian"}
        kind, version = CLUSTER_IMAGE.kind, CLUSTER_IMAGE.api_version
        live.create(CLUSTER_IMAGE, {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": IMAGE_SPEC})
        yield Story(live, fresh_registry, RegistryClient.from_settings(client), board)
    finally:
        stopping.set()
        thread.join(60)
        assert not thread.is_alive()


def test_an_artifact_that_vanishes_is_noticed_and_the_image_heals_when_it_is_back(story: Story) -> None:
    uid = (story.cluster.get(CLUSTER_IMAGE, "debian") or {})["metadata"]["uid"]
    repository = story.client.repository("cvmi/debian")
    data = noise(5 * 2**20)
    story.wait_phase("Provisioning")
    digest = publish(repository, push(repository, data), ["latest", uid])
    story.board.report(uid, JobProgress(state=JobState.SUCCEEDED))
    story.wait_phase("Ready")

    remove(repository, digest)
    story.wait_phase("ImageLost")
    assert story.condition("Ready") == ("False", "ImageLost")

    publish(repository, push(repository, data), ["latest", uid])
    story.wait_phase("Ready")
    assert story.condition("Ready") == ("True", "Ready")

    def told() -> bool:
        return {"ImageLost", "Ready"} <= {event["reason"] for event in story.cluster.list(EVENT)}

    eventually(told, "events")

    port = int(story.server.address.rpartition(":")[2])
    story.server.kill()
    eventually(lambda: story.condition("RegistryAvailable") == ("False", "RegistryUnavailable"), "it is told")
    assert story.status()["phase"] == "Ready"
    assert story.condition("Ready") == ("True", "Ready")
    story.server.start_at(port)
    eventually(lambda: story.condition("RegistryAvailable")[0] == "True", "the registry is back")
    assert story.status()["phase"] == "Ready"
