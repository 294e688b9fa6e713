"""When a request is worth repeating, and how long to wait before."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from dvcr.errors import RegistryError

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(RegistryError):
    """The registry is overloaded or down for the moment, and says after how many seconds to come back."""

    def __init__(self, message: str, *, code: str = "UNKNOWN", status: int = 503, retry_after_s: float = 0) -> None:
        super().__init__(message, code=code, status=status, retryable=True)
        self.retry_after_s = retry_after_s


TellRetry = Callable[[str], None]
"""Is told what went wrong and that it is tried again, from whatever thread."""


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats what failed with an error that says it is `retryable`; waits grow, with jitter.

    The defaults outlast the restart of a registry: about 8 s where connections are refused.
    """

    attempts: int = 6
    first_wait_s: float = 0.25
    longest_wait_s: float = 30
    sleep: Callable[[float], None] = time.sleep
    on_retry: TellRetry = lambda _: None

    def run(self, operation: Callable[[], T]) -> T:
        """What `operation` returns, or the error of the last attempt. `operation` must be idempotent as a whole."""
        for attempt in range(1, self.attempts):
            try:
                return operation()
            except RegistryError as error:
                if not error.retryable:
                    raise
                self.wait(attempt, error)
        return operation()

    def wait(self, attempt: int, error: RegistryError) -> None:
        """Sleep between failed attempt number `attempt`, from 1, and the next."""
        self.on_retry(f"{error.message}, trying again ({attempt + 1} of {self.attempts})")
        if isinstance(error, BusyError):
            self.sleep(min(error.retry_after_s, self.longest_wait_s))
        else:
            self.sleep(min(self.first_wait_s * 2.0 ** (attempt - 1), self.longest_wait_s) * random.uniform(0.75, 1.25))


class _Retrying(Protocol):
    @property
    def retry(self) -> RetryPolicy: ...


S = TypeVar("S", bound=_Retrying)


def retried(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run an idempotent method under the `retry` policy of its object."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.retry.run(lambda: method(self, *args, **kwargs))

    return run
