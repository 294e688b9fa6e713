"""The NBD server as its peers see it: well-behaved ones, qemu-img, and hostile ones."""

import json
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.nbd.export import ReadableExport
from converter.nbd.protocol import Chunk, Command, Error, Option, OptionReply
from converter.nbd.server import NbdServer
from dvcr.errors import NoSpaceError, SourceError
from tests.support.images import MemoryExport
from tests.support.nbd_client import NbdClient
from tests.support.peak_memory import peak_memory

MIB = 2**20
# Of an example on a machine that others use, too; and what buffers of requests may take.
HANG = timedelta(seconds=60)
MAX_GROWN_BYTES = 64 * MIB
DISK = os.urandom(3 * MIB) + bytes(2 * MIB) + os.urandom(6 * MIB + 100)


class ReadOnly:
    """An export without `write`."""

    def __init__(self, data: bytes) -> None:
        self._inner = MemoryExport(data)
        self.size_bytes = len(data)
        self.read = self._inner.read
        self.extents = self._inner.extents


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NbdServer]:
    exports: dict[str, ReadableExport] = {"disk": MemoryExport(DISK), "ro": ReadOnly(DISK)}
    with NbdServer(tmp_path / "nbd.sock", exports) as running:
        yield running


@pytest.fixture
def socket_path(server: NbdServer, tmp_path: Path) -> Path:
    return tmp_path / "nbd.sock"


@pytest.fixture
def client(socket_path: Path) -> Iterator[NbdClient]:
    with NbdClient.dial(socket_path) as connected:
        connected.greet()
        yield connected


def test_options_before_an_export_is_chosen(client: NbdClient) -> None:
    assert client.option(Option.LIST) == [
        (OptionReply.SERVER, b"\0\0\0\x04disk"),
        (OptionReply.SERVER, b"\0\0\0\x02ro"),
        (OptionReply.ACK, b""),
    ]
    assert client.option(Option.LIST, b"x")[0][0] == OptionReply.ERR_INVALID
    assert client.option(5)[0][0] == OptionReply.ERR_UNSUP
    assert client.option(Option.GO, b"\0\0\0\x04none\0\0")[0][0] == OptionReply.ERR_UNKNOWN
    assert client.option(Option.GO, b"\xff\xff\xff\xff")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.GO, b"\0\0\0\x02\xff\xfe\0\0")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.SET_META_CONTEXT, b"\0\0\0\x04disk\0\0\0\0")[0][0] == OptionReply.ERR_INVALID
    assert client.option(Option.INFO, b"\0\0\0\x02ro\0\0")[-1] == (OptionReply.ACK, b"")
    assert client.option(Option.ABORT) == [(OptionReply.ACK, b"")]


def test_read_write_zero_trim_flush(server: NbdServer, client: NbdClient) -> None:
    client.go("disk")
    assert client.size_bytes == len(DISK)
    assert client.simple(Command.READ, 1000, 70_000) == (0, DISK[1000:71_000])
    assert client.simple(Command.READ, 0, len(DISK)) == (0, DISK)
    data = os.urandom(9 * MIB)
    assert client.simple(Command.WRITE, 7, len(data), data)[0] == 0
    assert client.simple(Command.WRITE_ZEROES, 20, 30)[0] == 0
    assert client.simple(Command.TRIM, 0, 4096)[0] == 0
    assert client.simple(Command.FLUSH, 0, 0)[0] == 0
    expected = data[:13] + bytes(30) + data[43:]
    assert client.simple(Command.READ, 7, len(data)) == (0, expected)
    client.send(Command.DISCONNECT, 0, 0)
    with pytest.raises(EOFError):
        client.receive(1)
    assert server.error is None


def test_export_name_of_old_clients(socket_path: Path) -> None:
    with NbdClient.dial(socket_path) as client:
        client.greet(flags=1)
        client.sock.sendall(struct.pack(">QII", 0x49484156454F5054, Option.EXPORT_NAME, 2) + b"ro")
        size, _ = struct.unpack(">QH", client.receive(10))
        assert size == len(DISK)
        assert client.receive(124) == bytes(124)
        assert client.simple(Command.READ, 5, 10) == (0, DISK[5:15])


