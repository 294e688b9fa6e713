"""What an installation says about its launchers: their image, their settings, and where they keep chunks."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from controller.launcher.spec import CACHE_FOLDER, CREDENTIALS_PATH
from controller.runtime.index import Object
from dvcr.client.credentials import credentials_of
from dvcr.config import ClientSettings, LauncherSettings, as_environment
from dvcr.errors import ConfigError

_CACHE_VOLUME = "cache"
# Files take whole blocks of a file system, folders too: what keeps to its own bound must not pass the volume's, for
# which the pod would be evicted.
_SLACK_PERCENT, _SLACK_BYTES = 10, 64 * 2**20


@dataclass(frozen=True)
class LauncherSetup:
    """How launchers are started in this installation."""

    command: tuple[str, ...]
    image: str
    registry: ClientSettings
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    node_cache_dir: Path | None = None
    """Folder of every node that its pods share for chunks; None: each has one of its own."""
    kvm_resource: str = ""
    """What a machine's container is to be given with /dev/kvm, by a device plugin; empty for nothing."""

    @property
    def shows_credentials(self) -> bool:
        """Whether the registry is shown anything at all: then pods have a file at CREDENTIALS_PATH."""
        return credentials_of(self.registry) is not None

    def environment(self) -> list[Object]:
        """The variables of a launcher's container: where the registry is, and what the settings say about launchers.

        Nothing secret: who may see a pod sees them. Raises ConfigError where `client.ca_file` cannot be read.
        """
        left_out = {"username", "password", "credentials_file", "ca_file"}
        registry = self.registry.model_dump(exclude_defaults=True, exclude=left_out) | {"url": self.registry.url}
        if self.registry.ca_file is not None:
            # The pod has no such file.
            registry["ca_pem"] = _content(self.registry.ca_file)
        if self.shows_credentials:
            registry["credentials_file"] = CREDENTIALS_PATH
        launcher = self.launcher.model_dump(exclude_defaults=True) | {"cache_dir": CACHE_FOLDER}
        launcher = {name: json.dumps(value) if isinstance(value, tuple) else value for name, value in launcher.items()}
        variables = as_environment({"client": registry, "launcher": launcher})
        return [{"name": name, "value": value} for name, value in variables.items()]

    def device_limits(self) -> dict[str, str]:
        """The part of a machine's container's limits that brings it its devices."""
        return {self.kvm_resource: "1"} if self.kvm_resource else {}

    @property
    def may_emulate(self) -> bool:
        """Whether a machine's processor may be emulated, which takes memory of its own."""
        return self.launcher.accelerator != "kvm"

    def cache_volume(self) -> Object:
        """The volume of `cache_mount`."""
        if self.node_cache_dir is None:
            return {"name": _CACHE_VOLUME, "emptyDir": bounded(self.launcher.cache_size_bytes)}
        return {
            "name": _CACHE_VOLUME,
            "hostPath": {"path": str(self.node_cache_dir), "type": "DirectoryOrCreate"},
        }

    def cache_mount(self) -> Object:
        """The mount of the chunk cache in a launcher's container."""
        return {"name": _CACHE_VOLUME, "mountPath": CACHE_FOLDER}


def _content(ca_file: Path) -> str:
    try:
        return ca_file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"client.ca_file: cannot read {ca_file}: {exc}") from exc


def bounded(content_bytes: int) -> Object:
    """An emptyDir on the node's disk for content that keeps to that size by itself."""
    return {"sizeLimit": str(content_bytes * (100 + _SLACK_PERCENT) // 100 + _SLACK_BYTES)}
