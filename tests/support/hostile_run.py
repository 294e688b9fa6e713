"""Imports every hostile image, each in a process of its own, and tells what became of it as lines of JSON.

python -m tests.support.hostile_run SCRATCH_FOLDER IMAGES_FOLDER
"""

import json
import os
import signal
import sys
from pathlib import Path

from dvcr.config import ImporterSettings
from dvcr.errors import DvcrError
from importer.pipeline import ImportWatch, import_disk
from tests.support.import_source import MemoryImportSource
from tests.support.memory_registry import MemoryRegistry

TIMEOUT_S = 60


def attempt(image: bytes, settings: ImporterSettings) -> dict[str, object]:
    """Import; what it ended with, and what the registry has then."""
    registry = MemoryRegistry()
    try:
        import_disk(
            MemoryImportSource(image),
            registry.client().repository("cvmi/hostile"),
            ["latest"],
            origin="test",
            checksums={},
            settings=settings,
            watch=ImportWatch(),
        )
        result = {"reason": "imported", "message": ""}
    except DvcrError as exc:
        result = {"reason": exc.reason, "message": exc.message}
    except BaseException as exc:  # noqa: BLE001  # told to the test
        result = {"reason": f"{type(exc).__name__}: {exc}", "message": ""}
    kept = any(settings.scratch_dir.iterdir()) if settings.scratch_dir.exists() else False
    stored = sorted(registry.tags.get("cvmi/hostile", ()))
    return {**result, "stored": stored, "scratch": kept}


def main(scratch: Path, images: Path, results: Path) -> None:
    lines = []
    for file in sorted(images.glob("*.image")):
        overrides = json.loads(file.with_suffix(".json").read_text())
        settings = ImporterSettings(scratch_dir=scratch, **overrides)
        read_end, write_end = os.pipe()
        pid = os.fork()  # nothing has started a thread yet
        if not pid:
            signal.alarm(TIMEOUT_S)
            os.write(write_end, json.dumps(attempt(file.read_bytes(), settings)).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            said = pipe.read()
        _, status, usage = os.wait4(pid, 0)
        result = json.loads(said) if said else {"reason": f"died with status {status}", "message": ""}
        # Of processor time, with that of qemu-img, which was waited for: the same on a machine that others use.
        seconds = usage.ru_utime + usage.ru_stime
        lines.append(json.dumps({"file": file.stem, "rss_kb": usage.ru_maxrss, "seconds": seconds, **result}))
    results.write_text("\n".join(lines))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
