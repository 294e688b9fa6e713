"""What was read from small files a moment ago, as long as they are still the same."""

import os
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeAlias, TypeVar

from dvcr.errors import NotFoundError
from dvcr.registry.identity import Identity, identity
from dvcr.registry.trust import now
from dvcr.storage.driver import LocalFiles, StorageDriver

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_REMEMBERED = 1024

Look: TypeAlias = tuple[tuple[str, Identity], ...]


class Recall(Generic[K, V]):
    """Answers that rest on files. Each is given for `hold_s`, and after a look at every file it rests on.

    So whatever another thread, worker or server does to the files is seen by the next `get`. That blocks no longer than
    the kernel needs to tell of files that it was asked for within `hold_s`: an event loop may call it. Over a store
    without files it is always empty. Thread-safe.
    """

    def __init__(self, storage: StorageDriver, hold_s: float) -> None:
        self._storage = storage
        self._hold_s = hold_s
        self._held: OrderedDict[K, tuple[V, Look, float]] = OrderedDict()
        self._lock = Lock()

    def look(self, *keys: str) -> Look:
        """The files of these keys of the store as they are now; none where the store has no files, or lacks one."""
        if not isinstance(self._storage, LocalFiles):
            return ()
        try:
            files = [self._storage.local_path(key) for key in keys]
            return tuple((str(file), identity(file.stat())) for file in files)
        except (NotFoundError, OSError):
            return ()

    def put(self, key: K, value: V, look: Look, looked_at: float) -> None:
        """Remember a value that is true as long as the files are as they were at `look`, until `hold_s` after that."""
        if not look or not self._hold_s:
            return
        with self._lock:
            self._held[key] = value, look, looked_at + self._hold_s
            self._held.move_to_end(key)
            if len(self._held) > _REMEMBERED:
                self._held.popitem(last=False)

    def get(self, key: K) -> V | None:
        """The value, if it is known to be true at this moment."""
        value, look, until = self._held.get(key, (None, (), 0.0))
        if not look or now() > until:
            return None
        try:
            return value if all(identity(os.stat(file)) == known for file, known in look) else None  # noqa: PTH116
        except OSError:
            return None
