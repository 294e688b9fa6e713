"""Garbage collection: online mark and sweep. docs/storage-format.md argues why no push can lose a blob to it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from dvcr.digest import Digest
from dvcr.errors import NotFoundError
from dvcr.registry.catalog import Catalog
from dvcr.registry.document import ManifestDocument
from dvcr.registry.errors import ManifestCorruptError, ManifestInvalidError, ManifestUnknownError
from dvcr.registry.manifests import read_manifest
from dvcr.registry.quarantine import Quarantine, exists
from dvcr.registry.uploads import Uploads
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver

log = structlog.get_logger(__name__)


@dataclass
class CollectReport:
    """What a run removed, or would remove."""

    repositories: int = 0
    links: int = 0
    blobs: int = 0
    bytes: int = 0
    uploads: int = 0
    unreadable: int = 0
    """Repositories of which everything was kept, because a manifest of theirs cannot be read."""


class Collector:
    """Removes what nothing needs, while pushes and pulls go on.

    A blob link that no manifest of its repository needs goes once nothing was pushed to the repository for `grace`
    (so an import may take as long as it takes), at the latest `expiry` after its own last use; a blob without links
    goes `grace` after its last use, an upload session `expiry` after its own.
    """

    def __init__(
        self, storage: StorageDriver, catalog: Catalog, uploads: Uploads, *, grace: timedelta, expiry: timedelta
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._uploads = uploads
        self._grace = grace
        self._expiry = max(expiry, grace)

    def run(self, *, dry_run: bool = False, stop: Callable[[], bool] = lambda: False) -> CollectReport:
        """One run; `stop` is asked between steps and ends it early, which is always safe. `dry_run` only counts."""
        now = datetime.now(UTC)
        report = CollectReport(uploads=self._uploads.expire(self._expiry, dry_run=dry_run))
        needed: set[Digest] = set()
        for repository in self._catalog.all():
            if stop():
                return report
            needed |= self._sweep_links(repository, now, report, dry_run=dry_run)
        self._sweep_blobs(needed, now - self._grace, report, dry_run=dry_run, stop=stop)
        return report

    def _sweep_links(self, repository: str, now: datetime, report: CollectReport, *, dry_run: bool) -> set[Digest]:
        """Remove links that no manifest needs; gives the digests of those that stay."""
        ages = self._ages(paths.blob_links(repository))
        marked, readable = self._mark(repository)
        if not readable:
            # What the manifest names is not known: keep all that it may name, until it is pushed again or deleted.
            report.unreadable += 1
            return {paths.last_digest(key) for key in ages}
        quiet = max(ages.values(), default=now) < now - self._grace
        cutoff = now - (self._grace if quiet else self._expiry)
        kept: set[Digest] = set()
        for key, modified_at in ages.items():
            digest = paths.last_digest(key)
            if digest in marked or modified_at >= cutoff or not self._remove(key, cutoff, dry_run=dry_run):
                kept.add(digest)
            else:
                report.links += 1
        for key in list(self._storage.list(paths.all_referrers(repository))):
            if not exists(self._storage, paths.manifest(repository, paths.last_digest(key))):
                self._remove(key, now - self._grace, dry_run=dry_run)
        if not kept and next(iter(self._storage.list(paths.manifests(repository))), None) is None:
            report.repositories += self._remove(paths.catalog_entry(repository), now - self._grace, dry_run=dry_run)
        return kept

    def _sweep_blobs(
        self,
        needed: set[Digest],
        cutoff: datetime,
        report: CollectReport,
        *,
        dry_run: bool,
        stop: Callable[[], bool],
    ) -> None:
        for key in self._storage.list(paths.BLOBS):
            if stop():
                return
            if paths.blob_digest(key) in needed:
                continue
            try:
                found = self._storage.stat(key)
            except NotFoundError:
                continue
            if found.modified_at < cutoff and self._remove(key, cutoff, dry_run=dry_run):
                report.blobs += 1
                report.bytes += found.size_bytes

    def _mark(self, repository: str) -> tuple[set[Digest], bool]:
        """What the repository's manifests name, and whether every one of them could be read."""
        marked: set[Digest] = set()
        for key in self._storage.list(paths.manifests(repository)):
            try:
                manifest = read_manifest(self._storage, repository, paths.last_digest(key))
                marked.update(ManifestDocument.parse(manifest.body, manifest.media_type).blobs())
            except ManifestUnknownError:
                continue  # deleted meanwhile
            except (ManifestCorruptError, ManifestInvalidError) as exc:
                log.warning("manifest cannot be read", repository=repository, error=str(exc))
                return set(), False
        return marked, next(Quarantine(self._storage).manifests(repository), None) is None

    def _ages(self, prefix: str) -> dict[str, datetime]:
        ages: dict[str, datetime] = {}
        for key in self._storage.list(prefix):
            try:
                ages[key] = self._storage.stat(key).modified_at
            except NotFoundError:
                continue
        return ages

    def _remove(self, key: str, cutoff: datetime, *, dry_run: bool) -> bool:
        if not dry_run:
            return self._storage.delete_unmodified_since(key, cutoff)
        return exists(self._storage, key) and self._storage.stat(key).modified_at < cutoff
