"""What follows a cluster goes on whatever its API server does."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.api.resource import SECRET
from controller.runtime.cluster import Cluster, Object
from controller.runtime.informer import Informer
from tests.support.api_proxy import Answer, ApiProxy, Asked, Cut, Fault, Late, api_proxy
from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import KubernetesProcess
from tests.support.waiting import eventually

TIMEOUT_S = 2
"""Of requests, in place of the half minute that the controller gives them."""
STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
EXPIRED = STATUS | {"code": 410, "reason": "Expired", "message": "too old resource version: 1 (9)"}
TOO_LARGE = STATUS | {
    "code": 504,
    "reason": "Timeout",
    "message": "Timeout: Too large resource version: 100233, current: 233",
    "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]},
}
BUSY = STATUS | {"code": 429, "reason": "TooManyRequests", "message": "storage is (re)initializing"}
FAULTS: dict[str, Fault] = {
    "expired": Answer(410, EXPIRED),
    "expired in the stream": Answer(200, {"type": "ERROR", "object": EXPIRED}),
    "a version that is too large": Answer(504, TOO_LARGE),
    "a version that is too large, in the stream": Answer(200, {"type": "ERROR", "object": TOO_LARGE}),
    "busy": Answer(429, BUSY, {"Retry-After": "1"}),
    "an error of the server": Answer(500, STATUS | {"code": 500, "message": "etcdserver: request timed out"}),
    "a gateway in its own words": Answer(503, b"<html>no backend</html>", {"Retry-After": "1"}),
    "a page in the place of an answer": Answer(200, b"<html>log in here</html>\n"),
    "an answer that is nothing": Answer(200),
    "no answer": Late(None),
    "an answer that is late": Late(1),
    "an answer that is cut": Cut(20),
    "an answer that is cut before it begins": Cut(0),
}


@pytest.fixture
def proxy(shared_cluster: ClusterProcess) -> Iterator[ApiProxy]:
    with api_proxy(shared_cluster) as running:
        yield running


class Followed:
    """Secrets, as an informer knows them and as they are."""

    def __init__(self, cluster: ClusterProcess, proxy: ApiProxy) -> None:
        self.cluster = Cluster.connect(cluster.kubeconfig)
        self.proxied = Cluster.connect(proxy.kubeconfig(), timeout_s=TIMEOUT_S)
        self.changes: list[str] = []
        self.informer: Informer | None = None

    def follow(self) -> Informer:
        self.informer = self.proxied.inform(SECRET, lambda _namespace, name: self.changes.append(name))
        return self.informer

    def make(self, name: str) -> None:
        self.cluster.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(name)})

    def clear(self) -> None:
        if self.informer is not None:
            self.informer.stop()
        for secret in self.cluster.list(SECRET):
            self.cluster.delete(SECRET, secret["metadata"]["name"], "default")

    def is_known(self) -> bool:
        """Whether all is known as it is."""
        assert self.informer is not None
        return versions(self.informer.list()) == versions(self.cluster.list(SECRET))


def metadata(name: str) -> dict[str, str]:
    return {"name": name, "namespace": "default"}


def versions(objects: list[Object]) -> dict[str, str]:
    return {obj["metadata"]["name"]: obj["metadata"]["resourceVersion"] for obj in objects}


@pytest.fixture
def followed(shared_cluster: ClusterProcess, proxy: ApiProxy) -> Iterator[Followed]:
    site = Followed(shared_cluster, proxy)
    yield site
    site.clear()


def first(count: int, fault: Fault, where: Callable[[Asked], bool]) -> Callable[[Asked], Fault | None]:
    """The fault, for as many requests of a kind."""
    left = [count]
    lock = threading.Lock()

    def spoil(asked: Asked) -> Fault | None:
        with lock:
            if not where(asked) or not left[0]:
                return None
            left[0] -= 1
            return fault

    return spoil


@pytest.mark.parametrize("name", FAULTS)
def test_a_watch_that_fails_is_taken_up_again(followed: Followed, proxy: ApiProxy, name: str) -> None:
    followed.make("before")
    proxy.spoil = first(1, FAULTS[name], lambda asked: asked.is_watch)
    followed.follow()
    eventually(lambda: followed.changes == ["before"], "the first list")
    followed.make("meanwhile")
    followed.cluster.delete(SECRET, "before", "default")
    followed.make("later")
    eventually(lambda: "later" in followed.changes and followed.is_known(), "all of it is known")
    # A list and a watch; a list or a question for the version, and a watch again, unless the first was only late.
    assert len(proxy.asked) == (2 if FAULTS[name] == Late(1) else 4)


@pytest.mark.parametrize("name", FAULTS)
def test_a_list_that_fails_is_asked_for_again(followed: Followed, proxy: ApiProxy, name: str) -> None:
    followed.make("before")
    proxy.spoil = first(1, FAULTS[name], lambda asked: not asked.is_watch)
    followed.follow()
    eventually(lambda: followed.changes == ["before"], "the first list")
    followed.make("later")
    eventually(followed.is_known, "all of it is known")
    # A list again, unless it was only late; and a watch.
    assert len(proxy.asked) == (2 if FAULTS[name] == Late(1) else 3)


def test_a_server_that_asks_for_time_gets_it(followed: Followed, proxy: ApiProxy) -> None:
    proxy.spoil = first(1, Answer(429, BUSY, {"Retry-After": "4"}), lambda _: True)
    assert followed.follow().wait_synced(20)
    refused, asked_again = proxy.asked[:2]
    assert asked_again.at_s - refused.at_s >= 4


def test_a_server_that_never_gets_well_is_not_hammered(followed: Followed, proxy: ApiProxy) -> None:
    """Each list succeeds, and each watch from it has expired: the worst that there can be."""
    proxy.spoil = lambda asked: FAULTS["expired"] if asked.is_watch else None
    followed.follow()
    eventually(lambda: len(proxy.asked) == 6, "three rounds", timeout_s=15)
    assert proxy.asked[-1].at_s - proxy.asked[0].at_s >= 0.8 + 1.6


def test_a_server_that_is_away_for_a_while(cluster: ClusterProcess) -> None:
    """Connections are refused, then it is there again with all it had."""
    direct = Cluster.connect(cluster.kubeconfig)
    changes: list[str] = []
    informer = direct.inform(SECRET, lambda _namespace, name: changes.append(name))
    try:
        assert informer.wait_synced(10)
        cluster.kill()
        cluster.start()
        direct.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata("later")})
        eventually(lambda: changes == ["later"], "what came then is told once")
    finally:
        informer.stop()


class Restored:
    """What an informer knows of a server that goes back to a backup."""

    def __init__(self, server: ClusterProcess) -> None:
        self.cluster = Cluster.connect(server.kubeconfig)
        self.informer = self.cluster.inform(SECRET)
        assert self.informer.wait_synced(10)

    def make(self, *names: str) -> None:
        for name in names:
            self.cluster.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(name)})
            eventually(lambda name=name: self.informer.get(name, "default"), f"{name} is told")  # type: ignore[misc]

    def went_back(self) -> None:
        """Look that what is there is known, and what comes then."""
        eventually(lambda: not self.informer.get("after", "default"), "what came after the backup is forgotten", 60)
        assert self.informer.get("before", "default") == self._stored("before")
        assert self.informer.get("changed", "default") == self._stored("changed")
        self.make("now")
        assert versions(self.informer.list()) == versions(self.cluster.list(SECRET))

    def _stored(self, name: str) -> Object:
        stored = self.cluster.get(SECRET, name, "default")
        assert stored is not None
        stored["metadata"].pop("managedFields", None)
        return stored


def test_a_server_that_is_restored_from_a_backup(cluster: ClusterProcess, tmp_path: Path) -> None:
    site = Restored(cluster)
    try:
        site.make("before", "changed")
        cluster.kill()
        shutil.copytree(cluster.root / "data", tmp_path / "backup")
        cluster.start()
        site.make("after")
        site.cluster.patch(SECRET, "changed", {"stringData": {"key": "value"}}, "default")
        cluster.kill()
        shutil.rmtree(cluster.root / "data")
        shutil.copytree(tmp_path / "backup", cluster.root / "data")
        cluster.start()
        site.went_back()
    finally:
        site.informer.stop()


@pytest.mark.kubernetes
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bumped", [True, False])
def test_a_kubernetes_that_is_restored_from_a_backup(tmp_path: Path, bumped: bool) -> None:
    """Also by somebody who did not have the revisions go on, which leaves watches of other clients silent."""
    (tmp_path / "kubernetes").mkdir()
    server = KubernetesProcess(tmp_path / "kubernetes", controllers="serviceaccount-controller")
    with server:
        site = Restored(server)
        try:
            site.make("before", "changed")
            server.back_up(tmp_path / "etcd.db")
            site.make("after", *(f"more-{number}" for number in range(200)))
            site.cluster.patch(SECRET, "changed", {"stringData": {"key": "value"}}, "default")
            server.stop()
            server.restore(tmp_path / "etcd.db", bumped=bumped)
            server.start()
            site.went_back()
        finally:
            site.informer.stop()
