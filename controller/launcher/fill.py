"""Copying an image into a disk that no machine uses: the machine's own copy, over a QEMU without a guest."""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.launcher.argv import QEMU, QEMU_ENVIRONMENT, blockdev_nodes
from controller.launcher.confinement import Confinement
from controller.launcher.copying import DiskCopies
from controller.launcher.disk_server import DiskServer
from controller.launcher.disks import PreparedDisk, exports, prepare
from controller.launcher.images import images
from controller.launcher.qmp import Monitor, MonitorError
from controller.launcher.spec import DiskSpec, WorkStatus
from converter.nbd.server import NbdServer
from dvcr.artifact.memory import ChunkMemory
from dvcr.artifact.reader import MEMORY_BYTES
from dvcr.config import Settings
from dvcr.errors import StorageError

TELL_EVERY_S = 0.2
QUIT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class OpenDisk:
    """A disk in a QEMU that has no machine."""

    process: asyncio.subprocess.Process
    monitor: Monitor
    disk: PreparedDisk
    copies: DiskCopies


async def fill(disk: DiskSpec, settings: Settings, root: Path, tell: Callable[[WorkStatus], None]) -> None:
    """Return when the disk is made and stands alone. Goes on with what is missing; waits while the registry is away.

    `root` is the folder that stands for the pod's `/`. SIGTERM cancels it. Raises as `prepare` does, StorageError where
    QEMU ends.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with open_disk(disk, settings, root) as opened:
        opened.copies.start(opened.disk)
        ended = asyncio.create_task(opened.process.wait())
        copied = asyncio.create_task(opened.copies.wait())
        while not copied.done():
            await asyncio.wait((copied, ended), timeout=TELL_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            tell(WorkStatus(percent=min(99, opened.copies.percent(opened.disk)), message=opened.copies.trouble))
            if ended.done() and not copied.done():
                copied.cancel()
                raise StorageError(f"{QEMU} ended with exit code {opened.process.returncode}", retryable=True)
        ended.cancel()


@asynccontextmanager
async def open_disk(disk: DiskSpec, settings: Settings, root: Path) -> AsyncIterator[OpenDisk]:
    """Make the disk if it does not exist, and open it as a machine would; raises as `prepare` does."""
    async with AsyncExitStack() as stack:
        # Not in TMPDIR: the address of a socket is short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dvcr-fill-", dir="/tmp")))
        confinement = Confinement.of(f"{disk.path} in {root}")
        confinement.admit(folder)
        open_image = stack.enter_context(images(settings, ChunkMemory(MEMORY_BYTES)))
        (prepared,) = await asyncio.to_thread(prepare, [disk], root, open_image)
        nbd_socket = folder / "nbd.sock"
        server = NbdServer(nbd_socket, exports([prepared]))
        await asyncio.to_thread(server.__enter__)
        stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
        confinement.give(nbd_socket)
        process, monitor = await stack.enter_async_context(_qemu_without_guest(confinement))
        assert prepared.drive.path is not None
        file = await monitor.hand_over(prepared.drive.path)
        for node in blockdev_nodes(prepared.drive, nbd_socket, file):
            await monitor.execute("blockdev-add", **node)
        copies = DiskCopies(monitor, DiskServer(monitor, folder), nbd_socket)
        stack.push_async_callback(copies.close)
        yield OpenDisk(process, monitor, prepared, copies)


@asynccontextmanager
async def _qemu_without_guest(confinement: Confinement) -> AsyncIterator[tuple[asyncio.subprocess.Process, Monitor]]:
    """A QEMU that has block devices and no machine; ended with the context, or with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        # Not qemu-storage-daemon, which cannot be handed open files.
        arguments = [QEMU, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S"]
        arguments += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
        arguments += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
        process = await asyncio.create_subprocess_exec(
            *confinement.command(arguments),
            env=os.environ | QEMU_ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    try:
        monitor = await Monitor.connect(ours)
        try:
            yield process, monitor
        finally:
            with contextlib.suppress(MonitorError):  # it ended by itself
                await monitor.execute("quit")
            await monitor.close()
    finally:
        try:
            await asyncio.wait_for(process.wait(), QUIT_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
