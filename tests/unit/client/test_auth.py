"""Basic authentication and the Docker token protocol, as registries challenge for them."""

import base64
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from dvcr.client.credentials import Credentials, credentials_in
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.errors import ConfigError, RegistryError
from tests.support.memory_registry import Answer, MemoryRegistry

DATA = b"data"
DIGEST = Digest.of(DATA)
BASIC = "Basic " + base64.b64encode(b"jane:secret").decode()


class Guard:
    """Lets in who carries a token that was given out, or the right password."""

    def __init__(
        self, registry: MemoryRegistry, *, scheme: str = "Bearer", realm: str = "http://auth.test/token"
    ) -> None:
        registry.intercept = self
        self.scheme = scheme
        self.challenge = f'{scheme} realm="{realm}"'
        self.valid: set[str] = set()
        self.given = 0
        self.expires_in: object = 300
        self.asked: list[dict[str, list[str]]] = []
        self.credentials: list[str | None] = []
        self.unauthorized = 0
        self.elsewhere: list[str | None] = []

    def __call__(self, request: requests.PreparedRequest) -> Answer | None:
        parts = urlsplit(request.url or "")
        carried = request.headers.get("Authorization")
        if parts.hostname == "auth.test":
            self.asked.append(parse_qs(str(parts.query)))
            self.credentials.append(carried)
            if carried not in (None, BASIC):
                return Answer(401, b"{}")
            self.given += 1
            token = f"token{self.given}"
            self.valid = {f"Bearer {token}"}
            return Answer(200, json.dumps({"token": token, "expires_in": self.expires_in}).encode())
        if parts.hostname == "storage.test":
            self.elsewhere.append(carried)
            return Answer(200, DATA)
        if carried in self.valid or (self.scheme == "Basic" and carried == BASIC):
            return None
        self.unauthorized += 1
        name = str(parts.path).split("/blobs")[0].removeprefix("/v2/")
        challenge = f'{self.challenge},service="registry.test",scope="repository:{name}:pull,push"'
        return Answer(401, b"{}", {"WWW-Authenticate": challenge})


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


def jane(registry: MemoryRegistry) -> RegistryClient:
    return registry.client(username="jane", password="secret")


