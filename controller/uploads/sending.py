"""Sending a file to an upload address, and going on after whatever interrupts it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from dvcr.errors import DvcrError

FIRST_PIECE_BYTES = 2 * 2**20
"""The uploader inspects so much; what it refuses is refused before more is sent."""
_PIECE_BYTES = 64 * 2**20
_MOST_PIECES = 1024
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 15.0
_AGAIN = frozenset({404, 408, 409, 416, 425, 429, 502, 503, 504})
_WHAT_TO_DO = {
    410: "delete the image, then run the command again",
    413: "",
    422: "delete the image before you upload another file under this name",
    507: "free some space, then run the same command again: it goes on where it stopped",
}


class UploadError(DvcrError):
    """The upload cannot go on; `status` is the HTTP status that said so, 0 for none."""

    default_reason = "UploadFailed"

    def __init__(self, message: str, *, status: int = 0, retryable: bool = False) -> None:
        super().__init__(message, retryable=retryable)
        self.status = status


class CutError(DvcrError):
    """The connection was cut, or none could be made."""

    default_reason = "UploadInterrupted"
    default_retryable = True


@dataclass(frozen=True)
class Answer:
    """What the uploader said to a request."""

    status: int
    text: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Reached:
    """How far the uploader is."""

    offset_bytes: int
    total_bytes: int | None = None
    complete: bool = False
    failure: str = ""
    """Why the upload has failed; empty if it has not."""


class Address(Protocol):
    """The one-time address of an upload. Both raise CutError, and UploadError for what will not get better."""

    def look(self) -> Reached | Answer:
        """How far the upload is; an Answer where the uploader does not tell."""
        ...

    def put(self, offset_bytes: int, end_bytes: int) -> Answer:
        """Send the bytes between these offsets of the file."""
        ...


class Sender:
    """Sends a file of `total_bytes`, as often as it takes.

    `wanted` says whether the image still waits for bytes, and raises where it never will; it is asked when the uploader
    does not know the address. `progress` is told what is safe, `waiting` why nothing is sent and for how long.
    """

    def __init__(
        self,
        address: Address,
        total_bytes: int,
        *,
        wanted: Callable[[], bool],
        progress: Callable[[int], None],
        waiting: Callable[[str, float], None],
        patience_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = address
        self._total_bytes = total_bytes
        self._wanted = wanted
        self._progress = progress
        self._waiting = waiting
        self._patience_s = patience_s
        self._now = now
        self._sleep = sleep
        self._reached_bytes = 0
        self._wait_s = _FIRST_WAIT_S
        self._deadline = now() + patience_s

    def send(self) -> None:
        """Return when the uploader has the whole file.

        Raises UploadError: refused, or without progress for `patience_s`; and what `wanted` raises.
        """
        while True:
            try:
                answer = self._address.look()
                if isinstance(answer, Reached):
                    if self._take(answer):
                        return
                    answer = self._send_from(answer.offset_bytes)
            except CutError as error:
                self._pause(error.message, None)
                continue
            if answer.status == HTTPStatus.CREATED:
                self._progress(self._total_bytes)
                return
            if answer.status == HTTPStatus.NOT_FOUND and not self._wanted():
                return  # the import has the file, and the address was closed
            if answer.status not in _AGAIN:
                raise _final(answer)
            self._pause(answer.text or f"the uploader answered {answer.status}", answer.retry_after_s)

    def _take(self, reached: Reached) -> bool:
        """Whether nothing is left to send."""
        if reached.failure:
            raise _final(Answer(HTTPStatus.GONE, f"the upload has failed: {reached.failure}"))
        total = reached.total_bytes if reached.offset_bytes or reached.complete else None
        if total not in (None, self._total_bytes) or reached.offset_bytes > self._total_bytes:
            raise UploadError(
                f"the upload was begun with another file, of {reached.total_bytes or 'more'} bytes; this one has "
                f"{self._total_bytes}. Go on with that file, or delete the image and run the command again",
                status=409,
            )
        self._reach(reached.offset_bytes)
        return reached.complete

    def _send_from(self, offset_bytes: int) -> Answer:
        # The answer to a small piece is always heard; one in the middle of a long body may be lost with the connection.
        end = min(offset_bytes + FIRST_PIECE_BYTES, self._total_bytes)
        while True:
            answer = self._address.put(offset_bytes, end)
            if answer.status != HTTPStatus.ACCEPTED:
                return answer
            self._reach(end)
            # No shorter than the parts that the uploader makes of so long a file.
            offset_bytes, piece = end, max(_PIECE_BYTES, self._total_bytes // _MOST_PIECES)
            end = min(offset_bytes + piece, self._total_bytes)

    def _reach(self, offset_bytes: int) -> None:
        self._progress(offset_bytes)
        if offset_bytes > self._reached_bytes:
            self._reached_bytes = offset_bytes
            self._wait_s = _FIRST_WAIT_S
            self._deadline = self._now() + self._patience_s

    def _pause(self, why: str, retry_after_s: float | None) -> None:
        left_s = self._deadline - self._now()
        wait_s = max(self._wait_s, retry_after_s or 0)
        if wait_s >= left_s:
            raise UploadError(
                f"no progress within {self._patience_s:g} s: {why}; run the same command again to go on", retryable=True
            )
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        self._waiting(why, wait_s)
        self._sleep(wait_s)


def _final(answer: Answer) -> UploadError:
    said = answer.text or f"the uploader answered {answer.status}"
    what_to_do = _WHAT_TO_DO.get(answer.status, "")
    return UploadError(f"{said}; {what_to_do}" if what_to_do else said, status=answer.status)
