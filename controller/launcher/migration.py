"""Moving a running machine to the launcher of another pod, and taking one in.

    leaving:   start() ──▶ Active ──▶ Sent ──▶ Done           the machine runs there; this QEMU never runs again
                             │          └─rollback()─▶ Failed  it never ran there; it runs on here
                             └────────────────────────▶ Failed it runs on here
    arriving:  Incoming ──▶ Received ──resume()──▶ Running

The machine's memory goes from QEMU to QEMU over TLS; each shows the machine's certificate to the other. At no time may
both run. So the arriving QEMU waits until it is told, and it is told by the leaving launcher only when its own QEMU has
stopped for good; if no answer comes back, both wait for the controller, which knows which of the pods is no more. Until
the arriving machine runs, its QEMU has not taken over the disks, and QEMU's locks on them stay the last guard: of two
that want to run, one gets them.
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from controller.launcher.confinement import Confinement
from controller.launcher.machine import Machine
from controller.launcher.qmp import Monitor, MonitorError
from controller.launcher.spec import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    MIGRATION_PORT,
    MachineState,
    MigrationOrder,
    MigrationState,
    MigrationStatus,
)
from dvcr.errors import DvcrError, ResourceError, StorageError

LOOK_INTERVAL_S = 0.5
HAND_OVER_RETRY_S = 0.3
RECEIVE_TIMEOUT_S = 10.0
RUN_TIMEOUT_S = 3.0
RUN_RETRY_S = 0.2

# What `query-migrate` tells while QEMU sends nothing.
_AT_REST = (None, "none", "completed", "failed", "cancelled")
_HAS_RUN = (MachineState.RUNNING, MachineState.STOPPING, MachineState.MOVED)

log = structlog.get_logger(__name__)


class RefusedError(DvcrError):
    """The other launcher will never run the machine."""

    default_reason = "MigrationRefused"


class QemuCredentials:
    """The pod's certificate as QEMU wants it: files of fixed names, in a folder that QEMU may read."""

    def __init__(self, source: Path, folder: Path, identity: str, confinement: Confinement) -> None:
        self._source = source
        self._folder = folder
        self.identity = identity
        self._confinement = confinement

    async def load(self, monitor: Monitor, *, server: bool) -> str:
        """Give QEMU the newest certificate; the name of the object in QEMU.

        Raises StorageError if the files cannot be had, MonitorError if QEMU does not take them.
        """
        role = "server" if server else "client"
        try:
            self._copy(role)
        except OSError as exc:
            raise StorageError(f"cannot give QEMU the certificate in {self._source}: {exc}") from exc
        with suppress(MonitorError):  # there is none the first time
            await monitor.execute("object-del", id="migration-tls")
        await monitor.execute(
            "object-add",
            **{"qom-type": "tls-creds-x509"},
            id="migration-tls",
            dir=str(self._folder),
            endpoint=role,
            verify_peer=True,
        )
        return "migration-tls"

    def _copy(self, role: str) -> None:
        for name, target in (
            (AUTHORITY_FILE, "ca-cert.pem"),
            (CERTIFICATE_FILE, f"{role}-cert.pem"),
            (KEY_FILE, f"{role}-key.pem"),
        ):
            path = self._folder / target
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes((self._source / name).read_bytes())
            self._confinement.give(path)


Resume = Callable[[str, Callable[[], None]], Awaitable[None]]
"""Has the launcher at an address run the machine: RefusedError if it never will, another DvcrError if it does not yet.

Calls the second argument before the first word that the other launcher could act on.
"""


