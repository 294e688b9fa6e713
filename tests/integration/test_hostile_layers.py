"""Every hostile layer is refused: with its reason, soon, in little memory."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.hostile_layers import HOSTILE_LAYERS

MAX_CPU_S = 10
MAX_RSS_KB = 200 * 1024


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By the layer's name: what became of it."""
    folder = tmp_path_factory.mktemp("layers")
    names = {}
    for number, (name, hostile) in enumerate(HOSTILE_LAYERS.items()):
        stem = f"{number:03}"
        (folder / f"{stem}.layer").write_bytes(hostile.build())
        (folder / f"{stem}.type").write_text(hostile.media_type)
        names[stem] = name
    command = [sys.executable, "-m", "tests.support.hostile_layers", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert not any((folder / "scratch").iterdir())
    told = [json.loads(line) for line in run.stdout.splitlines()]
    return {names[each["file"]]: each for each in told}


@pytest.mark.parametrize("name", HOSTILE_LAYERS)
def test_hostile_layer_is_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    outcome, hostile = outcomes[name], HOSTILE_LAYERS[name]
    assert outcome["reason"] == hostile.reason, outcome["message"]
    assert hostile.why in outcome["message"]
    assert outcome["cpu_s"] < MAX_CPU_S
    assert outcome["rss_kb"] < MAX_RSS_KB
