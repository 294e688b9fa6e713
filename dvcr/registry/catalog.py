"""Which repositories exist."""

from collections.abc import Callable

from dvcr.errors import NotFoundError
from dvcr.registry.errors import NameUnknownError
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver


def mark(storage: StorageDriver, key: str) -> None:
    """Make sure that the empty value `key` exists and is fresh."""
    try:
        storage.touch(key)
    except NotFoundError:
        storage.write(key, b"")


class Catalog:
    """The repositories of a store. One comes to be with its first blob or manifest, and goes by garbage collection."""

    def __init__(self, storage: StorageDriver) -> None:
        self._storage = storage

    def enter(self, repository: str) -> None:
        """Make the repository exist, and fresh."""
        mark(self._storage, paths.catalog_entry(repository))

    def require(self, repository: str) -> None:
        """Raise NameUnknownError unless the repository exists."""
        try:
            self._storage.stat(paths.catalog_entry(repository))
        except NotFoundError as exc:
            raise NameUnknownError(f"there is no repository {repository}") from exc

    def all(self) -> list[str]:
        """Every repository, also those that hold no manifest (any more), sorted."""
        return sorted(paths.repository_of(key) for key in self._storage.list(paths.CATALOG))

    def page(self, count: int, after: str = "", shown: Callable[[str], bool] = lambda _name: True) -> list[str]:
        """At most `count` repositories with a manifest whose names sort after `after`, of those that `shown` allows."""
        page: list[str] = []
        for name in self.all():
            if len(page) == count:
                break
            if name > after and shown(name) and next(iter(self._storage.list(paths.manifests(name))), None) is not None:
                page.append(name)
        return page