def test_requests_out_of_bounds_get_errors_and_the_connection_goes_on(client: NbdClient) -> None:
    client.go("disk")
    end = len(DISK)
    assert client.simple(Command.READ, end - 1, 2)[0] == Error.EINVAL
    assert client.simple(Command.READ, 2**64 - 1, 2**32 - 1)[0] == Error.EOVERFLOW
    assert client.simple(Command.READ, 0, 0)[0] == Error.EINVAL
    assert client.simple(Command.WRITE, end - 1, 2, b"xx")[0] == Error.ENOSPC
    assert client.simple(Command.WRITE_ZEROES, 0, 2**32 - 1)[0] == Error.ENOSPC
    assert client.simple(Command.BLOCK_STATUS, 0, 512)[0] == Error.EINVAL
    assert client.simple(77, 0, 512)[0] == Error.EINVAL
    assert client.simple(Command.FLUSH, 0, 0, flags=0x8000)[0] == Error.EINVAL
    assert client.simple(Command.READ, end - 1, 1) == (0, DISK[-1:])


def test_a_read_only_export_refuses_writes(client: NbdClient) -> None:
    client.go("ro")
    assert client.flags & 2
    assert client.simple(Command.WRITE, 0, 3, b"abc")[0] == Error.EPERM
    assert client.simple(Command.WRITE_ZEROES, 0, 3)[0] == Error.EPERM
    assert client.simple(Command.READ, 0, 3) == (0, DISK[:3])


def test_structured_replies_and_block_status(client: NbdClient) -> None:
    client.set_allocation("ro")
    client.go("ro")
    chunks = client.structured(Command.READ, 0, len(DISK))
    assert b"".join(payload[8:] for _, payload in chunks) == DISK
    assert {kind for kind, _ in chunks} == {Chunk.OFFSET_DATA}
    status = [(Chunk.BLOCK_STATUS, struct.pack(">IIIIIII", 1, 3 * MIB, 0, 2 * MIB, 3, 6 * MIB + 100, 0))]
    assert client.structured(Command.BLOCK_STATUS, 0, len(DISK)) == status
    assert client.structured(Command.BLOCK_STATUS, 4 * MIB, 2 * MIB, flags=8) == [
        (Chunk.BLOCK_STATUS, struct.pack(">III", 1, MIB, 3))
    ]
    ((kind, payload),) = client.structured(Command.READ, len(DISK), 1)
    assert kind == Chunk.ERROR
    assert payload[:4] == struct.pack(">I", Error.EINVAL)


def test_errors_of_an_export_reach_the_client_and_the_owner(tmp_path: Path) -> None:
    class Broken(MemoryExport):
        def read(self, offset_bytes: int, length_bytes: int) -> bytes:
            raise SourceError("the link is down")

        def write(self, offset_bytes: int, data: memoryview) -> None:
            raise NoSpaceError("full")

        def flush(self) -> None:
            raise ZeroDivisionError

    with NbdServer(None, {"": Broken(DISK)}) as server, NbdClient(server.connect()) as client:
        client.greet()
        client.go("")
        assert client.simple(Command.READ, 0, 512)[0] == Error.EIO
        assert client.simple(Command.WRITE, 0, 9 * MIB, bytes(9 * MIB))[0] == Error.ENOSPC
        assert client.simple(Command.FLUSH, 0, 0)[0] == Error.EIO
        assert isinstance(server.error, SourceError)
    with NbdServer(None, {"": Broken(DISK)}) as server, NbdClient(server.connect()) as client:
        client.greet()
        client.go("")
        client.simple(Command.FLUSH, 0, 0)
        assert server.error is not None
        assert isinstance(server.error.__cause__, ZeroDivisionError)


