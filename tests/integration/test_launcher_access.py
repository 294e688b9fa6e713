"""Whom a launcher answers: the controller, and nobody else but probes."""

import ssl
from pathlib import Path

import pytest
import urllib3

from controller.certificates import KeyPair
from controller.launcher.spec import SPEC_PATH, STATUS_PORT, MachineState, machine_identity
from controller.machines.authority import MachineAuthority
from tests.support.machine import AUTHORITY, LauncherPod, machine_spec
from tests.support.memory_cluster import MemoryCluster
from tests.support.waiting import eventually

EMPTY = {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 2**20}


def ask(pod: LauncherPod, tls: ssl.SSLContext, uid: str) -> int:
    """The status that the launcher answers over this TLS, which wants the machine with the UID."""
    pool = urllib3.HTTPSConnectionPool(
        pod.address, STATUS_PORT, ssl_context=tls, server_hostname=machine_identity(uid), timeout=10
    )
    with pool:
        return pool.request("GET", "/status", retries=False).status


def without_certificate(authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode())
    return context


def test_only_the_controller_is_answered_and_new_certificates_are_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    spec = machine_spec(folder, disks=[EMPTY], grace_period_s=0)
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"), "DVCR__LAUNCHER__ACCELERATOR": "tcg"}
    files = AUTHORITY.issue(spec.uid)
    machine = KeyPair(files["tls.crt"], files["tls.key"]).client_context(files["ca.crt"])
    strangers = MachineAuthority(MemoryCluster(), "strangers")
    refused = (urllib3.exceptions.SSLError, urllib3.exceptions.ProtocolError)
    with LauncherPod(folder, spec, settings) as pod:
        pod.wait_for_state(MachineState.RUNNING)

        assert pod.health() == 200
        assert ask(pod, AUTHORITY.client_context(), spec.uid) == 200
        assert ask(pod, machine, spec.uid) == 403
        with pytest.raises(refused):
            ask(pod, without_certificate(files["ca.crt"]), spec.uid)
        with pytest.raises(refused):
            ask(pod, AUTHORITY.client_context(), "another-machine")
        with pytest.raises(refused):
            ask(pod, strangers.client_context(), spec.uid)
        with pytest.raises(urllib3.exceptions.HTTPError):
            urllib3.request("GET", f"http://{pod.address}:{STATUS_PORT}/status", retries=False, timeout=10)

        # As the kubelet brings a Secret that changed.
        for name, content in strangers.issue(spec.uid).items():
            (pod.root / SPEC_PATH.lstrip("/")).with_name(name).write_bytes(content)

        def taken_over() -> bool:
            try:
                return ask(pod, strangers.client_context(), spec.uid) == 200
            except refused:
                return False

        eventually(taken_over, "the new certificate", 30)
        pod.terminate()
