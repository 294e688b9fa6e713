"""An OCI registry inside the process, as an adapter of requests: the client's boundary, without a socket.

It does what distribution-spec 1.1 says where the client depends on it, counts what it is asked, and fails on command.
"""

import io
import itertools
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from dvcr.client.registry import RegistryClient
from dvcr.client.retry import RetryPolicy
from dvcr.client.transport import Transport
from dvcr.digest import Digest

URL = "http://registry.test"
PAGE = 3


@dataclass
class Answer:
    """What the registry answers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    announced_bytes: int | None = None
    """Content-Length, where it lies: more than `body` is a connection that breaks."""
    stream: io.RawIOBase | None = None
    """In place of `body`, of a length that is not told."""


@dataclass
class Fault:
    """Spoils the next `times` requests that match."""

    method: str
    path: str
    """Regular expression, searched in the path."""
    times: int = 1
    answer: Answer | None = None
    """Instead of the real one; without it the connection breaks."""
    after: bool = False
    """The registry does what was asked, and only the answer is lost."""
    keep_bytes: int | None = None
    """Cuts the real answer's body, or with `arrived` the request's, after this many bytes."""
    arrived: bool = False


class Zeroes(io.RawIOBase):
    """A body that nobody should read to its end, after these first bytes."""

    def __init__(self, size_bytes: int = 2**30, first: bytes = b"") -> None:
        super().__init__()
        self.read_bytes = 0
        self._size_bytes = size_bytes
        self._first = first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size_bytes - self.read_bytes)
        first = self._first[self.read_bytes : self.read_bytes + length]
        buffer[:length] = first + bytes(length - len(first))
        self.read_bytes += length
        return length


def refusal(status: int, code: str, **headers: str) -> Answer:
    """An error as the spec writes it."""
    body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
    return Answer(status, body, {key.replace("_", "-"): value for key, value in headers.items()})


class MemoryRegistry(BaseAdapter):
    """Mount it on a session for `http://`. Attributes are the whole state, for tests to look at and to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.received_bytes = 0
        self.ignores_ranges = False
        self.takes_single_posts = True
        self.faults: list[Fault] = []
        self.intercept: Callable[[requests.PreparedRequest], Answer | None] = lambda _: None
        self.sleeps: list[float] = []
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    def client(self, attempts: int = 4, **settings: Any) -> RegistryClient:
        """A client of this registry whose waits pass at once and are kept in `sleeps`."""
        transport = Transport(
            settings.pop("url", URL), retry=RetryPolicy(attempts=attempts, sleep=self.sleeps.append), **settings
        )
        transport.session.mount("http://", self)
        transport.session.mount("https://", self)
        return RegistryClient(transport)

    def count(self, request: str) -> int:
        """How many requests began like this, as `METHOD /path`."""
        return sum(asked.startswith(request) for asked in self.asked)

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        with self._lock:
            parts = urlsplit(request.url or "")
            self.asked.append(f"{request.method} {parts.path}")
            answer = self.intercept(request) or self._spoiled(request, str(parts.path))
        length = {} if answer.stream else {"Content-Length": str(answer.announced_bytes or len(answer.body))}
        headers = {**length, **answer.headers}
        raw = urllib3.HTTPResponse(
            answer.stream or io.BytesIO(b"" if request.method == "HEAD" else answer.body),
            headers=headers,
            status=answer.status,
            preload_content=False,
            request_method=request.method,
        )
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        pass

    def _spoiled(self, request: requests.PreparedRequest, path: str) -> Answer:
        fault = next((f for f in self.faults if f.method == request.method and re.search(f.path, path)), None)
        body = bytes(request.body or b"")  # type: ignore[arg-type]  # the client sends nothing but bytes
        if fault is None:
            return self._answer(request, path, body)
        fault.times -= 1
        if not fault.times:
            self.faults.remove(fault)
        if fault.arrived:
            self._answer(request, path, body[: fault.keep_bytes])
            raise requests.ConnectionError("cut while sending")
        if fault.keep_bytes is not None:
            real = self._answer(request, path, body)
            return Answer(real.status, real.body[: fault.keep_bytes], real.headers, len(real.body))
        if fault.after:
            self._answer(request, path, body)
        if fault.answer is None:
            raise requests.ConnectionError("cut")
        return fault.answer

    def _answer(self, request: requests.PreparedRequest, path: str, body: bytes) -> Answer:
        query = {key: values[-1] for key, values in parse_qs(urlsplit(request.url or "").query).items()}
        self.received_bytes += len(body)
        if path == "/v2/":
            return Answer(200, b"{}")
        if path == "/v2/_catalog":
            return self._page("/v2/_catalog", "repositories", sorted(self.blobs), query)
        match = re.fullmatch(r"/v2/(.+)/(blobs/uploads/|uploads/\w+|blobs/[^/]+|manifests/[^/]+|tags/list)", path)
        if match is None:
            return refusal(404, "NAME_UNKNOWN")
        name, rest = match.groups()
        kind, _, what = rest.partition("/")
        if kind == "tags":
            if name not in self.tags:
                return refusal(404, "NAME_UNKNOWN")
            return self._page(path, "tags", sorted(self.tags[name]), query)
        if rest == "blobs/uploads/":
            return self._begin(name, query, body)
        if kind == "uploads":
            return self._upload(request, name, what, body, query)
        if kind == "blobs":
            return self._blob(request, name, what)
        return self._manifest(request, name, what, body)

    def _page(self, path: str, key: str, names: list[str], query: Mapping[str, str]) -> Answer:
        rest = [name for name in names if name > query.get("last", "")]
        headers = {}
        if len(rest) > PAGE:
            headers["Link"] = f'<{path}?n={PAGE}&last={rest[PAGE - 1]}>; rel="next"'
        return Answer(200, json.dumps({key: rest[:PAGE]}).encode(), headers)

    def _begin(self, name: str, query: Mapping[str, str], body: bytes) -> Answer:
        if "digest" in query and self.takes_single_posts:
            if str(Digest.of(body)) != query["digest"]:
                return refusal(400, "DIGEST_INVALID")
            self.blobs.setdefault(name, {})[query["digest"]] = body
            return Answer(201, headers={"Location": f"/v2/{name}/blobs/{query['digest']}"})
        digest = query.get("mount", "")
        for blobs in list(self.blobs.values()):
            if digest in blobs:
                self.blobs.setdefault(name, {})[digest] = blobs[digest]
                return Answer(201, headers={"Location": f"/v2/{name}/blobs/{digest}"})
        session = f"session{next(self._ids)}"
        self.uploads[session] = b""
        return Answer(202, headers={"Location": f"/v2/{name}/uploads/{session}?state=0"})

    def _upload(
        self, request: requests.PreparedRequest, name: str, session: str, body: bytes, query: Mapping[str, str]
    ) -> Answer:
        held = self.uploads.get(session)
        if held is None:
            return refusal(404, "BLOB_UPLOAD_UNKNOWN")
        if request.method == "DELETE":
            del self.uploads[session]
            return Answer(204)
        content_range = request.headers.get("Content-Range")
        if content_range and int(content_range.partition("-")[0]) != len(held):
            return refusal(416, "BLOB_UPLOAD_INVALID")
        held += body
        if request.method == "PUT":
            digest = Digest.parse(query["digest"])
            if Digest.of(held, digest.algorithm) != digest:
                return refusal(400, "DIGEST_INVALID")
            del self.uploads[session]
            self.blobs.setdefault(name, {})[str(digest)] = held
            return Answer(201, headers={"Location": f"/v2/{name}/blobs/{digest}"})
        self.uploads[session] = held
        headers = {"Location": f"/v2/{name}/uploads/{session}?state={len(held)}"}
        if held:
            headers["Range"] = f"0-{len(held) - 1}"
        return Answer(204 if request.method == "GET" else 202, headers=headers)

    def _blob(self, request: requests.PreparedRequest, name: str, digest: str) -> Answer:
        data = self.blobs.get(name, {}).get(digest)
        if data is None:
            return refusal(404, "BLOB_UNKNOWN")
        if request.method == "DELETE":
            del self.blobs[name][digest]
            return Answer(202)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if match is None or self.ignores_ranges:
            return Answer(200, data)
        start, end = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return refusal(416, "SIZE_INVALID")
        return Answer(206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def _manifest(self, request: requests.PreparedRequest, name: str, reference: str, body: bytes) -> Answer:
        manifests, tags = self.manifests.setdefault(name, {}), self.tags.setdefault(name, {})
        if request.method == "PUT":
            value = json.loads(body)
            wanted = [item["digest"] for item in [*value.get("layers", []), value.get("config")] if item]
            if any(digest not in self.blobs.get(name, {}) for digest in wanted):
                return refusal(404, "MANIFEST_BLOB_UNKNOWN")
            digest = str(Digest.of(body))
            manifests[digest] = (request.headers["Content-Type"], body)
            if ":" not in reference:
                tags[reference] = digest
            return Answer(201, headers={"Docker-Content-Digest": digest})
        digest = tags.get(reference, reference)
        if digest not in manifests:
            return refusal(404, "MANIFEST_UNKNOWN")
        if request.method == "DELETE":
            del manifests[digest]
            self.tags[name] = {tag: of for tag, of in tags.items() if of != digest}
            return Answer(202)
        media_type, stored = manifests[digest]
        return Answer(200, stored, {"Content-Type": media_type, "Docker-Content-Digest": digest})
