"""The ways to a running guest, from the user through the cluster's API and the controller to the launcher's QEMU."""

import asyncio
import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from controller.api.resource import MACHINE, NAMESPACE, POD, SECRET, Resource
from controller.consoles.client import MachineClient
from controller.consoles.forwarding import listening
from controller.consoles.paths import CONSOLE, PORT_FORWARD, ROOT, VNC
from controller.consoles.site import MachineApiSite
from controller.launcher.spec import MachineState
from controller.machines.last_output import keep_output
from controller.machines.pod import NAME_LABEL
from controller.relay import new_session
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError, MissingError
from controller.service import Service
from dvcr.config import ControllerSettings, MachineApiSettings
from tests.support.cluster import ClusterProcess, shared_cluster
from tests.support.machine import AUTHORITY, LauncherPod, guest_disk, machine_spec
from tests.support.waiting import eventually

__all__ = ["guest_disk", "shared_cluster"]

# The first test waits for a guest, which may take minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

BIN = Path(sys.executable).parent
ACCOUNT = Resource("", "v1", "ServiceAccount", "serviceaccounts")
ROLE = Resource("rbac.authorization.k8s.io", "v1", "Role", "roles")
BINDING = Resource("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
SUBRESOURCES = "subresources.virtualization.deckhouse.io"
PNG = b"\x89PNG\r\n\x1a\n"
ECHO_PORT = 9000
RFB = b"RFB 003.008\n"


@dataclass(frozen=True)
class World:
    """A cluster with a controller's machine API, and the machine `web` whose guest has booted."""

    server: ClusterProcess
    cluster: Cluster
    pod: LauncherPod

    @property
    def web(self) -> MachineClient:
        return MachineClient(self.cluster, "default", "web")


@pytest.fixture(scope="module")
def world(
    shared_cluster: ClusterProcess, tmp_path_factory: pytest.TempPathFactory, guest_disk: Path
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("machine") / f"m{random.getrandbits(32):08x}"
    cluster = Cluster.connect(shared_cluster.kubeconfig)
    uid = new_machine(cluster, "web")
    disk = {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2"}
    spec = machine_spec(folder, uid=uid, disks=[disk], grace_period_s=0)
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(folder / "cache"), "DVCR__LAUNCHER__ACCELERATOR": "tcg"}
    pod = LauncherPod(folder, spec, settings)
    (folder / "root/vol").mkdir()
    shutil.copyfile(guest_disk, folder / "root/vol/disk.qcow2")
    api = ControllerSettings(machine_api=MachineApiSettings(external_name="127.0.0.1"))
    with pod, Service(MachineApiSite(cluster, AUTHORITY, api)):
        pod.wait_for_state(MachineState.RUNNING)
        new_pod(cluster, "web", uid, pod.address)
        pod.wait_for_console("DVCR-GUEST ready", 300)
        asyncio.run(start_echo_server(pod))
        eventually(lambda: serves(cluster), "the machine API", 120)
        yield World(shared_cluster, cluster, pod)


async def start_echo_server(pod: LauncherPod) -> None:
    async with pod.websocket("/console") as way, asyncio.timeout(60):
        await way.send_bytes(b"nc -ll -p %d -e cat &\n" % ECHO_PORT)
        await way.send_bytes(b"until nc 127.0.0.1 %d </dev/null; do usleep 50000; done\n" % ECHO_PORT)
        await way.send_bytes(b"echo listening=$((1 + 1))\n")
        await read_until(way, b"listening=2")


def serves(cluster: Cluster) -> bool:
    try:
        return bool(cluster.request("GET", ROOT)["resources"])
    except MissingError:
        return False


def new_machine(cluster: Cluster, name: str) -> str:
    """A VirtualMachine as the API has it; its UID."""
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": name}}
    spec = {"cpu": {"cores": 1}, "memory": {"size": "256Mi"}, "blockDevices": [device]}
    metadata = {"name": name, "namespace": "default"}
    made = cluster.create(MACHINE, {"apiVersion": MACHINE.api_version, "kind": "VirtualMachine", "metadata": metadata,
                                    "spec": spec})  # fmt: skip
    return str(made["metadata"]["uid"])


def new_pod(cluster: Cluster, machine: str, uid: str, address: str) -> None:
    owner = {"apiVersion": MACHINE.api_version, "kind": MACHINE.kind, "name": machine, "uid": uid}
    name = f"vm-{machine}"
    metadata = {"name": name, "namespace": "default", "labels": {NAME_LABEL: machine}, "ownerReferences": [owner]}
    cluster.create(POD, {"metadata": metadata, "spec": {"containers": [{"name": "machine", "image": "none"}]}})
    cluster.patch(POD, name, {"status": {"phase": "Running", "podIP": address}}, "default", "status")


def user(world: World, name: str, *resources: str, namespace: str = "default") -> Cluster:
    """The cluster as a ServiceAccount sees it that may get these resources of machines there."""
    metadata = {"name": name, "namespace": namespace}
    if world.cluster.get(NAMESPACE, namespace) is None:
        world.cluster.create(NAMESPACE, {"metadata": {"name": namespace}})
    groups = ["virtualization.deckhouse.io", SUBRESOURCES]
    world.cluster.create(ACCOUNT, {"metadata": metadata})
    rule = {"verbs": ["get"], "apiGroups": groups, "resources": [*resources]}
    world.cluster.create(ROLE, {"metadata": metadata, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": name}
    reference = {"apiGroup": ROLE.group, "kind": "Role", "name": name}
    world.cluster.create(BINDING, {"metadata": metadata, "subjects": [subject], "roleRef": reference})
    token = world.cluster.create_in(ACCOUNT, name, namespace, "token", {"spec": {"expirationSeconds": 3600}})
    config = yaml.safe_load(world.server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token["status"]["token"]}
    kubeconfig = world.server.root / f"{name}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    return Cluster.connect(kubeconfig)


@asynccontextmanager
async def opened(
    machine: MachineClient, subresource: str, port: int | None = None
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with asyncio.timeout(60), new_session() as session, await machine.open(session, subresource, port) as way:
        yield way


async def read_until(way: aiohttp.ClientWebSocketResponse, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += await way.receive_bytes()
    return seen


def refusal(machine: MachineClient, subresource: str, port: int | None = None) -> ClusterError:
    async def open_it() -> None:
        async with opened(machine, subresource, port):
            pass

    with pytest.raises(ClusterError) as caught:
        asyncio.run(open_it())
    return caught.value


def test_what_is_typed_on_the_console_reaches_the_guest(world: World) -> None:
    async def use() -> bytes:
        async with opened(world.web, CONSOLE) as way:
            await read_until(way, b"DVCR-GUEST ready")
            await way.send_bytes(b"echo sum=$((20 + 22))\n")
            return await read_until(way, b"sum=42")

    assert b"echo sum=$((20 + 22))" in asyncio.run(use())


def test_the_screen_speaks_rfb_to_the_end_of_its_handshake(world: World) -> None:
    async def use() -> tuple[bytes, bytes]:
        async with opened(world.web, VNC) as way:
            stream = Stream(way)
            version = await stream.read(12)
            await way.send_bytes(RFB)
            (types,) = await stream.read(1)
            assert b"\x01" in await stream.read(types), "no authentication beyond the API's"
            await way.send_bytes(b"\x01")
            assert await stream.read(4) == b"\0\0\0\0"
            await way.send_bytes(b"\x01")
            return version, await stream.read(24)

    version, init = asyncio.run(use())
    assert version == RFB
    assert struct.unpack(">HH", init[:4]) == image_size(world.web.screenshot())


class Stream:
    """The bytes behind a websocket."""

    def __init__(self, way: aiohttp.ClientWebSocketResponse) -> None:
        self._way = way
        self._rest = b""

    async def read(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += await self._way.receive_bytes()
        data, self._rest = self._rest[:count], self._rest[count:]
        return data


def image_size(png: bytes) -> tuple[int, int]:
    assert png.startswith(PNG)
    assert png.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", png[16:24])


def test_a_screenshot_is_a_whole_png_of_the_text_screen(world: World) -> None:
    assert image_size(world.web.screenshot()) == (720, 400)


def test_a_port_of_the_guest_answers_and_both_ends_are_told(world: World) -> None:
    sent = random.randbytes(8 * 2**20)

    async def use() -> bytes:
        async with new_session() as session:

            async def way() -> aiohttp.ClientWebSocketResponse:
                return await world.web.open(session, PORT_FORWARD, ECHO_PORT)

            async with listening("127.0.0.1", 0, way, print) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                answer = asyncio.create_task(reader.read(-1))
                writer.write(sent)
                await writer.drain()
                writer.write_eof()
                echoed = await asyncio.wait_for(answer, 60)
                writer.close()
                return echoed

    echoed = asyncio.run(use())
    assert (len(echoed), echoed == sent) == (len(sent), True)


def test_a_port_that_is_not_forwarded_is_said(world: World) -> None:
    error = refusal(world.web, PORT_FORWARD, 61080)

    assert (error.status, "port 61080 of the guest is not forwarded" in error.message) == (502, True)
    assert refusal(world.web, PORT_FORWARD, 70000).status == 400


def test_the_log_has_what_the_guest_wrote_and_follows_it(world: World) -> None:
    assert b"DVCR-GUEST boot=1" in b"".join(world.web.log(follow=False, previous=False))
    assert b"".join(world.web.log(follow=False, previous=True)) == b""

    async def write() -> None:
        async with opened(world.web, CONSOLE) as way:
            await way.send_bytes(b"echo followed=$((6 * 7))\n")
            await read_until(way, b"followed=42")

    asyncio.run(write())
    seen = b""
    with contextlib.closing(world.web.log(follow=True, previous=False)) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            seen += piece
            if b"followed=42" in seen:
                break


def test_who_may_see_a_machine_may_not_open_its_console(world: World) -> None:
    machine = MachineClient(user(world, "reader", "virtualmachines"), "default", "web")

    for subresource, port in ((CONSOLE, None), (VNC, None), (PORT_FORWARD, 22)):
        error = refusal(machine, subresource, port)
        assert (error.status, error.reason) == (403, "Forbidden")
        assert f'cannot get resource "virtualmachines/{subresource}" in API group "{SUBRESOURCES}"' in error.message
    with pytest.raises(ClusterError, match="virtualmachines/screenshot"):
        machine.screenshot()
    with pytest.raises(ClusterError, match="virtualmachines/log"):
        list(machine.log(follow=False, previous=False))


def test_what_is_authorised_is_what_is_asked_of_the_controller(world: World) -> None:
    """Who may do everything in one namespace is not led into another one by what a path may hide."""
    access = user(world, "boss", "*", namespace="theirs").access("/")
    for hidden in ("theirs%2F..%2Fdefault", "theirs/..%2Fdefault", "theirs%2f%2e%2e%2fdefault", "theirs/../default"):
        connection = http.client.HTTPSConnection("127.0.0.1", world.server.port, context=access.tls, timeout=60)
        path = f"{ROOT}/namespaces/{hidden}/virtualmachines/web/log"
        connection.request("GET", path, headers=dict(access.headers))
        answer = connection.getresponse()
        assert answer.status in (403, 404), hidden
        assert b"DVCR-GUEST" not in answer.read()
        connection.close()


def test_each_way_is_granted_by_itself(world: World) -> None:
    machine = MachineClient(user(world, "watcher", "virtualmachines/screenshot"), "default", "web")

    assert machine.screenshot().startswith(PNG)
    assert refusal(machine, CONSOLE).status == 403


def test_a_machine_that_is_off_or_does_not_exist_is_said(world: World) -> None:
    new_machine(world.cluster, "off")
    world.cluster.patch(MACHINE, "off", {"status": {"phase": "Stopped"}}, "default", "status")

    machine = MachineClient(world.cluster, "default", "off")
    off = refusal(machine, CONSOLE)
    missing = refusal(MachineClient(world.cluster, "default", "none"), CONSOLE)

    assert (off.status, off.message.endswith("the machine is not running, its phase is Stopped")) == (409, True)
    assert (missing.status, missing.reason) == (404, "NotFound")
    with pytest.raises(ClusterError, match="its phase is Stopped"):
        list(machine.log(follow=False, previous=False))
    world.cluster.create(SECRET, {"metadata": {"name": "vm-off", "namespace": "default"}})
    keep_output(world.cluster, "default", "off", "Kernel panic")
    assert b"".join(machine.log(follow=False, previous=False)) == b"Kernel panic"


def test_the_controller_believes_nobody_but_the_front_proxy(world: World) -> None:
    service = world.cluster.get(Resource("", "v1", "Service", "services"), "dvcr-controller", "default")
    assert service is not None
    url = f"https://127.0.0.1:{service['spec']['ports'][0]['port']}{ROOT}"

    async def ask(**how: object) -> None:
        headers = {"X-Remote-User": "dvcr"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers, **how):  # type: ignore[arg-type]
            pass

    with pytest.raises(aiohttp.ClientError):
        asyncio.run(ask(ssl=False))
    stranger = AUTHORITY.client_context()
    stranger.check_hostname = False
    with pytest.raises(aiohttp.ClientError):
        asyncio.run(ask(ssl=stranger))


def test_discovery_lists_the_group(world: World) -> None:
    done = world.server.kubectl("api-resources", "--api-group", "virtualization.deckhouse.io")
    assert "virtualmachines" in done
    assert SUBRESOURCES in world.server.kubectl("api-versions")


def environment_of(world: World) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(world.server.kubeconfig), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def run(
    world: World, *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """`dvcr vm` with these arguments."""
    return subprocess.run(
        [BIN / "dvcr", "vm", *arguments],
        env=environment_of(world) | (environment or {}),
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_the_commands(world: World, tmp_path: Path) -> None:
    picture = tmp_path / "web.png"
    assert run(world, "screenshot", "web", str(picture)).returncode == 0
    assert picture.read_bytes().startswith(PNG)
    assert run(world, "screenshot", "web").stdout.startswith(PNG)
    assert b"DVCR-GUEST ready" in run(world, "logs", "web").stdout

    failed = run(world, "console", "none", stdin=b"")
    assert (failed.returncode, b'"none" not found' in failed.stderr) == (1, True)


def test_standard_input_and_output_are_joined_to_a_port(world: World) -> None:
    done = run(world, "port-forward", "--stdio", "web", str(ECHO_PORT), stdin=b"hello \x1d there")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello \x1d there", b"")


def program(folder: Path, name: str, text: str) -> dict[str, str]:
    """A program of that name, found first; the environment for it."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


SSH = """
import shlex, subprocess, sys
options = [value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "-o"]
proxy = options[0].removeprefix("ProxyCommand=")
print(sys.argv[-2:], options[1], subprocess.run(proxy, shell=True, input=b"hello", capture_output=True).stdout)
sys.exit(7)
"""
VIEWER = """
import socket, sys
host, _, port = sys.argv[1].partition("::")
print(socket.create_connection((host, int(port))).recv(12))
"""


def test_ssh_gets_a_way_to_the_port_and_its_exit_code_is_passed_on(world: World, tmp_path: Path) -> None:
    machine = world.cluster.get(MACHINE, "web", "default")
    assert machine is not None
    environment = program(tmp_path, "ssh", SSH)

    done = run(world, "ssh", "-p", str(ECHO_PORT), "root@web", "--", "uptime", environment=environment)

    assert done.returncode == 7, done.stderr
    alias = f"HostKeyAlias={machine['metadata']['uid']}.machine.dvcr"
    assert done.stdout.decode().strip() == f"['root@web.default', 'uptime'] {alias} b'hello'"
    missing = run(world, "ssh", "root@none", environment=environment)
    assert (missing.returncode, b"no VirtualMachine 'none'" in missing.stderr) == (1, True)


def test_a_viewer_is_started_on_the_screen_and_ends_the_command(world: World, tmp_path: Path) -> None:
    environment = program(tmp_path, "vncviewer", VIEWER) | {"DISPLAY": ":99"}

    done = run(world, "vnc", "web", environment=environment)

    assert done.returncode == 0, done.stderr
    assert b"VNC of web is at 127.0.0.1:" in done.stdout
    assert repr(RFB).encode() in done.stdout


def test_forwarded_ports_stay_until_they_are_interrupted(world: World) -> None:
    command: list[str | Path] = [BIN / "dvcr", "vm", "port-forward", "web", f":{ECHO_PORT}", f":{ECHO_PORT}"]
    with subprocess.Popen(command, env=environment_of(world), stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout is not None
        for _ in range(2):
            line = forwarding.stdout.readline()
            assert line.endswith(f" leads to port {ECHO_PORT} of web\n")
            with socket.create_connection(("127.0.0.1", int(line.split()[0].rpartition(":")[2])), 30) as connection:
                connection.sendall(b"there and back")
                assert connection.recv(14, socket.MSG_WAITALL) == b"there and back"
        forwarding.send_signal(signal.SIGINT)
        assert forwarding.wait(30) == 130
