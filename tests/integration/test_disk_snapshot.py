"""The disk of a running machine into an image: as it was at one moment, though the guest goes on writing.

The guest is QEMU's own `qemu-io` on the guest's device: what it writes passes where a guest's writes do.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from controller.launcher import qcow2
from controller.launcher.agent import GuestAgent
from controller.launcher.argv import QEMU, blockdev_nodes
from controller.launcher.capture import Captured, make_image
from controller.launcher.copying import DiskCopies
from controller.launcher.disk_server import DiskServer
from controller.launcher.disks import PreparedDisk, exports, prepare
from controller.launcher.qmp import Monitor
from controller.launcher.snapshot import DiskSnapshot, snapshot
from controller.launcher.spec import CaptureSpec, DiskSpec, ImageReference
from converter.nbd.image import ImageExport
from converter.nbd.server import NbdServer
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch, publish
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.errors import StorageError
from tests.support.artifacts import CHUNK, noise, push, text
from tests.support.coroutines import in_loop
from tests.support.registry import RegistryServer
from tests.support.small_disk import small_disk_of

# Seven chunks; the fourth is zero and left out.
BASE = noise(CHUNK, 1) + text(CHUNK, 2) + noise(CHUNK, 3) + bytes(CHUNK) + noise(3 * CHUNK, 4)
TARGET = "snapshot/golden"


class Running:
    """A machine whose guest does nothing by itself, and its one disk."""

    def __init__(self, monitor: Monitor, disk: PreparedDisk, folder: Path, registry: RegistryClient) -> None:
        self.monitor = monitor
        self.disk = disk
        self.folder = folder
        self.registry = registry
        self.server = DiskServer(monitor, folder)
        self.copies = DiskCopies(monitor, self.server, folder / "nbd.sock")

    async def guest(self, *commands: str) -> None:
        """What the guest does to its disk."""
        for command in commands:
            line = f'qemu-io -d /machine/peripheral/device-root/virtio-backend "{command}"'
            answer = await self.monitor.execute("human-monitor-command", command_line=line)
            assert "rror" not in answer, answer
            assert "failed" not in answer, answer

    def snapshot(
        self, folder: Path | None = None, room_bytes: int = 2**30
    ) -> AbstractAsyncContextManager[DiskSnapshot]:
        agent = GuestAgent(self.folder / "nobody.sock")
        return snapshot(self.monitor, self.server, agent, self.disk, folder or self.folder, room_bytes)

    async def capture(self, content: DiskSnapshot) -> Captured:
        spec = CaptureSpec(
            repository=TARGET, tags=("uid",), origin="x", disk=DiskSpec(name="root", kind="disk", size_bytes=len(BASE))
        )
        return await asyncio.to_thread(make_image, spec, content, self.registry, None, lambda _: None)

    def golden(self) -> bytes:
        repository = self.registry.repository(TARGET)
        with ImageReader(repository, fetch(repository, "uid").image) as reader:
            return reader.read_at(0, reader.size_bytes)

    async def nodes(self) -> set[str]:
        return {node["node-name"] for node in await self.monitor.execute("query-named-block-nodes", flat=True)}


@pytest.fixture
def registry(fresh_registry: RegistryServer) -> RegistryClient:
    return RegistryClient.from_settings(ClientSettings(url=fresh_registry.url))


@asynccontextmanager
async def machine(
    registry: RegistryClient, folder: Path, before_read: Callable[[int], None] = lambda _: None
) -> AsyncIterator[Running]:
    origin = registry.repository("snapshot/base")
    digest = publish(origin, push(origin, BASE), ["latest"])
    image = ImageReference(repository=origin.name, digest=str(digest))

    class Watched(ImageExport):
        def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
            before_read(offset_bytes)
            return super().read(offset_bytes, length_bytes)

    def open_image(reference: ImageReference) -> ImageExport:
        return Watched(ImageReader(origin, fetch(origin, Digest.parse(reference.digest)).image))

    spec = DiskSpec(name="root", kind="disk", path="/vol/disk.qcow2", size_bytes=len(BASE), image=image)
    (disk,) = prepare([spec], folder, open_image)
    async with AsyncExitStack() as stack:
        stack.enter_context(NbdServer(folder / "nbd.sock", exports([disk])))
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(QEMU, "-S", "-machine", "pc", "-nodefaults", "-display", "none", "-m", "64"),
                *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"),
                pass_fds=(theirs.fileno(),),
            )
        monitor = await Monitor.connect(ours)
        assert disk.drive.path is not None
        for node in blockdev_nodes(disk.drive, folder / "nbd.sock", await monitor.hand_over(disk.drive.path)):
            await monitor.execute("blockdev-add", **node)
        device = {"driver": "virtio-blk-pci", "id": "device-root", "drive": disk.drive.node, "werror": "stop"}
        await monitor.execute("device_add", **device)
        running = Running(monitor, disk, folder, registry)
        try:
            yield running
        finally:
            await running.copies.close()
            await monitor.execute("quit")
            await monitor.close()
            await process.wait()


@in_loop
async def test_the_image_is_the_disk_as_it_was(registry: RegistryClient, tmp_path: Path) -> None:
    async with machine(registry, tmp_path) as running:
        await running.guest(f"write -P 7 {CHUNK + 65536} 65536", f"write -P 8 {3 * CHUNK} 65536")
        expected = bytearray(BASE)
        expected[CHUNK + 65536 : CHUNK + 131072] = b"\x07" * 65536
        expected[3 * CHUNK : 3 * CHUNK + 65536] = b"\x08" * 65536
        before = await running.nodes()

        async with running.snapshot() as content:
            # Where it wrote before, where only the image is, and where nothing is.
            await running.guest(
                f"write -P 9 {CHUNK} 131072", f"write -P 10 {5 * CHUNK} 65536", f"discard {3 * CHUNK} 65536"
            )
            captured = await running.capture(content)

        assert running.golden() == expected
        # Two chunks that the guest had written; what it wrote since may be read, but is what the registry has.
        assert captured.sent_chunks == 2
        assert captured.unread_chunks >= 3
        assert await running.nodes() == before
        assert list(tmp_path.glob("snapshot-*")) == []
        await running.guest(f"read -P 9 {CHUNK} 131072", f"read -P 10 {5 * CHUNK} 65536", "write -P 1 0 65536")


@in_loop
async def test_while_the_image_is_copied(registry: RegistryClient, tmp_path: Path) -> None:
    async with machine(registry, tmp_path) as running:
        running.copies.start(running.disk)
        async with running.copies.held(), running.snapshot() as content:
            await running.guest(f"write -P 9 {2 * CHUNK} 65536")
            await running.capture(content)
        assert running.golden() == BASE
        await asyncio.wait_for(running.copies.wait(), 60)
        assert qcow2.read_header(tmp_path / "vol/disk.qcow2").backing is None

        # It stands alone: every chunk is read, and none is sent.
        async with running.snapshot() as content:
            captured = await running.capture(content)
        assert (captured.sent_chunks, captured.unread_chunks) == (1, 0)


@in_loop
async def test_a_snapshot_that_breaks_fails_the_capture_and_not_the_guest(
    registry: RegistryClient, tmp_path: Path
) -> None:
    with small_disk_of(tmp_path / "small", 1024 * 1024) as small:
        async with machine(registry, tmp_path) as running:
            await running.guest(f"write -P 7 {CHUNK} {CHUNK}")
            async with running.snapshot(small) as content:
                await running.guest(f"write -P 9 {CHUNK} {CHUNK}")
                with pytest.raises(StorageError):
                    await running.capture(content)
            await running.guest(f"read -P 9 {CHUNK} {CHUNK}")
            assert running.registry.repository(TARGET).tags() == []
            async with running.snapshot() as content:
                await running.capture(content)
        assert running.golden()[CHUNK : 2 * CHUNK] == b"\x09" * CHUNK


@in_loop
async def test_a_snapshot_takes_no_more_room_than_it_is_given(registry: RegistryClient, tmp_path: Path) -> None:
    room_bytes = 2**20
    async with machine(registry, tmp_path) as running:
        await running.guest(f"write -P 7 {CHUNK} {CHUNK}")

        async def capture_of_a_busy_disk() -> None:
            async with running.snapshot(room_bytes=room_bytes) as content:
                for piece in range(CHUNK, 2 * CHUNK, 65536):
                    await running.guest(f"write -P 9 {piece} 65536")
                (kept,) = tmp_path.glob("snapshot-*")
                assert kept.stat().st_blocks * 512 <= room_bytes
                await running.capture(content)

        with pytest.raises(StorageError, match="of at most 1Mi were set aside"):
            await capture_of_a_busy_disk()
        await running.guest(f"read -P 9 {CHUNK} {CHUNK}")
        assert running.registry.repository(TARGET).tags() == []
        assert list(tmp_path.glob("snapshot-*")) == []


@in_loop
async def test_a_disk_that_was_handed_to_another_qemu_is_not_taken_for_copied(
    registry: RegistryClient, tmp_path: Path
) -> None:
    handed_over = threading.Event()
    handed_over.set()  # QEMU reads the first sector of a new device

    # QEMU 7.2 fails an assertion where it is copying while it hands the disk over: nothing is asked of it until then.
    def wait(_: int) -> None:
        assert handed_over.wait(60)

    async with machine(registry, tmp_path, wait) as running:
        handed_over.clear()
        running.copies.start(running.disk)
        await running.monitor.execute("migrate", uri="exec:cat >/dev/null")
        async with asyncio.timeout(60):
            while (await running.monitor.execute("query-migrate")).get("status") != "completed":
                await asyncio.sleep(0.05)
            handed_over.set()
            while not running.copies.trouble:
                await asyncio.sleep(0.05)
        assert "may not write" in running.copies.trouble
        assert qcow2.read_header(tmp_path / "vol/disk.qcow2").backing is not None


@in_loop
async def test_what_the_guest_reads_is_copied_next(registry: RegistryClient, tmp_path: Path) -> None:
    read: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def wait(offset_bytes: int) -> None:
        read.append(offset_bytes // CHUNK)
        if read[-1] == 1:
            begun.set()
            assert go_on.wait(60)

    async with machine(registry, tmp_path, wait) as running:
        running.copies.start(running.disk)
        assert await asyncio.to_thread(begun.wait, 60)
        await running.guest(f"read {5 * CHUNK} 4096")
        go_on.set()
        await asyncio.wait_for(running.copies.wait(), 60)
        await running.guest(f"write -P 1 {5 * CHUNK} 512")
    before_the_next = read[: read.index(2)]
    assert before_the_next.count(5) > 1, "by the guest, then by the copy"
    assert qcow2.read_header(tmp_path / "vol/disk.qcow2").backing is None
