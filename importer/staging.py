"""Chunks on their way to becoming an image: pushed, but not yet referred to by any manifest."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

from dvcr.client.repository import Repository
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest
from dvcr.errors import RegistryError

_PARALLEL_DELETES = 8


class StagedChunks:
    """The converter's ChunkStore over a repository; `discard` takes back what an import that failed has put."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._put: set[Digest] = set()
        self._sent_bytes = 0
        self._lock = threading.Lock()

    @property
    def sent_bytes(self) -> int:
        """Bytes that the registry did not have yet."""
        return self._sent_bytes

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Make the repository have the chunk. Called from several threads."""
        with self._lock:
            if descriptor.digest in self._put:
                return
            # Before it is sent: a push that fails half-way may have arrived all the same.
            self._put.add(descriptor.digest)
        if self._repository.push_blob(descriptor.digest, data):
            with self._lock:
                self._sent_bytes += len(data)

    def add(self, digest: Digest) -> None:
        """Take a blob that something else may push into account."""
        with self._lock:
            self._put.add(digest)

    def discard(self) -> None:
        """Remove every blob that was put from the repository, but for those that a tagged manifest of it needs.

        Chunks that were mounted rather than sent are removed too: the mount is this import's.
        """
        if not self._put:
            return
        superfluous = self._put - self._needed()
        with ThreadPoolExecutor(_PARALLEL_DELETES, "discard") as pool:
            for _ in pool.map(self._repository.delete_blob, superfluous):
                pass  # raises what a deletion raised
        self._put.clear()

    def _needed(self) -> set[Digest]:
        needed: set[Digest] = set()
        for tag in self._repository.tags():
            try:
                manifest = json.loads(self._repository.manifest(tag).body)
            except RegistryError as exc:
                if exc.status != 404:  # removed meanwhile
                    raise
                continue
            for descriptor in [manifest.get("config"), *manifest.get("layers", [])]:
                if descriptor:
                    needed.add(Digest.parse(descriptor["digest"]))
        return needed
