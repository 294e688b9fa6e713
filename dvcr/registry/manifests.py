"""Manifests: documents that say which blobs belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

from dvcr.digest import Digest
from dvcr.errors import NotFoundError
from dvcr.registry.blobs import Blobs
from dvcr.registry.catalog import Catalog
from dvcr.registry.document import ManifestDocument
from dvcr.registry.errors import (
    DigestMismatchError,
    ManifestBlobUnknownError,
    ManifestCorruptError,
    ManifestInvalidError,
    ManifestUnknownError,
)
from dvcr.registry.quarantine import Quarantine, exists, is_whole_manifest
from dvcr.registry.recall import Look, Recall
from dvcr.registry.referrers import Referrers
from dvcr.registry.tags import Tags
from dvcr.registry.trust import now
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver

# Manifests that are asked for again within a minute come from memory, but for the largest ones.
_RECALLED_S = 60.0
_RECALLED_BYTES = 2**14
_NO_FILE: Look = ()
# How often a push that meets deletions of its manifest begins again.
_ATTEMPTS = 10


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was pushed: exact bytes, exact media type."""

    media_type: str
    digest: Digest
    body: bytes


@dataclass(frozen=True)
class StoredManifest:
    """What a push answers."""

    digest: Digest
    subject: Digest | None
    warnings: tuple[str, ...] = ()
    """What a user may want to know although all went well, for whoever pushed."""


class Manifests:
    """The manifests of every repository."""

    def __init__(
        self,
        storage: StorageDriver,
        catalog: Catalog,
        blobs: Blobs,
        tags: Tags,
        referrers: Referrers,
        *,
        sparse: bool = False,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._blobs = blobs
        self._tags = tags
        self._referrers = referrers
        self._sparse = sparse
        self._read: Recall[tuple[str, Digest | str], Manifest] = Recall(storage, _RECALLED_S)

    def recall(self, repository: str, reference: Digest | str) -> Manifest | None:
        """What `get` gave lately, if it would give it again; None to ask it. Does not block."""
        return self._read.get((repository, reference))

    def get(self, repository: str, reference: Digest | str) -> Manifest:
        """The manifest with this digest or tag; raises ManifestUnknownError, or ManifestCorruptError until it is
        pushed again.
        """
        begin = now()
        if isinstance(reference, Digest):
            digest, tag = reference, _NO_FILE
        else:
            tag = self._read.look(paths.tag(repository, reference))
            digest = self._tags.resolve(repository, reference)
        file = self._read.look(paths.manifest(repository, digest))
        manifest = read_manifest(self._storage, repository, digest)
        if file and (tag or reference is digest) and len(manifest.body) <= _RECALLED_BYTES:
            self._read.put((repository, reference), manifest, tag + file, begin)
        return manifest

    def put(
        self, repository: str, body: bytes, media_type: str, *, digest: Digest | None = None, tags: Sequence[str] = ()
    ) -> StoredManifest:
        """Durably store a manifest, then point the tags at it. Idempotent.

        Its digest is sha256 unless the caller gives one. Raises ManifestInvalidError, DigestMismatchError, and
        ManifestBlobUnknownError if config or layers are missing in this repository, unless it takes sparse images.
        """
        actual = Digest.of(body, digest.algorithm if digest else "sha256")
        if digest not in (None, actual):
            raise DigestMismatchError(f"the manifest has the digest {actual}, not {digest}")
        if not media_type or not media_type.isascii() or not media_type.isprintable():
            raise ManifestInvalidError("a manifest needs its media type in Content-Type")
        document = ManifestDocument.parse(body, media_type)
        missing = self._blobs.absent(repository, set(document.required_blobs()))
        if missing and not self._sparse:
            raise ManifestBlobUnknownError(
                f"push blob {missing[0]} before the manifest that names it ({len(missing)} are missing)"
            )
        self._catalog.enter(repository)
        subject = document.subject.digest if document.subject else None
        key, value = paths.manifest(repository, actual), media_type.encode() + b"\n" + body
        for _ in range(_ATTEMPTS):
            if document.subject:
                # Before the manifest: an entry without it is ignored, a manifest without its entry is not found.
                referrer = document.as_referrer(media_type, actual, len(body))
                self._referrers.add(repository, document.subject.digest, referrer)
            self._storage.write(key, value)
            for tag in tags:
                self._tags.set(repository, tag, actual)
            if exists(self._storage, key):
                break
            # Deleted since, by somebody who may not have seen the tags: they must not name nothing.
        else:
            self._tags.delete_all_of(repository, actual)
            raise ManifestUnknownError(f"manifest {actual} of {repository} is being deleted: push it again")
        return StoredManifest(actual, subject, self._warnings(repository, document, missing))

    def _warnings(self, repository: str, document: ManifestDocument, missing: list[Digest]) -> tuple[str, ...]:
        absent = [child.digest for child in document.manifests if not self._holds(repository, child.digest)]
        return tuple(
            f"{len(digests)} {what} this manifest are not in {repository}, {digests[0]} for one"
            for what, digests in (("blobs of", missing), ("manifests in", absent))
            if digests
        )

    def _holds(self, repository: str, digest: Digest) -> bool:
        """Whether it can be pulled, as a manifest or, as some clients push the parts of an index, as a blob."""
        return exists(self._storage, paths.manifest(repository, digest)) or exists(
            self._storage, paths.blob_link(repository, digest)
        )

    def delete(self, repository: str, digest: Digest) -> None:
        """Remove a manifest, also a corrupt one, and the tags that name it; raises ManifestUnknownError."""
        subject = None
        try:
            manifest = read_manifest(self._storage, repository, digest)
            subject = ManifestDocument.parse(manifest.body, manifest.media_type).subject
        except (ManifestCorruptError, ManifestInvalidError):
            pass  # its referrer entry, if it has one, is ignored from now on, and collected
        self._tags.delete_all_of(repository, digest)
        self._storage.delete(paths.manifest(repository, digest))
        if not exists(self._storage, paths.manifest(repository, digest)):
            self._tags.delete_all_of(repository, digest)  # and those that a push has set since
        self._storage.delete(paths.quarantined_manifest(repository, digest))
        if subject:
            self._referrers.remove(repository, subject.digest, digest)


def read_manifest(storage: StorageDriver, repository: str, digest: Digest) -> Manifest:
    """The stored manifest; raises ManifestUnknownError, and ManifestCorruptError if its bytes are others."""
    try:
        value = storage.read(paths.manifest(repository, digest))
    except NotFoundError as exc:
        if Quarantine(storage).has_manifest(repository, digest):
            raise _corrupt(repository, digest) from exc
        raise ManifestUnknownError(f"repository {repository} has no manifest {digest}") from exc
    if not is_whole_manifest(value, digest):
        raise _corrupt(repository, digest)
    media_type, _, body = value.partition(b"\n")
    return Manifest(media_type.decode(), digest, body)


def _corrupt(repository: str, digest: Digest) -> ManifestCorruptError:
    return ManifestCorruptError(
        f"manifest {digest} of {repository} is corrupt in the store: push it again or delete it"
    )
