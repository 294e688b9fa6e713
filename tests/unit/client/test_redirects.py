"""Where a registry sends its clients: how far they follow, and what they take along."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from dvcr.client.registry import RegistryClient
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.memory_registry import Answer, MemoryRegistry

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
