"""Scrubbing: every byte of the store against its digest, and which images suffer (docs/storage-format.md)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from dvcr.digest import Digest
from dvcr.errors import NoSpaceError, NotFoundError, StorageError
from dvcr.registry.catalog import Catalog
from dvcr.registry.document import ManifestDocument
from dvcr.registry.errors import ManifestCorruptError, ManifestInvalidError, ManifestUnknownError
from dvcr.registry.manifests import read_manifest
from dvcr.registry.quarantine import Quarantine, exists, hash_blob
from dvcr.registry.referrers import Referrers
from dvcr.registry.tags import Tags
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver

log = structlog.get_logger(__name__)


@dataclass
class ScrubReport:
    """What a run read and found."""

    blobs: int = 0
    manifests: int = 0
    bytes: int = 0
    corrupt_blobs: list[str] = field(default_factory=list)
    """Digests of blobs that this run moved to quarantine."""
    corrupt_manifests: list[str] = field(default_factory=list)
    """`repository@digest` of manifests that this run moved to quarantine."""
    unreadable: list[str] = field(default_factory=list)
    """What could not be read or moved, and why; it stays where it is."""
    damaged_images: dict[str, list[str]] = field(default_factory=dict)
    """For each `repository:tag` (`repository@digest` without a tag) that cannot be pulled whole: what it lacks."""
    repaired_referrers: int = 0
    """Entries of the referrers list that were missing or wrong and were written anew from their manifest."""

    @property
    def healthy(self) -> bool:
        """Whether nothing was found, and every image can be pulled."""
        return not (self.corrupt_blobs or self.corrupt_manifests or self.unreadable or self.damaged_images)


class Scrubber:
    """Re-hashes all blobs and manifests while pushes and pulls go on; memory does not grow with the store's size."""

    def __init__(self, storage: StorageDriver, catalog: Catalog, tags: Tags, referrers: Referrers) -> None:
        self._storage = storage
        self._catalog = catalog
        self._tags = tags
        self._referrers = referrers
        self._quarantine = Quarantine(storage)

    def size_bytes(self) -> int:
        """Bytes of all blobs now: what a run has to read."""
        return sum(size_bytes for _, size_bytes in self._blobs())

    def run(
        self, *, on_bytes: Callable[[int], None] = lambda _count: None, stop: Callable[[], bool] = lambda: False
    ) -> ScrubReport:
        """One run. `on_bytes` hears of bytes read, `stop` is asked between values and ends it early.

        Corrupt values go to quarantine: a pull of them gets `404`, and pushing them again heals the images.
        """
        report = ScrubReport()
        self._quarantine.release_healed(self._catalog.all())
        for digest, _ in self._blobs():
            if stop():
                return report
            self._check_blob(digest, report, on_bytes)
        for repository in self._catalog.all():
            if stop():
                return report
            self._check_repository(repository, report)
        return report

    def _blobs(self) -> Iterator[tuple[Digest, int]]:
        for key in self._storage.list(paths.BLOBS):
            try:
                yield paths.blob_digest(key), self._storage.stat(key).size_bytes
            except NotFoundError:
                continue  # collected meanwhile

    def _check_blob(self, digest: Digest, report: ScrubReport, on_bytes: Callable[[int], None]) -> None:
        def count(read_bytes: int) -> None:
            report.bytes += read_bytes
            on_bytes(read_bytes)

        try:
            actual = hash_blob(self._storage, paths.blob(digest), digest.algorithm, on_bytes=count)
            if actual != digest and self._quarantine.take_blob(digest):
                log.error("corrupt blob quarantined", digest=str(digest), actual=str(actual))
                report.corrupt_blobs.append(str(digest))
        except NotFoundError:
            return
        except (OSError, StorageError) as exc:
            report.unreadable.append(f"blob {digest}: {_reason(exc)}")
        report.blobs += 1

    def _check_repository(self, repository: str, report: ScrubReport) -> None:
        names: dict[Digest, list[str]] = {}
        for tag in self._tags.all(repository):
            try:
                names.setdefault(self._tags.resolve(repository, tag), []).append(f"{repository}:{tag}")
            except ManifestCorruptError as exc:
                report.damaged_images[f"{repository}:{tag}"] = [str(exc)]
            except ManifestUnknownError:
                continue  # deleted meanwhile
        lacks: dict[Digest, list[str]] = {}
        parents: dict[Digest, list[Digest]] = {}
        for key in self._storage.list(paths.manifests(repository)):
            self._check_manifest(repository, paths.last_digest(key), report, lacks, parents)
        for digest in self._quarantine.manifests(repository):
            lacks[digest] = [f"manifest {digest} is corrupt"]
        # What an image lacks, every index that lists it lacks too.
        spreading = list(lacks)
        while spreading:
            damaged = spreading.pop()
            for parent in parents.get(damaged, ()):
                if missing := [text for text in lacks[damaged] if text not in lacks.get(parent, ())]:
                    lacks.setdefault(parent, []).extend(missing)
                    spreading.append(parent)
        for digest, missing in lacks.items():
            for name in names.get(digest) or [f"{repository}@{digest}"]:
                report.damaged_images[name] = missing

    def _check_manifest(
        self,
        repository: str,
        digest: Digest,
        report: ScrubReport,
        lacks: dict[Digest, list[str]],
        parents: dict[Digest, list[Digest]],
    ) -> None:
        try:
            manifest = read_manifest(self._storage, repository, digest)
            document = ManifestDocument.parse(manifest.body, manifest.media_type)
        except ManifestUnknownError:
            return
        except ManifestCorruptError:
            if self._move_manifest(repository, digest, report):
                report.manifests += 1
            return
        except (ManifestInvalidError, OSError, StorageError) as exc:
            report.unreadable.append(f"manifest {repository}@{digest}: {_reason(exc)}")
            return
        report.manifests += 1
        report.bytes += len(manifest.body)
        for child in document.manifests:
            parents.setdefault(child.digest, []).append(digest)
        if missing := [f"blob {blob} is missing" for blob in document.required_blobs() if self._lost(repository, blob)]:
            lacks[digest] = missing
        if document.subject:
            referrer = document.as_referrer(manifest.media_type, digest, len(manifest.body))
            report.repaired_referrers += self._referrers.repair(repository, document.subject.digest, referrer)

    def _move_manifest(self, repository: str, digest: Digest, report: ScrubReport) -> bool:
        try:
            moved = self._quarantine.take_manifest(repository, digest)
        except NoSpaceError as exc:
            report.unreadable.append(f"manifest {repository}@{digest}: {_reason(exc)}")
            return False
        if moved:
            log.error("corrupt manifest quarantined", repository=repository, digest=str(digest))
            report.corrupt_manifests.append(f"{repository}@{digest}")
        return True

    def _lost(self, repository: str, digest: Digest) -> bool:
        """Whether the repository has the blob, and the store its bytes no more. What never came is not lost."""
        return exists(self._storage, paths.blob_link(repository, digest)) and not exists(
            self._storage, paths.blob(digest)
        )


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
