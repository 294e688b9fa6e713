"""The NBD client at our own server and at qemu-nbd."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.nbd.client import NbdClient
from converter.nbd.protocol import BASE_ALLOCATION, STATE_HOLE, STATE_ZERO
from converter.nbd.server import NbdServer
from dvcr.errors import SourceError, StorageError
from tests.support.images import MemoryExport
from tests.support.waiting import eventually

MIB = 2**20
DISK = os.urandom(3 * MIB) + bytes(2 * MIB) + os.urandom(6 * MIB)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Path]:
    with NbdServer(tmp_path / "nbd.sock", {"disk": MemoryExport(DISK)}):
        yield tmp_path / "nbd.sock"


@pytest.fixture
def qemus(tmp_path: Path) -> Iterator[Path]:
    raw, path = tmp_path / "disk.raw", tmp_path / "qemu.sock"
    with raw.open("wb") as file:
        file.write(DISK[: 3 * MIB])
        file.seek(5 * MIB)
        file.write(DISK[5 * MIB :])
    with subprocess.Popen(["qemu-nbd", "-r", "-t", "-f", "raw", "-k", path, "-x", "disk", raw]) as process:
        eventually(path.exists, "the socket of qemu-nbd")
        yield path
        process.terminate()


@pytest.mark.parametrize("server", ["ours", "qemus"])
def test_reads_and_extents(server: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(server)
    with NbdClient.connect(path, "disk", (BASE_ALLOCATION,)) as client:
        assert client.size_bytes == len(DISK)
        assert client.read(0, len(DISK)) == DISK
        assert client.read(3 * MIB - 5, 10) == DISK[3 * MIB - 5 : 3 * MIB + 5]
        hole = STATE_HOLE | STATE_ZERO
        extents = list(client.extents(BASE_ALLOCATION, MIB, len(DISK) - MIB))
        assert extents == [(2 * MIB, 0), (2 * MIB, hole), (6 * MIB, 0)]
    with NbdClient.connect(path, "disk") as client:
        assert client.read(MIB, 100) == DISK[MIB : MIB + 100]


def test_cache_requests_are_answered_in_any_number(qemus: Path) -> None:
    with NbdClient.connect(qemus, "disk") as client:
        ranges = [(at, MIB) for at in range(0, len(DISK), MIB)]
        assert sum(client.cache(ranges, 4)) == len(DISK)
        client.flush()
        assert client.read(0, 10) == DISK[:10]
        with pytest.raises(StorageError):
            list(client.cache([(len(DISK), MIB)], 4))


def test_what_is_not_there_is_told(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="GO"):
        NbdClient.connect(ours, "none")
    with pytest.raises(StorageError, match="qemu:allocation-depth"):
        NbdClient.connect(ours, "disk", ("qemu:allocation-depth",))
    with pytest.raises(StorageError):
        NbdClient.connect(tmp_path / "nobody", "disk")


def test_an_error_of_the_export_is_the_servers_words(tmp_path: Path) -> None:
    class Broken(MemoryExport):
        def read(self, offset_bytes: int, length_bytes: int) -> bytes:
            raise SourceError("the cable is out")

    with (
        NbdServer(tmp_path / "nbd.sock", {"disk": Broken(DISK)}),
        NbdClient.connect(tmp_path / "nbd.sock", "disk") as client,
        pytest.raises(StorageError, match="the cable is out"),
    ):
        client.read(0, 10)


def test_a_read_ends_when_the_client_is_closed_by_another_thread() -> None:
    left, right = socket.socketpair()
    with right:
        threading.Timer(0.1, left.shutdown, (socket.SHUT_RDWR,)).start()
        with pytest.raises(StorageError):
            NbdClient(left, "disk")
