"""`dvcr-launcher fill`: an image into a disk that no machine uses, through every interruption."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
import requests

from controller.launcher import qcow2
from controller.launcher.spec import STATUS_PORT, DiskSpec, FillSpec, ImageReference, WorkEnd, WorkStatus
from tests.support.artifacts import CHUNK, noise, text
from tests.support.image_server import ImageServer, image_server
from tests.support.machine import next_address
from tests.support.waiting import eventually

__all__ = ["image_server"]

CONTENT = text(3 * CHUNK, 1) + bytes(2 * CHUNK) + noise(5 * CHUNK, 2) + text(CHUNK // 2, 3)


class FillPod:
    """The process as in a pod's folder."""

    def __init__(self, root: Path, image: ImageReference, environment: dict[str, str]) -> None:
        self.root = root
        self.address = next_address()
        self.disk = root / "vol/disk.qcow2"
        self._spec = FillSpec(disk=DiskSpec(name="root", kind="disk", path="/vol/disk.qcow2", image=image))
        self._environment = os.environ | environment | {"DVCR_POD_ROOT": str(root), "POD_IP": self.address}
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "controller.launcher.main", "fill", self._spec.model_dump_json()],
            env=self._environment,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()

    def status(self) -> WorkStatus | None:
        try:
            answer = requests.get(f"http://{self.address}:{STATUS_PORT}/status", timeout=5)
        except requests.ConnectionError:
            return None
        return WorkStatus.model_validate(answer.json())

    def wait_for(self, condition: Callable[[WorkStatus], bool], what: str) -> None:
        eventually(lambda: (told := self.status()) is not None and condition(told), what, 60)

    def end(self) -> WorkEnd:
        self.process.wait(120)
        return WorkEnd.model_validate(json.loads((self.root / "dev/termination-log").read_text()))


@pytest.fixture
def pod(tmp_path: Path, image_server: ImageServer) -> FillPod:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(CONTENT)
    image = image_server.publish("vmi/a", raw)
    return FillPod(
        tmp_path / "root", image, image_server.settings | {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")}
    )


def content(disk: Path) -> bytes:
    raw = disk.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw], check=True)
    return raw.read_bytes()


def test_the_disk_stands_alone_at_the_end(pod: FillPod) -> None:
    with pod:
        assert pod.end() == WorkEnd()
    assert qcow2.read_header(pod.disk).backing is None
    assert content(pod.disk) == CONTENT
    with pod:
        assert pod.end() == WorkEnd(), "again, where nothing is left to do"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_copy_goes_on(pod: FillPod, image_server: ImageServer, signum: signal.Signals) -> None:
    image_server.blob_delay_s = 0.3
    with pod:
        pod.wait_for(lambda told: told.percent >= 20, "some of the copy")
        pod.process.send_signal(signum)
        pod.process.wait(30)
    assert qcow2.read_header(pod.disk).backing is not None
    image_server.blob_delay_s = 0
    with pod:
        assert pod.end() == WorkEnd()
    assert content(pod.disk) == CONTENT


def test_an_address_that_somebody_else_has_is_tried_again(pod: FillPod) -> None:
    with socket.create_server((pod.address, STATUS_PORT)):
        with pod:
            end = pod.end()
        assert end.retryable
        assert f"cannot listen on {pod.address}:{STATUS_PORT}" in end.message
    with pod:
        assert pod.end() == WorkEnd()


def test_a_damaged_chunk_is_named_and_waited_for(pod: FillPod, image_server: ImageServer) -> None:
    blobs = image_server.registry.blobs["vmi/a"]
    digest = max(blobs, key=lambda one: len(blobs[one]))
    image_server.spoil_blob(digest)
    with pod:
        pod.wait_for(lambda told: digest in told.message, "word of the damaged chunk")
        assert qcow2.read_header(pod.disk).backing is not None
        image_server.spoil_blob(digest)
        assert pod.end() == WorkEnd()
    assert content(pod.disk) == CONTENT


def test_an_image_that_does_not_exist_is_told(pod: FillPod, tmp_path: Path, image_server: ImageServer) -> None:
    missing = ImageReference(repository="vmi/none", digest="sha256:" + "0" * 64)
    with FillPod(tmp_path / "other", missing, image_server.settings) as other:
        end = other.end()
    assert (end.retryable, "vmi/none" in end.message) == (False, True)