class Departure:
    """Sends one machine away; several attempts one after the other, each with an id of its own."""

    def __init__(
        self,
        machine: Machine,
        credentials: QemuCredentials,
        resume: Resume,
        captured: Callable[[], bool],
    ) -> None:
        """`captured` says whether a disk is captured, which QEMU cannot send along."""
        self._machine = machine
        self._monitor = machine.monitor
        self._credentials = credentials
        self._resume = resume
        self._captured = captured
        self._status: MigrationStatus | None = None
        self._task: asyncio.Task[None] | None = None
        self._hand_over: asyncio.Task[None] | None = None

    @property
    def status(self) -> MigrationStatus | None:
        """Of the latest attempt."""
        return self._status

    def start(self, order: MigrationOrder) -> None:
        """Begin to send the machine; returns at once. The same order again changes nothing.

        Raises ResourceError while another attempt is under way or after one that succeeded; a retryable one while a
        disk is captured.
        """
        if self._status is not None and self._status.id == order.id:
            return
        if self._status is not None and self._status.state is not MigrationState.FAILED:
            raise ResourceError(f"migration {self._status.id} is {self._status.state}", reason="MigrationInProgress")
        if self._captured():
            raise ResourceError("waits until an image is made of a disk", reason="DiskCaptured", retryable=True)
        self._status = MigrationStatus(id=order.id, state=MigrationState.ACTIVE)
        self._task = asyncio.create_task(self._run(order))

    async def cancel(self) -> None:
        """Break off an attempt that is still sending; without one, nothing."""
        if self._status is not None and self._status.state is MigrationState.ACTIVE:
            await self._monitor.execute("migrate_cancel")

    async def rollback(self) -> None:
        """Run the machine here again. Only for who knows that it does not run there and never will. Idempotent.

        Raises MonitorError if QEMU cannot: above all, if the disks are locked by the other QEMU.
        """
        if self._hand_over is not None:
            self._hand_over.cancel()
            await asyncio.gather(self._hand_over, return_exceptions=True)
        if self._status is not None and self._status.state is MigrationState.SENT:
            await self._machine.release()
            self._note(state=MigrationState.FAILED, message="the machine did not arrive")

    async def close(self) -> None:
        """End the work on it."""
        for task in (self._task, self._hand_over):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self, order: MigrationOrder) -> None:
        begun = time.monotonic()
        try:
            await self._machine.hold()
            await self._configure(order)
            with self._monitor.listening("STOP", "MIGRATION") as heard:
                target = f"tcp:{_bracketed(order.address)}:{MIGRATION_PORT}"
                await self._monitor.execute("migrate", uri=target)
                stopped_at = await self._watch(order, heard)
        except DvcrError as exc:
            log.warning("the machine stays", why=exc.message)
            await self._stay(exc.message)
            return
        except Exception as exc:
            log.exception("the machine stays")
            await self._stay(f"internal error: {exc!r}")
            return
        self._machine.leave()
        self._note(state=MigrationState.SENT)
        self._hand_over = asyncio.create_task(self._hand_over_to(order.address, begun, stopped_at))

    async def _configure(self, order: MigrationOrder) -> None:
        tls = await self._credentials.load(self._monitor, server=False)
        capabilities = ("auto-converge", "return-path", "events")
        await self._monitor.execute(
            "migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in capabilities]
        )
        await self._monitor.execute(
            "migrate-set-parameters",
            tls_creds=tls,
            tls_hostname=self._credentials.identity,
            # QEMU knows no "without limit".
            max_bandwidth=order.bandwidth_bytes or 2**50,
            downtime_limit=order.downtime_ms,
        )

    async def _watch(self, order: MigrationOrder, heard: "asyncio.Queue[tuple[str, float]]") -> float:
        """When the guest was stopped; returns when all is sent, raises DvcrError when it is not going to be."""
        lowest, progress_at = None, time.monotonic()
        stopped_at = 0.0
        why = ""
        while True:
            with suppress(TimeoutError):
                name, at = await asyncio.wait_for(heard.get(), LOOK_INTERVAL_S)
                stopped_at = at if name == "STOP" else stopped_at
            info = await self._monitor.execute("query-migrate")
            ram = info.get("ram") or {}
            self._note(total_bytes=ram.get("total", 0), remaining_bytes=ram.get("remaining", 0))
            match info.get("status"):
                case "completed":
                    return stopped_at or time.monotonic()
                case "failed":
                    raise ResourceError(why or info.get("error-desc") or "QEMU gave no reason")
                case "cancelled":
                    raise ResourceError(why or "the migration was cancelled")
            if lowest is None or ram.get("remaining", 0) < lowest:
                lowest, progress_at = ram.get("remaining", 0), time.monotonic()
            elif not why and time.monotonic() - progress_at > order.progress_timeout_s:
                why = (
                    f"no progress for {order.progress_timeout_s:g} s: the guest changes its memory faster than it can"
                    " be sent; give it more bandwidth (migration.bandwidth_bytes) or try when it is less busy"
                )
                await self._monitor.execute("migrate_cancel")

    async def _hand_over_to(self, address: str, begun: float, stopped_at: float) -> None:
        """Have the machine run there; asks again until there is an answer, for the answer may have been lost."""
        while True:
            try:
                await self._resume(address, lambda: self._note(told=True))
            except RefusedError as exc:
                await self._stay(exc.message)
                return
            except DvcrError as exc:
                log.warning("no answer from where the machine went", why=exc.message)
                self._note(message=exc.message)
            except Exception as exc:
                # The machine may run there all the same: only an answer ends this.
                log.exception("no answer from where the machine went")
                self._note(message=f"internal error: {exc!r}")
            else:
                break
            await asyncio.sleep(HAND_OVER_RETRY_S)
        now = time.monotonic()
        self._note(
            state=MigrationState.DONE,
            message="",
            downtime_ms=round(1000 * (now - stopped_at)),
            total_ms=round(1000 * (now - begun)),
        )
        log.info("the machine runs elsewhere", address=address)

    async def _stay(self, why: str) -> None:
        """Have the machine run on here, where it never ran elsewhere; tried until it does, for nobody else would."""
        while True:
            try:
                await self._break_off()
                await self._machine.release()
            except DvcrError as exc:
                log.warning("the machine cannot go on yet", why=exc.message)
                self._note(message=exc.message)
            except Exception as exc:
                log.exception("the machine cannot go on yet")
                self._note(message=f"internal error: {exc!r}")
            else:
                break
            await asyncio.sleep(LOOK_INTERVAL_S)
        self._note(state=MigrationState.FAILED, message=why)

    async def _break_off(self) -> None:
        """Have QEMU send no more: at its end it would stop the guest. Raises ResourceError while it still does."""
        await self._monitor.execute("migrate_cancel")
        status = (await self._monitor.execute("query-migrate")).get("status")
        if status not in _AT_REST:
            raise ResourceError(f"QEMU still sends the machine ({status})", retryable=True)

    def _note(self, **changes: Any) -> None:
        assert self._status is not None
        self._status = self._status.model_copy(update=changes)


