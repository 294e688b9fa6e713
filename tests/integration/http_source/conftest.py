"""A server that can break, and the source over it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dvcr.config import ImporterSettings
from dvcr.jobs.job import HttpOrigin
from importer.checksums import Checksums
from importer.kept import discard
from importer.sources.download import HttpDownload
from importer.sources.spooled import SpooledSource
from importer.spool import Spool
from tests.support.file_server import FileServer, serving
from tests.support.http_source import CONTENT, MIB, Open


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as state:
        yield state


@pytest.fixture
def open_source(tmp_path: Path) -> Open:
    @contextmanager
    def opened(url: str, checksums: dict[str, str] | None = None, **options: Any) -> Iterator[SpooledSource]:
        given = {name: options.pop(name) for name in list(options) if name in ImporterSettings.model_fields}
        settings = ImporterSettings(
            **{"scratch_dir": tmp_path, "retries": 2, "idle_timeout_s": 5, "source_addresses": "any", **given}
        )
        window, job_id = options.pop("window_bytes", 64 * MIB), options.pop("job_id", "")
        download = HttpDownload(HttpOrigin(url=url, **options), settings, verified=bool(checksums))
        source = SpooledSource(
            download,
            Checksums(checksums or {}),
            Spool(tmp_path, job_id),
            max_bytes=settings.max_source_bytes,
            window_bytes=window,
        )
        try:
            yield source
        finally:
            source.close()
            discard(tmp_path, job_id)
            assert list(tmp_path.iterdir()) == [], "nothing is left in the scratch folder"

    return opened
