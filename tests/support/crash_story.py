"""The life of a small registry, told to a tracer: `python -m tests.support.crash_story ROOT`.

Before something is asked of the registry, and after it has been acknowledged, a line of JSON on standard output says
which outcomes a reader may see from then on: {"what": [outcome, ...]}.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.registry.registry import Registry
from dvcr.storage.filesystem import FilesystemStorage

BLOBS = {name: name.encode() * 3000 for name in ("config", "first", "second", "orphan")}


def may_be(what: str, *outcomes: str) -> None:
    """Tell what a reader may see of `what` from now on."""
    os.write(1, json.dumps({what: outcomes}).encode() + b"\n")


def push(registry: Registry, repository: str, data: bytes, pieces: int = 1) -> None:
    """Push a blob, in as many requests."""
    upload = registry.uploads.begin()
    step = -(-len(data) // pieces)
    for begin in range(0, len(data), step):
        upload.append(data[begin : begin + step])
        if begin + step < len(data):
            upload.flush()
            upload = registry.uploads.resume(upload.id)
    upload.commit(repository, Digest.of(data))
    may_be(f"blob {repository} {Digest.of(data)}", "there")


def manifest(*layers: str) -> bytes:
    """An image of these blobs."""
    kind = {"mediaType": IMAGE_CONFIG}
    config, *others = ({"digest": str(Digest.of(BLOBS[name])), "size": len(BLOBS[name])} | kind for name in layers)
    value = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": config, "layers": others}
    return json.dumps(value).encode()


def tell(root: Path) -> None:
    """Push, mount, tag, move a tag, push again, delete and collect."""
    registry = Registry(FilesystemStorage(root), grace=timedelta(0))
    push(registry, "a/b", BLOBS["config"])
    push(registry, "a/b", BLOBS["first"], pieces=3)
    one, two = manifest("config", "first"), manifest("config", "first", "second")
    may_be("tag a/b v1", "nothing", str(Digest.of(one)))
    registry.manifests.put("a/b", one, IMAGE_MANIFEST, tags=("v1", "latest"))
    may_be("tag a/b v1", str(Digest.of(one)))
    may_be("tag a/b latest", str(Digest.of(one)))
    push(registry, "a/b", BLOBS["second"])
    may_be("tag a/b latest", str(Digest.of(one)), str(Digest.of(two)))
    registry.manifests.put("a/b", two, IMAGE_MANIFEST, tags=("latest",))
    may_be("tag a/b latest", str(Digest.of(two)))
    registry.blobs.mount("other", Digest.of(BLOBS["first"]), ["a/b"])
    may_be(f"blob other {Digest.of(BLOBS['first'])}", "there")
    push(registry, "other", BLOBS["first"], pieces=2)
    failed = registry.uploads.begin()
    failed.append(b"given up")
    failed.abort()
    push(registry, "other", BLOBS["orphan"])
    may_be(f"blob other {Digest.of(BLOBS['orphan'])}", "there", "nothing")
    may_be(f"blob other {Digest.of(BLOBS['first'])}", "there", "nothing")
    registry.collector.run()
    may_be("tag a/b v1", "nothing", str(Digest.of(one)))
    registry.tags.delete("a/b", "v1")
    push(registry, "third", BLOBS["orphan"])
    open_upload = registry.uploads.begin()
    open_upload.append(b"to be continued")
    open_upload.flush()


if __name__ == "__main__":
    tell(Path(sys.argv[1]))
