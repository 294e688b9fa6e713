"""A disk at rest into an image: what is read, what is sent, and what comes out."""

import subprocess
from pathlib import Path

import pytest

from controller.launcher import qcow2
from controller.launcher.capture import Captured, capture
from controller.launcher.spec import CaptureSpec, DiskSpec, ImageReference
from converter.nbd.image import ImageExport
from converter.nbd.server import NbdServer
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch, publish
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.errors import ImageError, ResourceError
from tests.support.artifacts import CHUNK, noise, push, text
from tests.support.registry import RegistryServer

MIB = 2**20
# Six chunks; the fourth is zero and left out, the last is short.
BASE = noise(CHUNK, 1) + text(CHUNK, 2) + noise(CHUNK, 3) + bytes(CHUNK) + noise(CHUNK, 4) + noise(MIB, 5)


class Case:
    """A disk made of an artifact, below a pod's root."""

    def __init__(self, registry_url: str, root: Path, name: str) -> None:
        self.client = RegistryClient.from_settings(ClientSettings(url=registry_url))
        self.origin = self.client.repository(f"capture/{name}/base")
        self.root = root
        self.file = root / "disks/root/disk.qcow2"
        digest = publish(self.origin, push(self.origin, BASE), ["latest"])
        self.reference = ImageReference(repository=self.origin.name, digest=str(digest))
        self.target = f"capture/{name}/golden"

    def create(self, size_bytes: int = len(BASE)) -> None:
        qcow2.create(self.file, size_bytes, f"dvcr:{self.reference.repository}@{self.reference.digest}")

    def qemu_io(self, *commands: str) -> None:
        """What a guest would do to the disk, with the artifact below it."""
        socket = self.root / "nbd.sock"
        name = qcow2.read_header(self.file).backing
        rebase = ["qemu-img", "rebase", "-u", "-F", "raw", str(self.file), "-b"]
        arguments = [argument for command in commands for argument in ("-c", command)]
        with (
            ImageReader(self.origin, fetch(self.origin, "latest").image) as reader,
            NbdServer(socket, {"x": ImageExport(reader)}),
        ):
            subprocess.run([*rebase, f"nbd+unix:///x?socket={socket}"], check=True)
            subprocess.run(["qemu-io", *arguments, self.file], check=True, stdout=subprocess.DEVNULL)
        assert name is not None
        subprocess.run([*rebase, name], check=True)

    def capture(self, size_bytes: int = len(BASE)) -> Captured:
        disk = DiskSpec(
            name="root", kind="disk", path="/disks/root/disk.qcow2", size_bytes=size_bytes, image=self.reference
        )
        spec = CaptureSpec(
            repository=self.target, tags=("latest", "uid"), origin="VirtualMachineDisk a/root", disk=disk
        )
        return capture(spec, self.root, self.client, None, lambda _: None)

    def content(self) -> bytes:
        golden = self.client.repository(self.target)
        with ImageReader(golden, fetch(golden, "uid").image) as reader:
            return reader.read_at(0, reader.size_bytes)


@pytest.fixture
def case(fresh_registry: RegistryServer, tmp_path: Path) -> Case:
    return Case(fresh_registry.url, tmp_path / "pod", "x")


def blobs(server: RegistryServer) -> int:
    return sum(1 for path in (server.root / "blobs").rglob("*") if path.is_file())


def test_only_chunks_that_changed_are_read_and_sent(case: Case, fresh_registry: RegistryServer) -> None:
    case.create()
    # A part of chunk 1, which is read with what lies below; all zeroes into chunk 2; the same bytes into chunk 4.
    case.qemu_io(
        f"write -P 7 {CHUNK + 1000} 5000", f"write -z {2 * CHUNK} {CHUNK}", f"write -P {BASE[4 * CHUNK]} {4 * CHUNK} 1"
    )
    expected = bytearray(BASE)
    expected[CHUNK + 1000 : CHUNK + 6000] = b"\x07" * 5000
    expected[2 * CHUNK : 3 * CHUNK] = bytes(CHUNK)
    before = blobs(fresh_registry)
    captured = case.capture()
    assert case.content() == expected
    assert (captured.sent_chunks, captured.unread_chunks) == (1, 2)
    assert [chunk.index for chunk in captured.image.chunks] == [0, 1, 4, 5]
    base = {chunk.index: chunk for chunk in fetch(case.origin, "latest").image.chunks}
    assert [chunk == base[chunk.index] for chunk in captured.image.chunks] == [True, False, True, True]
    assert blobs(fresh_registry) - before <= 3, "one chunk, a config, a manifest"


def test_a_disk_that_stands_alone_sends_no_more(case: Case) -> None:
    case.create()
    case.qemu_io(f"write -P 7 {CHUNK} 65536")
    raw = case.root / "whole.raw"
    raw.write_bytes(BASE[:CHUNK] + b"\x07" * 65536 + BASE[CHUNK + 65536 :])
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, case.file], check=True)
    captured = case.capture()
    assert (captured.sent_chunks, captured.unread_chunks) == (1, 0)
    assert case.content() == raw.read_bytes()


def test_a_disk_that_no_machine_has_used_is_its_image(case: Case) -> None:
    captured = case.capture()
    assert (captured.sent_chunks, captured.unread_chunks) == (0, 5)
    assert case.content() == BASE


def test_a_disk_that_is_larger_than_its_image(case: Case) -> None:
    size = 8 * CHUNK
    captured = case.capture(size)
    assert (captured.sent_chunks, captured.unread_chunks) == (1, 4), "the last chunk has another length now"
    assert case.content() == BASE + bytes(size - len(BASE))
    case.create(size)
    case.qemu_io(f"write -P 9 {6 * CHUNK} 512")
    assert case.capture(size).sent_chunks == 1
    assert case.content()[6 * CHUNK : 6 * CHUNK + 512] == b"\x09" * 512


def test_a_disk_in_use_is_left_alone(case: Case) -> None:
    case.create()
    writer = ["qemu-io", f"json:{{{_NO_BACKING % case.file}}}"]
    with subprocess.Popen(writer, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()
        with pytest.raises(ResourceError) as caught:
            case.capture()
        process.stdin.close()
    assert (caught.value.reason, caught.value.retryable) == ("DiskInUse", True)
    assert case.client.repository(case.target).tags() == []


_NO_BACKING = '"driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": "%s"}'


def test_a_foreign_backing_file_is_refused(case: Case) -> None:
    case.file.parent.mkdir(parents=True)
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", case.file, "4M"], check=True
    )
    with pytest.raises(ImageError, match="/etc/shadow") as caught:
        case.capture()
    assert caught.value.reason == "BackingFileRefused"
