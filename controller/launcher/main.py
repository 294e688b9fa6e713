"""`dvcr-launcher`: the process in a machine's pod.

Reads the MachineSpec, makes and opens the disks, runs QEMU until the guest or the pod ends, and leaves a Termination as
the pod's termination message. SIGTERM switches the machine off gracefully. Exit code 1 only for reason Failed.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Literal

import structlog
from pydantic import ValidationError

from controller.launcher import argv
from controller.launcher.accel import choose_accelerator
from controller.launcher.access import VNC_SOCKET, GuestAccess
from controller.launcher.agent import GuestAgent
from controller.launcher.captures import MachineCaptures, add_capture_routes
from controller.launcher.cloudinit import seed_iso
from controller.launcher.confinement import Confinement
from controller.launcher.console import Console
from controller.launcher.copying import DiskCopies
from controller.launcher.disk_server import DiskServer
from controller.launcher.disks import ImageOpener, PreparedDisk, exports, prepare
from controller.launcher.firmware import find_firmware
from controller.launcher.guest import GuestWatcher
from controller.launcher.hotplug import Hotplug, with_ports
from controller.launcher.images import images
from controller.launcher.machine import RETRY_FIRST_S, RETRY_LONGEST_S, Machine
from controller.launcher.migration import Arrival, Departure, QemuCredentials
from controller.launcher.migration_routes import Migrations, resume_at
from controller.launcher.network import GuestNetwork
from controller.launcher.qmp import Monitor
from controller.launcher.run_folder import private_folder
from controller.launcher.serial_log import SerialLog
from controller.launcher.settings import launcher_settings
from controller.launcher.spec import (
    ADDRESS_VARIABLE,
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    HEALTH_PORT,
    KEY_FILE,
    SNAPSHOTS_FOLDER,
    SPEC_PATH,
    STATUS_PORT,
    DiskWishes,
    MachineSpec,
    MachineState,
    MachineStatus,
    Termination,
    TerminationReason,
    WorkEnd,
    machine_identity,
)
from controller.launcher.status import build_app, build_health_app, serving
from controller.launcher.sysprep import sysprep_iso
from controller.launcher.targets import cold_targets
from controller.launcher.work import run_work
from converter.nbd.server import NbdServer
from dvcr.artifact.memory import ChunkMemory
from dvcr.config import Settings, TlsSettings
from dvcr.errors import ConfigError, DvcrError, StorageError
from dvcr.http.tls import ServerTls
from dvcr.logging import configure_logging

ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 (of a pod that has a network of its own)
AGENT_SOCKET = "agent.sock"

log = structlog.get_logger(__name__)


def main() -> None:
    """Run the machine, or work on a disk (`dvcr-launcher capture SPEC`, `dvcr-launcher fill SPEC`), and exit."""
    root = Path(os.environ.get("DVCR_POD_ROOT", "/"))
    if sys.argv[1:2] in (["capture"], ["fill"]):
        end = run_work(sys.argv[1], "".join(sys.argv[2:]), root, os.environ.get(ADDRESS_VARIABLE, ALL_ADDRESSES))
        _leave(end, root)
        sys.exit(1 if end.reason else 0)
    try:
        settings = launcher_settings(root)
        configure_logging(settings.log.level, settings.log.style)
        termination = asyncio.run(Launcher(_read_spec(root), settings, root).run())
    except DvcrError as exc:
        log.error("the machine cannot run", reason=exc.reason, why=exc.message)  # noqa: TRY400 (no bug: no traceback)
        termination = Termination(reason=TerminationReason.FAILED, message=exc.message)
    except Exception as exc:
        log.exception("the launcher failed")
        termination = Termination(reason=TerminationReason.FAILED, message=f"internal error: {exc!r}")
    _leave(termination, root)
    sys.exit(1 if termination.reason is TerminationReason.FAILED else 0)


class Launcher:
    """Brings one machine up and stays with it until its end."""

    def __init__(self, spec: MachineSpec, settings: Settings, root: Path) -> None:
        self._spec = spec
        self._settings = settings
        self._root = root
        self._kept_in = root / spec.kept_in.lstrip("/")
        self._machine: Machine | None = None
        self._guest: GuestWatcher | None = None
        address = os.environ.get(ADDRESS_VARIABLE, ALL_ADDRESSES)
        at = spec.address or address
        # Another pod's address is the machine's, which is to come from there.
        self._network = GuestNetwork(settings.launcher, at, argv.mac_address(spec.uid), inherits=at != address)
        self._hotplug: Hotplug | None = None
        self._captures: MachineCaptures | None = None
        self._credentials = (root / SPEC_PATH.lstrip("/")).parent
        self._migrations = Migrations(self._present)
        self._waiting_for = ""
        self._stop = asyncio.Event()
        self._confinement = Confinement.of(spec.uid)
        self._chunks = ChunkMemory(spec.chunk_memory_bytes)

    async def run(self) -> Termination:
        """Run the machine to its end; DvcrError if it cannot be started."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(private_folder(self._root, self._confinement))
            serial, qemu_serial = socket.socketpair()
            stack.enter_context(contextlib.closing(qemu_serial))
            limit_bytes = self._settings.launcher.serial_log_bytes
            kept = SerialLog(self._kept_in, limit_bytes, resumed=self._spec.incoming)
            stack.callback(kept.close)
            console = Console(serial, kept=kept)
            address = os.environ.get(ADDRESS_VARIABLE, ALL_ADDRESSES)
            access = GuestAccess(folder, self._network.address, self._network.answers_at, kept, lambda: self._machine)
            await self._serve(stack, address, console, access)
            accelerator = await asyncio.to_thread(
                choose_accelerator,
                self._settings.launcher.accelerator,
                self._settings.launcher.cache_dir,
                self._confinement,
            )
            stack.push_async_callback(self._network.close)
            networking = asyncio.create_task(self._network.start())
            disks = await self._prepare_disks(stack.enter_context(self._images()))
            await networking
            if disks is None:
                return Termination(reason=TerminationReason.STOPPED)
            nbd_socket = folder / "nbd.sock"
            server = NbdServer(nbd_socket, exports(disks))
            await asyncio.to_thread(server.__enter__)
            stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
            self._confinement.give(nbd_socket)
            machine = await self._start(accelerator, disks, folder, nbd_socket, qemu_serial)
            agent = GuestAgent(folder / AGENT_SOCKET)
            self._guest = GuestWatcher(agent)
            snapshots = self._root / SNAPSHOTS_FOLDER.lstrip("/")
            self._captures = MachineCaptures(machine, agent, snapshots, self._settings)
            hotplug = self._prepare_hotplug(machine, server, nbd_socket)
            watching = asyncio.create_task(self._guest.run())
            reading = asyncio.create_task(console.run())
            plugging = asyncio.create_task(hotplug.run())
            try:
                self._machine, self._hotplug = machine, hotplug
                await self._prepare_moves(machine, folder)
                await self._accompany(machine)
            finally:
                await self._migrations.close()
                watching.cancel()
                plugging.cancel()
                termination = await machine.close()
                await self._captures.close()
                await asyncio.gather(watching, plugging, return_exceptions=True)
                await asyncio.to_thread(hotplug.close)
                await reading
            return termination.with_output(console.recent())

    async def _serve(self, stack: AsyncExitStack, address: str, console: Console, access: GuestAccess) -> None:
        folder = self._credentials
        trust = TlsSettings(client_ca_file=folder / AUTHORITY_FILE, client_certificates="required")
        tls = ServerTls(folder / CERTIFICATE_FILE, folder / KEY_FILE, trust, str(folder))
        app = build_app(self._status, self._want, console, machine_identity(self._spec.uid))
        access.add_routes(app)
        add_capture_routes(app, lambda: self._captures)
        self._migrations.add_routes(app)
        await stack.enter_async_context(serving(app, address, STATUS_PORT, tls))
        await stack.enter_async_context(serving(build_health_app(self._status), address, HEALTH_PORT))

    async def _prepare_disks(self, open_image: ImageOpener) -> list[PreparedDisk] | None:
        """The disks; waits while the registry is away, None if the pod is stopped meanwhile."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                return await asyncio.to_thread(prepare, with_ports(self._spec.disks), self._root, open_image)
            except DvcrError as exc:
                if not exc.retryable:
                    raise
                self._waiting_for = exc.message
                log.warning("cannot open the disks yet", why=exc.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)
                return None
            delay_s = min(delay_s * 2, RETRY_LONGEST_S)

    def _images(self) -> AbstractContextManager[ImageOpener]:
        return images(self._settings, self._chunks)

    async def _start(
        self,
        accelerator: Literal["kvm", "tcg"],
        disks: list[PreparedDisk],
        folder: Path,
        nbd_socket: Path,
        serial: socket.socket,
    ) -> Machine:
        spec = self._spec
        seed = sysprep = None
        if spec.cloud_init is not None:
            seed = folder / "seed.iso"
            seed.write_bytes(seed_iso(spec.cloud_init))
            self._confinement.give(seed)
        if spec.sysprep is not None:
            sysprep = folder / "sysprep.iso"
            sysprep.write_bytes(sysprep_iso(spec.sysprep))
            self._confinement.give(sysprep)
        files = {disk.drive.node: disk.drive.path for disk in disks if disk.drive.path}
        firmware = None
        if spec.bootloader != "BIOS":
            firmware = find_firmware(spec.bootloader, self._kept_in, incoming=spec.incoming)
            files[argv.VARIABLES] = firmware.variables
        ours, theirs = socket.socketpair()
        with theirs, opened(files) as open_files:
            runtime = argv.Runtime(
                accelerator=accelerator,
                qmp_fd=theirs.fileno(),
                serial_fd=serial.fileno(),
                nbd_socket=nbd_socket,
                vnc_socket=folder / VNC_SOCKET,
                agent_socket=folder / AGENT_SOCKET,
                drives=[disk.drive for disk in disks],
                open_files=open_files,
                seed=seed,
                sysprep=sysprep,
                netdev=self._network.netdev,
                firmware=firmware,
            )
            # A process group of its own: a signal to the launcher's group must not reach the guest.
            process = await asyncio.create_subprocess_exec(
                *self._confinement.command(argv.qemu_arguments(spec, runtime)),
                env=os.environ | argv.QEMU_ENVIRONMENT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(runtime.qmp_fd, runtime.serial_fd, *open_files.values(), *self._network.qemu_fds),
                process_group=0,
            )
        serial.close()
        self._network.handed_over()
        try:
            monitor = await Monitor.connect(ours)
        except DvcrError as exc:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            _, stderr = await process.communicate()
            raise ConfigError(stderr.decode(errors="replace").strip() or exc.message, reason="QemuFailed") from exc
        copies = DiskCopies(monitor, DiskServer(monitor, folder), nbd_socket)
        return Machine(process, monitor, disks, copies, accelerator, incoming=spec.incoming)

    def _prepare_hotplug(self, machine: Machine, server: NbdServer, nbd_socket: Path) -> Hotplug:
        spec = self._spec
        targets = cold_targets(
            [disk.drive for disk in machine.disks],
            paravirtualization=spec.paravirtualization,
            seed=spec.cloud_init is not None and spec.paravirtualization,
        )
        return Hotplug(machine, server, nbd_socket, self._root, self._images, targets)

    async def _prepare_moves(self, machine: Machine, folder: Path) -> None:
        identity = machine_identity(self._spec.uid)
        files = QemuCredentials(self._credentials, folder, identity, self._confinement)
        self._migrations.departure = Departure(
            machine, files, resume_at(self._credentials, identity), self._is_captured
        )
        if self._spec.incoming:
            self._migrations.arrival = Arrival(machine, files)

    async def _accompany(self, machine: Machine) -> None:
        if self._migrations.arrival is None:
            await machine.begin()
        else:
            await self._migrations.arrival.begin(os.environ.get(ADDRESS_VARIABLE, ALL_ADDRESSES))
        ended, stopped = asyncio.create_task(machine.wait()), asyncio.create_task(self._stop.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            await machine.power_off(self._grace_period_s())
        await ended

    def _grace_period_s(self) -> int:
        try:
            return _read_spec(self._root).grace_period_s
        except ConfigError as exc:
            log.warning("the grace period is that of the start", why=exc.message)
            return self._spec.grace_period_s

    async def _status(self) -> MachineStatus:
        if self._machine is not None and self._hotplug is not None:
            status = self._hotplug.complete(await self._machine.status())
            guest = self._guest.status if self._guest is not None else None
            changes = {"guest": guest, "network": self._network.status, "migration": self._migrations.status}
            return status.model_copy(update=changes)
        return MachineStatus(state=MachineState.STARTING, message=self._waiting_for)

    def _is_captured(self) -> bool:
        return self._captures is not None and self._captures.busy

    def _present(self) -> MachineSpec | None:
        """What another launcher has to be started with to be the same machine, as it is now."""
        if self._hotplug is None:
            return None
        return self._spec.model_copy(update={"disks": self._hotplug.present(self._spec.disks)})

    def _want(self, wishes: DiskWishes) -> bool:
        if self._hotplug is None:
            return False
        self._hotplug.want(wishes)
        return True


def _read_spec(root: Path) -> MachineSpec:
    path = root / SPEC_PATH.lstrip("/")
    try:
        return MachineSpec.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"cannot read the machine's specification {path}: {exc.strerror}") from exc
    except ValidationError as exc:
        raise ConfigError(f"wrong specification {path}: {exc}") from exc


def _leave(termination: Termination | WorkEnd, root: Path) -> None:
    path = Path(os.environ.get("DVCR_TERMINATION_LOG", root / "dev/termination-log"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(termination.model_dump_json())


@contextmanager
def opened(paths: Mapping[str, Path]) -> Iterator[dict[str, int]]:
    """The files, open for reading and writing under the names of their paths; StorageError if one cannot be opened."""
    fds: dict[str, int] = {}
    try:
        for name, path in paths.items():
            try:
                fds[name] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as exc:
                raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


if __name__ == "__main__":
    main()
