"""Answers of the Kubernetes API that are read while they arrive."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress

import urllib3

from controller.runtime.errors import ClusterError
from controller.runtime.index import Object


class WatchResponse:
    """The events of one watch request. Iterate once; ends when the server ends it or `stop` is called.

    ClusterError where the connection breaks, or where something else than a line of JSON comes.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        self._response = response
        self._path = path
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Object]:
        rest = b""
        try:
            for piece in pieces(self._response, self._path):
                # What is left at the end is the beginning of an event that was cut off: it comes again.
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield decoded(line, self._path)
        except ClusterError:
            if not self._stopped.is_set():
                raise

    def stop(self) -> None:
        """End the iteration from any thread. Idempotent."""
        self._stopped.set()
        with suppress(ValueError, OSError, RuntimeError):  # the stream may have ended already
            self._response.shutdown()


def pieces(response: urllib3.BaseHTTPResponse, path: str) -> Iterator[bytes]:
    """The body as it arrives. ClusterError where it breaks off."""
    try:
        yield from response.stream(2**16)
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise ClusterError(f"the Kubernetes API broke off {path}: {exc}") from exc
    finally:
        response.close()


def decoded(body: bytes, path: str) -> Object:
    """The JSON object. ClusterError where it is none: a proxy may have answered in the server's place."""
    try:
        answer = json.loads(body)
    except ValueError as exc:
        said = body[:200].decode(errors="replace")
        raise ClusterError(f"the Kubernetes API answered {path} with what is no JSON: {said}") from exc
    if not isinstance(answer, dict):
        raise ClusterError(f"the Kubernetes API answered {path} with what is no object: {str(answer)[:200]}")
    return answer
