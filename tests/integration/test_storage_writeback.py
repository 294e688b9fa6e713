"""What a large session asks of the kernel while it grows, as strace sees it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STORY = """
import sys
from pathlib import Path
from dvcr.storage.filesystem import FilesystemStorage

session = FilesystemStorage(Path(sys.argv[1])).begin_upload()
for mebibytes in (3, 2, 2, 9, 1):
    session.append(bytes(mebibytes * 2**20))
session.commit("blob")
"""
MIB = 2**20


def test_each_full_block_is_begun_once_and_before_the_sync(tmp_path: Path) -> None:
    if shutil.which("strace") is None and not os.environ.get("CI"):
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=sync_file_range,fsync", "-o", str(trace)]
    try:
        subprocess.run([*command, sys.executable, "-c", STORY, str(tmp_path / "store")], check=True)
    except subprocess.CalledProcessError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"strace cannot trace here: {exc}")
    calls = trace.read_text()
    begun = re.findall(r"sync_file_range\(\d+, (\d+), (\d+), SYNC_FILE_RANGE_WRITE\) += 0", calls)
    assert [(int(start), int(length)) for start, length in begun] == [(0, 4 * MIB), (4 * MIB, 12 * MIB)]
    assert calls.rindex("sync_file_range(") < calls.rindex("fsync(")
