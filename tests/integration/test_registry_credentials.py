"""What machines and captures show to a registry that wants to know who is there: how far it reaches, and how long."""

import base64
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from controller.api.resource import IMAGE, POD, SECRET
from controller.launcher.disks import WatchedExport
from controller.launcher.images import images
from controller.launcher.spec import (
    CREDENTIALS_PATH,
    CaptureSpec,
    DiskSpec,
    DiskWishes,
    ImageReference,
    MachineSpec,
    MachineState,
    WorkStatus,
)
from controller.machines.launcher_status import HttpLauncherStatus
from dvcr.access.caller import Caller
from dvcr.access.keys import TokenKeys, make_key
from dvcr.access.scope import Scope
from dvcr.access.tokens import Tokens
from dvcr.artifact.memory import ChunkMemory
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch
from dvcr.client.credentials import Credentials
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings, LauncherSettings, Settings
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.access import PASSWORDS, guarded_registry
from tests.support.image_server import publish_disk
from tests.support.machine import AUTHORITY, LauncherPod, machine_spec
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually
from tests.unit.controller.test_reconcile_captures import GOLDEN
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import World

MIB = 2**20
USER = "all"


class Guarded:
    """A registry with tokens, as the controller uses it: with a password that may do everything."""

    def __init__(self, server: RegistryServer, folder: Path) -> None:
        self.url = server.url
        self.settings = ClientSettings.model_validate(
            {"url": server.url, "username": USER, "password": PASSWORDS[USER]}
        )
        self.client = RegistryClient.from_settings(self.settings)
        self._keys = folder / "keys"

    def token(self, *scopes: str) -> Credentials:
        issued = self.client.issue_token(scopes, 3600)
        assert issued is not None
        return Credentials(token=issued.token)

    def expired(self, *scopes: str) -> Credentials:
        """By the registry's own key; it ran out a minute ago."""
        tokens = Tokens(TokenKeys(self._keys), "dvcr", 60, lambda: time.time() - 120)
        return Credentials(token=tokens.issue(Caller(USER), [Scope.parse(scope) for scope in scopes]))

    def publish(self, repository: str, path: Path, size_bytes: int = 9 * MIB) -> ImageReference:
        path.write_bytes(random.randbytes(size_bytes))
        return publish_disk(self.client, repository, path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with guarded_registry(folder) as server:
        yield Guarded(server, folder)


def show(pod: LauncherPod, credentials: Credentials) -> None:
    """As the node brings a Secret that changed."""
    file = pod.root / CREDENTIALS_PATH.lstrip("/")
    new = file.with_suffix(".new")
    new.write_bytes(credentials.write())
    new.rename(file)


def launcher(folder: Path, guarded: Guarded, spec: MachineSpec, credentials: Credentials) -> LauncherPod:
    """As the controller starts one."""
    settings = {
        "DVCR__LAUNCHER__CACHE_DIR": str(folder / "cache"),
        "DVCR__LAUNCHER__ACCELERATOR": "tcg",
        "DVCR__CLIENT__URL": guarded.url,
        "DVCR__CLIENT__CREDENTIALS_FILE": CREDENTIALS_PATH,
    }
    pod = LauncherPod(folder, spec, settings)
    show(pod, credentials)
    return pod


def disk(name: str, image: ImageReference | None = None, **changes: Any) -> DiskSpec:
    values = {"name": name, "kind": "disk", "path": f"/{name}/disk.qcow2", "size_bytes": 16 * MIB, "image": image}
    return DiskSpec.model_validate(values | changes)


def challenge(answer: requests.Response) -> tuple[int, str, str]:
    """The status, and the scope and error that the registry names."""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
    return answer.status_code, parameters["scope"], parameters["error"]


def test_a_machines_credentials_read_its_image_and_nothing_else(guarded: Guarded, tmp_path: Path) -> None:
    image = guarded.publish("cvmi/debian", tmp_path / "debian.raw")
    guarded.publish("vmi/other/secret", tmp_path / "secret.raw")
    world = World(client=guarded.settings, issuer=guarded.client)
    running_machine(world)
    shown = base64.b64decode(world.get(SECRET, "vm-web")["data"]["registry.json"])
    assert PASSWORDS[USER] not in str(world.get(POD, "vm-web")) + shown.decode()

    file = tmp_path / "registry.json"
    file.write_bytes(shown)
    machine = RegistryClient.from_settings(ClientSettings(url=guarded.url, credentials_file=file))
    own = machine.repository("cvmi/debian")
    with ImageReader(own, fetch(own, Digest.parse(image.digest)).image) as reader:
        assert reader.read_at(0, 9 * MIB) == (tmp_path / "debian.raw").read_bytes()
    with pytest.raises(RegistryError, match="insufficient_scope") as refused:
        fetch(machine.repository("vmi/other/secret"), "latest")
    assert refused.value.status == 401

    def ask(method: str, path: str) -> tuple[int, str, str]:
        bearer = {"Authorization": f"Bearer {Credentials.read(shown).token}"}
        return challenge(requests.request(method, f"{guarded.url}/v2/{path}", headers=bearer))

    other = "repository:vmi/other/secret:pull"
    assert ask("GET", "vmi/other/secret/manifests/latest") == (401, other, "insufficient_scope")
    push = "repository:cvmi/debian:pull,push"
    assert ask("POST", "cvmi/debian/blobs/uploads/") == (401, push, "insufficient_scope")
    assert ask("PUT", "cvmi/debian/manifests/latest") == (401, push, "insufficient_scope")
    delete = "repository:cvmi/debian:delete"
    assert ask("DELETE", f"cvmi/debian/manifests/{image.digest}") == (401, delete, "insufficient_scope")
    assert ask("GET", "_catalog") == (401, "registry:catalog:*", "insufficient_scope")


def test_a_captures_credentials_write_its_image_and_nothing_else(guarded: Guarded) -> None:
    world = World(client=guarded.settings, issuer=guarded.client)
    running_machine(world)
    uid = world.apply(IMAGE, "golden", GOLDEN)["metadata"]["uid"]
    credentials = world.launchers.credentials[uid]
    assert credentials is not None
    bearer = {"Authorization": f"Bearer {credentials.token}"}

    def push(repository: str) -> requests.Response:
        return requests.post(f"{guarded.url}/v2/{repository}/blobs/uploads/", headers=bearer)

    assert push("vmi/default/golden").status_code == 202
    assert challenge(push("cvmi/debian")) == (401, "repository:cvmi/debian:pull,push", "insufficient_scope")
    assert push("vmi/default/other").status_code == 401


def test_a_launcher_waits_for_credentials_and_reads_newer_ones(guarded: Guarded, tmp_path: Path) -> None:
    folder = tmp_path / f"m{random.getrandbits(32):08x}"
    folder.mkdir()
    system, data = (guarded.publish(f"vmi/tests/{n}", tmp_path / n) for n in ("system", "data"))
    pulls = [f"repository:{image.repository}:pull" for image in (system, data)]
    spec = machine_spec(folder, disks=[disk("system", system)], grace_period_s=0)
    with launcher(folder, guarded, spec, guarded.expired(pulls[0])) as pod:
        pod.wait_until(lambda: "does not accept the token" in starting(pod), 60, "word of the token that ran out")

        show(pod, guarded.token(pulls[0]))
        pod.wait_for_state(MachineState.RUNNING)
        pod.wait_until(lambda: pod.status().disks[0].streamed_percent == 100, 60, "copy of the first disk")
        processes = [pod.process.pid, *pod.qemu_pids()]
        assert len(processes) == 2
        for pid in processes:
            environment = Path(f"/proc/{pid}/environ").read_text()
            assert PASSWORDS[USER] not in environment
            assert "PASSWORD" not in environment

        # A disk that is plugged has an image that the token is not for, until it is.
        (pod.root / "data").mkdir()
        plugged = disk("data", data, hotplug=True)
        pod.request("PUT", "/disks", DiskWishes(plugged=(plugged,)).model_dump_json())
        pod.wait_until(lambda: "insufficient_scope" in message(pod, "data"), 60, "word of the token's scope")
        show(pod, guarded.token(*pulls))
        pod.wait_until(lambda: pod.status().disks[-1].streamed_percent == 100, 60, "copy of the plugged disk")
        pod.terminate()


def test_a_guest_that_reads_without_good_credentials_goes_on_once_there_are_some(tmp_path: Path) -> None:
    with guarded_registry(tmp_path) as server:
        guarded = Guarded(server, tmp_path)
        image = guarded.publish("vmi/tests/system", tmp_path / "raw", 48 * MIB)
        content = (tmp_path / "raw").read_bytes()
        scope = "repository:vmi/tests/system:pull"
        file = tmp_path / "registry.json"
        file.write_bytes(guarded.token(scope).write())
        settings = Settings(
            client=ClientSettings(url=guarded.url, credentials_file=file),
            launcher=LauncherSettings(cache_dir=tmp_path / "cache"),
        )
        with images(settings, ChunkMemory(2**20)) as open_image:
            export = WatchedExport(open_image(image))
            assert export.read(0, 512) == content[:512]
            # As when it runs out: the key that signed it is not accepted any more.
            (key,) = (tmp_path / "keys").glob("*.pem")
            make_key(tmp_path / "keys")
            key.unlink()
            bearer = {"Authorization": f"Bearer {Credentials.read(file.read_bytes()).token}"}
            eventually(lambda: requests.get(f"{guarded.url}/v2/", headers=bearer).status_code == 401, "a refusal", 30)

            with pytest.raises(RegistryError, match="invalid_token") as refused:
                export.read(44 * MIB, 512)
            assert refused.value.retryable
            assert not export.recovered()
            file.write_bytes(guarded.token(scope).write())
            assert export.recovered()
            assert export.read(44 * MIB, 512) == content[44 * MIB : 44 * MIB + 512]


def starting(pod: LauncherPod) -> str:
    """What the launcher waits for."""
    return pod.wait_for_state(MachineState.STARTING).message


def message(pod: LauncherPod, name: str) -> str:
    return next((one.message for one in pod.status().disks if one.name == name), "")


def test_a_capture_in_a_machine_shows_what_the_controller_sends_with_it(guarded: Guarded, tmp_path: Path) -> None:
    folder = tmp_path / f"m{random.getrandbits(32):08x}"
    folder.mkdir()
    spec = machine_spec(folder, disks=[disk("system")], grace_period_s=0)
    launchers = HttpLauncherStatus(AUTHORITY, 10)
    wanted = CaptureSpec(repository="vmi/tests/golden", tags=("uid",), origin="x", disk=spec.disks[0])
    scope = "repository:vmi/tests/golden:pull,push"
    with launcher(folder, guarded, spec, guarded.token("repository:vmi/tests/system:pull")) as pod:
        pod.wait_for_state(MachineState.RUNNING)
        owner = {"kind": "VirtualMachine", "name": "m", "uid": spec.uid}
        target = {"metadata": {"name": "m", "ownerReferences": [owner]}, "status": {"podIP": pod.address}}
        told: list[WorkStatus] = []

        def ended(uid: str, credentials: Credentials | None) -> bool:
            status = launchers.capture(target, uid, wanted, credentials)
            assert status is not None
            told.append(status)
            return status.end is not None

        eventually(lambda: ended("own", None), "the end of a capture with the machine's own token", 60)
        assert told[-1].end is not None
        assert (told[-1].end.reason, told[-1].end.retryable) == ("RegistryDenied", True)
        assert "insufficient_scope" in told[-1].end.message

        expired, good = guarded.expired(scope), guarded.token(scope)
        assert not ended("lent", expired)
        eventually(lambda: ended("lent", good), "the end of the capture", 60)
        assert told[-1].end is not None
        assert told[-1].end.reason == ""
        assert fetch(guarded.client.repository("vmi/tests/golden"), "uid").image.virtual_size_bytes == 16 * MIB
        pod.terminate()
