"""A guest that boots on passt: it serves at its machine's address, reaches out, and not the host's loopback."""

import http.server
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from controller.launcher.passt import resolvers
from controller.launcher.spec import STATUS_PORT, MachineState, NetworkStatus
from tests.support.guest_page import guest_page
from tests.support.machine import LauncherPod, guest_disk, machine_spec
from tests.support.waiting import eventually

__all__ = ["guest_disk"]

# Guests boot under emulation, on machines that may be busy.
pytestmark = pytest.mark.timeout(600)

BOOT_S = 180
USER_DATA = """#!/bin/sh
echo hello from the guest >/data/index.html
httpd -p 80 -h /data
httpd -p 8000 -h /data
httpd -p {own} -h /data
echo "DVCR-GUEST mtu=$(cat /sys/class/net/eth0/mtu)"
echo "DVCR-GUEST name servers: "$(sed 's/nameserver //' /etc/resolv.conf)
wget -q -O - http://{outside}:{port}/ | sed 's/^/DVCR-GUEST outside=/'
timeout 10 wget -q -O - http://10.0.2.2:{port}/ >/dev/null 2>&1 && echo "DVCR-GUEST gateway reached"
sysctl -q -w net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
ip address del 127.0.0.1/8 dev lo
ip route add 127.0.0.0/8 via 10.0.2.2
timeout 10 wget -q -O - http://127.0.0.1:{port}/ >/dev/null 2>&1 && echo "DVCR-GUEST loopback reached"
echo "DVCR-GUEST tried"
"""


class Host:
    """A server at all addresses of this machine, and whom it answered."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        callers = self.callers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                callers.append(self.connection.getsockname()[0])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello from the host\n")

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.port = self.server.server_address[1]

    @property
    def outside(self) -> str:
        """An address of this machine that is not on loopback."""
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.connect(("198.51.100.1", 9))  # sends nothing
            return str(probe.getsockname()[0])


@contextmanager
def serving_host() -> Iterator[Host]:
    host = Host()
    thread = threading.Thread(target=host.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()


def trouble(pod: LauncherPod) -> str:
    network = pod.status().network
    return network.trouble if network else ""


def passt_pid(pod: LauncherPod) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{pod.address}/" in (folder / "cmdline").read_text() and (folder / "comm").read_text()[:5] == "passt":
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no passt")


def test_a_guest_serves_at_its_address_reaches_out_and_not_the_hosts_loopback(tmp_path: Path, guest_disk: Path) -> None:
    folder = tmp_path / "network"
    disk = folder / "root/vol/disk.qcow2"
    disk.parent.mkdir(parents=True)
    shutil.copyfile(guest_disk, disk)
    disks = [{"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 256 * 2**20}]
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"), "DVCR__LAUNCHER__NETWORK": "passt"}
    with serving_host() as host:
        script = USER_DATA.format(outside=host.outside, port=host.port, own=STATUS_PORT)
        cloud_init = {"user_data": script, "instance_id": "i", "hostname": "web"}
        with LauncherPod(folder, machine_spec(folder, disks=disks, cloud_init=cloud_init), settings) as pod:
            console = pod.wait_for_console("DVCR-GUEST tried", BOOT_S)
            assert "DVCR-GUEST address=10.0.2.15" in console
            assert "DVCR-GUEST mtu=65520" in console
            assert f"DVCR-GUEST name servers: {' '.join(resolvers())}" in console
            assert "DVCR-GUEST outside=hello from the host" in console
            assert "reached" not in console
            assert host.callers == [host.outside]

            assert guest_page(pod.address, 80) == guest_page(pod.address, 8000) == "hello from the guest\n"
            assert pod.status().network == NetworkStatus(kind="passt")
            with pytest.raises(requests.ConnectionError):
                requests.get(f"http://{pod.address}:8001/", timeout=20)

            os.kill(passt_pid(pod), signal.SIGKILL)
            pod.wait_until(lambda: "signal 9" in trouble(pod), 30, "word of the dead passt")
            pod.wait_until(
                lambda: guest_page(pod.address, 80) == "hello from the guest\n", 60, "the guest's page again"
            )
            assert trouble(pod) == ""
            assert pod.status().state is MachineState.RUNNING

            last = os.pidfd_open(passt_pid(pod))
            pod.process.kill()
            pod.process.wait()
            eventually(lambda: not _alive(last), "the end of passt", 20)
            os.close(last)


def test_a_guest_on_qemus_own_network_serves_at_its_address_too(tmp_path: Path, guest_disk: Path) -> None:
    folder = tmp_path / "network"
    disk = folder / "root/vol/disk.qcow2"
    disk.parent.mkdir(parents=True)
    shutil.copyfile(guest_disk, disk)
    disks = [{"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 256 * 2**20}]
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"), "DVCR__LAUNCHER__NETWORK": "user"}
    script = (
        "#!/bin/sh\necho hello from the guest >/data/index.html\nhttpd -p 80 -h /data\nhttpd -p 8000 -h /data\n"
        'echo "DVCR-GUEST mtu=$(cat /sys/class/net/eth0/mtu)"\n'
    )
    cloud_init = {"user_data": script, "instance_id": "i", "hostname": "web"}
    with LauncherPod(folder, machine_spec(folder, disks=disks, cloud_init=cloud_init), settings) as pod:
        console = pod.wait_for_console("DVCR-GUEST ready", BOOT_S)
        assert "DVCR-GUEST address=10.0.2.15" in console
        assert "DVCR-GUEST mtu=65520" in console
        assert guest_page(pod.address, 8000) == "hello from the guest\n"
        assert guest_page(pod.address, 62080) == "hello from the guest\n"
        assert pod.status().network == NetworkStatus(kind="user")
        pod.terminate()


def _alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True