def test_a_token_is_fetched_once_and_kept(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    repository = jane(registry).repository("a/b")
    for _ in range(5):
        repository.push_blob(DIGEST, DATA)
    assert guard.asked == [{"service": ["registry.test"], "scope": ["repository:a/b:pull,push"], "account": ["jane"]}]
    assert guard.credentials == [BASIC]
    assert guard.unauthorized == 1


def test_without_a_user_the_token_is_asked_for_anonymously(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    registry.client().repository("a/b").push_blob(DIGEST, DATA)
    assert guard.credentials == [None]


def test_a_token_that_was_revoked_is_fetched_again(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    repository = jane(registry).repository("a/b")
    repository.push_blob(DIGEST, DATA)
    guard.valid = set()
    repository.push_blob(DIGEST, DATA)
    assert guard.given == 2


def test_a_token_is_renewed_before_it_runs_out(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    guard.expires_in = 1e-9
    repository = jane(registry).repository("a/b")
    repository.push_blob(DIGEST, DATA)
    refused = guard.unauthorized
    repository.push_blob(DIGEST, DATA)
    assert guard.unauthorized == refused, "no request goes out with a token that ran out"


def test_basic(registry: MemoryRegistry) -> None:
    guard = Guard(registry, scheme="Basic")
    repository = jane(registry).repository("a/b")
    repository.push_blob(DIGEST, DATA)
    assert repository.read_blob(DIGEST) == DATA
    assert guard.unauthorized == 2, "once for each scope"


def test_basic_without_a_password_says_what_to_set(registry: MemoryRegistry) -> None:
    Guard(registry, scheme="Basic")
    with pytest.raises(RegistryError, match=r"set client\.username and client\.password") as caught:
        registry.client().ping()
    assert (caught.value.reason, caught.value.retryable) == ("RegistryDenied", False)


def test_the_wrong_password(registry: MemoryRegistry) -> None:
    Guard(registry)
    with pytest.raises(RegistryError) as caught:
        registry.client(username="jane", password="wrong").ping()
    assert caught.value.status == 401
    assert "wrong" not in str(caught.value).replace("wrong settings", "")


@pytest.mark.parametrize(
    "challenge", ["", "Negotiate", "Bearer", 'Bearer realm="ftp://auth.test"', 'Bearer realm="file:///etc/passwd"']
)
def test_a_challenge_that_cannot_be_answered(registry: MemoryRegistry, challenge: str) -> None:
    guard = Guard(registry)
    registry.intercept = lambda _: Answer(401, b"", {"WWW-Authenticate": challenge})
    with pytest.raises(RegistryError):
        jane(registry).ping()
    assert guard.asked == []


def test_the_password_does_not_leave_tls(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    with pytest.raises(RegistryError, match="unencrypted"):
        registry.client(url="https://registry.test", username="jane", password="secret").ping()
    assert guard.asked == []


@pytest.mark.parametrize("answer", [b"{}", b"[]", b"<html>", b'{"token": 7}', b'{"token": "a\\r\\nX-Evil: 1"}'])
def test_a_token_server_that_gives_none(registry: MemoryRegistry, answer: bytes) -> None:
    guard = Guard(registry)
    registry.intercept = lambda request: Answer(200, answer) if "auth.test" in (request.url or "") else guard(request)
    with pytest.raises(RegistryError):
        jane(registry).ping()


def test_a_token_that_was_given_is_shown_at_once_and_read_anew_each_time(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    guard = Guard(registry)
    file = tmp_path / "credentials.json"
    repository = registry.client(credentials=credentials_in(file)).repository("a/b")
    guard.valid = {"Bearer first"}
    file.write_bytes(Credentials(token="first").write())
    repository.push_blob(DIGEST, DATA)

    guard.valid = {"Bearer second"}
    file.write_bytes(Credentials(token="second").write())
    assert repository.read_blob(DIGEST) == DATA
    assert (guard.unauthorized, guard.asked) == (0, [])


def test_a_token_that_is_replaced_meanwhile_is_tried_too(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    guard.valid = {"Bearer second"}
    tokens = ["first", "second"]
    repository = registry.client(credentials=lambda: Credentials(token=tokens.pop(0))).repository("a/b")
    assert not repository.has_blob(DIGEST)
    assert guard.unauthorized == 1


def test_a_token_that_has_run_out_is_waited_for(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    repository = registry.client(attempts=3, credentials=lambda: Credentials(token="old")).repository("a/b")
    with pytest.raises(RegistryError, match=r"does not accept the token.*repository:a/b:pull,push") as caught:
        repository.has_blob(DIGEST)
    assert (caught.value.reason, caught.value.status, caught.value.retryable) == ("RegistryDenied", 401, True)
    assert (guard.unauthorized, len(registry.sleeps), guard.asked) == (3, 2, [])


@pytest.mark.parametrize("content", [None, "", "secret", '["secret"]', '{"registrytoken": 7}'])
def test_credentials_that_cannot_be_read_are_waited_for(
    registry: MemoryRegistry, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RegistryError, match=r"cannot read the credentials .*credentials\.json") as caught:
        registry.client(credentials=credentials_in(file)).ping()
    assert caught.value.retryable
    assert "secret" not in str(caught.value)
    assert registry.asked == []


def test_a_password_out_of_a_file_gets_tokens_as_any(registry: MemoryRegistry, tmp_path: Path) -> None:
    guard = Guard(registry)
    file = tmp_path / "credentials.json"
    file.write_bytes(Credentials("jane", "secret").write())
    settings = ClientSettings(url="http://registry.test", credentials_file=file)
    registry.client(credentials=credentials_in(file)).repository("a/b").push_blob(DIGEST, DATA)
    assert guard.credentials == [BASIC]
    RegistryClient.from_settings(settings)
    with pytest.raises(ValueError, match="takes the place of"):
        ClientSettings(username="jane", credentials_file=file)


def test_credentials_print_no_secret() -> None:
    credentials = Credentials("jane", "hidden-1", "hidden-2")
    assert Credentials.read(credentials.write()) == credentials
    assert repr(credentials) == "Credentials(username='jane')"


def test_a_token_for_somebody_else(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    guard.expires_in = 1800
    issued = jane(registry).issue_token(["repository:a/b:pull", "repository:c:pull"], 3600)
    assert issued is not None
    assert (issued.token, issued.life_s) == ("token1", 1800)
    assert "token1" not in repr(issued)
    scopes = ["repository:a/b:pull", "repository:c:pull"]
    asked = {"service": ["registry.test"], "account": ["jane"], "scope": scopes, "expires_in": ["3600"]}
    assert (guard.asked, guard.credentials) == ([asked], [BASIC])


def test_no_token_from_a_registry_that_has_none_to_give(registry: MemoryRegistry) -> None:
    assert jane(registry).issue_token(["repository:a/b:pull"], 3600) is None
    guard = Guard(registry, scheme="Basic")
    assert jane(registry).issue_token(["repository:a/b:pull"], 3600) is None
    guard.scheme, guard.challenge = "Bearer", 'Bearer realm="http://auth.test/token"'
    held = registry.client(credentials=lambda: Credentials(token="held"))
    assert held.issue_token(["repository:a/b:pull"], 3600) is None
    assert guard.asked == []


def test_nothing_secret_follows_a_redirect_to_another_host(registry: MemoryRegistry) -> None:
    guard = Guard(registry)
    repository = jane(registry).repository("a/b")
    repository.push_blob(DIGEST, DATA)
    inner = registry.intercept

    def redirect(request: requests.PreparedRequest) -> Answer | None:
        if request.method == "GET" and "registry.test/v2/a/b/blobs" in (request.url or ""):
            return Answer(307, b"", {"Location": "http://storage.test/blob"})
        return inner(request)

    registry.intercept = redirect
    assert repository.read_blob(DIGEST) == DATA
    assert guard.elsewhere == [None]


@pytest.mark.parametrize(
    "url", ["registry:5000", "ftp://registry", "http://", "http://registry/?a=b", "http://jane:secret@registry"]
)
def test_an_address_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"client\.url"):
        RegistryClient.from_settings(ClientSettings(url=url))


def test_a_ca_file_that_is_missing_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"client\.ca_file"):
        RegistryClient.from_settings(ClientSettings.model_validate({"ca_file": "/nowhere/ca.pem"}))
