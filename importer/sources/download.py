"""One HTTP body, once, in order, over as many connections as it takes (RFC 9110: ranges, validators)."""

import re
import ssl
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, NoReturn

import requests
import urllib3

from dvcr.errors import SourceError
from dvcr.jobs.job import HttpOrigin

PIECE_BYTES = 2**20
_MAX_REDIRECTS = 10
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_REFUSALS = {401: "SourceForbidden", 403: "SourceForbidden", 404: "SourceNotFound", 410: "SourceNotFound"}
_TRANSIENT = (408, 425, 429)


class _BrokenError(Exception):
    """This connection brings no more; the next one may."""


class HttpDownload:
    """The body at a URL. A broken connection goes on where it stopped, if the server tells that the file is the same.

    A server without ranges sends everything again, and what was already taken is skipped. That needs a validator (ETag
    or Last-Modified), or `verified`: a promise that the caller will check the bytes at the end.
    """

    def __init__(self, origin: HttpOrigin, *, idle_timeout_s: float, retries: int, verified: bool) -> None:
        self.total_bytes: int | None = None
        """Known after the first piece, where the server told it."""
        self._url = origin.url
        self._idle_timeout_s = idle_timeout_s
        self._retries = retries
        self._verified = verified
        self._position = 0
        self._etag = ""
        self._modified = ""
        self._begun = False
        self._response: requests.Response | None = None
        self._stopped = threading.Event()
        self._session = requests.Session()
        self._session.max_redirects = _MAX_REDIRECTS
        self._session.headers["Accept-Encoding"] = "identity"
        self._certificates = _certificates(origin)
        # Given with every request: a session's own `verify` gives way to REQUESTS_CA_BUNDLE in the environment.
        self._verify = self._certificates.name if self._certificates else not origin.insecure_skip_verify

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces of at most 1 MiB. Ends early, without an error, only after `stop`.

        Raises SourceError: NotFound, Forbidden, Changed, or once `retries` attempts in a row brought no new byte
        Unavailable (nothing came yet) or Interrupted.
        """
        failures = 0
        while not self._stopped.is_set():
            before = self._position
            try:
                for piece in self._attempt():
                    self._position += len(piece)
                    yield piece
                return
            except _BrokenError as exc:
                if self._stopped.is_set():
                    return
                failures = 0 if self._position > before else failures + 1
                if failures > self._retries:
                    self._give_up(str(exc))
                self._stopped.wait(min(_FIRST_WAIT_S * 2**failures, _LONGEST_WAIT_S))

    def stop(self) -> None:
        """End `pieces` soon, from another thread. Idempotent."""
        self._stopped.set()
        response = self._response
        if response is not None and not response.raw.closed:
            try:
                response.raw.shutdown()  # wakes a thread that waits for bytes
            except (OSError, ValueError):
                return  # it ended by itself just now

    def close(self) -> None:
        """Give up the connections. For the thread that read the pieces."""
        self._session.close()
        if self._certificates is not None:
            self._certificates.close()

    def _attempt(self) -> Iterator[bytes]:
        try:
            with self._request() as response:
                self._response = response
                start = self._check(response)
                if start is None:
                    return
                skip = self._position - start
                while piece := response.raw.read1(PIECE_BYTES, decode_content=False):
                    if skip < len(piece):
                        yield piece[skip:] if skip else piece
                    skip = max(0, skip - len(piece))
        except requests.exceptions.SSLError as exc:
            raise SourceError(
                f"the certificate of {self._url} is not trusted ({_cause(exc)}); give the authority in caBundle"
            ) from exc
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as exc:
            raise _BrokenError(_cause(exc)) from exc
        except requests.exceptions.TooManyRedirects as exc:
            raise SourceError(f"{self._url} redirects more than {_MAX_REDIRECTS} times") from exc
        except (requests.exceptions.RequestException, UnicodeError) as exc:
            raise SourceError(f"{self._url} is no address that can be fetched: {exc}") from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise _BrokenError(_cause(exc)) from exc
        finally:
            self._response = None
        if self.total_bytes is None:
            self.total_bytes = self._position
        if self._position < self.total_bytes and not self._stopped.is_set():
            raise _BrokenError(f"the body ended after {self._position} of {self.total_bytes} bytes")

    def _request(self) -> requests.Response:
        headers = {}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            # A weak ETag must not stand in If-Range (RFC 9110, 13.1.5); it is compared in the answer instead.
            validator = self._etag if self._etag and not self._etag.startswith("W/") else self._modified
            if validator and not self._etag.startswith("W/"):
                headers["If-Range"] = validator
        return self._session.get(
            self._url, headers=headers, stream=True, timeout=self._idle_timeout_s, verify=self._verify
        )

    def _check(self, response: requests.Response) -> int | None:
        """Where in the file the body of this answer begins; None where there is nothing left to fetch."""
        status = response.status_code
        if status >= 500 or status in _TRANSIENT:
            raise _BrokenError(f"the server answers {status} {response.reason}")
        if status == 416 and self._position:
            _, total = _content_range(response)
            if total == self._position:
                self.total_bytes = total
                return None
            raise self._changed("it has become shorter")
        if status not in (200, 206):
            reason = _REFUSALS.get(status, "SourceUnavailable")
            raise SourceError(f"{self._url}: the server answers {status} {response.reason}", reason=reason)
        start, total = _content_range(response) if status == 206 else (0, _content_length(response))
        if not self._begun:
            self._begun, self.total_bytes = True, total
            self._etag, self._modified = _validators(response)
            return 0
        self._check_same(response, total)
        if status == 206 and start != self._position:
            raise _BrokenError(f"asked for bytes from {self._position} on, the server sent them from {start} on")
        return start

    def _check_same(self, response: requests.Response, total: int | None) -> None:
        etag, modified = _validators(response)
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
            )

    def _changed(self, how: str) -> SourceError:
        return SourceError(f"{self._url} was changed during the download: {how}; try again", reason="SourceChanged")

    def _give_up(self, why: str) -> NoReturn:
        attempts = f"{self._retries + 1} attempts in a row"
        if not self._position:
            raise SourceError(f"{self._url} cannot be fetched after {attempts}: {why}")
        raise SourceError(
            f"the download of {self._url} stopped after {self._position} of "
            f"{'unknown' if self.total_bytes is None else self.total_bytes} bytes; {attempts} brought no more: {why}",
            reason="SourceInterrupted",
        )


def _certificates(origin: HttpOrigin) -> IO[bytes] | None:
    """The trusted certificates as the file that requests asks for."""
    if origin.insecure_skip_verify or not origin.ca_bundle:
        return None
    try:
        ssl.create_default_context(cadata=origin.ca_bundle)
    except (ssl.SSLError, ValueError) as exc:
        raise SourceError(f"caBundle holds no PEM certificates: {exc}") from exc
    file = tempfile.NamedTemporaryFile(prefix="ca-", suffix=".pem")  # noqa: SIM115 (closed by `HttpDownload.close`)
    file.write(origin.ca_bundle.encode())
    file.flush()
    return file


def _validators(response: requests.Response) -> tuple[str, str]:
    return response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() and "Transfer-Encoding" not in response.headers else None


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise _BrokenError(f"the server answers {response.status_code} without a usable Content-Range")
    return int(match[1] or 0), None if match[2] == "*" else int(match[2])


def _cause(exc: BaseException) -> str:
    """The innermost explanation: requests and urllib3 wrap it two or three times."""
    while exc.__context__ is not None and str(exc.__context__):
        exc = exc.__context__
    return str(exc) or type(exc).__name__
