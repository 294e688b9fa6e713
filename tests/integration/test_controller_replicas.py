"""Replicas of `dvcr controller` that are killed, stopped and cut off: no work is lost, and none is done twice."""

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_proxy import Answer, Asked, Cut, Late, api_proxy
from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import KubernetesProcess
from tests.support.redis import RedisServer
from tests.support.replicas import READY_S, START_S, Replica, Site
from tests.support.stalling_proxy import StallingProxy, stalling_proxy
from tests.support.waiting import eventually

TAKE_OVER_S = 20


@pytest.fixture(
    params=["embedded", pytest.param("kubernetes", marks=[pytest.mark.kubernetes, pytest.mark.timeout(600)])]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterProcess]:
    """Each of the API servers; on none does anybody else bind claims or run pods."""
    root = tmp_path / "cluster"
    root.mkdir()
    if request.param == "kubernetes":
        process: ClusterProcess = KubernetesProcess(
            root, controllers="serviceaccount-controller,garbage-collector-controller"
        )
    else:
        process = ClusterProcess(root)
    with process:
        yield process


@pytest.fixture
def site(server: ClusterProcess, redis_server: RedisServer, tmp_path: Path) -> Iterator[Site]:
    with closing(Site(server, redis_server, tmp_path)) as running, running.fleet:
        yield running


@contextmanager
def stalling(server: ClusterProcess) -> Iterator[tuple[StallingProxy, Path]]:
    """A way to the API server that can fall silent, and the kubeconfig that leads over it."""
    with stalling_proxy(f"127.0.0.1:{server.port}") as proxy:
        config = yaml.safe_load(server.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{proxy.address}"
        path = server.root / "kubeconfig-over-proxy"
        path.write_text(yaml.safe_dump(config))
        yield proxy, path


def taken_over(site: Site, first: Replica, second: Replica) -> float:
    """Wait until the second leads, and look that the first had ended before; how long it took, in seconds."""
    began = time.monotonic()
    eventually(lambda: second.leads, "the second leads", TAKE_OVER_S)
    took_s = time.monotonic() - began
    assert first.ended
    eventually(lambda: first.ended_at is not None, "its output has ended")
    assert first.ended_at is not None
    assert first.ended_at < datetime.fromisoformat(site.lease()["acquireTime"])
    return took_s


def test_a_leader_that_is_killed_is_followed(site: Site) -> None:
    first = site.leader()
    second = site.candidate()
    site.apply("a", "b", "c")
    eventually(lambda: site.claims.times, "the first is in the middle of it")
    first.kill()
    site.apply("d")
    taken_over(site, first, second)
    site.all_ready_and_once()
    assert site.lease()["leaseTransitions"] == 2


def test_a_leader_that_is_cut_off_ends_before_another_works(site: Site) -> None:
    """Connections stay open, and nothing comes through; in the end what was sent arrives late."""
    with stalling(site.server) as (proxy, kubeconfig):
        first = site.leader(kubeconfig)
        second = site.candidate()
        site.apply("a", "b")
        eventually(lambda: site.claims.times, "the first is in the middle of it")
        proxy.stall()
        site.apply("c")
        taken_over(site, first, second)
        assert first.process.returncode == 1
        proxy.resume()
        site.all_ready_and_once()
        site.apply("d")
        site.all_ready_and_once()


def test_a_leader_whose_connections_break_stops_by_itself(site: Site) -> None:
    with stalling(site.server) as (_, kubeconfig):
        first = site.leader(kubeconfig)
        second = site.candidate()
        site.apply("a", "b")
        eventually(lambda: site.claims.times, "the first is in the middle of it")
    # Nobody listens there any more.
    taken_over(site, first, second)
    assert first.process.returncode == 1
    assert "lost the right to lead" in site.logs()
    site.all_ready_and_once()


def test_a_leader_that_was_stopped_does_nothing_when_it_goes_on(site: Site) -> None:
    first = site.leader()
    second = site.candidate()
    site.apply("a", "b")
    eventually(lambda: site.claims.times, "the first is in the middle of it")
    first.process.send_signal(signal.SIGSTOP)
    site.apply("c")
    eventually(lambda: second.leads, "the second leads", TAKE_OVER_S)
    site.all_ready_and_once()
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(20) == 1
    site.apply("d")
    site.all_ready_and_once()


def test_a_leader_leads_on_where_the_api_server_is_slow(site: Site) -> None:
    with api_proxy(site.server) as proxy:
        first = site.leader(proxy.kubeconfig())
        proxy.spoil = lambda _: Late(1.5)
        second = site.candidate()
        site.apply("a")
        site.all_ready_and_once()
        assert [first.leads, second.leads, first.ended] == [True, False, False]
        assert site.lease()["leaseTransitions"] == 1


@pytest.mark.parametrize("options", [(), ("--no-leader-elect",)], ids=["candidate", "alone"])
def test_a_controller_ends_when_it_is_asked_to_though_nobody_answers_it(site: Site, options: tuple[str, ...]) -> None:
    with api_proxy(site.server) as proxy:
        proxy.spoil = lambda _: Late(None)
        replica = site.start(proxy.kubeconfig(), *options)
        eventually(lambda: proxy.asked, "it asks", START_S)
        replica.process.terminate()
        assert replica.process.wait(28) == 0  # Kubernetes kills after 30 s


@pytest.mark.parametrize("seed", [1, 2])
def test_a_controller_that_is_killed_again_and_again_ends_with_one_of_each(site: Site, seed: int) -> None:
    """In the moment in which the API server has done what it was asked to, and before it can say so."""
    chance = random.Random(seed)
    with api_proxy(site.server) as proxy:
        kubeconfig = proxy.kubeconfig()
        lock = threading.Lock()
        state: dict[str, Any] = {"left": 0, "replica": None, "kills": 0}

        def count(asked: Asked) -> None:
            with lock:
                if not asked.is_write or state["replica"] is None:
                    return
                state["left"] -= 1
                if state["left"] == 0:
                    state["replica"].process.kill()
                    state["kills"] += 1

        proxy.on_done = count
        site.apply("a", "b")
        for _ in range(12):
            with lock:
                state["left"] = chance.randint(1, 7)
                replica = state["replica"] = site.start(kubeconfig, "--no-leader-elect")
            eventually(lambda it=replica: it.ended or not site.waiting(), "it is killed, or all is ready", READY_S, 0.2)  # type: ignore[misc]
            if not site.waiting():
                break
        with lock:
            state["left"] = -1
        if replica.ended:
            site.start(kubeconfig, "--no-leader-elect")
        assert state["kills"] >= 4
        site.all_ready_and_once()


@pytest.mark.parametrize("seed", [1])
def test_an_api_server_that_fails_again_and_again_has_nothing_done_twice(site: Site, seed: int) -> None:
    """Every fourth request, reads and writes alike, in one of these ways: some before it was done, some after."""
    chance = random.Random(seed)
    busy = Answer(429, {"kind": "Status", "message": "too many requests", "code": 429}, {"Retry-After": "1"})
    faults = (busy, Answer(500, b"etcdserver: request timed out"), Answer(503, b"<html>"), Cut(0), Cut(30), Late(2))
    with api_proxy(site.server) as proxy:
        proxy.spoil = lambda _: chance.choice(faults) if chance.random() < 0.25 else None
        replica = site.start(proxy.kubeconfig())
        site.apply("a", "b", "c")
        site.all_ready_and_once()
        assert not replica.ended
