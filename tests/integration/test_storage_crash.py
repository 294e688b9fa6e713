"""The folder after a crash at every point: it opens, what it holds is whole, and what was acknowledged is there."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from dvcr.digest import Digest
from dvcr.registry.errors import BlobUnknownError, ManifestUnknownError
from dvcr.registry.registry import Registry
from dvcr.storage import paths
from dvcr.storage.filesystem import FilesystemStorage
from tests.support.crash_model import UNKNOWN, Call, Disk, record, states


@pytest.fixture
def story(tmp_path: Path) -> tuple[list[Call], Path]:
    """The calls of tests/support/crash_story.py on the folder."""
    if shutil.which("strace") is None and not os.environ.get("CI"):
        pytest.skip("strace is not installed")
    root = tmp_path / "store"
    root.mkdir()
    try:
        calls = record([sys.executable, "-m", "tests.support.crash_story", str(root)], tmp_path)
    except subprocess.CalledProcessError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"strace cannot trace here: {exc}")
    return calls, root


def outcome(registry: Registry, what: str) -> str:
    """What a reader sees."""
    kind, repository, name = what.split()
    if kind == "tag":
        try:
            digest = registry.tags.resolve(repository, name)
            return str(registry.manifests.get(repository, digest).digest)
        except ManifestUnknownError:
            return "nothing"
    try:
        registry.blobs.size_bytes(repository, Digest.parse(name))
    except BlobUnknownError:
        return "nothing"
    return "there"


def check_whole(storage: FilesystemStorage, registry: Registry) -> None:
    """Nothing half-written is anybody's to read."""
    for key in storage.list(paths.BLOBS):
        assert Digest.of(storage.read(key)) == paths.blob_digest(key), key
    for repository in registry.catalog.all():
        for key in storage.list(paths.manifests(repository)):
            digest = paths.last_digest(key)
            assert Digest.of(registry.manifests.get(repository, digest).body) == digest, key
        for tag in registry.tags.all(repository):
            registry.manifests.get(repository, registry.tags.resolve(repository, tag))


def test_every_crash_leaves_a_whole_store_with_all_that_was_acknowledged(
    story: tuple[list[Call], Path], tmp_path: Path
) -> None:
    calls, root = story
    unknown = [call for call in calls if call.name in UNKNOWN.split(",")]
    assert not [call for call in unknown if any(text.startswith(bytes(root)) for text in call.strings)]
    shared_memory = Path("/dev/shm")  # only to be quick
    work = shared_memory / f"dvcr-{os.getpid()}" if shared_memory.is_dir() else tmp_path / "work"
    work.mkdir()
    checked = 0
    try:
        for folder, point, said in states(calls, root, work):
            expected: dict[str, list[str]] = {}
            for line in said.splitlines():
                expected |= json.loads(line)
            storage = FilesystemStorage(folder)
            registry = Registry(storage, grace=timedelta(0))
            seen = {what: outcome(registry, what) for what in expected}
            wrong = {what: found for what, found in seen.items() if found not in expected[what]}
            assert not wrong, f"{point}: {wrong}"
            if not point.endswith("harsh"):
                check_whole(storage, registry)
            # It goes on: collection takes nothing that a tag needs, and a push succeeds.
            registry.collector.run()
            assert {what: outcome(registry, what) for what in expected if what.startswith("tag")} == {
                what: found for what, found in seen.items() if what.startswith("tag")
            }, point
            upload = registry.uploads.begin()
            upload.append(b"after the crash")
            upload.commit("a/b", Digest.of(b"after the crash"))
            checked += 1
    finally:
        shutil.rmtree(work)
    assert checked > 500


def test_the_model_ends_where_the_folder_did(story: tuple[list[Call], Path], tmp_path: Path) -> None:
    calls, root = story
    disk = Disk(root)
    for call in calls:
        disk.apply(call)
    (tmp_path / "model").mkdir()
    disk.after_kill(tmp_path / "model")

    def tree(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert tree(tmp_path / "model") == tree(root)
