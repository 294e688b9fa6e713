"""Blobs that no manifest names yet, kept from a registry's garbage collection for as long as that takes."""

import threading
from collections import deque

import structlog

from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.repository import Repository
from dvcr.digest import Digest
from dvcr.errors import RegistryError

# DVCR's registry takes what nobody used for a day, and all that no manifest names once nobody pushed for an hour.
# Asking whether a blob is there is a use. So one is asked for every 20 minutes at least, and each every 12 hours.
HOLD_EVERY_S = 20 * 60.0
_TURNS = 36
log = structlog.get_logger(__name__)


class HeldBlobs:
    """Asks for the blobs again and again until it is closed, a share of them at a time, so that they stay.

    A blob that is gone all the same, or a registry that does not answer, is found out by who names the blob at last.
    """

    def __init__(self, repository: Repository, every_s: float = HOLD_EVERY_S) -> None:
        self._cancellation = Cancellation()
        self._repository = repository.on_behalf_of(self._cancellation)
        self._every_s = every_s
        self._digests: deque[Digest] = deque()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="held-blobs", daemon=True)
        self._thread.start()

    def add(self, digest: Digest) -> None:
        """Hold a blob that was put, or found, just now. Thread-safe."""
        with self._lock:
            self._digests.append(digest)

    def refresh(self) -> None:
        """One turn: ask for those that were asked for, or put, the longest ago."""
        with self._lock:
            share = -(-len(self._digests) // _TURNS)
            due = [self._digests[index] for index in range(share)]
            self._digests.rotate(-share)
        for digest in due:
            self._repository.has_blob(digest)

    def close(self) -> None:
        """Let them go. Idempotent."""
        self._ended.set()
        self._cancellation.cancel()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self.refresh()
            except RegistryError as error:
                log.warning("blobs could not be held", repository=self._repository.name, error=error.message)
            except RequestCancelledError:
                return
