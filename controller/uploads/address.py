"""An upload address over HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from controller.uploads.file import LocalFile
from controller.uploads.sending import Answer, CutError, Reached, UploadError

_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S = 20, 120
_MOST_TEXT = 1000


class HttpAddress:
    """Where `file` is sent; see `sending.Address`. `progress` is told the offset up to which bytes were handed out."""

    def __init__(self, url: str, file: LocalFile, progress: Callable[[int], None], ca_file: Path | None = None) -> None:
        self._url = url
        self._file = file
        self._progress = progress
        self._session = requests.Session()
        self._ca_file = ca_file

    def look(self) -> Reached | Answer:
        """GET."""
        response = self._request("GET")
        if response.status_code != 200:
            return _answer(response)
        try:
            told = response.json()
            failure = str(told["message"] or "for no reason that is known") if told["state"] == "Failed" else ""
            return Reached(int(told["offset"]), told["totalBytes"], told["state"] == "Complete", failure)
        except (ValueError, KeyError, TypeError) as exc:
            raise UploadError(
                f"what answers at {self._server} is no uploader; check uploader.external_url and proxies on the way"
            ) from exc

    def put(self, offset_bytes: int, end_bytes: int) -> Answer:
        """PUT with Content-Range."""
        content_range = f"bytes {offset_bytes}-{end_bytes - 1}/{self._file.total_bytes}"
        body = _Body(self._file, offset_bytes, end_bytes, self._progress)
        return _answer(self._request("PUT", body, {"Content-Range": content_range}))

    def close(self) -> None:
        """Hang up."""
        self._session.close()

    @property
    def _server(self) -> str:
        return self._url.partition("/upload/")[0]  # the rest is a secret

    def _request(
        self, method: str, body: "_Body | None" = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        timeout = _CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S
        verify = str(self._ca_file) if self._ca_file else None
        try:
            return self._session.request(
                method, self._url, data=body, headers=headers, timeout=timeout, allow_redirects=False, verify=verify
            )
        except requests.exceptions.SSLError as exc:
            raise UploadError(
                f"the certificate of {self._server} is not trusted: {_reason(exc)}; name its authority with --ca-file"
            ) from exc
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as exc:
            raise CutError(f"the connection to {self._server} was cut, or none could be made") from exc
        except (requests.RequestException, OSError) as exc:
            raise UploadError(
                f"cannot send to {self._server}: {type(exc).__name__}; check --ca-file and the URL"
            ) from exc


class _Body:
    """A piece of the file, as requests takes a body of known length."""

    def __init__(self, file: LocalFile, start: int, end: int, progress: Callable[[int], None]) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._progress = progress

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        offset = self._start
        while offset < self._end:
            data = self._file.block(offset, self._end)
            yield data
            offset += len(data)
            self._progress(offset)


def _answer(response: requests.Response) -> Answer:
    wait = response.headers.get("Retry-After", "")
    is_text = response.headers.get("Content-Type", "").startswith("text/plain")
    text = response.text.strip()[:_MOST_TEXT] if is_text else ""
    return Answer(response.status_code, text, float(wait) if wait.isdecimal() else None)


def _reason(exc: requests.exceptions.SSLError) -> str:
    cause = getattr(exc.args[0], "reason", None) if exc.args else None
    return str(cause or exc)
