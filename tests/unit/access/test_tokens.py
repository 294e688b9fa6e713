"""Our own tokens, and the keys that sign them."""

import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from dvcr.access.caller import Caller
from dvcr.access.errors import CredentialsError
from dvcr.access.keys import LOOK_INTERVAL_S, TokenKeys, make_key
from dvcr.access.scope import CATALOG, Action, repository_scope
from dvcr.access.tokens import CLOCK_SKEW_S, Tokens
from dvcr.errors import ConfigError
from tests.support.tokens import unsigned

ALICE = Caller("alice", frozenset({"ci:ops"}))
SCOPE = repository_scope("a/b", Action.PULL, Action.PUSH)


@pytest.fixture
def keys(tmp_path: Path) -> TokenKeys:
    return TokenKeys(tmp_path / "keys")


def tokens(keys: TokenKeys, *, service: str = "dvcr", age_s: float = 0) -> Tokens:
    return Tokens(keys, service, 300, lambda: time.time() - age_s)


def resigned(keys: TokenKeys, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token as ours, with some claims replaced, signed by the right key."""
    kid, key = keys.signing()
    good = jwt.decode(tokens(keys).issue(ALICE, [SCOPE]), options={"verify_signature": False})
    changed = {name: value for name, value in (good | claims).items() if value is not None}
    return jwt.encode(changed, key, "EdDSA", headers={"kid": kid} | (header or {}))


def test_a_token_says_who_and_what_for(keys: TokenKeys) -> None:
    caller, expires_at = tokens(keys).verify(tokens(keys).issue(ALICE, [SCOPE]))
    assert caller == replace(ALICE, scopes=(SCOPE,))
    assert expires_at == pytest.approx(time.time() + 300, abs=2)


def test_a_token_for_nothing_is_not_one_for_everything(keys: TokenKeys) -> None:
    assert tokens(keys).verify(tokens(keys).issue(Caller(), []))[0].scopes == ()


def test_clocks_may_differ_a_little(keys: TokenKeys) -> None:
    tokens(keys).verify(tokens(keys, age_s=300 + CLOCK_SKEW_S - 5).issue(ALICE, []))
    tokens(keys).verify(tokens(keys, age_s=5 - CLOCK_SKEW_S).issue(ALICE, []))


@pytest.mark.parametrize("age_s", [300 + CLOCK_SKEW_S + 1, -CLOCK_SKEW_S - 5])
def test_expired_and_not_yet_good(keys: TokenKeys, age_s: float) -> None:
    with pytest.raises(CredentialsError):
        tokens(keys).verify(tokens(keys, age_s=age_s).issue(ALICE, []))


def test_only_tokens_for_nothing_but_pull_may_live_longer_than_others(keys: TokenKeys) -> None:
    pull, mount = repository_scope("a/b", Action.PULL), repository_scope("c", Action.PULL)
    issuing = Tokens(keys, "dvcr", 300, pull_life_s=3600)
    assert [issuing.life_s([pull, mount], wanted) for wanted in (None, 60, 1800, 10**6)] == [300, 60, 1800, 3600]
    for scopes in ([SCOPE], [pull, SCOPE], [CATALOG], [repository_scope("a", Action.DELETE)], []):
        assert [issuing.life_s(scopes, wanted) for wanted in (None, 60, 1800)] == [300, 60, 300]
    assert Tokens(keys, "dvcr", 900, pull_life_s=600).life_s([pull], 3600) == 900, "less than usual is no bound"
    _, expires_at = issuing.verify(issuing.issue(ALICE, [pull], 1800))
    assert expires_at == pytest.approx(time.time() + 1800, abs=2)


def test_of_another_service(keys: TokenKeys) -> None:
    with pytest.raises(CredentialsError):
        tokens(keys).verify(tokens(keys, service="other").issue(ALICE, []))


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"}, {"aud": ["dvcr", "other"]}, {"aud": None}, {"iss": "other"}, {"iss": None}, {"exp": None},
        {"exp": "soon"}, {"sub": None}, {"sub": 1}, {"access": None}, {"access": "all"}, {"access": [{"type": "x"}]},
        {"access": [1]}, {"groups": None}, {"groups": 3}, {"nbf": None}, {"access": {"type": "repository"}},
        {"access": [{"type": "repository", "name": "a", "actions": None}]},
    ],
)  # fmt: skip
def test_claims_that_are_missing_or_wrong(keys: TokenKeys, claims: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        tokens(keys).verify(resigned(keys, **claims))


def test_the_algorithm_is_ours_to_choose(keys: TokenKeys) -> None:
    kid, key = keys.signing()
    claims = jwt.decode(tokens(keys).issue(ALICE, [SCOPE]), options={"verify_signature": False})
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    none = unsigned(claims, kid)
    # The public key as the secret of an HMAC: the mistake of many a verifier.
    hmac = jwt.encode(claims, public.hex(), "HS256", headers={"kid": kid})
    other_curve = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": kid})
    for token in (none, none.rstrip(".") + ".x", hmac, other_curve):
        with pytest.raises(CredentialsError):
            tokens(keys).verify(token)


def test_another_key_under_our_key_id(keys: TokenKeys) -> None:
    claims = jwt.decode(tokens(keys).issue(ALICE, [SCOPE]), options={"verify_signature": False})
    for kid in (keys.signing()[0], "unknown", "../../etc/passwd", ""):
        forged = jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": kid})
        with pytest.raises(CredentialsError):
            tokens(keys).verify(forged)


def test_a_scope_cannot_be_widened(keys: TokenKeys) -> None:
    head, body, signature = tokens(keys).issue(ALICE, [SCOPE]).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["access"][0]["actions"].append("delete")
    wider = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(CredentialsError):
        tokens(keys).verify(f"{head}.{wider}.{signature}")


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,20}(\.[A-Za-z0-9_-]{0,20}){0,3}", fullmatch=True))
def test_no_text_breaks_the_verifier(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "keys-of-the-fuzzer"
    with pytest.raises(CredentialsError):
        tokens(TokenKeys(folder)).verify(text)


class TestKeys:
    def test_the_first_start_makes_one_that_nobody_else_reads(self, tmp_path: Path) -> None:
        TokenKeys(tmp_path / "new/keys")
        (file,) = (tmp_path / "new/keys").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        again = TokenKeys(tmp_path / "new/keys")
        assert again.signing()[0] == file.stem

    def test_rotation(self, tmp_path: Path) -> None:
        clock = [0.0]
        keys = TokenKeys(tmp_path, lambda: clock[0])
        old_kid, _ = keys.signing()
        old = tokens(keys).issue(ALICE, [SCOPE])
        new_name = tmp_path / "99991231T000000Z-000000.pem"
        (tmp_path / f"{make_key(tmp_path)}.pem").rename(new_name)
        assert not keys.refresh()
        clock[0] += LOOK_INTERVAL_S
        assert keys.refresh()
        assert keys.signing()[0] == new_name.stem
        tokens(keys).verify(old)
        tokens(keys).verify(tokens(keys).issue(ALICE, [SCOPE]))
        (tmp_path / f"{old_kid}.pem").unlink()
        clock[0] += LOOK_INTERVAL_S
        assert keys.refresh()
        with pytest.raises(CredentialsError, match="no longer"):
            tokens(keys).verify(old)

    def test_a_public_key_verifies_and_does_not_sign(self, tmp_path: Path) -> None:
        other = TokenKeys(tmp_path / "other")
        kid, key = other.signing()
        make_key(tmp_path / "ours")
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "ours" / f"{kid}.pem").write_bytes(pem)
        ours = TokenKeys(tmp_path / "ours")
        assert ours.signing()[0] != kid
        tokens(ours).verify(tokens(other).issue(ALICE, []))

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"ec"])
    def test_a_file_that_is_no_key_is_named(self, tmp_path: Path, content: bytes) -> None:
        if content == b"ec":
            key = ec.generate_private_key(ec.SECP256R1())
            content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "bad.pem").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.pem"):
            TokenKeys(tmp_path)

    def test_a_bad_file_leaves_the_keys_in_force(self, tmp_path: Path) -> None:
        clock = [0.0]
        keys = TokenKeys(tmp_path, lambda: clock[0])
        (tmp_path / "bad.pem").write_bytes(b"x")
        clock[0] += LOOK_INTERVAL_S
        with pytest.raises(ConfigError):
            keys.refresh()
        tokens(keys).verify(tokens(keys).issue(ALICE, []))
