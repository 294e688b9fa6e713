"""Tags: names for manifests."""

from contextlib import suppress

from dvcr.digest import Digest
from dvcr.errors import NotFoundError
from dvcr.registry.catalog import Catalog
from dvcr.registry.errors import ManifestCorruptError, ManifestUnknownError
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver


class Tags:
    """The tags of every repository."""

    def __init__(self, storage: StorageDriver, catalog: Catalog) -> None:
        self._storage = storage
        self._catalog = catalog

    def resolve(self, repository: str, tag: str) -> Digest:
        """The digest of the tagged manifest; raises ManifestUnknownError, or ManifestCorruptError."""
        try:
            return Digest.parse(self._storage.read(paths.tag(repository, tag)).decode())
        except NotFoundError as exc:
            raise ManifestUnknownError(f"repository {repository} has no tag {tag}") from exc
        except ValueError as exc:
            raise ManifestCorruptError(f"tag {tag} of {repository} is corrupt in the store: push it again") from exc

    def set(self, repository: str, tag: str, digest: Digest) -> None:
        """Point the tag at a manifest, whatever it named before."""
        self._storage.write(paths.tag(repository, tag), str(digest).encode())

    def delete(self, repository: str, tag: str) -> None:
        """Remove the tag and leave the manifest; raises ManifestUnknownError if there is none."""
        with suppress(ManifestCorruptError):
            self.resolve(repository, tag)
        self._storage.delete(paths.tag(repository, tag))

    def delete_all_of(self, repository: str, digest: Digest) -> None:
        """Remove every tag of the manifest."""
        for tag in self.all(repository):
            try:
                named = self.resolve(repository, tag)
            except (ManifestUnknownError, ManifestCorruptError):
                continue  # deleted meanwhile, or it cannot be said whose it is
            if named == digest:
                self._storage.delete(paths.tag(repository, tag))

    def all(self, repository: str) -> list[str]:
        """Every tag in lexical order."""
        return sorted(key.rpartition("/")[2] for key in self._storage.list(paths.tags(repository)))

    def page(self, repository: str, count: int, after: str = "") -> list[str]:
        """At most `count` tags that sort after `after`; raises NameUnknownError."""
        tags = [tag for tag in self.all(repository) if tag > after]
        if not tags:
            self._catalog.require(repository)
        return tags[:count]
