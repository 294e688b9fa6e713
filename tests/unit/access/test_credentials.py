"""Headers, scopes, certificates, and what is remembered of them."""

import base64
import contextlib
import re
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvcr.access.authority import Authority
from dvcr.access.caller import Caller
from dvcr.access.certificates import certificate_caller
from dvcr.access.errors import CredentialsError, ScopeError
from dvcr.access.header import Bearer, Password, challenge, parse_authorization
from dvcr.access.recent import Recent
from dvcr.access.scope import MAX_SCOPES, Scope, parse_scopes
from dvcr.config import AccessSettings
from dvcr.errors import ConfigError


def basic(raw: bytes) -> str:
    return "Basic " + base64.b64encode(raw).decode()


def test_authorization() -> None:
    assert parse_authorization(basic(b"alice:se:cret")) == Password("alice", "se:cret")
    assert parse_authorization("bAsIc " + basic(b"a:b")[6:]) == Password("a", "b")
    assert parse_authorization("Bearer abc.def-_") == Bearer("abc.def-_")
    assert "secret" not in repr(Password("alice", "secret")) + repr(Bearer("secret"))


@pytest.mark.parametrize(
    "text",
    ["", "Basic", "Basic !", basic(b"nocolon"), basic(b"\xff:x"), "Bearer", "Bearer a b", "Bearer \u00e9", "Digest x"],
)
def test_authorization_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CredentialsError):
        parse_authorization(text)


@given(st.text() | st.binary().map(basic) | st.text().map(lambda text: f"Bearer {text}"))
def test_no_header_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(CredentialsError):
        parse_authorization(text)


@given(st.text(st.characters(exclude_characters=":", codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_basic_round_trip(user: str, password: str) -> None:
    assert parse_authorization(basic(f"{user}:{password}".encode())) == Password(user, password)


@given(st.dictionaries(st.sampled_from(["realm", "service", "scope"]), st.text()))
def test_a_challenge_is_well_formed_whatever_is_in_it(parameters: dict[str, str]) -> None:
    text = challenge("Bearer", **parameters)
    assert re.fullmatch(r'Bearer (\w+="[ !#-\[\]-~]*"(,\w+="[ !#-\[\]-~]*")*)?', text)


def test_scopes() -> None:
    assert Scope.parse("repository:host:5000/a/b:push,pull") == Scope(
        "repository", "host:5000/a/b", frozenset({"pull", "push"})
    )
    assert Scope.parse("repository(plugin):a:pull").kind == "repository"
    assert str(Scope.parse("repository:a:push,,pull")) == "repository:a:pull,push"
    assert len(parse_scopes(["repository:a:pull  repository:b:pull", "", "registry:catalog:*"])) == 3


@pytest.mark.parametrize(
    "text", ["repository", "repository:a", ":a:pull", "repository::pull", "x:\u00e9:pull", "a:\n:b"]
)
def test_scopes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ScopeError):
        Scope.parse(text)


def test_too_many_scopes() -> None:
    with pytest.raises(ScopeError, match="limit"):
        parse_scopes(["repository:a:pull " * (MAX_SCOPES + 1)])


@given(st.lists(st.text(max_size=30) | st.from_regex(r"\w*:\w*:[\w,]*", fullmatch=True), max_size=5))
def test_no_scope_breaks_the_parser(texts: list[str]) -> None:
    with contextlib.suppress(ScopeError):
        for scope in parse_scopes(texts):
            assert Scope.parse(str(scope)) == scope


def subject(*names: str) -> dict[str, Any]:
    return {"subject": tuple((("commonName", name),) for name in names)}


def test_certificates() -> None:
    assert certificate_caller(subject("alice") | {"subjectAltName": (("DNS", "other"),)}) == Caller("alice")
    alternatives = (("DNS", "node-1.test"), ("URI", "spiffe://test/ci"))
    assert certificate_caller({"subject": (), "subjectAltName": alternatives}) == Caller("spiffe://test/ci")


@pytest.mark.parametrize("certificate", [{}, subject("a", "b"), subject("@ops"), subject("*"), subject("a b")])
def test_certificates_that_name_no_user(certificate: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        certificate_caller(certificate)


def test_recent_answers_expire_and_are_bounded() -> None:
    clock = [0.0]
    recent: Recent[int, str] = Recent(2, 60, lambda: clock[0])
    recent.put(1, "a")
    recent.put(2, "b", life_s=5)
    assert (recent.get(1), recent.get(2), recent.get(3)) == ("a", "b", None)
    clock[0] = 10
    assert (recent.get(1), recent.get(2)) == ("a", None)
    recent.put(4, "d", life_s=1000)
    recent.put(5, "e")
    assert (recent.get(1), recent.get(4)) == (None, "d")
    clock[0] = 71
    assert recent.get(4) is None


class TestAuthority:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> AccessSettings:
        file = tmp_path / "htpasswd"
        file.write_text(f"alice:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
        return AccessSettings(htpasswd_file=file, token_key_dir=tmp_path / "keys")

    def test_only_what_was_good_is_remembered(self, settings: AccessSettings) -> None:
        authority = Authority.from_settings(settings)
        good, bad = Password("alice", "secret"), Password("alice", "guess")
        assert authority.recall(good) is None
        assert authority.authenticate(good) == Caller("alice")
        assert authority.recall(good) == Caller("alice")
        with pytest.raises(CredentialsError):
            authority.authenticate(bad)
        assert authority.recall(bad) is None
        assert authority.recall(Password("alice\0", "secret")) is None

    def test_our_tokens(self, settings: AccessSettings) -> None:
        authority = Authority.from_settings(settings)
        token = Bearer(authority.tokens.issue(Caller("alice"), []))
        assert authority.authenticate(token) == Caller("alice", scopes=())
        assert authority.recall(token) == Caller("alice", scopes=())
        with pytest.raises(CredentialsError):
            authority.authenticate(Password("alice", token.token))

    def test_issuers_are_told_apart(self, settings: AccessSettings) -> None:
        issuer = {"name": "ci", "issuer": "dvcr", "audience": "x", "jwks": "/x"}
        with pytest.raises(ConfigError, match="issuers"):
            Authority.from_settings(AccessSettings.model_validate(settings.model_dump() | {"issuers": [issuer]}))
