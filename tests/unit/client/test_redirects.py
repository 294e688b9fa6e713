"""Where a registry sends its clients: how far they follow, and what they take along."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from dvcr.client.registry import RegistryClient
from dvcr.client.session import UnfollowingSession
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.memory_registry import Answer, MemoryRegistry, Zeroes

BLOB = b"bytes" * 100
DIGEST = Digest.of(BLOB)
PATH = f"/v2/a/b/blobs/{DIGEST}"


class Redirecting:
    """A registry whose blobs are elsewhere."""

    def __init__(self, locations: Mapping[str, str]) -> None:
        self.registry = MemoryRegistry()
        self.registry.intercept = self._answer
        self.seen: list[tuple[str, str | None]] = []
        """Addresses that were asked, with the Authorization that each was told."""
        self._locations = locations

    def _answer(self, request: requests.PreparedRequest) -> Answer | None:
        self.seen.append((str(request.url), request.headers.get("Authorization")))
        location = self._locations.get(str(request.url))
        return Answer(200, BLOB) if location is None else Answer(307, headers={"Location": location})

    def client(self, url: str) -> RegistryClient:
        return self.registry.client(url=url)


def test_ten_redirects_are_followed_and_no_more() -> None:
    def hop(number: int) -> str:
        return f"http://registry.test{PATH}" if not number else f"http://elsewhere.test/{number}"

    ten = Redirecting({hop(number): hop(number + 1) for number in range(10)})
    assert ten.client("http://registry.test").repository("a/b").read_blob(DIGEST) == BLOB
    eleven = Redirecting({hop(number): hop(number + 1) for number in range(11)})
    with pytest.raises(RegistryError) as caught:
        eleven.client("http://registry.test").repository("a/b").read_blob(DIGEST)
    assert not caught.value.retryable
    assert len(eleven.seen) == 11


def test_netrc_is_left_alone_also_behind_a_redirect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    redirecting = Redirecting({f"http://registry.test{PATH}": "http://elsewhere.test/1"})
    assert redirecting.client("http://registry.test").repository("a/b").read_blob(DIGEST) == BLOB
    assert redirecting.seen == [(f"http://registry.test{PATH}", None), ("http://elsewhere.test/1", None)]


def test_no_redirect_leads_from_tls_to_plain_http() -> None:
    redirecting = Redirecting({f"https://registry.test{PATH}": "http://registry.test/1?signature=hidden"})
    with pytest.raises(RegistryError) as caught:
        redirecting.client("https://registry.test").repository("a/b").read_blob(DIGEST)
    assert (caught.value.reason, caught.value.retryable) == ("RegistryRedirects", False)
    assert "hidden" not in caught.value.message
    assert len(redirecting.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_body_of_a_redirect_is_not_read(status: int) -> None:
    bodies: list[Zeroes] = []

    def answer(request: requests.PreparedRequest) -> Answer | None:
        if request.url == "http://elsewhere.test/2":
            return Answer(200, BLOB)
        bodies.append(Zeroes())
        return Answer(status, headers={"Location": f"http://elsewhere.test/{len(bodies)}"}, stream=bodies[-1])

    registry = MemoryRegistry()
    registry.intercept = answer
    assert registry.client().repository("a/b").read_blob(DIGEST) == BLOB
    assert [(body.read_bytes, body.closed) for body in bodies] == [(0, True), (0, True)]


def test_a_short_body_is_read_so_that_its_connection_is_used_again() -> None:
    body = Zeroes(100)
    headers = {"Location": "http://elsewhere.test/", "Content-Length": "100"}
    registry = MemoryRegistry()
    registry.intercept = lambda request: (
        Answer(200, BLOB) if "elsewhere" in str(request.url) else Answer(307, headers=headers, stream=body)
    )
    assert registry.client().repository("a/b").read_blob(DIGEST) == BLOB
    assert body.read_bytes == 100


def test_a_redirect_that_is_not_followed_is_not_read_either() -> None:
    body = Zeroes()
    registry = MemoryRegistry()
    registry.intercept = lambda _: Answer(302, headers={"Location": "http://elsewhere.test/"}, stream=body)
    session = UnfollowingSession()
    session.mount("http://", registry)
    with session.get("http://registry.test/", stream=True, allow_redirects=False) as response:
        assert (response.status_code, body.read_bytes) == (302, 0)


def test_the_body_of_a_token_servers_redirect_is_not_read() -> None:
    body = Zeroes()

    def answer(request: requests.PreparedRequest) -> Answer | None:
        if str(request.url).startswith("http://tokens.test/"):
            return Answer(307, headers={"Location": "http://elsewhere.test/"}, stream=body)
        if str(request.url) == "http://elsewhere.test/":
            return Answer(200, b'{"token": "t"}')
        if request.headers.get("Authorization") == "Bearer t":
            return Answer(200, BLOB)
        return Answer(401, headers={"WWW-Authenticate": 'Bearer realm="http://tokens.test/"'}, stream=Zeroes())

    registry = MemoryRegistry()
    registry.intercept = answer
    assert registry.client().repository("a/b").read_blob(DIGEST) == BLOB
    assert (body.read_bytes, body.closed) == (0, True)


def test_a_login_goes_only_to_its_own_server() -> None:
    here, there = f"http://registry.test{PATH}", "http://elsewhere.test/1"
    redirecting = Redirecting({here: "/own", "http://registry.test/own": there})
    challenge = {"WWW-Authenticate": "Basic"}
    answer = redirecting.registry.intercept
    redirecting.registry.intercept = lambda request: (
        answer(request) if "Authorization" in request.headers or there == request.url else Answer(401, b"", challenge)
    )
    client = redirecting.registry.client(username="me", password="secret")
    assert client.repository("a/b").read_blob(DIGEST) == BLOB
    assert [(url, authorization is not None) for url, authorization in redirecting.seen] == [
        (here, True),
        ("http://registry.test/own", True),
        (there, False),
    ]


@pytest.mark.parametrize(("status", "method"), [(302, "GET"), (303, "GET"), (307, "PUT"), (308, "PUT")])
def test_what_becomes_of_a_body_that_was_sent(status: int, method: str) -> None:
    seen: list[tuple[str | None, object, bool]] = []

    def answer(request: requests.PreparedRequest) -> Answer | None:
        if request.url != "http://elsewhere.test/":
            return Answer(status, headers={"Location": "http://elsewhere.test/"})
        seen.append((request.method, request.body, "Content-Length" in request.headers))
        return Answer(201)

    registry = MemoryRegistry()
    registry.intercept = answer
    registry.client().repository("a/b").put_manifest("v1", b"{}", "application/json")
    assert seen == [(method, b"{}", True) if method == "PUT" else (method, None, False)]


@pytest.mark.parametrize("location", ["http://[", "file:///etc/passwd"])
def test_a_redirect_to_no_address(location: str) -> None:
    redirecting = Redirecting({f"http://registry.test{PATH}": location})
    with pytest.raises(RegistryError) as caught:
        redirecting.client("http://registry.test").repository("a/b").read_blob(DIGEST)
    assert not caught.value.retryable
