import json
from pathlib import Path

import pytest

from controller.launcher.accel import BOOT_ID, PROBE_BOOT_SECTOR, choose_accelerator
from controller.launcher.confinement import Confinement


@pytest.mark.parametrize("wish", ["kvm", "tcg"])
def test_a_forced_accelerator_is_taken_unseen(wish: str, tmp_path: Path) -> None:
    assert choose_accelerator(wish, tmp_path, Confinement()) == wish  # type: ignore[arg-type]  # one of the two
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("usable", "chosen"), [(True, "kvm"), (False, "tcg")])
def test_the_answer_of_this_boot_is_kept(usable: bool, chosen: str, tmp_path: Path) -> None:
    kept = {"bootId": BOOT_ID.read_text().strip(), "kvm": usable, "why": ""}
    (tmp_path / "accelerator.json").write_text(json.dumps(kept))

    assert choose_accelerator("auto", tmp_path, Confinement()) == chosen


def test_a_cache_that_cannot_be_had_is_no_obstacle(tmp_path: Path) -> None:
    nowhere = tmp_path / "file/cache"
    (tmp_path / "file").touch()
    assert choose_accelerator("auto", nowhere, Confinement()) in ("kvm", "tcg")


def test_the_probe_is_a_boot_sector() -> None:
    assert len(PROBE_BOOT_SECTOR) == 512
    assert PROBE_BOOT_SECTOR.endswith(b"\x55\xaa")
