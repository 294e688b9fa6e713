"""S3 servers for tests: moto, quick and in memory, and versitygw, a real one, built from its Go module."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from pydantic import SecretStr

from dvcr.config import S3Settings
from tests.support.go_tool import VERSITYGW, build

START_TIMEOUT_S = 30
ACCESS_KEY, SECRET_KEY = "tester", "not-secret-at-all"


class S3Server:
    """A running S3 server. Buckets are made by `bucket`."""

    def __init__(self, url: str, ca_file: Path | None = None) -> None:
        self.url = url
        self._ca_file = ca_file
        self._buckets = 0

    @cached_property
    def client(self) -> Any:
        """A plain boto3 client of it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            verify=str(self._ca_file) if self._ca_file else None,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def bucket(self) -> S3Settings:
        """Settings that name a new, empty bucket."""
        self._buckets += 1
        name = f"test-{os.getpid()}-{self._buckets}"
        self.client.create_bucket(Bucket=name)
        return S3Settings(
            bucket=name,
            endpoint_url=self.url,
            path_style=True,
            ca_file=self._ca_file,
            access_key_id=SecretStr(ACCESS_KEY),
            secret_access_key=SecretStr(SECRET_KEY),
        )


def environment(settings: S3Settings) -> dict[str, str]:
    """The variables that make `dvcr serve` use this bucket."""
    prefix = "DVCR__STORAGE__S3__"
    return {
        "DVCR__STORAGE__DRIVER": "s3",
        f"{prefix}BUCKET": settings.bucket,
        f"{prefix}ENDPOINT_URL": settings.endpoint_url,
        f"{prefix}PATH_STYLE": "true",
        f"{prefix}ACCESS_KEY_ID": settings.access_key_id.get_secret_value(),
        f"{prefix}SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
    }


@contextmanager
def run_moto() -> Iterator[S3Server]:
    """S3 in memory. It does not make conditional writes atomic."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}")
    server.stop()


@contextmanager
def run_versitygw(certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """A real S3 server over a folder; with TLS if it gets a certificate and its key, which must be for localhost."""
    binary = build(VERSITYGW)
    with tempfile.TemporaryDirectory(prefix="dvcr-s3-") as folder:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        arguments = ["--port", f"127.0.0.1:{port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--quiet"]
        if certificate:
            arguments += ["--cert", str(certificate[0]), "--key", str(certificate[1])]
        process = subprocess.Popen(
            [binary, *arguments, "--keep-alive", "posix", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        assert process.poll() is None, "versitygw did not start"
        yield (
            S3Server(f"https://localhost:{port}", certificate[0])
            if certificate
            else S3Server(f"http://127.0.0.1:{port}")
        )
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """See run_moto."""
    with run_moto() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """See run_versitygw."""
    with run_versitygw() as server:
        yield server
