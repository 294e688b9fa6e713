"""How an undertaking lets go of servers that do not answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import requests

from dvcr.errors import DvcrError

T = TypeVar("T")


class RequestCancelledError(DvcrError):
    """Nobody wants the answer any more."""

    default_reason = "RequestCancelled"

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class AnswerTimeoutError(DvcrError):
    """The answer took longer than it was waited for."""

    default_reason = "RequestTimeout"
    default_retryable = True

    def __init__(self) -> None:
        super().__init__("the request was not answered in time")


class Cancellation:
    """Ends whatever waits for a server in its name, within moments and for good. Thread-safe.

    Nothing can wake a thread that resolves a name, connects, or waits for the first byte of an answer. So that is done
    by a thread of its own, which is left alone with it: it ends by its own timeout, and what it brings is thrown away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._wakers: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Make everything that runs, and all that is asked later, raise RequestCancelledError. Idempotent."""
        with self._lock:
            self._cancelled = True
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def check(self) -> None:
        """Raise RequestCancelledError once cancelled."""
        if self._cancelled:
            raise RequestCancelledError

    def child(self) -> "Cancellation":
        """One that is cancelled with this one, and can be without it."""
        child = Cancellation()
        self.on_cancel(child.cancel)
        return child

    def on_cancel(self, wake: Callable[[], None]) -> None:
        """Have `cancel` call `wake`, in its own thread; at once where it was called before."""
        with self._lock:
            if not self._cancelled:
                self._wakers.append(wake)
                return
        wake()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """As `on_cancel`, while entered."""
        self.on_cancel(wake)
        try:
            yield
        finally:
            with self._lock:
                if wake in self._wakers:
                    self._wakers.remove(wake)

    def run(
        self, call: Callable[[], T], discard: Callable[[T], None] = lambda _: None, timeout_s: float | None = None
    ) -> T:
        """What `call` returns or raises; `discard` gets what comes too late.

        RequestCancelledError, also meanwhile; AnswerTimeoutError after `timeout_s`.
        """
        self.check()
        attempt = _Attempt(call, discard)
        threading.Thread(target=attempt.work, name="request", daemon=True).start()
        with self.waking(lambda: attempt.abandon(RequestCancelledError())):
            if not attempt.settled.wait(timeout_s):
                attempt.abandon(AnswerTimeoutError())
        return attempt.outcome()


def shut_down(response: requests.Response) -> None:
    """Wake a thread that waits for more of the body: to it, the body ends here."""
    if not response.raw.closed:
        try:
            response.raw.shutdown()
        except (OSError, ValueError, RuntimeError):
            return  # it ended by itself just now


class _Attempt(Generic[T]):
    """One call in a thread, which is waited for or abandoned."""

    def __init__(self, call: Callable[[], T], discard: Callable[[T], None]) -> None:
        self.settled = threading.Event()
        self._call = call
        self._discard = discard
        self._lock = threading.Lock()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def work(self) -> None:
        try:
            result = self._call()
        except BaseException as exc:  # noqa: BLE001 (raised by `outcome`)
            self.abandon(exc)
        else:
            with self._lock:
                late = self.settled.is_set()
                if not late:
                    self._results.append(result)
                    self.settled.set()
            if late:
                self._discard(result)

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]

    def abandon(self, error: BaseException) -> None:
        with self._lock:
            if not self.settled.is_set():
                self._error = error
                self.settled.set()
