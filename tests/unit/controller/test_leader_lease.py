"""Who leads, and until when."""

import threading
from collections.abc import Callable

import pytest

from controller.api.resource import LEASE, Resource
from controller.runtime.errors import ClusterError
from controller.runtime.index import Object
from controller.runtime.leadership import lead
from controller.runtime.lease import LeaderLease
from dvcr.errors import DvcrError
from tests.support.memory_cluster import MemoryCluster


class Site:
    """A cluster, and two candidates whose clock the test sets."""

    def __init__(self) -> None:
        self.cluster = SlowCluster(self)
        self.now = 0.0
        self.first, self.second = (LeaderLease(self.cluster, name, clock=lambda: self.now) for name in ("1st", "2nd"))


class SlowCluster(MemoryCluster):
    """Takes its time for each request, and can be out of reach."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self.takes_s = 0.0
        self.is_away = False

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        self._site.now += self.takes_s
        if self.is_away:
            raise ClusterError("away")
        return super().get(resource, name, namespace)


def test_one_leads_until_its_lease_is_over() -> None:
    site = Site()
    assert site.first.try_once()
    assert not site.second.try_once()
    site.now = 14
    assert not site.second.try_once()
    assert site.first.try_once()
    site.now = 20
    assert not site.second.try_once(), "the first has renewed"
    site.now = 36
    assert site.second.try_once(), "the first is silent for longer than its lease"
    assert not site.first.try_once()


def test_who_cannot_renew_leads_no_more_before_another_can() -> None:
    site = Site()
    assert site.first.try_once()
    assert not site.second.try_once()
    site.cluster.is_away = True
    site.now = 9.9
    assert not site.first.try_once()
    assert site.first.held
    site.now = 10
    assert not site.first.held
    site.cluster.is_away = False
    site.now = 15
    assert not site.second.try_once()
    site.now = 15.1
    assert site.second.try_once()


def test_the_time_that_a_renewal_takes_is_not_won() -> None:
    site = Site()
    site.cluster.takes_s = 6
    assert site.first.try_once()
    assert site.now == 6
    site.now = 9.9
    assert site.first.held
    site.now = 10
    assert not site.first.held


def test_who_sees_that_another_has_it_leads_no_more() -> None:
    """Somebody deleted the Lease."""
    site = Site()
    assert site.first.try_once()
    site.cluster.delete(LEASE, "dvcr-controller", "default")
    assert site.second.try_once()
    assert site.first.held
    assert not site.first.try_once()
    assert not site.first.held


class Work:
    """Runs until it is stopped."""

    idle = True

    def __init__(self, began: Callable[[], None]) -> None:
        self._began = began

    def run(self, stopping: threading.Event, on_ready: Callable[[], None]) -> None:
        on_ready()
        self._began()
        assert stopping.wait(10)


def test_work_that_is_stopped_gives_the_lease_back() -> None:
    site, stopping = Site(), threading.Event()
    lead(site.first, Work(stopping.set), stopping, lambda: None)
    assert not site.first.held
    assert site.second.try_once()


def test_work_stops_when_the_lease_cannot_be_renewed() -> None:
    site = Site()

    def lose() -> None:
        site.cluster.is_away = True
        site.now = 11

    with pytest.raises(DvcrError) as caught:
        lead(site.first, Work(lose), threading.Event(), lambda: None)
    assert caught.value.reason == "LeadershipLost"


def test_where_something_goes_on_the_lease_is_not_given_back() -> None:
    site, stopping = Site(), threading.Event()
    work = Work(stopping.set)
    work.idle = False
    lead(site.first, work, stopping, lambda: None)
    assert not site.second.try_once()
