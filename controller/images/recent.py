"""What the registry was asked a moment ago is not asked again: a decorator over ImageRegistry."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from controller.images.registry import ImageRegistry
from dvcr.artifact.staged import Part
from dvcr.artifact.store import StoredImage
from dvcr.digest import Digest

FRESH_S = 10.0
MAX_CHUNKS = 2**16
"""Of all images that are remembered together, each of which counts for at least 64: some 30 MB."""
_LEAST_CHUNKS = 64


class RecentImages:
    """ImageRegistry that remembers for ten seconds what it found. Thread-safe.

    An image is looked at in every pass over itself, and by every disk and machine that starts from it: these come in
    swarms. What is not there is always asked for, so a new image is seen at once; one that somebody else removed is
    missed ten seconds late.
    """

    def __init__(self, registry: ImageRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[float, StoredImage]] = OrderedDict()
        self._chunks = 0
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._registry.host

    def find(self, repository: str, tag: str) -> StoredImage | None:
        key = repository, tag
        with self._lock:
            at, stored = self._found.get(key, (0.0, None))
        if stored is not None and self._clock() < at + FRESH_S:
            return stored
        stored = self._registry.find(repository, tag)
        with self._lock:
            self._forget(key)
            if stored is not None:
                self._found[key] = self._clock(), stored
                self._chunks += _weight(stored)
            while self._chunks > MAX_CHUNKS:
                self._forget(next(iter(self._found)))
        return stored

    def remove(self, repository: str, tag: str) -> None:
        try:
            self._registry.remove(repository, tag)
        finally:
            with self._lock:
                self._forget((repository, tag))

    def find_upload(self, repository: str) -> tuple[Digest, tuple[Part, ...]] | None:
        return self._registry.find_upload(repository)

    def remove_upload(self, repository: str, parts: Iterable[Part]) -> None:
        self._registry.remove_upload(repository, parts)

    def _forget(self, key: tuple[str, str]) -> None:
        _, stored = self._found.pop(key, (0.0, None))
        if stored is not None:
            self._chunks -= _weight(stored)


def _weight(stored: StoredImage) -> int:
    return max(_LEAST_CHUNKS, len(stored.image.chunks))
