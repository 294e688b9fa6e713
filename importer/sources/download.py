"""One HTTP body, once, in order, over as many connections as it takes (RFC 9110: ranges, validators)."""

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import requests
import structlog

from dvcr.client.cancellation import Cancellation, RequestCancelledError, shut_down
from dvcr.config import ImporterSettings
from dvcr.errors import SourceError
from dvcr.jobs.job import HttpOrigin
from importer.sources.answer import NoRangeError, check_busy, content_length, content_range, validators
from importer.sources.pace import Pace
from importer.sources.ranges import SEGMENT_BYTES, ParallelRanges
from importer.sources.request import BrokenError, HttpRequests

PIECE_BYTES = 2**20
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0
_LONGEST_AFTER_S = 300.0
_RANGE_RETRIES = 2
_REFUSALS = {401: "SourceForbidden", 403: "SourceForbidden", 404: "SourceNotFound", 410: "SourceNotFound"}
_ADVICE = {
    401: "; give user and password, for a resource in the Secret of http.secretRef",
    403: "; does the address need credentials, or has it expired?",
}
# One connection is looked at for so long before more are tried, and does well enough at such a speed. At a very low one
# it would take minutes until the first segment has come.
_LOOK_S = 0.5
_SLOW_BYTES_S = 64 * 2**10
_FAST_BYTES_S = 200 * 2**20
_WORTH_BYTES = 8 * SEGMENT_BYTES
_GAIN = 1.2

log = structlog.get_logger(__name__)


@dataclass
class _Speed:
    """Bytes over the time that was waited for them."""

    size_bytes: int = 0
    waited_s: float = 0.0

    @property
    def known(self) -> bool:
        return self.waited_s >= _LOOK_S

    @property
    def bytes_s(self) -> float:
        return self.size_bytes / self.waited_s if self.waited_s else 0.0


