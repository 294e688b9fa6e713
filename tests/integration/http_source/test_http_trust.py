"""Whom the HTTP source believes, whom it tells its credentials, and where it may go."""

import socket
from pathlib import Path

import pytest

from dvcr.errors import SourceError
from tests.support.certificates import self_signed
from tests.support.file_server import FileServer, serving
from tests.support.http_source import CONTENT, Open, failure, sums
from tests.support.proxy_server import proxy


def test_tls(tmp_path_factory: pytest.TempPathFactory, open_source: Open) -> None:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = self_signed(folder, "localhost")
    with serving(CONTENT, certificate, key) as server:
        assert "caBundle" in failure(open_source, server.url).message
        with open_source(server.url, sums(), ca_bundle=certificate.read_text()) as source:
            source.finish()
        with open_source(server.url, sums(), insecure_skip_verify=True) as source:
            source.finish()
    with pytest.raises(SourceError, match="no PEM"), open_source(server.url, ca_bundle="nonsense"):
        pass


def test_where_a_redirect_leads_is_checked_again(open_source: Open, tmp_path_factory: pytest.TempPathFactory) -> None:
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"), "localhost")
    trust = {"ca_bundle": certificate.read_text()}
    with serving(CONTENT) as back, serving(b"", certificate, key) as front:
        front.redirect = back.url
        error = failure(open_source, front.url, **trust)
        assert error.reason == "SourceRedirects"
        assert "from https" in error.message
        assert back.requests == []
        with open_source(front.url, sums(), redirect_to_http=True, **trust) as source:
            source.finish()
        front.redirect = "file:///etc/passwd"
        assert failure(open_source, front.url, **trust).reason == "SourceRedirects"
    with serving(b"") as front, serving(CONTENT, certificate, key) as back:
        front.redirect = back.url
        with open_source(front.url, sums(), **trust) as source:
            source.finish()


def test_credentials_go_to_the_server_of_the_url_only(server: FileServer, open_source: Open) -> None:
    secrets = {"username": "me", "password": "hunter2", "headers": {"X-Token": "hunter2"}}
    with serving(b"") as front:
        front.redirect = server.url
        with open_source(front.url, sums(), **secrets) as source:
            source.finish()
        assert front.requests[0]["Authorization"] == "Basic bWU6aHVudGVyMg=="
        assert front.requests[0]["X-Token"] == "hunter2"
        assert not {"Authorization", "X-Token"} & server.requests[0].keys()
        front.redirect, front.statuses = "", [401]
        error = failure(open_source, front.url + "?key=hunter2", **secrets)
        assert (error.reason, "secretRef" in error.message) == ("SourceForbidden", True)
        assert "hunter2" not in error.message


def test_credentials_in_the_url_are_used_and_not_repeated(server: FileServer, open_source: Open) -> None:
    url = server.url.replace("://", "://me:hunter%32@")
    with open_source(url, sums()) as source:
        source.finish()
    assert server.requests[0]["Authorization"] == "Basic bWU6aHVudGVyMg=="
    server.statuses = [500] * 9
    assert "hunter" not in failure(open_source, url).message


def test_netrc_is_left_alone(
    server: FileServer, open_source: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path.parent / f"{tmp_path.name}.netrc"
    netrc.write_text("machine localhost login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with open_source(server.url, sums()) as source:
        source.finish()
    assert "Authorization" not in server.requests[0]


@pytest.mark.parametrize("setting", ["private", "public"])
def test_this_machine_is_out_of_bounds_unless_it_is_opened(
    server: FileServer, open_source: Open, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if host.endswith(".test") else host, *a, **k)
    )
    for url in (server.url, server.url.replace("localhost", "127.1"), server.url.replace("localhost", "inside.test")):
        error = failure(open_source, url, source_addresses=setting)
        assert error.reason == "SourceAddressRefused"
    with serving(b"") as front:  # a name that is let through, and leads back here
        front.redirect = server.url
        error = failure(open_source, front.url, source_addresses=setting)
        assert error.reason == "SourceAddressRefused"
    assert server.requests == []


def test_proxy_of_the_environment(server: FileServer, open_source: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url.replace("localhost", "127.0.0.1")
    with proxy() as (address, asked):
        monkeypatch.setenv("http_proxy", address)
        with open_source(url, sums()) as source:
            source.finish()
        assert asked == [url]
        assert failure(open_source, url, source_addresses="private").reason == "SourceAddressRefused"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with open_source(url, sums()) as source:
            source.finish()
        assert asked == [url]
