"""What processors QEMU can give to guests on this machine: a node tells it, CPU models are matched against it."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from controller.launcher.argv import QEMU
from controller.launcher.confinement import Confinement
from controller.launcher.qmp import Monitor
from dvcr.errors import ConfigError


class Capability(BaseModel):
    """The processors that one node can give. Sets of features are bit masks over `names`, as hexadecimal numbers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    accelerator: Literal["kvm", "tcg"]
    why_emulated: str = ""
    """Why guests do not run on KVM; empty where they do."""
    names: tuple[str, ...]
    available: str
    """What a guest can have at most."""
    models: dict[str, str]
    """QEMU's models, each with the features that it is made of."""

    @classmethod
    def of(
        cls,
        accelerator: Literal["kvm", "tcg"],
        available: Iterable[str],
        models: dict[str, Iterable[str]],
        why_emulated: str = "",
    ) -> "Capability":
        """From sets of names."""
        sets = {model: frozenset(features) for model, features in models.items()}
        at_most = frozenset(available)
        names = tuple(sorted(at_most.union(*sets.values())))

        def mask(features: frozenset[str]) -> str:
            return f"{sum(1 << bit for bit, name in enumerate(names) if name in features):x}"

        return cls(
            accelerator=accelerator,
            why_emulated=why_emulated,
            names=names,
            available=mask(at_most),
            models={model: mask(features) for model, features in sets.items()},
        )

    def available_features(self) -> frozenset[str]:
        return self._names(self.available)

    def features_of(self, model: str) -> frozenset[str] | None:
        """What the model is made of; None if this QEMU does not know it."""
        return self._names(self.models[model]) if model in self.models else None

    def _names(self, mask: str) -> frozenset[str]:
        bits = int(mask, 16)
        return frozenset(name for bit, name in enumerate(self.names) if bits >> bit & 1)


def find_capability(accelerator: Literal["kvm", "tcg"], confinement: Confinement, why_emulated: str = "") -> Capability:
    """Ask QEMU; takes about a second. Raises ConfigError where it is not installed or does not answer."""
    if not qemu_stamp():
        raise ConfigError(f"{QEMU} is not installed", reason="QemuMissing")
    ours, theirs = socket.socketpair()
    command = [QEMU, "-machine", "none", "-accel", accelerator, "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    with theirs:
        process = subprocess.Popen(
            confinement.command(command),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    try:
        available, models = asyncio.run(_ask(ours, accelerator))
    finally:
        process.kill()
        process.wait()
    return Capability.of(accelerator, available, models, why_emulated)


async def _ask(sock: socket.socket, accelerator: str) -> tuple[set[str], dict[str, Iterable[str]]]:
    monitor = await Monitor.connect(sock)
    try:
        known = [definition["name"] for definition in await monitor.execute("query-cpu-definitions")]
        models = {name: await _features(monitor, name) for name in known if name not in ("base", "host", "max")}
        return await _features(monitor, "host" if accelerator == "kvm" else "max"), dict(models)
    finally:
        await monitor.close()


async def _features(monitor: Monitor, model: str) -> set[str]:
    # A static expansion names each feature once; a full one has all its aliases too.
    expanded = await monitor.execute("query-cpu-model-expansion", type="static", model={"name": model})
    properties: dict[str, Any] = expanded["model"]["props"]
    return {name for name, value in properties.items() if value is True}


def qemu_stamp() -> str:
    """Changes when QEMU is replaced by another; empty where there is none."""
    path = shutil.which(QEMU)
    if path is None:
        return ""
    status = Path(path).stat()
    return f"{status.st_mtime_ns}-{status.st_size}"
