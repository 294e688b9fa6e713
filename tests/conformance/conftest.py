"""What several real clients push, and both API servers."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import KubernetesProcess


@pytest.fixture(scope="module", params=["embedded", pytest.param("kubernetes", marks=pytest.mark.kubernetes)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """An API server that has the kinds, and asks no webhook: the embedded one, then a real one."""
    kind = KubernetesProcess if request.param == "kubernetes" else ClusterProcess
    process = kind(tmp_path_factory.mktemp("cluster"))
    with process:
        yield process


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI image layout with an image of two layers, made by hand."""
    folder = tmp_path / "layout"
    (folder / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = Digest.of(data)
        (folder / "blobs/sha256" / digest.hex).write_bytes(data)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    layers, diff_ids = [], []
    for number in range(2):
        archive = tmp_path / f"{number}.tar"
        content = tmp_path / f"file{number}"
        content.write_bytes(os.urandom(3 * 2**20))
        with tarfile.open(archive, "w") as tar:
            tar.add(content, content.name)
        layers.append(blob(archive.read_bytes(), "application/vnd.oci.image.layer.v1.tar"))
        diff_ids.append(layers[-1]["digest"])
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    entry = blob(json.dumps(manifest).encode(), IMAGE_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder
