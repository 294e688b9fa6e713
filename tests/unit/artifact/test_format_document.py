"""docs/artifact-format.md shows a real artifact."""

import json
import re
from pathlib import Path

from dvcr.artifact.manifest import DiskManifest, config_json
from tests.support.artifacts import CHUNK, image_of, noise

DOCUMENT = Path(__file__).parents[3] / "docs" / "artifact-format.md"


def sample(name: str) -> bytes:
    match = re.search(rf"<!-- sample: {name} -->\n```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert match is not None
    return match[1].strip().encode()


def test_the_sample_is_the_artifact_of_the_disk_it_describes() -> None:
    disk = bytes(range(256)) * 16_384 * 2 + bytes(2 * CHUNK) + noise(CHUNK, 7) + b"the end\n" * 128
    image = DiskManifest.parse(sample("manifest")).image(sample("config"))
    assert image.chunks == image_of(disk)[0].chunks
    assert image.virtual_size_bytes == len(disk)
    assert config_json(image) == sample("config")
    written = DiskManifest.of(image, sample("config")).to_json()
    assert json.loads(written) == json.loads(sample("manifest"))
