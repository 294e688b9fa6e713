"""The disk of a running machine as it is at one moment, for a reader that takes its time.

    guest ──writes──▶ copy-before-write ──▶ disk          A block that the guest is about to overwrite is first copied
                            │ old blocks                   to a file on the node's disk.
    reader ◀──NBD── snapshot-access ◀── that file, else the disk

The file is a qcow2 in a frame that does not grow. Where it is full or cannot be written the snapshot breaks and the
capture with it, never the guest's write.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import structlog

from controller.api.quantity import human_bytes
from controller.launcher import qcow2
from controller.launcher.agent import AgentError, GuestAgent
from controller.launcher.argv import device_id
from controller.launcher.capture import Below
from controller.launcher.disk_server import DiskServer
from controller.launcher.disks import PreparedDisk, parse_backing
from controller.launcher.filling import DEPTH_CONTEXT, OWN_DEPTH
from controller.launcher.qcow2 import SECTOR_BYTES
from controller.launcher.qmp import Monitor
from controller.launcher.spec import ImageReference
from converter.nbd.client import NbdClient
from converter.nbd.sink import ChunkSink
from dvcr.errors import StorageError

READERS = 2

log = structlog.get_logger(__name__)
_numbers = count(1)


class DiskSnapshot:
    """A CapturedDisk. What the disk has of its own may be told too large: the guest went on writing. Blocks."""

    def __init__(self, disk: PreparedDisk, live: tuple[Path, str], then: tuple[Path, str]) -> None:
        """`live` and `then`: where the disk as it is now and as it was are served."""
        assert disk.drive.path is not None
        self.image: ImageReference | None = parse_backing(disk.drive.path, qcow2.read_header(disk.drive.path).backing)
        self._then = then
        self._own: list[tuple[int, int]] = []
        with NbdClient.connect(*live, (DEPTH_CONTEXT,)) as client:
            self.size_bytes = client.size_bytes
            offset = 0
            for length, depth in client.extents(DEPTH_CONTEXT, 0, self.size_bytes):
                if depth == OWN_DEPTH:
                    self._own.append((offset, length))
                offset += length

    def own(self) -> Iterator[tuple[int, int]]:
        return iter(self._own)

    def read(self, below: Below | None, sink: ChunkSink, on_progress: Callable[[int], None]) -> None:
        step = sink.chunk_size_bytes
        touched: set[int] = set()
        for offset, length in self.own():
            touched.update(range(offset // step, -(-(offset + length) // step)))
        offset = 0
        for extent in below.extents(0, below.size_bytes) if below else ():
            if not extent.zero:
                touched.update(range(offset // step, -(-(offset + extent.length_bytes) // step)))
            offset += extent.length_bytes
        with ExitStack() as stack:
            clients: SimpleQueue[NbdClient] = SimpleQueue()
            for _ in range(READERS):
                clients.put(stack.enter_context(NbdClient.connect(*self._then)))

            def content(index: int) -> bytearray:
                client = clients.get()
                try:
                    return client.read(index * step, min(step, self.size_bytes - index * step))
                finally:
                    clients.put(client)

            for done, index in enumerate(sorted(touched)):
                sink.put_chunk(index, partial(content, index))
                on_progress(self.size_bytes * done // len(touched))
            sink.flush()

    def check(self) -> None:
        """Nothing to check: a snapshot that breaks fails its readers."""


@asynccontextmanager
async def snapshot(
    monitor: Monitor, server: DiskServer, agent: GuestAgent, disk: PreparedDisk, folder: Path, room_bytes: int
) -> AsyncIterator[DiskSnapshot]:
    """The disk as it is when the context is entered; `folder` takes what the guest overwrites meanwhile, up to
    `room_bytes`.

    The guest's file systems are consistent if an agent answers in it, else as after a power cut. Nothing may be copied
    to the disk meanwhile. MonitorError if QEMU cannot do that; a StorageError from within the context goes through with
    how much was set aside.
    """
    node, number = disk.drive.node, next(_numbers)
    saved, point, access = (f"snap{number}-{part}" for part in ("saved", "point", "access"))
    path = folder / f"snapshot-{number}"
    async with AsyncExitStack() as stack:
        live = await stack.enter_async_context(server.serving(node))
        size_bytes = await asyncio.to_thread(_size_of, live)
        stack.callback(path.unlink, missing_ok=True)
        await asyncio.to_thread(_make_bounded, path, size_bytes, room_bytes)

        file = await monitor.hand_over(path)
        stack.push_async_callback(monitor.take_back, file)

        async def add(**options: object) -> None:
            await monitor.execute("blockdev-add", **options)
            stack.push_async_callback(monitor.execute, "blockdev-del", node_name=options["node-name"])

        async def put_below_the_guest(node_name: str) -> None:
            path = f"/machine/peripheral/{device_id(disk.drive)}"
            await monitor.execute("qom-set", path=path, property="drive", value=node_name)

        # The pod would be evicted for a volume that holds too much: QEMU gets ENOSPC before that.
        frame = {"driver": "raw", "size": room_bytes, "file": {"driver": "file", "filename": file}}
        await add(**{"driver": "qcow2", "node-name": saved, "file": frame, "cache": {"no-flush": True}})
        await add(
            **{"driver": "copy-before-write", "node-name": point, "file": node, "target": saved},
            **{"on-cbw-error": "break-snapshot"},
        )
        async with _consistent(agent):
            await put_below_the_guest(point)
            stack.push_async_callback(put_below_the_guest, node)
        await add(**{"driver": "snapshot-access", "node-name": access, "file": point})
        then = await stack.enter_async_context(server.serving(access))
        content = await asyncio.to_thread(DiskSnapshot, disk, live, then)
        try:
            yield content
        except StorageError as exc:
            kept = f"{human_bytes(path.stat().st_blocks * SECTOR_BYTES)} of at most {human_bytes(room_bytes)}"
            message = f"{exc.message}; of what the guest overwrote meanwhile, {kept} were set aside"
            raise StorageError(message, reason=exc.reason, retryable=exc.retryable) from exc


@asynccontextmanager
async def _consistent(agent: GuestAgent) -> AsyncIterator[None]:
    """With the guest's file systems frozen, where there is an agent that can."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(agent.frozen())
        except AgentError as exc:
            log.info("the snapshot is as after a power cut", why=exc.message)
        yield


def _size_of(served: tuple[Path, str]) -> int:
    with NbdClient.connect(*served) as client:
        return client.size_bytes


def _make_bounded(path: Path, size_bytes: int, room_bytes: int) -> None:
    qcow2.create(path, size_bytes, None)
    # The frame must be there as a whole; nothing is allocated.
    os.truncate(path, room_bytes)
