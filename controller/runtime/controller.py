"""The loop of one kind: keys come from informers, workers reconcile them."""

import threading
import time
from typing import Protocol

import structlog

from controller.runtime.errors import AlreadyExistsError, ClusterError, ConflictError
from controller.runtime.index import Key
from controller.runtime.metrics import QUEUE_DEPTH, RECONCILE_SECONDS
from controller.runtime.queue import WorkQueue
from dvcr.errors import DvcrError

_log = structlog.get_logger(__name__)
_CONFLICT_DELAY_S = 0.1


class Reconciler(Protocol):
    """Brings the world to what an object's spec says. Level-triggered: it reads everything anew."""

    def reconcile(self, key: Key) -> float | None:
        """One pass over the object (which may be gone); seconds after which to look again, if that matters."""
        ...


class Controller:
    """Reconciles the keys it is given, each by one worker at a time; errors back off for each key."""

    def __init__(self, name: str, reconciler: Reconciler, *, workers: int) -> None:
        self.name = name
        self._reconciler = reconciler
        self._queue: WorkQueue[Key] = WorkQueue()
        QUEUE_DEPTH.labels(name).set_function(self._queue.__len__)
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]

    def enqueue(self, namespace: str, name: str) -> None:
        """Have the object looked at."""
        self._queue.add((namespace, name))

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no other pass."""
        self._queue.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the passes that are under way; whether they ended in time."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return self.idle

    @property
    def idle(self) -> bool:
        """Whether no worker runs."""
        return not any(thread.is_alive() for thread in self._threads)

    def process(self, key: Key) -> None:
        """One pass, with everything that follows from its result."""
        log = _log.bind(controller=self.name, namespace=key[0], name=key[1])
        result, began = "done", time.monotonic()
        try:
            again_s = self._reconciler.reconcile(key)
        except (ConflictError, AlreadyExistsError) as exc:
            result = "conflict"
            log.debug("changed meanwhile", error=exc.message)
            self._queue.add_after(key, _CONFLICT_DELAY_S)
        except DvcrError as exc:
            result = "failed"
            # What will not help by itself waits for a change, or for the next resync.
            asked_s = exc.retry_after_s if isinstance(exc, ClusterError) else 0
            delay_s = self._queue.retry(key, asked_s) if exc.retryable else None
            log.warning("reconcile failed", reason=exc.reason, error=exc.message, retry_s=delay_s)
        except Exception:  # a bug with one object must not end the work on all others
            result = "crashed"
            log.exception("reconcile crashed", retry_s=round(self._queue.retry(key), 1))
        else:
            self._queue.forget(key)
            if again_s is not None:
                self._queue.add_after(key, again_s)
        finally:
            RECONCILE_SECONDS.labels(self.name, result).observe(time.monotonic() - began)

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self.process(key)
            finally:
                self._queue.done(key)