def test_many_clients_at_once_and_nothing_left(tmp_path: Path) -> None:
    path = tmp_path / "many.sock"
    wrong: list[object] = []

    def read_all() -> None:
        with NbdClient.dial(path) as client:
            client.greet()
            client.go("")
            for at in range(0, len(DISK) - 10_000, 200_000):
                if client.simple(Command.READ, at, 10_000) != (0, DISK[at : at + 10_000]):
                    wrong.append(at)

    before = threading.active_count()
    with NbdServer(path, {"": ReadOnly(DISK)}) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        threads = [threading.Thread(target=read_all) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        with NbdClient(server.connect()) as idle:
            idle.greet()
            idle.go("")
    assert not wrong
    assert not path.exists()
    assert threading.active_count() == before


def test_qemu_img_agrees(socket_path: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(DISK)
    url = f"nbd+unix:///ro?socket={socket_path}"
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", url, tmp_path / "disk.raw"], check=True)
    mapped = subprocess.run(["qemu-img", "map", "--output=json", "-f", "raw", url], check=True, capture_output=True)
    assert [(run["start"], run["zero"]) for run in json.loads(mapped.stdout)][:3] == [
        (0, False),
        (3 * MIB, True),
        (5 * MIB, False),
    ]


@pytest.mark.parametrize(
    "bytes_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x03" + b"\xff" * 200,
        b"\0\0\0\x03" + struct.pack(">QII", 0x49484156454F5054, Option.GO, 2**32 - 1),
        b"\0\0\0\x03" + struct.pack(">QII", 0x49484156454F5054, Option.EXPORT_NAME, 3) + b"no!",
        b"\0\0\0\x03" + struct.pack(">QII", 0x49484156454F5054, Option.LIST, 0) * 1000,
    ],
)
def test_a_client_that_breaks_the_handshake_is_cut_off(socket_path: Path, client: NbdClient, bytes_: bytes) -> None:
    with NbdClient.dial(socket_path) as hostile:
        hostile.receive(18)
        try:
            hostile.sock.sendall(bytes_)
            while hostile.sock.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
    client.go("disk")
    assert client.simple(Command.READ, 0, 4)[1] == DISK[:4]


def test_a_write_over_the_limit_cuts_the_client_off(client: NbdClient) -> None:
    client.go("disk")
    client.send(Command.WRITE, 0, 2**32 - 1)
    with pytest.raises((EOFError, ConnectionResetError)):
        client.receive(1)


REQUEST = st.tuples(
    st.integers(0, 2**16 - 1) | st.just(0),
    st.integers(0, 9),
    st.integers(0, 2**64 - 1) | st.integers(0, len(DISK)),
    st.integers(0, 2**32 - 1) | st.integers(0, 70_000),
)


@settings(max_examples=40, deadline=HANG, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUEST, max_size=6), st.binary(max_size=300), st.booleans())
def test_no_requests_harm_the_server(
    server: NbdServer, socket_path: Path, requests: list[tuple[int, int, int, int]], noise: bytes, allocation: bool
) -> None:
    with peak_memory() as peak:
        _send_requests(socket_path, requests, noise, allocation)
    assert peak.grown < MAX_GROWN_BYTES
    assert server.error is None


def _send_requests(
    socket_path: Path, requests: list[tuple[int, int, int, int]], noise: bytes, allocation: bool
) -> None:
    with NbdClient.dial(socket_path) as hostile:
        hostile.greet()
        if allocation:
            hostile.set_allocation("disk")
        hostile.go("disk")
        try:
            for flags, command, offset, length in requests:
                payload = bytes(length) if command == Command.WRITE and length < MIB else b""
                hostile.send(command, offset, length, payload, flags)
            hostile.sock.sendall(noise)
        except (ConnectionResetError, BrokenPipeError):
            pass
    with NbdClient.dial(socket_path) as client:
        client.greet()
        client.go("ro")
        assert client.simple(Command.READ, 0, 4) == (0, DISK[:4])


@settings(max_examples=40, deadline=HANG, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=60)), max_size=6))
def test_no_options_harm_the_server(server: NbdServer, socket_path: Path, options: list[tuple[int, bytes]]) -> None:
    with peak_memory() as peak, NbdClient.dial(socket_path) as hostile:
        hostile.greet()
        try:
            for option, data in options:
                hostile.sock.sendall(struct.pack(">QII", 0x49484156454F5054, option, len(data)) + data)
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert peak.grown < MAX_GROWN_BYTES
    with NbdClient.dial(socket_path) as client:
        client.greet()
        client.go("ro")
        assert client.simple(Command.READ, 0, 4) == (0, DISK[:4])
    assert server.error is None
