"""Tokens of identity providers, and where their keys come from."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from dvcr.access.caller import Caller
from dvcr.access.errors import CredentialsError
from dvcr.access.issuers import KEYS_LIFE_S, LOOK_INTERVAL_S, Issuer
from dvcr.access.tokens import CLOCK_SKEW_S
from dvcr.config import IssuerSettings
from dvcr.errors import ConfigError
from tests.support.tokens import unsigned

SETTINGS = IssuerSettings(
    name="ci", issuer="https://ci.test", audience="registry", jwks="/nowhere.json", groups_claim="groups"
)


class Provider:
    """An identity provider with keys, and the clock of the one who asks it."""

    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {}
        self.extra: list[dict[str, Any]] = []
        self.asked = 0
        self.down = False
        self.clock = 1000.0
        self.issuer = Issuer(SETTINGS, self.read, lambda: self.clock)
        self.add("k1")

    def add(self, kid: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> None:
        self.keys[kid] = key or ec.generate_private_key(ec.SECP256R1())

    def read(self) -> bytes:
        self.asked += 1
        if self.down:
            raise OSError("no route")
        values: list[dict[str, Any]] = []
        for kid, key in self.keys.items():
            jwk = (
                RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
                if isinstance(key, rsa.RSAPrivateKey)
                else ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
            )
            values.append(jwk | {"kid": kid})
        return json.dumps({"keys": values + self.extra}).encode()

    def token(self, kid: str = "k1", algorithm: str = "ES256", key: Any = None, **claims: Any) -> str:
        good = {"iss": "https://ci.test", "aud": "registry", "sub": "job-7", "exp": time.time() + 60}
        chosen = {name: value for name, value in (good | claims).items() if value is not None}
        return jwt.encode(chosen, key or self.keys[kid], algorithm, headers={"kid": kid})


@pytest.fixture
def provider() -> Provider:
    return Provider()


def test_users_and_groups_are_under_the_issuers_name(provider: Provider) -> None:
    caller, _ = provider.issuer.verify(provider.token(groups=["ops", 3, ""]))
    assert caller == Caller("ci:job-7", frozenset({"ci:ops"}))
    assert provider.issuer.verify(provider.token(groups="ops"))[0].groups == frozenset()


def test_rsa(provider: Provider) -> None:
    provider.add("r", rsa.generate_private_key(65537, 2048))
    assert provider.issuer.verify(provider.token("r", "RS256"))[0].user == "ci:job-7"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.test"}, {"iss": None}, {"aud": "other"}, {"aud": None}, {"sub": None}, {"exp": None},
        {"sub": "has space"}, {"sub": ["x"]}, {"exp": time.time() - CLOCK_SKEW_S - 5}, {"nbf": time.time() + 86400},
    ],
)  # fmt: skip
def test_claims_that_are_missing_or_wrong(provider: Provider, claims: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        provider.issuer.verify(provider.token(**claims))


def test_algorithms_that_are_not_the_keys(provider: Provider) -> None:
    provider.extra = [{"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}]
    secret = "secret-secret-secret-secret-secret"
    for token in (
        unsigned({"iss": "https://ci.test", "aud": "registry", "sub": "x", "exp": time.time() + 60}, "k1"),
        provider.token(kid="shared", algorithm="HS256", key=secret),
        provider.token(kid="k1", algorithm="HS256", key=secret),
        provider.token(kid="k1", key=ec.generate_private_key(ec.SECP256R1())),
    ):
        with pytest.raises(CredentialsError):
            provider.issuer.verify(token)


def test_keys_are_fetched_once_and_again_when_a_new_one_appears(provider: Provider) -> None:
    provider.issuer.verify(provider.token())
    provider.issuer.verify(provider.token())
    assert provider.asked == 1
    provider.add("k2")
    provider.clock += LOOK_INTERVAL_S + 1
    provider.issuer.verify(provider.token("k2"))
    assert provider.asked == 2


def test_unknown_keys_do_not_make_us_ask_all_the_time(provider: Provider) -> None:
    provider.issuer.verify(provider.token())
    for number in range(20):
        with pytest.raises(CredentialsError, match="knows no key"):
            provider.issuer.verify(provider.token(f"no-{number}", key=provider.keys["k1"]))
    assert provider.asked == 1


def test_a_key_that_was_withdrawn_is_refused(provider: Provider) -> None:
    token = provider.token()
    provider.issuer.verify(token)
    provider.keys.clear()
    provider.clock += KEYS_LIFE_S + 1
    with pytest.raises(CredentialsError):
        provider.issuer.verify(token)


def test_what_is_known_counts_while_the_provider_is_away(provider: Provider) -> None:
    provider.issuer.verify(provider.token())
    provider.down = True
    provider.clock += KEYS_LIFE_S + 1
    provider.issuer.verify(provider.token())
    assert provider.asked == 2


def test_keys_from_a_file(provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(provider.read())
    issuer = Issuer(SETTINGS.model_copy(update={"jwks": str(file)}))
    assert issuer.verify(provider.token())[0].user == "ci:job-7"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"keys": 3}', b'{"keys": [3]}', b'{"keys": [{"kid": "k1", "kty": "EC", "x": 3}]}', b"[" * 100_000],
)
def test_a_key_set_that_is_none(content: bytes, provider: Provider) -> None:
    with pytest.raises(CredentialsError):
        Issuer(SETTINGS, lambda: content).verify(provider.token())


def test_keys_come_over_tls() -> None:
    with pytest.raises(ConfigError, match="https"):
        Issuer(SETTINGS.model_copy(update={"jwks": "http://ci.test/keys"}))
