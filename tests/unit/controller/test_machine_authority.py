import base64
from datetime import timedelta

import pytest

from controller.api.resource import MACHINE, POD, SECRET
from controller.certificates import covers
from controller.launcher.spec import machine_identity
from controller.machines.authority import SECRET_NAME, MachineAuthority
from dvcr.errors import ConfigError
from tests.support.memory_cluster import MemoryCluster
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import NOW, World, operate


def authority_of(cluster: MemoryCluster, after: timedelta = timedelta()) -> MachineAuthority:
    return MachineAuthority(cluster, "dvcr", lambda: NOW + after)


def test_two_controllers_issue_for_one_authority() -> None:
    cluster = MemoryCluster()
    first, second = authority_of(cluster), authority_of(cluster)

    files = first.issue("u-1")

    assert second.issue("u-2")["ca.crt"] == files["ca.crt"]
    assert not second.is_due(first.renewal())
    assert covers(files["tls.crt"], [machine_identity("u-1")])


def test_the_secret_of_the_loser_of_a_race_is_the_winners() -> None:
    winner = MemoryCluster()

    class Racing(MemoryCluster):
        """Another controller makes the Secret between the look and the creation."""

        def create(self, resource, obj):  # type: ignore[no-untyped-def]
            if self.get(SECRET, SECRET_NAME, "dvcr") is None:
                authority_of(winner).issue("u-0")
                super().create(SECRET, winner.get(SECRET, SECRET_NAME, "dvcr") or {})
            return super().create(resource, obj)

    files = authority_of(Racing()).issue("u-1")

    assert files["ca.crt"] == authority_of(winner).issue("u-1")["ca.crt"]


def test_a_certificate_is_due_at_half_its_life_and_when_the_authority_is_another() -> None:
    cluster = MemoryCluster()
    renewal = authority_of(cluster).renewal()

    assert not authority_of(cluster, timedelta(hours=11)).is_due(renewal)
    assert authority_of(cluster, timedelta(hours=13)).is_due(renewal)
    assert authority_of(MemoryCluster()).is_due(renewal)
    assert authority_of(cluster).is_due("")


def test_a_secret_that_holds_no_authority_is_named() -> None:
    cluster = MemoryCluster()
    cluster.create(SECRET, {"metadata": {"name": SECRET_NAME, "namespace": "dvcr"}, "data": {}})

    with pytest.raises(ConfigError, match=f"Secret '{SECRET_NAME}' in namespace 'dvcr'"):
        authority_of(cluster).issue("u-1")


def test_the_pod_of_a_running_machine_gets_a_new_certificate_in_time() -> None:
    world = World()
    running_machine(world)
    uid = world.get(MACHINE, "web")["metadata"]["uid"]
    before = world.get(SECRET, "vm-web")["data"]

    world.pass_time(13 * 3600)
    world.settle()

    after = world.get(SECRET, "vm-web")["data"]
    assert after["machine.json"] == before["machine.json"]
    assert after["ca.crt"] == before["ca.crt"]
    assert after["tls.crt"] != before["tls.crt"]
    assert covers(base64.b64decode(after["tls.crt"]), [machine_identity(uid)])
    writes = world.cluster.writes
    world.settle()
    assert world.cluster.writes == writes, "once is enough"


def test_an_authority_that_is_of_no_use_is_told_of_and_holds_no_stop_up() -> None:
    before = World()
    running_machine(before)
    # Another controller, which reads it anew.
    world = World(before.cluster, before.board, before.registry, before.launchers)
    secret = world.cluster.get(SECRET, SECRET_NAME, "dvcr") or {}
    broken = {"metadata": secret["metadata"], "data": {}}
    world.cluster.restore(SECRET, broken)
    world.settle()
    condition = world.condition(MACHINE, "web", "Maintained")
    assert (condition["status"], condition["reason"]) == ("False", "InvalidConfiguration")
    assert condition["message"].startswith(f"Secret '{SECRET_NAME}' in namespace 'dvcr' holds no authority")
    assert world.condition(MACHINE, "web", "Running")["status"] == "True"
    operate(world, "Stop")
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]
    world.cluster.restore(SECRET, secret)
    world.settle()
    assert world.condition(MACHINE, "web", "Maintained")["status"] == "True"
