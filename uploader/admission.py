"""How many files are received at the same time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from uploader.tickets import RefusedError

_AGAIN = {"Retry-After": "5"}


class Admission:
    """At most `max_uploads` under way, `max_client_uploads` of one address."""

    def __init__(self, max_uploads: int, max_client_uploads: int) -> None:
        self._max_uploads = max_uploads
        self._max_client_uploads = max_client_uploads
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Count an upload while it is under way; RefusedError 429 or 503."""
        if self._under_way[client] >= self._max_client_uploads:
            raise RefusedError(
                429, f"{self._max_client_uploads} uploads of {client} are under way already; wait for one", _AGAIN
            )
        if self._under_way.total() >= self._max_uploads:
            raise RefusedError(503, f"{self._max_uploads} uploads are under way already; try again soon", _AGAIN)
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]
