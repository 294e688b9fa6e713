"""Every image of the corpus is refused: with its reason, soon, in little memory, no other file read, nothing stored."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile import CANARY, HOSTILE

MAX_SECONDS = 5
MAX_RSS_KB = 200 * 1024


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By the image's name: what became of it, and which files were opened meanwhile (where strace is there)."""
    folder = tmp_path_factory.mktemp("hostile")
    files = {}
    for number, (name, hostile) in enumerate(HOSTILE.items()):
        stem = f"{number:03}"
        (folder / f"{stem}.image").write_bytes(hostile.build())
        (folder / f"{stem}.json").write_text(json.dumps(hostile.settings))
        files[stem] = name
    canary = Path(CANARY)
    canary.write_bytes(bytes(510) + b"\x55\xaa" + bytes(4096))
    trace = folder / "trace"
    command = [
        sys.executable,
        "-m",
        "tests.support.hostile_run",
        str(folder / "scratch"),
        str(folder),
        str(folder / "results"),
    ]
    if shutil.which("strace"):
        command = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-e",
            "trace=open,openat,openat2,connect",
            "-o",
            str(trace),
            *command,
        ]
    elif os.environ.get("CI"):
        pytest.fail("strace is missing")
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    finally:
        canary.unlink()
    assert run.returncode == 0, run.stderr[-2000:]
    found = {}
    for line in (folder / "results").read_text().splitlines():
        outcome = json.loads(line)
        found[files[outcome["file"]]] = outcome
    if trace.exists():
        opened = trace.read_text()
        assert "python" in opened, "the trace is one of the run"
        found["opened"] = {
            "canary": CANARY in opened,
            "passwd": "/etc/passwd" in opened,
            "connect": "connect(" in opened,
        }
    return found


def test_the_corpus_is_large_and_covers_each_reason() -> None:
    assert len(HOSTILE) >= 60
    assert {hostile.reason for hostile in HOSTILE.values()} == {
        "AmbiguousFormat",
        "BackingFileRefused",
        "CorruptImage",
        "DecompressionBomb",
        "EncryptedImageRefused",
        "ExternalDataFileRefused",
        "MultiExtentRefused",
        "MultipleDisksRefused",
        "NestedCompressionRefused",
        "SnapshotsRefused",
        "TruncatedImage",
        "UnknownFormat",
        "VirtualSizeTooLarge",
        "WindowTooLarge",
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_image_is_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    outcome = outcomes[name]
    assert outcome["reason"] == HOSTILE[name].reason, outcome["message"]
    assert outcome["message"]
    assert outcome["stored"] == []
    assert not outcome["scratch"]
    assert outcome["seconds"] < MAX_SECONDS
    assert outcome["rss_kb"] < MAX_RSS_KB


def test_no_file_that_an_image_names_was_opened(outcomes: dict[str, dict[str, Any]]) -> None:
    if "opened" not in outcomes:
        pytest.skip("strace is missing; in CI that fails")
    assert outcomes["opened"] == {"canary": False, "passwd": False, "connect": False}
