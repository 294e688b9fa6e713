"""What worker and controller show of themselves over HTTP."""

import socket
import threading
from pathlib import Path

import pytest
import requests

from dvcr.config import MonitoringSettings
from dvcr.errors import ConfigError
from dvcr.monitoring import Monitoring
from tests.support.kubernetes import free_port
from tests.support.redis import RedisServer
from tests.support.waiting import eventually
from tests.support.worker import Worker


def get(port: int, path: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)


def test_it_is_ready_once_it_is_told() -> None:
    ready = threading.Event()
    with Monitoring(MonitoringSettings(port=0), ready.is_set) as monitoring:
        assert get(monitoring.port, "/healthz").status_code == 200
        assert get(monitoring.port, "/readyz").status_code == 503
        ready.set()
        assert get(monitoring.port, "/readyz").status_code == 200
        assert get(monitoring.port, "/other").status_code == 404
        port = monitoring.port
    with pytest.raises(requests.ConnectionError):
        get(port, "/healthz")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port} \(monitoring.host"),
            Monitoring(MonitoringSettings(port=port), lambda: True),
        ):
            pass


def test_a_worker_tells_how_many_imports_wait(redis_server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    with Worker(redis_server.url, "http://127.0.0.1:9", tmp_path, monitoring__port=port, importer__lease_s=1):
        eventually(lambda: get(port, "/readyz").ok, "the worker is ready")
        eventually(lambda: "\ndvcr_imports_in_line 0.0\n" in get(port, "/metrics").text, "nothing is in line")
        eventually(lambda: "\ndvcr_imports_unfinished 0.0\n" in get(port, "/metrics").text, "nothing is to be done")
        assert get(port, "/healthz").text == "ok\n"
