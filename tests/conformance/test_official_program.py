"""The official conformance program: nothing fails, and nothing that it can test is left out."""

from pathlib import Path

import pytest

from tests.conformance.official import STORAGES, VERSIONS, run

pytestmark = pytest.mark.timeout(600)  # the first run builds the program


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("storage", STORAGES)
def test_everything_passes(storage: str, version: str, tmp_path: Path) -> None:
    with STORAGES[storage]() as settings:
        outcome = run(tmp_path / "registry", settings, version, tmp_path / "results")
    assert outcome.complaints == ()
    assert (outcome.failed, outcome.errors, outcome.skipped, outcome.exit_code) == (0, 0, 0, 0)
    assert outcome.passed > 800
