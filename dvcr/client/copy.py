"""Manifests of any kind, with all they refer to, from one repository to another; what is there already stays."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from dvcr.client.cancellation import Cancellation
from dvcr.client.repository import Manifest, Repository
from dvcr.descriptor import DOCKER_MANIFEST_LIST, IMAGE_INDEX, Descriptor
from dvcr.digest import Digest
from dvcr.errors import ImageError

PARALLEL = 8
MAX_DEPTH = 4


@dataclass
class Copied:
    """What a copy did; bytes are those of blobs."""

    digest: Digest
    """Of the manifest, the same on both sides."""
    total_bytes: int = 0
    sent_bytes: int = 0
    """Of those, what the destination did not have and could not mount."""
    sent_blobs: int = 0


@dataclass
class CopyPlan:
    """A manifest, children of indexes first, and the blobs that all of them need."""

    manifests: list[Manifest] = field(default_factory=list)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size_bytes for blob in self.blobs.values())


def plan(source: Repository, reference: str | Digest) -> CopyPlan:
    """What a copy of the manifest is made of.

    Raises RegistryError 404 if it, or a child that an index lists, does not exist; ImageError if it is no manifest.
    """
    found = CopyPlan()
    _collect(source, reference, found, 0)
    return found


def copy(
    source: Repository,
    destination: Repository,
    what: CopyPlan,
    reference: str | Digest,
    *,
    same_registry: bool,
    on_progress: Callable[[int], None],
) -> Copied:
    """Make `destination` have what was planned, byte for byte, its last manifest under `reference`.

    A blob that is there is not read; one that the registry has elsewhere is mounted (`same_registry`: from `source`);
    others are streamed, several at a time, each verified by both sides. The manifest comes last: interrupted, nothing
    is visible, and the next call goes on with the blobs that are missing. `on_progress` gets the bytes of each blob or
    piece that is in place, in any of the threads. Raises RegistryError and IntegrityError.
    """
    copied = Copied(what.manifests[-1].digest, what.total_bytes)
    cancellation = Cancellation()
    reading, writing = source.on_behalf_of(cancellation), destination.on_behalf_of(cancellation)

    def move(blob: Descriptor) -> int:
        return _move(reading, writing, blob, same_registry, on_progress)

    with ThreadPoolExecutor(PARALLEL, "copy") as pool:
        try:
            pending = {pool.submit(move, blob) for blob in what.blobs.values()}
            done, _ = wait(pending, return_when=FIRST_EXCEPTION)
            sent = [future.result() for future in done]
        except BaseException:
            cancellation.cancel()  # neither the first error nor Ctrl-C waits for the others
            pool.shutdown(cancel_futures=True)
            raise
    copied.sent_bytes, copied.sent_blobs = sum(sent), sum(1 for size in sent if size)
    for manifest in what.manifests[:-1]:
        destination.put_manifest(manifest.digest, manifest.body, manifest.media_type)
    last = what.manifests[-1]
    last.digest.verify(last.body)
    destination.put_manifest(reference, last.body, last.media_type)
    return copied


def _move(
    source: Repository,
    destination: Repository,
    blob: Descriptor,
    same_registry: bool,
    on_progress: Callable[[int], None],
) -> int:
    """Have the blob at the destination; the bytes that were sent for it."""
    upload = None
    if not destination.has_blob(blob.digest):
        upload = destination.mount_or_begin(blob.digest, source.name if same_registry else None)
    if upload is None:
        on_progress(blob.size_bytes)
        return 0
    upload.fill(source.open_blob(blob.digest, blob.size_bytes), blob.digest, on_progress)
    return upload.size_bytes


def _collect(source: Repository, reference: str | Digest, found: CopyPlan, depth: int) -> None:
    manifest = source.manifest(reference)
    if any(manifest.digest == known.digest for known in found.manifests):
        return
    if depth > MAX_DEPTH:
        raise ImageError("the index holds indexes of indexes, too many levels of them", reason="CorruptImage")
    try:
        value = json.loads(manifest.body)
        children = list(_descriptors(value.get("manifests")))
        blobs = list(_descriptors([value["config"]] if "config" in value else None))
        blobs += _descriptors(value.get("layers"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        name = f"{source.name}:{reference}"
        raise ImageError(f"the manifest of {name} cannot be read: {exc}", reason="CorruptImage") from exc
    if not children and not blobs and manifest.media_type not in (IMAGE_INDEX, DOCKER_MANIFEST_LIST):
        raise ImageError(f"the manifest of {source.name}:{reference} refers to nothing", reason="CorruptImage")
    for child in children:
        _collect(source, child.digest, found, depth + 1)
    found.blobs |= {blob.digest: blob for blob in blobs}
    found.manifests.append(manifest)


def _descriptors(values: object) -> Iterator[Descriptor]:
    return (Descriptor.from_json(value) for value in (values if isinstance(values, list) else []))
