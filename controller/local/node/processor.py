"""Telling the cluster what processors this node can give to guests."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog
from pydantic import ValidationError

from controller.api.resource import NODE
from controller.cpumodels.nodes import CAPABILITY_ANNOTATION
from controller.launcher.accel import choose_accelerator, kvm_trouble
from controller.launcher.capability import Capability, find_capability, qemu_stamp
from controller.launcher.confinement import Confinement
from controller.local.node.heartbeat import Fact
from controller.runtime.cluster import Cluster
from dvcr.config import LauncherSettings
from dvcr.errors import DvcrError

KVM = "KVM"
"""Condition of the Node: whether guests run on the processor or are emulated."""
_RETRY_S = 60.0
_log = structlog.get_logger(__name__)


def announce_processor(
    cluster: Cluster,
    node: str,
    settings: LauncherSettings,
    tell: Callable[[str, Fact], None],
    stopping: threading.Event,
) -> None:
    """Annotate the Node, and `tell` whether it has KVM, in a thread of its own; until it is done or to be stopped."""

    def work() -> None:
        while not stopping.is_set():
            try:
                capability = known_capability(settings.accelerator, settings.cache_dir)
                tell(KVM, kvm_fact(capability))
                annotations = {CAPABILITY_ANNOTATION: capability.model_dump_json()}
                cluster.patch(NODE, node, {"metadata": {"annotations": annotations}})
                return
            except DvcrError as exc:
                _log.warning("cannot tell of the processor", error=exc.message)
            stopping.wait(_RETRY_S)

    threading.Thread(target=work, name="processor", daemon=True).start()


def kvm_fact(capability: Capability) -> Fact:
    """For the Node."""
    if capability.accelerator == "kvm":
        return Fact(True, "ProbeRan", "guests run on KVM")
    return Fact(False, "Emulated", f"guests are emulated: {capability.why_emulated}")


def known_capability(wish: Literal["auto", "kvm", "tcg"], cache_dir: Path) -> Capability:
    """The capability of this machine; found once for each QEMU and accelerator, then kept in `cache_dir`. Blocks."""
    confinement = Confinement.of("processor")
    accelerator = choose_accelerator(wish, cache_dir, confinement)
    why = ""
    if accelerator == "tcg":
        why = "as it is configured" if wish == "tcg" else kvm_trouble(cache_dir, confinement) or ""
    kept = cache_dir / "processor.json"
    stamp = [qemu_stamp(), accelerator, why]
    try:
        found = json.loads(kept.read_bytes())
        if found["stamp"] == stamp:
            return Capability.model_validate(found["capability"])
    except (FileNotFoundError, ValueError, KeyError, ValidationError):
        _log.info("asking QEMU for processors")
    capability = find_capability(accelerator, confinement, why)
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".processor.{os.getpid()}")
    partial.write_text(json.dumps({"stamp": stamp, "capability": capability.model_dump()}))
    partial.replace(kept)
    return capability
