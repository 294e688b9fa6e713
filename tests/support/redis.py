"""A real redis-server for tests, on a unix socket; in memory only, unless it is to keep what it is told."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from dvcr.config import BrokerSettings


class RedisServer:
    """A running redis-server."""

    def __init__(self, folder: Path, *, persistent: bool = False) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"redis+socket://{self.socket}"
        self._folder = folder
        self._kept = ("--appendonly", "yes", "--appendfsync", "always") if persistent else ()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed")
        self._process = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", self.socket, "--dir", self._folder, "--save", "", *self._kept],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client().ping()
                return
            except redis.ConnectionError:  # not listening, or still loading what it kept
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def client(self) -> "redis.Redis":
        """A connection to it."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def settings(self, visibility_timeout_s: int = 60) -> BrokerSettings:
        """Settings that name it."""
        return BrokerSettings(url=SecretStr(self.url), visibility_timeout_s=visibility_timeout_s)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    # Not tmp_path: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="dvcr-redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_server(_redis_server: RedisServer) -> RedisServer:
    """An empty Redis."""
    _redis_server.client().flushall()
    return _redis_server


@pytest.fixture
def open_redis(redis_server: RedisServer) -> RedisServer:
    """Redis, for any user."""
    redis_server.socket.parent.chmod(0o755)
    redis_server.socket.chmod(0o777)
    return redis_server
