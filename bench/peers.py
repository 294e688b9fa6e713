"""What users do today, by the tools that they do it with. Each returns the seconds that it took."""

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from bench.processes import CACHE

_LAYOUT_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def download(url: str) -> float:
    """`curl` alone."""
    with tempfile.TemporaryDirectory(prefix="peer-", dir=CACHE) as folder:
        begin = _begin()
        _curl(url, Path(folder, "disk"))
        return time.perf_counter() - begin


def convert_to_raw(url: str, image_format: str) -> tuple[float, float]:
    """`curl`, then `qemu-img convert -O raw` (`xz -d` where that is all): until it is done, and until `sync` is too."""
    with tempfile.TemporaryDirectory(prefix="peer-", dir=CACHE) as folder:
        begin = _begin()
        raw = Path(folder, "disk.raw")
        _curl(url, Path(folder, "disk"))
        if image_format == "raw.xz":
            _unpack(Path(folder, "disk"), raw)
        else:
            _convert("-f", image_format, "-O", "raw", Path(folder, "disk"), raw)
        done = time.perf_counter() - begin
        subprocess.run(["sync", raw], check=True)
        return done, time.perf_counter() - begin


def push_container_disk(url: str, image_format: str, registry: str) -> float:
    """`curl`, `qemu-img convert -c -O qcow2`, `tar`, `skopeo copy`: a containerDisk in a registry."""
    with tempfile.TemporaryDirectory(prefix="peer-", dir=CACHE) as folder:
        begin = _begin()
        source, disk, layout = Path(folder, "download"), Path(folder, "disk.qcow2"), Path(folder, "layout")
        _curl(url, source)
        if image_format == "raw.xz":
            packed, source, image_format = source, Path(folder, "disk.raw"), "raw"
            _unpack(packed, source)
        _convert("-f", image_format, "-O", "qcow2", "-c", source, disk)
        _lay_out(disk, layout)
        target = f"docker://{registry.removeprefix('http://')}/bench/disk:latest"
        subprocess.run(
            ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}", target],
            check=True,
        )
        return time.perf_counter() - begin


def _begin() -> float:
    os.sync()
    return time.perf_counter()


def _curl(url: str, file: Path) -> None:
    subprocess.run(["curl", "-sS", "-o", file, url], check=True)


def _unpack(packed: Path, raw: Path) -> None:
    with raw.open("wb") as out:
        subprocess.run(["xz", "-dc", "-T0", packed], stdout=out, check=True)


def _convert(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", "convert", *arguments], check=True)


def _lay_out(disk: Path, layout: Path) -> None:
    """An OCI layout whose one layer holds the disk, as `docker build` of FROM scratch makes it."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer = blobs / "layer"
    with tarfile.open(layer, "w") as tar:
        tar.add(disk, "disk/disk.qcow2")
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    size = layer.stat().st_size
    layer.rename(blobs / digest)
    config = _put(
        blobs, {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    )
    manifest = _put(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": _LAYOUT_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}
            ],
        },
    )
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {"schemaVersion": 2, "manifests": [{"mediaType": _LAYOUT_MANIFEST, **manifest}]}
    (layout / "index.json").write_text(json.dumps(index))


def _put(blobs: Path, document: object) -> dict[str, object]:
    body = json.dumps(document).encode()
    digest = hashlib.sha256(body).hexdigest()
    (blobs / digest).write_bytes(body)
    return {"digest": f"sha256:{digest}", "size": len(body)}
