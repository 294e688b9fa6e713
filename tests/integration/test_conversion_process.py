"""The qemu-img of a conversion: killed, hanging, stopped, and confined to what it needs."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from converter.convert import convert
from converter.inspect import inspect
from converter.qemu_img import QemuImg, sandbox_layers
from dvcr.errors import ConfigError, ImageError, RegistryError, SourceError
from tests.support.conversion import LIMIT, children, command_of, inspected, make_disk
from tests.support.images import MemoryChunkStore, MemorySource, build_image

MIB = 2**20


class Gated(MemorySource):
    """Gives the first bytes, then waits to be let on."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.waiting = threading.Event()
        self.gate = threading.Event()

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        if offset_bytes > 2 * MIB:
            self.waiting.set()
            assert self.gate.wait(60)
        return super().read_at(offset_bytes, length_bytes)


def run_until_waiting(source: Gated, **options: float) -> tuple[threading.Thread, list[BaseException]]:
    """Start a conversion in a thread and wait until qemu-img waits for the source."""
    info = inspect(MemorySource(source.data), max_virtual_size_bytes=LIMIT)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            convert(source, info, MemoryChunkStore(), on_progress=lambda _: None, **options)  # type: ignore[arg-type]  # only idle_timeout_s
        except BaseException as exc:  # noqa: BLE001  # for the test to look at
            raised.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    assert source.waiting.wait(30)
    return thread, raised


def test_a_killed_qemu_img_fails_the_conversion(tmp_path: Path) -> None:
    source = Gated(build_image(tmp_path, make_disk(9 * MIB), "vmdk"))
    thread, raised = run_until_waiting(source)
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    source.gate.set()
    thread.join(30)
    assert isinstance(raised[0], ImageError)
    assert (raised[0].reason, raised[0].retryable) == ("ConversionFailed", True)
    assert "where memory is short" in raised[0].message
    assert not children()


def test_a_hanging_qemu_img_is_stopped(tmp_path: Path) -> None:
    source = Gated(build_image(tmp_path, make_disk(9 * MIB), "vmdk"))
    thread, raised = run_until_waiting(source, idle_timeout_s=0.5)
    (child,) = children()
    os.kill(child, signal.SIGSTOP)
    source.gate.set()
    thread.join(30)
    assert isinstance(raised[0], ImageError)
    assert raised[0].reason == "ConversionFailed"
    assert "asked for nothing" in raised[0].message
    assert not children()


def test_a_slow_source_is_no_hang(tmp_path: Path) -> None:
    source = Gated(build_image(tmp_path, make_disk(9 * MIB), "vmdk"))
    thread, raised = run_until_waiting(source, idle_timeout_s=0.3)
    thread.join(1.0)
    assert thread.is_alive()
    source.gate.set()
    thread.join(30)
    assert not raised


def test_what_on_progress_raises_stops_everything(tmp_path: Path) -> None:
    class Cancelled(Exception):  # noqa: N818  # no error
        pass

    def cancel(done: int) -> None:
        raise Cancelled

    for image_format in ("qcow2", "vmdk", "raw"):
        data = build_image(tmp_path, make_disk(30 * MIB), image_format)
        threads = threading.active_count()
        with pytest.raises(Cancelled):
            convert(MemorySource(data), inspected(data), MemoryChunkStore(), on_progress=cancel)
        assert not children()
        assert threading.active_count() == threads


def test_errors_of_source_and_store_come_through(tmp_path: Path) -> None:
    data = build_image(tmp_path, make_disk(30 * MIB), "qcow2")

    class Gone(MemorySource):
        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes > 4 * MIB:
                raise SourceError("cut off", reason="SourceInterrupted")
            return super().read_at(offset_bytes, length_bytes)

    class Full(MemoryChunkStore):
        def put(self, descriptor: object, data: bytes) -> None:
            raise RegistryError("full", status=507)

    with pytest.raises(SourceError):
        convert(Gone(data), inspected(data), MemoryChunkStore(), on_progress=lambda _: None)
    with pytest.raises(RegistryError):
        convert(MemorySource(data), inspected(data), Full(), on_progress=lambda _: None)
    assert not children()


def test_what_a_running_qemu_img_is_confined_to(tmp_path: Path) -> None:
    source = Gated(build_image(tmp_path, make_disk(9 * MIB), "vmdk"))
    thread, raised = run_until_waiting(source)
    (child,) = children()
    process = Path(f"/proc/{child}")
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (process / "limits").read_text().splitlines()}
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    network = (process / "ns" / "net").readlink()
    files = {fd.readlink().as_posix().partition(":")[0] for fd in (process / "fd").iterdir()}
    source.gate.set()
    thread.join(60)
    assert not raised
    assert limits["Max cpu time"] == ["296", "301"]
    assert limits["Max address space"] == [str(2 * 2**30)] * 2
    assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["64", "64"]
    assert status["NoNewPrivs"] == "1"
    layers = sandbox_layers()
    if "seccomp" in layers:
        assert status["Seccomp"] == "2"
    if "unprivileged" in layers:
        assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if "namespaces" in layers:
        assert network != Path("/proc/self/ns/net").readlink()
    assert files <= {"/dev/null", "socket", "pipe", "anon_inode"}


def busy(folder: Path) -> QemuImg:
    """A program that only takes processor time: a second of it."""
    script = folder / "busy"
    script.write_text("#!/bin/sh\nwhile :; do :; done\n")
    script.chmod(0o755)
    folder.chmod(0o755)
    return QemuImg(str(script), cpu_base_s=6)


def test_processor_time_that_is_used_up_is_told(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ImageError) as caught:
        busy(Path(folder)).convert([], virtual_size_bytes=MIB, on_tick=lambda: None)
    assert caught.value.reason == "ConversionFailed"
    assert "more processor time than a disk of that size may take" in caught.value.message


def test_a_missing_qemu_img_says_what_to_do(tmp_path: Path) -> None:
    data = build_image(tmp_path, make_disk(MIB), "vmdk")
    with pytest.raises(ConfigError, match="apt-get install qemu-utils"):
        convert(
            MemorySource(data),
            inspected(data),
            MemoryChunkStore(),
            on_progress=lambda _: None,
            qemu_img=QemuImg("qemu-img-that-is-not-there"),
        )


def test_qemu_img_dies_with_its_caller(tmp_path: Path) -> None:
    file = tmp_path / "x.qcow2"
    file.write_bytes(build_image(tmp_path, make_disk(9 * MIB), "vmdk"))
    script = """
import sys, time
from pathlib import Path
from converter.convert import convert
from converter.inspect import inspect
from tests.support.images import MemoryChunkStore, MemorySource
data = Path(sys.argv[1]).read_bytes()
class Stuck(MemorySource):
    def read_at(self, offset_bytes, length_bytes):
        if offset_bytes > 2 ** 21:
            print("stuck", flush=True)
            time.sleep(60)
        return super().read_at(offset_bytes, length_bytes)
info = inspect(MemorySource(data), max_virtual_size_bytes=2 ** 40)
convert(Stuck(data), info, MemoryChunkStore(), on_progress=lambda _: None)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as caller:
        assert caller.stdout is not None
        while caller.stdout.readline().strip() != "stuck":
            assert caller.poll() is None
        (child,) = children(caller.pid)
        caller.kill()
    deadline = time.monotonic() + 10
    while "qemu-img" in command_of(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif("landlock" not in sandbox_layers(), reason="the machine has no Landlock")
def test_qemu_img_reads_no_file_of_ours(tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(make_disk(MIB))
    secret.chmod(0o644)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ImageError, match="Permission denied"):
        QemuImg().convert(
            ["-f", "raw", "-O", "raw", str(secret), str(out / "stolen")],
            virtual_size_bytes=MIB,
            writable=out,
            on_tick=lambda: None,
        )
    assert not (out / "stolen").exists()


@pytest.mark.skipif("landlock" not in sandbox_layers(), reason="the machine has no Landlock")
def test_qemu_img_finds_no_password_of_ours() -> None:
    script = """
import sys
from pathlib import Path
from converter.qemu_img import QemuImg
from dvcr.errors import ImageError
thief = Path(sys.argv[1])
try:
    # With a folder to write to it keeps the user, as where the worker is not root.
    QemuImg(str(thief)).convert([], virtual_size_bytes=1, writable=thief.parent, on_tick=lambda: None)
except ImageError as exc:
    print(exc.message)
"""
    with tempfile.TemporaryDirectory() as folder:
        thief = Path(folder) / "thief"
        thief.write_text("#!/bin/sh\nenv >&2\ncat /proc/$PPID/environ >&2\nexit 1\n")
        thief.chmod(0o755)
        environment = os.environ | {"DVCR__CLIENT__PASSWORD": "worker's own"}
        command = [sys.executable, "-c", script, str(thief)]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "LC_ALL=C" in told
    assert re.search(r"cat: /proc/\d+/environ: Permission denied", told)
    assert "worker's own" not in told


@pytest.mark.skipif("seccomp" not in sandbox_layers(), reason="the machine has no seccomp filters")
def test_qemu_img_opens_no_connection() -> None:
    with pytest.raises(ImageError, match="Operation not permitted"):
        QemuImg().convert(
            ["-n", "-O", "raw", "nbd://127.0.0.1:1/x", "nbd://127.0.0.1:1/y"],
            virtual_size_bytes=MIB,
            on_tick=lambda: None,
        )


@pytest.mark.skipif("seccomp" not in sandbox_layers(), reason="the machine has no seccomp filters")
def test_qemu_img_signals_no_process_of_its_user() -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        config = {"limits": {}, "layers": ["seccomp"], "parent_pid": os.getpid(), "environment": {}}
        script = Path(sys.modules[QemuImg.__module__].__file__ or "").with_name("confine.py")
        confined = [sys.executable, "-I", "-S", str(script), json.dumps(config)]
        killed = subprocess.run(
            [*confined, "/bin/sh", "-c", f"kill -9 {bystander.pid}"], capture_output=True, text=True, check=False
        )
        alive = bystander.poll() is None
        bystander.kill()
    assert alive
    assert "Operation not permitted" in killed.stderr
