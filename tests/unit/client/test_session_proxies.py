"""Sessions take proxies and authorities out of the environment exactly as `requests` does, but look there once."""

from collections.abc import Mapping

import pytest
import requests

from dvcr.client.session import RegistrySession, UnfollowingSession

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
HTTP, HTTPS = "http://proxy.example.com:3128", "http://tls-proxy.example.com:3129"
BOTH = {"HTTP_PROXY": HTTP, "HTTPS_PROXY": HTTPS}
URLS = (
    "http://registry.example.com/v2/",
    "https://registry.example.com:5000/v2/x",
    "https://registry.other.org/v2/",
    "http://10.1.2.3:5000/v2/",
    "http://127.0.0.1/v2/",
    "http://[::1]:5000/v2/",
)
ENVIRONMENTS: tuple[Mapping[str, str], ...] = (
    {},
    BOTH,
    {"https_proxy": HTTPS},
    {"ALL_PROXY": HTTP},
    {**BOTH, "NO_PROXY": "example.com"},
    {**BOTH, "NO_PROXY": ".example.com, 127.0.0.1"},
    {**BOTH, "NO_PROXY": "registry.example.com:5000"},
    {**BOTH, "NO_PROXY": "10.0.0.0/8"},
    {**BOTH, "no_proxy": "*"},
    {"REQUESTS_CA_BUNDLE": "/etc/one.pem", "CURL_CA_BUNDLE": "/etc/other.pem"},
    {"CURL_CA_BUNDLE": "/etc/other.pem", **BOTH},
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def settings(session: requests.Session, url: str, verify: bool | str | None = None) -> object:
    return session.merge_environment_settings(url, {}, None, verify, None)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("kind", [RegistrySession, UnfollowingSession])
def test_they_are_those_of_requests(
    environment: Mapping[str, str], kind: type[requests.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = kind(), requests.Session()

    for url in URLS * 2:
        for verify in (None, True, False, "/etc/own.pem"):
            assert settings(ours, url, verify) == settings(theirs, url, verify), url
        given = {"https": "http://given:1", "no_proxy": "registry.other.org"}
        assert ours.merge_environment_settings(url, dict(given), True, None, None) == (
            theirs.merge_environment_settings(url, dict(given), True, None, None)
        )


def test_a_session_that_trusts_no_environment_looks_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**BOTH, "REQUESTS_CA_BUNDLE": "/etc/one.pem"}.items():
        monkeypatch.setenv(name, value)
    session = RegistrySession()
    session.trust_env = False

    assert settings(session, URLS[0], True) == {"proxies": {}, "stream": False, "verify": True, "cert": None}


def test_a_host_keeps_the_proxy_that_was_found_first(monkeypatch: pytest.MonkeyPatch) -> None:
    session = RegistrySession()
    monkeypatch.setenv("HTTP_PROXY", HTTP)
    first = settings(session, "http://registry.example.com/v2/")
    monkeypatch.setenv("HTTP_PROXY", "http://later.example.com:3128")

    assert settings(session, "http://registry.example.com/v2/other") == first
    assert "later.example.com" in str(settings(session, "http://another.example.com/v2/"))