class Arrival:
    """Takes one machine in."""

    def __init__(self, machine: Machine, credentials: QemuCredentials, *, run_timeout_s: float = RUN_TIMEOUT_S) -> None:
        """`run_timeout_s` is how long the locks on the disks are waited for."""
        self._run_timeout_s = run_timeout_s
        self._machine = machine
        self._monitor = machine.monitor
        self._credentials = credentials
        self._received = asyncio.Event()
        self._running = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    async def begin(self, address: str) -> None:
        """Wait for the machine at the pod's address."""
        tls = await self._credentials.load(self._monitor, server=True)
        await self._monitor.execute(
            "object-add",
            **{"qom-type": "authz-simple"},
            id="migration-peer",
            identity=f"CN={self._credentials.identity}",
        )
        # Without the second, QEMU would take over the disks before the other side has let go of the machine.
        capabilities = ("events", "late-block-activate")
        await self._monitor.execute(
            "migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in capabilities]
        )
        await self._monitor.execute("migrate-set-parameters", tls_creds=tls, tls_authz="migration-peer")
        self._listener = asyncio.create_task(self._listen())
        await self._monitor.execute("migrate-incoming", uri=f"tcp:{_bracketed(address)}:{MIGRATION_PORT}")
        self._machine.expect()

    async def resume(self) -> None:
        """Run the machine, once it has arrived whole. Idempotent.

        Raises ResourceError: retryable if it does not arrive in time, or if nobody knows whether it ran; else if QEMU
        cannot run it and never will.
        """
        async with self._running:
            if self._machine.state in _HAS_RUN:
                return
            try:
                await asyncio.wait_for(self._received.wait(), RECEIVE_TIMEOUT_S)
            except TimeoutError as exc:
                raise ResourceError("the machine has not arrived", reason="NotReceived", retryable=True) from exc
            deadline = time.monotonic() + self._run_timeout_s
            while True:
                try:
                    await self._machine.arrive()
                except MonitorError as exc:
                    ran = self._machine.ran
                    if not ran and time.monotonic() < deadline:
                        # Another node may take a moment to see that the locks on the disks are free.
                        await asyncio.sleep(RUN_RETRY_S)
                        continue
                    # Said to be for good, so it has to be. What may have run is not for who asks to go on with: the
                    # controller hears of its end, and has the machine start anew.
                    await self._machine.kill()
                    raise ResourceError(exc.message, reason="CannotRun", retryable=ran) from exc
                return

    async def close(self) -> None:
        """End the work on it."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        with self._monitor.listening("MIGRATION") as heard:
            while not await self._is_complete():
                await heard.get()
        self._received.set()
        self._machine.receive()

    async def _is_complete(self) -> bool:
        while True:
            try:
                return bool((await self._monitor.execute("query-migrate")).get("status") == "completed")
            except MonitorError as exc:
                # There may be no other event.
                log.warning("QEMU does not tell whether the machine has arrived", why=exc.message)
            await asyncio.sleep(LOOK_INTERVAL_S)


def _bracketed(address: str) -> str:
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError as exc:
        raise ResourceError(f"{address!r} is no IP address to send a machine to", field="address") from exc
