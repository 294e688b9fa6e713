"""A namespace whose quota is too small for what is asked, until somebody raises it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.api.resource import DISK, MACHINE, Resource
from controller.runtime.cluster import Object
from tests.support.kubernetes import KubernetesProcess
from tests.support.redis import RedisServer
from tests.support.replicas import START_S, Site
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

QUOTA = Resource("", "v1", "ResourceQuota", "resourcequotas", namespaced=True)
CONTROLLERS = "serviceaccount-controller,garbage-collector-controller,resourcequota-controller"


@pytest.fixture
def site(redis_server: RedisServer, tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "cluster"
    root.mkdir()
    server = KubernetesProcess(root, controllers=CONTROLLERS)
    with server, closing(Site(server, redis_server, tmp_path)) as running, running.fleet:
        yield running


def limit(site: Site, **hard: int) -> None:
    """Have the quota allow so many objects, once its controller knows."""
    wanted = {name: str(number) for name, number in hard.items()}
    if site.cluster.get(QUOTA, "small", "default") is None:
        metadata = {"name": "small", "namespace": "default"}
        site.cluster.create(QUOTA, {"metadata": metadata, "spec": {"hard": wanted}})
    else:
        site.cluster.patch(QUOTA, "small", {"spec": {"hard": wanted}}, "default")

    def is_counted() -> bool:
        quota = site.cluster.get(QUOTA, "small", "default") or {}
        return (quota.get("status") or {}).get("hard") == wanted

    eventually(is_counted, "the quota is counted", 60)


def refused(site: Site, resource: Resource, condition: str) -> str:
    """What the object says of the cluster's refusal; nothing before it does."""
    obj: Object = site.cluster.get(resource, "a", "default") or {}
    status = obj.get("status") or {}
    told = [each for each in status.get("conditions") or () if each["type"] == condition]
    return str(told[0]["message"]) if told and told[0]["reason"] == "Forbidden" else ""


def test_what_a_quota_forbids_is_told_and_done_once_it_is_raised(site: Site) -> None:
    limit(site, persistentvolumeclaims=0, pods=0)
    replica = site.start(None, "--no-leader-elect")
    eventually(lambda: replica.leads, "the controller works", START_S)
    site.apply("a")
    eventually(lambda: refused(site, DISK, "Ready"), "the disk says why it has no claim", 60)
    assert refused(site, DISK, "Ready") == (
        'persistentvolumeclaims "vmd-a" is forbidden: exceeded quota: small, requested: persistentvolumeclaims=1, '
        "used: persistentvolumeclaims=0, limited: persistentvolumeclaims=0"
    )
    limit(site, persistentvolumeclaims=1, pods=0)
    eventually(lambda: refused(site, MACHINE, "Running"), "the machine says why it has no pod", 90)
    assert refused(site, MACHINE, "Running") == (
        'waits for what the cluster refuses: pods "vm-a" is forbidden: exceeded quota: small, requested: pods=1, '
        "used: pods=0, limited: pods=0"
    )
    limit(site, persistentvolumeclaims=1, pods=1)
    site.all_ready_and_once()