class HttpDownload:
    """The body at a URL. A broken connection goes on where it stopped, if the server tells that the file is the same.

    A server without ranges sends everything again, and what was already taken is skipped. That needs a validator (ETag
    or Last-Modified), or `verified`: a promise that the caller will check the bytes at the end.

    A long file that comes slowly over one connection is fetched over several, where the server can; where that is not
    faster, or one of them fails, it goes on over one.
    """

    def __init__(self, origin: HttpOrigin, settings: ImporterSettings, *, verified: bool) -> None:
        self.total_bytes: int | None = None
        """Known after the first piece, where the server told it."""
        self._cancellation = Cancellation()
        self._requests = HttpRequests(origin, settings, self._cancellation)
        self.trouble = ""
        """What went wrong since the last byte, and which attempt this is."""
        self._url = self._requests.shown
        self._retries = settings.retries
        self._slow_timeout_s = settings.slow_timeout_s
        self._pace = self._new_pace()
        self._connections = settings.connections
        self._verified = verified
        self._position = 0
        self._etag = ""
        self._modified = ""
        self._ranges = False
        self._begun = False
        self._open: set[requests.Response] = set()
        self._open_lock = threading.Lock()
        self._stopped = threading.Event()

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces of at most 1 MiB. Ends early, without an error, only after `stop`.

        Raises SourceError: NotFound, Forbidden, Changed, or once `retries` attempts in a row brought no new byte
        Unavailable (nothing came yet) or Interrupted; TooSlow.
        """
        self._pace = self._new_pace()
        with closing(self._pieces()) as pieces:
            for piece in pieces:
                with self._pace.paused():
                    yield piece

    def _pieces(self) -> Generator[bytes]:
        failures = 0
        while not self._stopped.is_set():
            before = self._position
            try:
                speed = _Speed()
                with closing(self._attempt(speed)) as pieces:
                    for piece in pieces:
                        self._position += len(piece)
                        self.trouble = ""
                        yield piece
                        if self._may_widen(speed):
                            break
                    else:
                        return
                yield from self._widened(speed)
                if self._position == self.total_bytes:
                    return
            except BrokenError as exc:
                if self._stopped.is_set():
                    return
                failures = 0 if self._position > before else failures + 1
                if failures > self._retries:
                    self._give_up(exc)
                self._wait(exc, failures, self._retries)
                self._pace.count(0)
            except RequestCancelledError:
                return

    def identity(self) -> Mapping[str, Any] | None:
        """What proves later that the file is still the same; None where the server tells nothing that would."""
        if self.total_bytes is None or not self._ranges or not self._validator():
            return None
        return {"etag": self._etag, "modified": self._modified, "total": self.total_bytes}

    def resume(self, position: int, identity: Mapping[str, Any]) -> bool:
        """Go on from `position` of a download that `identity` was told of, if the server proves it is the same file.

        SourceError, retryable, where it proves neither that nor the contrary.
        """
        self._etag, self._modified, self.total_bytes = identity["etag"], identity["modified"], identity["total"]
        try:
            if 0 < position <= identity["total"]:
                self._range_again(position - 1, 1, self._retries)
                self._position, self._begun, self._ranges = position, True, True
                return True
        except (NoRangeError, SourceError) as exc:
            # Whatever it is, starting over either works or tells the user what is wrong.
            log.info("a download starts over", url=self._url, why=str(exc))
        except BrokenError as exc:
            self._give_up(exc)  # the bytes may still be good at the next attempt
        self._etag, self._modified, self.total_bytes = "", "", None
        return False

    def read_range(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """Exactly that range of the file that is known already, from any thread; None where the server refuses it."""
        if not self._ranges:
            return None
        try:
            return b"".join(self._range_again(offset_bytes, length_bytes, _RANGE_RETRIES))
        except (BrokenError, SourceError, RequestCancelledError) as exc:
            log.info("the server does not give a range", url=self._url, why=str(exc))
            return None

    def stop(self) -> None:
        """End `pieces` soon, from another thread. Idempotent."""
        self._stopped.set()
        self._cancellation.cancel()
        self._shut_down(self._open)

    def close(self) -> None:
        """Give up the connections. For the thread that read the pieces."""
        self._requests.close()

    def _attempt(self, speed: _Speed) -> Generator[bytes]:
        with self._requests.get(self._condition(self._position)) as response, self._stoppable(response):
            start = self._check(response)
            if start is None:
                return
            skip = self._position - start
            while piece := _timed_read(response, speed):
                self._pace.count(len(piece))
                if skip < len(piece):
                    yield piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
        if self.total_bytes is None:
            self.total_bytes = self._position
        if self._position < self.total_bytes and not self._stopped.is_set():
            raise BrokenError(f"the body ended after {self._position} of {self.total_bytes} bytes")

    def _may_widen(self, speed: _Speed) -> bool:
        return (
            speed.known
            and self._connections > 1
            and self._ranges
            and self.total_bytes is not None
            and self.total_bytes - self._position >= _WORTH_BYTES
            and _SLOW_BYTES_S < speed.bytes_s < _FAST_BYTES_S
        )

    def _widened(self, one: _Speed) -> Iterator[bytes]:
        """Over several connections, to the end or as far as that is better than over one."""
        opened: set[requests.Response] = set()
        fetch = partial(self._range, pace=self._pace, opened=opened)
        ranges, many = ParallelRanges(fetch, self._connections), _Speed()
        connections, self._connections = self._connections, 1  # tried once; put back where it paid
        try:
            pieces = ranges.pieces(self._position, self.total_bytes or 0)
            while True:
                before = time.monotonic()
                piece = next(pieces, None)
                many.waited_s += time.monotonic() - before
                if piece is None:
                    return
                many.size_bytes += len(piece)
                self._position += len(piece)
                yield piece
                # Half of the first round trip is waiting for nothing yet: look at twice the time.
                if self._connections == 1 and many.waited_s >= 2 * _LOOK_S:
                    if many.bytes_s < one.bytes_s * _GAIN:
                        log.info("one connection is as fast as several", url=self._url, bytes_s=int(one.bytes_s))
                        return
                    self._connections = connections
        except (BrokenError, SourceError) as exc:
            # The one connection that goes on tells what is wrong, if it is more than a limit on connections.
            log.info("going on over one connection", url=self._url, why=str(exc))
            self._connections = 1
        finally:
            self._shut_down(opened)  # and not what the converter reads ahead
            ranges.close()

    def _range_again(self, offset: int, length: int, retries: int) -> list[bytes]:
        """As `_range`; asks again where the next answer may be a better one."""
        failures = 0
        while True:
            try:
                return self._range(offset, length, pace=self._new_pace())
            except NoRangeError:
                raise
            except BrokenError as exc:
                failures += 1
                if failures > retries:
                    raise
                self._wait(exc, failures, retries)

    def _range(
        self, offset: int, length: int, *, pace: Pace, opened: set[requests.Response] | None = None
    ) -> list[bytes]:
        """Exactly those bytes of the file that is known already; BrokenError where the answer is anything else.

        While it is read, the answer is in `opened`.
        """
        headers = self._condition(offset, offset + length - 1)
        with self._requests.get(headers) as response, self._stoppable(response, opened):
            check_busy(response)
            if response.status_code != 206 or content_range(response) != (offset, self.total_bytes):
                raise NoRangeError(f"the server answers a range with {response.status_code} {response.reason}")
            self._check_same(response, self.total_bytes)
            if not any(validators(response)):
                raise NoRangeError("the server answers a range without telling of which file")
            pieces: list[bytes] = []
            while length > 0 and (piece := response.raw.read1(min(length, PIECE_BYTES), decode_content=False)):
                pace.count(len(piece))
                pieces.append(piece)
                length -= len(piece)
        if length:
            raise BrokenError(f"a range ended {length} bytes early")
        return pieces

    def _condition(self, start: int, last: int | None = None) -> dict[str, str]:
        """The headers that ask for the bytes from `start` on, of the file that is known."""
        if not start and last is None:
            return {}
        headers = {"Range": f"bytes={start}-{'' if last is None else last}"}
        if validator := self._validator():
            headers["If-Range"] = validator
        return headers

    def _validator(self) -> str:
        """For If-Range: a weak ETag must not stand there (RFC 9110, 13.1.5); it is compared in the answer instead."""
        return "" if self._etag.startswith("W/") else self._etag or self._modified

    def _check(self, response: requests.Response) -> int | None:
        """Where in the file the body of this answer begins; None where there is nothing left to fetch."""
        check_busy(response)
        status = response.status_code
        if status == 416 and self._position:
            _, total = content_range(response)
            if total == self._position:
                self.total_bytes = total
                return None
            raise self._changed("it has become shorter")
        if status not in (200, 206):
            reason = _REFUSALS.get(status, "SourceUnavailable")
            advice = _ADVICE.get(status, "")
            raise SourceError(f"{self._url}: the server answers {status} {response.reason}{advice}", reason=reason)
        start, total = content_range(response) if status == 206 else (0, content_length(response))
        if not self._begun:
            self._begun, self.total_bytes = True, total
            self._etag, self._modified = validators(response)
            self._ranges = "bytes" in response.headers.get("Accept-Ranges", "").lower()
            return 0
        self._check_same(response, total)
        if status == 206 and start != self._position:
            raise BrokenError(f"asked for bytes from {self._position} on, the server sent them from {start} on")
        return start

    def _check_same(self, response: requests.Response, total: int | None) -> None:
        etag, modified = validators(response)
        if total is not None and self.total_bytes is not None and total != self.total_bytes:
            raise self._changed(f"its size was {self.total_bytes} and is {total}")
        if self._etag and etag and etag != self._etag:
            raise self._changed("its ETag differs")
        if not (self._etag and etag) and self._modified and modified and modified != self._modified:
            raise self._changed("its date of modification differs")
        known = (self._etag and etag) or (self._modified and modified)
        if response.status_code == 200 and self._position and not known and not self._verified:
            raise SourceError(
                f"the connection to {self._url} was cut after {self._position} bytes, and the server can neither go on "
                "from there nor tell whether the file is the same; give a checksum, or use a server with ranges",
                reason="SourceInterrupted",
                retryable=True,  # the next attempt starts over
            )

    def _changed(self, how: str) -> SourceError:
        # The next attempt starts over, with what is there now.
        message = f"{self._url} was changed during the download: {how}; try again"
        return SourceError(message, reason="SourceChanged", retryable=True)

    def _give_up(self, why: BrokenError) -> NoReturn:
        attempts = f"{self._retries + 1} attempts in a row"
        if not self._position:
            message = f"{self._url} cannot be fetched after {attempts}: {why}"
            raise SourceError(message, reason=why.reason or None, retryable=True)
        raise SourceError(
            f"the download of {self._url} stopped after {self._position} of "
            f"{'unknown' if self.total_bytes is None else self.total_bytes} bytes; {attempts} brought no more: {why}",
            reason=why.reason or "SourceInterrupted",
            retryable=True,  # it went well for a while
        )

    def _wait(self, why: BrokenError, failures: int, retries: int) -> None:
        """Until it is asked again after so many failures, or until `stop`."""
        after_s = min(why.after_s, _LONGEST_AFTER_S)
        when = f" in {after_s:.0f} s" if after_s >= 1 else ""
        self.trouble = f"{why}, trying again{when} ({failures + 1} of {retries + 1})"
        self._stopped.wait(max(after_s, min(_FIRST_WAIT_S * 2**failures, _LONGEST_WAIT_S)))

    def _new_pace(self) -> Pace:
        return Pace(self._url, self._slow_timeout_s)

    @contextmanager
    def _stoppable(self, response: requests.Response, opened: set[requests.Response] | None = None) -> Iterator[None]:
        """While entered, `stop` ends the response, and it is in `opened`."""
        groups = [self._open] if opened is None else [self._open, opened]
        with self._open_lock:
            for group in groups:
                group.add(response)
        try:
            if self._stopped.is_set():
                shut_down(response)
            yield
        finally:
            with self._open_lock:
                for group in groups:
                    group.discard(response)

    def _shut_down(self, group: set[requests.Response]) -> None:
        with self._open_lock:
            responses = list(group)
        for response in responses:
            shut_down(response)


def _timed_read(response: requests.Response, speed: _Speed) -> bytes:
    before = time.monotonic()
    piece: bytes = response.raw.read1(PIECE_BYTES, decode_content=False)
    speed.waited_s += time.monotonic() - before
    speed.size_bytes += len(piece)
    return piece
