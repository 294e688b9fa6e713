import socket
from pathlib import Path

import pytest

from controller.local.up.plan import Ports, choose_ports, make_plan
from dvcr.errors import ConfigError

PORTS = Ports(registry=1, uploader=2, api=3, redis=4)


def test_free_ports_are_remembered(tmp_path: Path) -> None:
    first = choose_ports(tmp_path, 0, 0, 0)
    assert len({first.registry, first.uploader, first.api, first.redis}) == 4
    assert choose_ports(tmp_path, 0, 0, 0) == first


def test_a_given_port_that_is_taken_is_refused_with_the_option_to_change(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} for registry is taken; .*--registry-port"):
            choose_ports(tmp_path, port, 0, 0)


def test_every_process_is_stopped_and_the_controller_before_the_node(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, PORTS)
    assert sorted(plan.stop_order) == sorted(spec.name for spec in plan.processes)
    assert plan.stop_order.index("controller") < plan.stop_order.index("node")


def test_redis_needs_a_password_that_only_the_owner_can_read(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, PORTS)
    config = tmp_path / "redis" / "redis.conf"
    password = plan.environment["DVCR__BROKER__URL"].split(":")[2].split("@")[0]
    assert f"requirepass {password}" in config.read_text()
    assert config.stat().st_mode & 0o077 == 0
