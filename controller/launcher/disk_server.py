"""QEMU's own NBD server: block nodes of a running QEMU for readers in the launcher, over a socket in its folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

from controller.launcher.qmp import COMMAND_TIMEOUT_S, Monitor, MonitorError

SOCKET = "disks.sock"


class DiskServer:
    """Serves nodes of one QEMU process, read-only; started when it is first needed, and ended with QEMU."""

    def __init__(self, monitor: Monitor, folder: Path) -> None:
        """`folder` is private to the machine."""
        self._monitor = monitor
        self._socket = folder / SOCKET
        self._starting = asyncio.Lock()
        self._started = False
        self._numbers = count(1)

    @asynccontextmanager
    async def serving(self, node: str) -> AsyncIterator[tuple[Path, str]]:
        """Where the node is served while the context is entered: the socket and the export's name.

        Tells `base:allocation` and `qemu:allocation-depth`. QEMU has let go of the node at the end.
        """
        async with self._starting:
            if not self._started:
                address = {"type": "unix", "data": {"path": str(self._socket)}}
                await self._monitor.execute("nbd-server-start", addr=address)
                self._started = True
        # A name is never used again: the end of a former export may still be under way.
        name = f"serve-{next(self._numbers)}"
        options = {"type": "nbd", "id": name, "name": name, "node-name": node, "allocation-depth": True}
        await self._monitor.execute("block-export-add", **options)
        try:
            yield self._socket, name
        finally:
            with suppress(MonitorError):  # QEMU ends, and the export with it
                await self._monitor.execute_until(
                    lambda event: event.name == "BLOCK_EXPORT_DELETED" and event.data["id"] == name,
                    COMMAND_TIMEOUT_S, "block-export-del", id=name, mode="hard",
                )  # fmt: skip
