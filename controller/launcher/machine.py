"""One running QEMU process: started, watched, kept going over I/O errors, and ended with a reason.

    start ──▶ stopped processors ──begin()──▶ Running ◀──────────▶ Paused (an I/O error; tried again by itself)
                                                 │ power_off()
                                                 ▼
                                             Stopping ──▶ ended: a Termination

Disks whose images are still in the registry are copied from `begin` on. A guest that an unreadable image stopped goes
on as soon as the image can be read again.

A machine that moves (see `migration`) has two of these for a while: one that it leaves, and one that it arrives in.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from controller.launcher.copying import DiskCopies
from controller.launcher.disks import PreparedDisk
from controller.launcher.power import power_off
from controller.launcher.qmp import Monitor, MonitorError, MonitorEvent
from controller.launcher.spec import DiskStatus, MachineState, MachineStatus, Termination, TerminationReason

RETRY_FIRST_S = 0.5
RETRY_LONGEST_S = 10.0
QUIT_TIMEOUT_S = 3.0
STDERR_LINES = 20

log = structlog.get_logger(__name__)


class Machine:
    """A started QEMU. Implements the PowerPort."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        monitor: Monitor,
        disks: Sequence[PreparedDisk],
        copies: DiskCopies,
        accelerator: str,
        *,
        incoming: bool = False,
    ) -> None:
        self._process = process
        self._monitor = monitor
        self._copies = copies
        self._disks = list(disks)
        self._sizes_bytes = {disk.name: disk.size_bytes for disk in disks}
        self._accelerator = accelerator
        self._state = MachineState.STARTING
        self._ran = not incoming
        self._asked_to_stop = False
        self._held = False
        self._paused = False
        self._trouble = ""
        self._holding = AsyncExitStack()
        self._shutdown_reason = ""
        self._killed = False
        self.devices_changed = asyncio.Event()
        """Set when a device is gone, whether anybody asked for that or the guest let it go by itself."""
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._recovery: asyncio.Task[None] | None = None
        self._watchers = [asyncio.create_task(self._watch_events()), asyncio.create_task(self._read_stderr())]

    async def begin(self) -> None:
        """Give the disks their sizes, start copying, and let the guest run."""
        for disk in self._disks:
            if disk.grow_to_bytes is not None:
                await self.grow(disk, disk.grow_to_bytes)
            self._copies.start(disk)
        await self._monitor.execute("cont")
        if self._state is MachineState.STARTING:
            self._state = MachineState.RUNNING

    async def hold(self) -> None:
        """Stop the copies, which QEMU could not send along, and leave the guest alone until `release`. Idempotent."""
        if not self._held:
            self._held = True
            await self._holding.enter_async_context(self._copies.held())

    async def release(self) -> None:
        """Have the guest run, if it does not, and the copies go on. Raises MonitorError if QEMU cannot."""
        if not (await self._monitor.execute("query-status"))["running"]:
            await self._monitor.execute("cont")
        self._run_on()
        self._held = False
        await self._holding.aclose()

    @property
    def held(self) -> bool:
        """Whether the guest is to be left alone: it is about to leave, or has left."""
        return self._held

    def leave(self) -> None:
        """The guest stands still here for good, unless it is released."""
        self._state = MachineState.MOVED

    def expect(self) -> None:
        """The guest may come now."""
        self._state = MachineState.INCOMING

    def receive(self) -> None:
        """The guest is here whole, and may run."""
        if self._state is MachineState.INCOMING:
            self._state = MachineState.RECEIVED

    async def arrive(self) -> None:
        """Run the guest that was received, and go on with the copies.

        Raises MonitorError if QEMU does not run it; if nobody knows, `ran` is true, and it must not be tried again.
        """
        if self._state is not MachineState.RECEIVED or self._killed:
            raise MonitorError("the machine has ended" if self._killed else f"the machine is {self._state.value}")
        self._ran = True
        with self._monitor.listening("RESUME") as resumed:
            try:
                await self._monitor.execute("cont")
            except MonitorError:
                # QEMU answers in order: with the next answer it has run the guest, or is not going to.
                running = (await self._monitor.execute("query-status"))["running"]
                # What ran may stand still again, for an I/O error.
                if not running and resumed.empty():
                    self._ran, self._state = False, MachineState.RECEIVED
                    raise
        self._run_on()
        for disk in self._disks:
            self._copies.start(disk)

    @property
    def ran(self) -> bool:
        """Whether the guest has run here, or may have."""
        return self._ran

    def _run_on(self) -> None:
        """A guest that was asked to stop meanwhile still is."""
        self._state = MachineState.STOPPING if self._asked_to_stop else MachineState.RUNNING

    @property
    def state(self) -> MachineState:
        """Without regard to pauses."""
        return self._state

    @property
    def monitor(self) -> Monitor:
        """The session with QEMU."""
        return self._monitor

    @property
    def copies(self) -> DiskCopies:
        """The copies of images into its disks."""
        return self._copies

    @property
    def disks(self) -> tuple[PreparedDisk, ...]:
        """Those that QEMU has."""
        return tuple(self._disks)

    def size_bytes(self, disk: PreparedDisk) -> int:
        """What the guest sees of the disk."""
        return self._sizes_bytes[disk.name]

    async def take_on(self, disk: PreparedDisk) -> None:
        """A disk was plugged: from now on it is watched, and its image copied."""
        self._disks.append(disk)
        self._sizes_bytes[disk.name] = disk.size_bytes
        self._copies.start(disk)

    async def give_up(self, disk: PreparedDisk) -> None:
        """A disk was unplugged: its copy ends here, and goes on wherever it is opened next."""
        self._disks.remove(disk)
        await self._copies.forget(disk)

    async def grow(self, disk: PreparedDisk, size_bytes: int) -> None:
        """Give the disk that size, which the guest sees at once."""
        # QEMU does not resize a disk that a job works on. The copy goes on with what is still missing.
        await self._copies.stop(disk)
        try:
            await self._monitor.execute("block_resize", node_name=disk.drive.node, size=size_bytes)
            self._sizes_bytes[disk.name] = size_bytes
        finally:
            self._copies.start(disk)

    async def status(self) -> MachineStatus:
        """The state now; answers also while QEMU ends."""
        state = self._state
        if self._paused and state is MachineState.RUNNING:
            state = MachineState.PAUSED
        disks = tuple(
            DiskStatus(
                name=disk.name,
                streamed_percent=self._copies.percent(disk),
                size_bytes=self._sizes_bytes[disk.name],
                hotplug=disk.drive.port is not None,
                port=disk.drive.port,
            )
            for disk in self._disks
        )
        message = self._trouble or self._copies.trouble
        return MachineStatus(state=state, accelerator=self._accelerator, disks=disks, message=message)

    async def screenshot(self, path: Path) -> None:
        """Write what the screen shows to `path`, as PNG; MonitorError where QEMU cannot."""
        await self._monitor.execute("screendump", filename=str(path), format="png")

    async def wait(self) -> None:
        """Return when QEMU has ended."""
        await self._process.wait()

    async def power_off(self, grace_period_s: float) -> None:
        """Switch off: the guest is asked first, and killed after the grace period. Returns when QEMU has ended."""
        if not self._ran or self._state is MachineState.MOVED:
            # No guest runs here that could be asked.
            await self.kill()
            return
        self._asked_to_stop = True
        self._state = MachineState.STOPPING
        await power_off(self, grace_period_s)

    async def press_power_button(self) -> None:
        with suppress(MonitorError):
            await self._monitor.execute("system_powerdown")

    async def ends_within(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(self._process.wait())), timeout_s)
        except TimeoutError:
            return False
        return True

    async def kill(self) -> None:
        self._killed = True
        # `quit` writes QEMU's own caches out; a QEMU that waits for a lost image would never get there.
        with suppress(MonitorError, TimeoutError):
            await asyncio.wait_for(self._monitor.execute("quit"), QUIT_TIMEOUT_S)
        if not await self.ends_within(QUIT_TIMEOUT_S):
            self._process.kill()
            await self._process.wait()

    async def close(self) -> Termination:
        """End whatever is left of the machine and say why it ended."""
        if self._process.returncode is None:
            await self.kill()
        await self._copies.close()
        # Both end with QEMU, after its last word.
        await asyncio.gather(*self._watchers)
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        await self._monitor.close()
        return self._termination()

    def _termination(self) -> Termination:
        if self._state is MachineState.MOVED:
            return Termination(reason=TerminationReason.MOVED)
        if not self._ran:
            return Termination(reason=TerminationReason.NOT_ARRIVED, message=" / ".join(self._stderr))
        if self._state is MachineState.STOPPING:
            if self._killed:
                return Termination(reason=TerminationReason.KILLED, message="the guest did not power off in time")
            return Termination(reason=TerminationReason.STOPPED)
        if self._shutdown_reason == "guest-shutdown":
            return Termination(reason=TerminationReason.GUEST_SHUTDOWN)
        if self._shutdown_reason == "guest-reset":
            return Termination(reason=TerminationReason.GUEST_RESET)
        if self._shutdown_reason == "guest-panic":
            return Termination(reason=TerminationReason.GUEST_PANIC, message="the guest's kernel panicked")
        code = self._process.returncode
        ended = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        why = self._shutdown_reason or " / ".join(self._stderr) or "it gave no reason"
        return Termination(reason=TerminationReason.FAILED, message=f"QEMU {ended}: {why}")

    async def _watch_events(self) -> None:
        async for event in self._monitor.events():
            self._note(event)

    def _note(self, event: MonitorEvent) -> None:
        data = event.data
        match event.name:
            case "SHUTDOWN":
                self._shutdown_reason = data["reason"]
            case "DEVICE_DELETED":
                self.devices_changed.set()
            case "STOP":
                self._paused = True
            case "RESUME":
                self._paused = False
            case "BLOCK_IO_ERROR" if data["action"] == "stop":
                self._report(data.get("node-name", ""), data["operation"], data["reason"])
                self._recover()

    def _report(self, node: str, operation: str, reason: str) -> None:
        disk = next((d for d in self._disks if d.drive.node == node), None)
        cause = disk.export.error if disk and disk.export else None
        self._trouble = f"{operation} error on block device {disk.name if disk else node}: {cause or reason}"
        log.warning("I/O error", trouble=self._trouble)

    def _recover(self) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover_with_patience())

    async def _recover_with_patience(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            # Before the first look, too: QEMU tells of the error before it tells that it stopped.
            await asyncio.sleep(delay_s)
            if self._process.returncode is not None or not self._paused:
                break
            delay_s = min(delay_s * 2, RETRY_LONGEST_S)
            if self._held or not await self._images_readable():
                continue
            try:
                await self._monitor.execute("cont")
            except MonitorError as exc:
                log.warning("cannot resume", why=exc.message)
            # What fails again within this time was not worth announcing.
            await asyncio.sleep(RETRY_FIRST_S)
        self._trouble = ""

    async def _images_readable(self) -> bool:
        watched = {id(disk.export): disk.export for disk in self._disks if disk.export is not None}
        for export in watched.values():
            if not await asyncio.to_thread(export.recovered):
                return False
        return True

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode(errors="replace").strip()
            self._stderr.append(text)
            log.info("qemu", line=text)
