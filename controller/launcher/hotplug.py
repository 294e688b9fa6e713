"""Plugging, unplugging and growing the disks of a running machine.

    want() ──▶ one pass: unplug what is not wanted, plug what is missing, grow what is too small ──▶ all as wanted
                 ▲                                                                                   │ else, after a
                 └───────────────────────────────────────────────────────────────────────────────────┘ pause, again

A disk sits alone on a PCIe port, whose number and whose device's name stay with it for as long as it is plugged. Guests
are asked to let a disk go, and asked again: one that is still booting does not hear the first time.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import structlog

from controller.launcher.argv import HOTPLUG_PORTS, Drive, blockdev_nodes, device_id, hotplug_device
from controller.launcher.disks import ImageOpener, PreparedDisk, prepare
from controller.launcher.machine import Machine
from controller.launcher.qmp import MonitorError, MonitorEvent
from controller.launcher.spec import DiskSpec, DiskStatus, DiskWishes, MachineStatus
from controller.launcher.targets import free_target
from converter.nbd.server import NbdServer
from dvcr.errors import DvcrError, ResourceError

UNPLUG_TIMEOUT_S = 5.0
RETRY_FIRST_S = 0.2
RETRY_LONGEST_S = 5.0

log = structlog.get_logger(__name__)


def with_ports(disks: Sequence[DiskSpec]) -> list[DiskSpec]:
    """The disks, each that is to be on a hotplug port with its number; ResourceError when there are too few ports."""
    taken = {disk.port for disk in disks}
    placed = []
    for disk in disks:
        if disk.hotplug and disk.port is None:
            disk = disk.model_copy(update={"port": free_port(taken)})
            taken.add(disk.port)
        placed.append(disk)
    return placed


def free_port(taken: Collection[int | None]) -> int:
    """The first port that is not taken; ResourceError if all are."""
    for port in range(HOTPLUG_PORTS):
        if port not in taken:
            return port
    raise ResourceError(f"all {HOTPLUG_PORTS} hotplug ports are taken; detach a disk", reason="NoFreePort")


class Hotplug:
    """Brings the disks of one running machine to what was wanted last."""

    def __init__(
        self,
        machine: Machine,
        nbd: NbdServer,
        nbd_socket: Path,
        root: Path,
        open_images: Callable[[], AbstractContextManager[ImageOpener]],
        targets: dict[str, str],
    ) -> None:
        self._machine = machine
        self._monitor = machine.monitor
        self._nbd = nbd
        self._nbd_socket = nbd_socket
        self._root = root
        self._open_images = open_images
        self._targets = targets
        self._wishes: DiskWishes | None = None
        self._wished: dict[str, DiskSpec] = {}
        """The last wish for each disk, also for those that are to go."""
        self._changed = machine.devices_changed
        self._messages: dict[str, str] = {}
        self._images: dict[str, ExitStack] = {}
        self._unplugged: dict[str, PreparedDisk] = {}
        """Gone from the guest, but QEMU still has their nodes."""

    def want(self, wishes: DiskWishes) -> None:
        """Have that from now on. Returns at once."""
        if wishes != self._wishes:
            self._wishes = wishes
            self._wished |= {disk.name: disk for disk in wishes.plugged}
            present = {disk.name for disk in self._machine.disks}
            for disk in wishes.plugged:
                if disk.name not in present:
                    # Told from now on: whoever asks must know that the disk may be opened at any moment.
                    self._messages.setdefault(disk.name, "the disk is being plugged")
            self._changed.set()

    def present(self, started_with: Sequence[DiskSpec]) -> tuple[DiskSpec, ...]:
        """What the machine's disks are now, as a launcher has to be started with to have the same."""
        known = {disk.name: disk for disk in started_with} | self._wished
        return tuple(
            known[disk.name].model_copy(update={"port": disk.drive.port})
            for disk in self._machine.disks
            if disk.name in known
        )

    def complete(self, status: MachineStatus) -> MachineStatus:
        """The machine's status, with what is told here of its disks and of those that it is yet to get."""
        known = {disk.drive.node: disk.name for disk in self._machine.disks}
        targets = {known[node]: target for node, target in self._targets.items() if node in known}
        disks = [
            disk.model_copy(update={"target": targets.get(disk.name, ""), "message": self._messages.get(disk.name, "")})
            for disk in status.disks
        ]
        names = {disk.name for disk in disks}
        others = dict.fromkeys(self._unplugged, "the disk is being closed") | self._messages
        disks += [
            DiskStatus(name=name, hotplug=True, attached=False, streamed_percent=0, message=message)
            for name, message in others.items()
            if name not in names
        ]
        return status.model_copy(update={"disks": tuple(disks)})

    async def run(self) -> None:
        """Work until cancelled."""
        pause_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause_s)
            if self._changed.is_set():
                self._changed.clear()
                pause_s = None
            try:
                settled = await self._pass()
            except DvcrError as exc:
                log.warning("cannot look at the disks", why=exc.message)
                settled = False
            except Exception:
                log.exception("a pass over the disks failed")
                settled = False
            pause_s = None if settled else min((pause_s or RETRY_FIRST_S / 2) * 2, RETRY_LONGEST_S)

    def close(self) -> None:
        """Give back what was opened for plugged disks, once QEMU has ended."""
        for images in self._images.values():
            images.close()

    async def _pass(self) -> bool:
        """Whether all is as wanted."""
        wishes = self._wishes
        if wishes is None:
            return True
        wanted = {disk.name for disk in wishes.plugged}
        present = {disk.name for disk in self._machine.disks} | self._unplugged.keys()
        for name in [name for name in self._messages if name not in wanted | present]:
            del self._messages[name]
        settled = True
        devices = await self._devices()
        for disk in [disk for disk in self._machine.disks if disk.drive.port is not None]:
            if disk.name not in wanted or device_id(disk.drive) not in devices:
                settled &= await self._attempt(disk.name, self._unplug(disk))
            else:
                self._messages.pop(disk.name, None)
        for disk in list(self._unplugged.values()):
            settled &= await self._attempt(disk.name, self._forget(disk))
        for spec in wishes.plugged:
            if spec.name not in {disk.name for disk in self._machine.disks}:
                settled &= await self._attempt(spec.name, self._plug(spec))
        for disk in self._machine.disks:
            size_bytes = wishes.sizes_bytes.get(disk.name, 0)
            if disk.drive.path is not None and size_bytes > self._machine.size_bytes(disk):
                settled &= await self._attempt(disk.name, self._machine.grow(disk, size_bytes))
        return settled

    async def _attempt(self, name: str, action: Awaitable[None]) -> bool:
        try:
            await action
        except DvcrError as exc:
            if self._messages.get(name) != exc.message:
                log.warning("a disk is not as wanted yet", disk=name, why=exc.message)
            self._messages[name] = exc.message
            return False
        self._messages.pop(name, None)
        return True

    async def _plug(self, spec: DiskSpec) -> None:
        if spec.name in self._unplugged:
            raise ResourceError("is still being unplugged", reason="Unplugging", retryable=True)
        path = self._root / spec.path.lstrip("/")
        if not await asyncio.to_thread((path if spec.device else path.parent).exists):
            # Made here, the disk would be lost with the pod.
            raise ResourceError("waits for its volume to be mounted", reason="NotMounted", retryable=True)
        taken = {disk.drive.port for disk in (*self._machine.disks, *self._unplugged.values())}
        if spec.port is None:
            spec = spec.model_copy(update={"port": free_port(taken)})
        with ExitStack() as stack:
            opener = stack.enter_context(self._open_images())
            (disk,) = await asyncio.to_thread(prepare, [spec], self._root, opener)
            if (export := disk.export) is not None:
                # By the disk's own name: other disks of the same image come and go without it.
                disk = replace(disk, drive=replace(disk.drive, export=disk.drive.node))
                self._nbd.offer(disk.drive.node, export)
            await self._open(disk)
            disk = replace(disk, size_bytes=disk.grow_to_bytes or disk.size_bytes, grow_to_bytes=None)
            self._images[disk.name] = stack.pop_all()
        self._targets[disk.drive.node] = free_target("vd", self._targets.values())
        await self._machine.take_on(disk)
        log.info("a disk is plugged", disk=disk.name, port=disk.drive.port)

    async def _open(self, disk: PreparedDisk) -> None:
        path = disk.drive.path
        assert path is not None
        file: str | None = None
        try:
            file = await self._monitor.hand_over(path)
            for node in blockdev_nodes(disk.drive, self._nbd_socket, file):
                await self._monitor.execute("blockdev-add", **node)
            if disk.grow_to_bytes is not None:
                await self._monitor.execute("block_resize", node_name=disk.drive.node, size=disk.grow_to_bytes)
            await self._monitor.execute("device_add", **hotplug_device(disk.drive))
        except BaseException:
            await self._close(disk.drive, file)
            self._nbd.withdraw(disk.drive.node)
            raise

    async def _unplug(self, disk: PreparedDisk) -> None:
        device = device_id(disk.drive)
        self._messages.setdefault(disk.name, "waits for the guest to let the disk go")
        if device in await self._devices():
            await self._ask_the_guest(device)
        await self._machine.give_up(disk)
        self._targets.pop(disk.drive.node, None)
        self._unplugged[disk.name] = disk

    async def _devices(self) -> set[str]:
        return {entry["name"] for entry in await self._monitor.execute("qom-list", path="/machine/peripheral")}

    async def _ask_the_guest(self, device: str) -> None:
        def answers(event: MonitorEvent) -> bool:
            return event.name in ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR") and event.data.get("device") == device

        try:
            answer = await self._monitor.execute_until(answers, UNPLUG_TIMEOUT_S, "device_del", id=device)
        except MonitorError as exc:
            # Also while the guest thinks about the last request.
            message = f"waits for the guest to let the disk go ({exc.message})"
            raise ResourceError(message, reason="GuestHoldsDisk", retryable=True) from exc
        if answer is None or answer.name != "DEVICE_DELETED":
            raise ResourceError("waits for the guest to let the disk go", reason="GuestHoldsDisk", retryable=True)

    async def _forget(self, disk: PreparedDisk) -> None:
        """Close what QEMU has of a disk that the guest has let go."""
        await self._close(disk.drive)
        if disk.drive.export == disk.drive.node:
            self._nbd.withdraw(disk.drive.node)
        if disk.name in self._images:
            await asyncio.to_thread(self._images.pop(disk.name).close)
        del self._unplugged[disk.name]
        if self._wishes is not None and all(spec.name != disk.name for spec in self._wishes.plugged):
            self._wished.pop(disk.name, None)
        log.info("a disk is unplugged", disk=disk.name)

    async def _close(self, drive: Drive, file: str | None = None) -> None:
        """Have QEMU forget the drive's nodes, and the file that they are made of."""
        found = await self._monitor.execute("query-named-block-nodes", flat=True)
        names = {entry["node-name"]: entry["file"] for entry in found}
        file = names.get(f"{drive.node}-file", file)
        # Each before what it stands on; a copy that is complete has put `-empty` in the image's place.
        for name in (drive.node, f"{drive.node}-empty", f"{drive.node}-file", f"{drive.node}-image"):
            if name in names:
                await self._monitor.execute("blockdev-del", node_name=name)
        if file is not None:
            await self._monitor.take_back(file)
