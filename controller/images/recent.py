"""What the registry was asked a moment ago is not asked again: a decorator over ImageRegistry."""

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from controller.images.registry import Artifact, ImageRegistry
from dvcr.artifact.staged import Part
from dvcr.digest import Digest
from dvcr.errors import RegistryError

FRESH_S = 10.0
PATIENCE_S = 90.0
"""Longer than a registry takes to restart, and than the controller lets an image be without a look at it."""
AWAY_S = 5.0
MAX_IMAGES = 2**15
"""How many are remembered: some 25 MB."""


class RecentImages:
    """ImageRegistry that remembers what it found. Thread-safe.

    For ten seconds it is the answer: an image is looked at in every pass over itself, and by every disk and machine
    that starts from it, and these come in swarms. After that the registry is asked whether it still has it, which costs
    less than reading it anew. What is not there is always asked for, so a new image is seen at once; one that somebody
    else removed is missed ten seconds late.

    A registry that does not answer is not asked again for five seconds: who waits for it would keep others waiting.
    What was found less than 90 seconds ago is taken to be there meanwhile, so that its restart concerns nobody.
    """

    def __init__(self, registry: ImageRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[float, Artifact]] = OrderedDict()
        self._away: tuple[float, RegistryError] | None = None
        """When the registry did not answer, and how."""
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._registry.host

    def find(self, repository: str, tag: str) -> Artifact | None:
        key = repository, tag
        with self._lock:
            at, known = self._found.get(key, (0.0, None))
        age_s = self._clock() - at
        if known is not None and age_s < FRESH_S:
            return known
        try:
            found = self._ask(key, known)
        except RegistryError as exc:
            if known is not None and exc.retryable and age_s < PATIENCE_S:
                return known
            raise
        with self._lock:
            self._found.pop(key, None)
            if found is not None:
                self._found[key] = self._clock(), found
            if len(self._found) > MAX_IMAGES:
                self._found.popitem(last=False)
        return found

    def find_digest(self, repository: str, tag: str) -> Digest | None:
        return self._registry.find_digest(repository, tag)

    def remove(self, repository: str, tag: str) -> None:
        try:
            self._registry.remove(repository, tag)
        finally:
            with self._lock:
                self._found.pop((repository, tag), None)

    def find_upload(self, repository: str) -> tuple[Digest, tuple[Part, ...]] | None:
        return self._registry.find_upload(repository)

    def remove_upload(self, repository: str, parts: Iterable[Part]) -> None:
        self._registry.remove_upload(repository, parts)

    def _ask(self, key: tuple[str, str], known: Artifact | None) -> Artifact | None:
        away = self._away
        if away is not None and self._clock() < away[0] + AWAY_S:
            # A copy: an error that is raised twice mixes up whose it is.
            raise copy.copy(away[1])
        try:
            if known is not None and self._registry.find_digest(*key) == known.digest:
                return known
            return self._registry.find(*key)
        except RegistryError as exc:
            if exc.code == "UNAVAILABLE":  # not where one image has its troubles
                self._away = self._clock(), exc
            raise
