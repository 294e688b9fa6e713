"""Copying images into the disks that start from them, until the disks stand alone.

    start() ──▶ filling: QEMU copies the chunks up ──▶ letting go: the header forgets the image ──▶ stands alone
                   ▲                │                            │
                   └── a pause ◀────┴─── trouble, said aloud ◀───┘

The disk's file alone says how far it is: whoever starts again goes on with what is missing.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from controller.launcher import qcow2
from controller.launcher.argv import blockdev_nodes
from controller.launcher.disk_server import DiskServer
from controller.launcher.disks import PreparedDisk, WatchedExport
from controller.launcher.filling import Filling
from controller.launcher.qmp import COMMAND_TIMEOUT_S, Monitor
from dvcr.errors import DvcrError, StorageError

RETRY_FIRST_S = 0.5
RETRY_LONGEST_S = 10.0
# Shorter than any disk: what lies past the end of a backing reads as zero, and needs no copy.
EMPTY_BYTES = 65536

log = structlog.get_logger(__name__)


@dataclass
class _Copy:
    disk: PreparedDisk
    image: WatchedExport
    filling: Filling
    trouble: str = ""
    percent: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class DiskCopies:
    """The copies of one QEMU process, a task each."""

    def __init__(self, monitor: Monitor, server: DiskServer, nbd_socket: Path) -> None:
        """`nbd_socket` is where QEMU sees the images."""
        self._monitor = monitor
        self.server = server
        self._nbd_socket = nbd_socket
        self._copies: dict[str, _Copy] = {}
        self._done: set[str] = set()
        self._held = 0

    @property
    def trouble(self) -> str:
        """Why a copy does not go on; empty if all do."""
        return next((c.trouble for c in self._copies.values() if c.trouble and not c.filling.copied_bytes), "")

    def percent(self, disk: PreparedDisk) -> int:
        """How much of the disk's image is in the disk; 100 only once the disk stands alone."""
        if not disk.streams or disk.name in self._done:
            return 100
        copy = self._copies.get(disk.name)
        if copy is None:
            return 0
        copy.percent = max(copy.percent, min(99, 100 * copy.filling.done_bytes // max(1, copy.filling.total_bytes)))
        return copy.percent

    def start(self, disk: PreparedDisk) -> None:
        """Copy what the disk lacks, from now on; nothing for one that stands alone."""
        if disk.streams and disk.name not in self._done and disk.name not in self._copies:
            assert disk.export is not None
            copy = self._copies[disk.name] = _Copy(disk, disk.export, Filling(disk.export))
            if not self._held:
                copy.task = asyncio.create_task(self._bring_forward(copy))

    async def stop(self, disk: PreparedDisk) -> None:
        """End the disk's copy where it is; QEMU has let go of it when this returns. Idempotent."""
        copy = self._copies.pop(disk.name, None)
        if copy is not None:
            await self._halt(copy)

    async def forget(self, disk: PreparedDisk) -> None:
        """Also what is known of the disk, which leaves the machine: another one may come under its name."""
        await self.stop(disk)
        self._done.discard(disk.name)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is copied while the context is entered."""
        self._held += 1
        try:
            await asyncio.gather(*(self._halt(copy) for copy in self._copies.values()))
            yield
        finally:
            self._held -= 1
            if not self._held:
                for copy in self._copies.values():
                    copy.stop.clear()
                    copy.trouble, copy.filling = "", Filling(copy.image)
                    copy.task = asyncio.create_task(self._bring_forward(copy))

    async def wait(self) -> None:
        """Return when all copies that were started are complete."""
        await asyncio.gather(*(copy.task for copy in self._copies.values() if copy.task))

    async def close(self) -> None:
        """End all copies."""
        for copy in list(self._copies.values()):
            await self.stop(copy.disk)

    async def _halt(self, copy: _Copy) -> None:
        copy.stop.set()
        copy.filling.stop()
        if copy.task is not None:
            await copy.task
            copy.task = None

    async def _bring_forward(self, copy: _Copy) -> None:
        delay_s = RETRY_FIRST_S
        while not copy.stop.is_set():
            try:
                await self._complete(copy)
            except DvcrError as exc:
                if copy.stop.is_set():
                    return
                copied, copy.filling = copy.filling.copied_bytes, Filling(copy.image)
                copy.trouble = f"copy error on block device {copy.disk.name}: {copy.image.error or exc}"
                log.warning("a copy is interrupted", trouble=copy.trouble)
                delay_s = RETRY_FIRST_S if copied else min(2 * delay_s, RETRY_LONGEST_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(copy.stop.wait(), delay_s)
            else:
                self._copies.pop(copy.disk.name, None)
                self._done.add(copy.disk.name)
                log.info("the disk stands alone", disk=copy.disk.name)
                return

    async def _complete(self, copy: _Copy) -> None:
        async with self.server.serving(copy.disk.drive.node) as (socket, export):
            await _run(copy.filling, socket, export, copy.stop)
        await self._let_go(copy.disk)
        await self._forget_image(copy.disk)

    async def _let_go(self, disk: PreparedDisk) -> None:
        """Put nothing in the image's place, without a pause for the guest. Idempotent."""
        node = disk.drive.node
        image, empty = f"{node}-image", f"{node}-empty"
        found = {one["node-name"] for one in await self._monitor.execute("query-named-block-nodes", flat=True)}
        if image not in found:
            return
        if empty not in found:
            await self._monitor.execute(
                "blockdev-add", driver="null-co", node_name=empty, size=EMPTY_BYTES, read_zeroes=True
            )
        *_, options = blockdev_nodes(disk.drive, self._nbd_socket, "")
        await self._monitor.execute("blockdev-reopen", options=[{**options, "backing": empty}])
        await self._monitor.execute("blockdev-del", node_name=image)

    async def _forget_image(self, disk: PreparedDisk) -> None:
        """Take the image's name out of the header. There is nothing left to stream: the job is what does that."""
        node, path = disk.drive.node, disk.drive.path
        assert path is not None
        job = f"let-go-{node}"
        await self._monitor.execute_until(
            lambda event: event.name.startswith("BLOCK_JOB_C") and event.data["device"] == job,
            COMMAND_TIMEOUT_S, "block-stream", job_id=job, device=node,
        )  # fmt: skip
        header = await asyncio.to_thread(qcow2.read_header, path)
        if header.backing is not None:
            raise StorageError(f"QEMU could not write the header of {path}", retryable=True)
        await self._monitor.execute("blockdev-del", node_name=f"{node}-empty")


async def _run(filling: Filling, socket: Path, export: str, stop: asyncio.Event) -> None:
    """Run it in a thread, and leave the thread alone when it is to stop: the registry may keep it waiting for long."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(None) if error is None else ended.set_exception(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            filling.run(socket, export)
        except Exception as exc:  # noqa: BLE001  # raised where it is waited for
            error = exc
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=work, name="fill-disk", daemon=True).start()
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        ended.cancel()
        raise StorageError("the copy was stopped", retryable=True)
    ended.result()
