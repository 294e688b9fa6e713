"""Who may do what, over real HTTP."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from dvcr.access.caller import Caller
from dvcr.access.keys import TokenKeys
from dvcr.access.scope import Action, repository_scope
from dvcr.access.tokens import Tokens
from dvcr.client.cancellation import Cancellation
from dvcr.client.credentials import Credentials
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.access import PASSWORDS, guarded_registry, write_passwords
from tests.support.file_server import serving
from tests.support.images import build_image
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually

ALICE, BOB, ROOT, _ = PASSWORDS.items()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with guarded_registry(tmp_path_factory.mktemp("guarded")) as guarded:
        yield guarded


@pytest.fixture
def url(server: RegistryServer) -> str:
    return server.url


def scope_of(answer: requests.Response) -> str:
    """The challenge of a 401, taken apart as clients do it; gives its scope."""
    assert answer.status_code == 401
    header = answer.headers["WWW-Authenticate"]
    assert header.startswith("Bearer ")
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', header))
    parts = urlsplit(answer.url)
    assert parameters["realm"] == f"{parts.scheme}://{parts.netloc}/token"
    assert parameters["service"] == "dvcr"
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
    return str(parameters.get("scope", ""))


def token(url: str, who: tuple[str, str] | None, *scopes: str) -> dict[str, str]:
    """A header with a token for `scopes`."""
    answer = requests.get(f"{url}/token", params={"service": "dvcr", "scope": list(scopes)}, auth=who)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def push(url: str, repository: str, data: bytes, who: tuple[str, str]) -> str:
    digest = str(Digest.of(data))
    answer = requests.post(f"{url}/v2/{repository}/blobs/uploads/", params={"digest": digest}, data=data, auth=who)
    assert answer.status_code == 201, answer.text
    return digest


def push_manifest(url: str, repository: str, who: tuple[str, str]) -> str:
    config = push(url, repository, b"{}", who)
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [],
    }
    answer = requests.put(
        f"{url}/v2/{repository}/manifests/v1",
        data=json.dumps(manifest),
        headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        auth=who,
    )
    assert answer.status_code == 201, answer.text
    return str(answer.headers["Docker-Content-Digest"])


def test_the_door(url: str) -> None:
    assert scope_of(requests.get(f"{url}/v2/")) == ""
    assert requests.get(f"{url}/v2/", auth=ALICE).status_code == 200
    assert requests.get(f"{url}/v2/", headers=token(url, ALICE)).status_code == 200
    for wrong in [("alice", "guess"), ("nobody", "x"), ("", ""), ("alice", "x" * 100)]:
        scope_of(requests.get(f"{url}/v2/", auth=wrong))
        assert requests.get(f"{url}/token", auth=wrong).headers["WWW-Authenticate"] == 'Basic realm="dvcr"'
    for header in ("Basic", "Basic !", "Bearer x.y.z", "Digest x"):
        scope_of(requests.get(f"{url}/v2/", headers={"Authorization": header}))
    assert requests.get(f"{url}/v2/no-such-route", auth=ALICE).status_code == 404


def test_probes_and_metrics_need_no_password(url: str) -> None:
    for path in ("healthz", "readyz", "metrics"):
        assert requests.get(f"{url}/{path}").status_code == 200
    assert requests.get(f"{url}/v2/public/none/tags/list").status_code == 404
    metrics = requests.get(f"{url}/metrics").text
    for name in ("requests_total", "received_bytes_total", "sent_bytes_total", "uploads_under_way", "storage_seconds"):
        assert f"dvcr_registry_{name}" in metrics


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "manifests/v1", "repository:team/a:pull"),
        ("HEAD", "manifests/v1", "repository:team/a:pull"),
        ("PUT", "manifests/v1", "repository:team/a:pull,push"),
        ("DELETE", "manifests/v1", "repository:team/a:delete"),
        ("GET", f"blobs/{Digest.of(b'')}", "repository:team/a:pull"),
        ("DELETE", f"blobs/{Digest.of(b'')}", "repository:team/a:delete"),
        ("POST", "blobs/uploads/", "repository:team/a:pull,push"),
        ("PATCH", "blobs/uploads/x", "repository:team/a:pull,push"),
        ("PUT", "blobs/uploads/x", "repository:team/a:pull,push"),
        ("GET", "blobs/uploads/x", "repository:team/a:pull,push"),
        ("DELETE", "blobs/uploads/x", "repository:team/a:pull,push"),
        ("GET", "tags/list", "repository:team/a:pull"),
        ("GET", f"referrers/{Digest.of(b'')}", "repository:team/a:pull"),
    ],
)
def test_every_route_asks(url: str, method: str, path: str, scope: str) -> None:
    answer = requests.request(method, f"{url}/v2/team/a/{path}")
    if method == "HEAD":
        assert (answer.status_code, f'scope="{scope}"' in answer.headers["WWW-Authenticate"]) == (401, True)
    else:
        assert scope_of(answer) == scope
    refused = requests.request(method, f"{url}/v2/team/a/{path}", auth=BOB)
    assert refused.status_code == 403
    assert method == "HEAD" or refused.json()["errors"][0]["code"] == "DENIED"


def test_a_push_token_neither_deletes_nor_reaches_elsewhere(url: str) -> None:
    digest = push(url, "team/tokens", b"data", ROOT)
    blob = f"{url}/v2/team/tokens/blobs/{digest}"
    may_push = token(url, ROOT, "repository:team/tokens:pull,push")
    assert requests.get(blob, headers=may_push).content == b"data"
    refused = requests.delete(blob, headers=may_push)
    assert scope_of(refused) == "repository:team/tokens:delete"
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    scope_of(requests.get(f"{url}/v2/team/others/tags/list", headers=may_push))
    assert requests.delete(blob, headers=token(url, ROOT, "repository:team/tokens:delete")).status_code == 202
    # Asking for more than the rules grant gets what they grant.
    asked = requests.get(f"{url}/token", params={"scope": "repository:team/tokens:pull,push,delete"}, auth=ALICE)
    assert asked.json()["scope"] == "repository:team/tokens:pull,push"
    widest = {"Authorization": f"Bearer {asked.json()['token']}"}
    assert requests.delete(f"{url}/v2/team/tokens/blobs/{digest}", headers=widest).status_code == 403


def test_oauth_form(url: str) -> None:
    form = {"grant_type": "password", "service": "dvcr", "client_id": "test", "scope": "repository:team/a:pull"}
    good = requests.post(f"{url}/token", data=form | {"username": "alice", "password": PASSWORDS["alice"]})
    assert good.json()["scope"] == "repository:team/a:pull"
    assert requests.post(f"{url}/token", data=form | {"username": "alice", "password": "x"}).status_code == 401
    assert requests.post(f"{url}/token", data=form | {"grant_type": "refresh_token"}).status_code == 400
    assert requests.post(f"{url}/token", data=b"\xff" * 1000).status_code == 400
    assert requests.post(f"{url}/token", data=b"x" * 10**6).status_code == 413


def test_a_pull_token_may_live_longer_where_it_is_asked_for(url: str) -> None:
    def life(scope: str, **parameters: str) -> int:
        answer = requests.get(f"{url}/token", params={"scope": scope, **parameters}, auth=ALICE)
        assert answer.status_code == 200, answer.text
        claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == answer.json()["expires_in"]
        return int(answer.json()["expires_in"])

    assert life("repository:team/a:pull") == 300
    assert life("repository:team/a:pull", expires_in="1200") == 1200
    assert life("repository:team/a:pull", expires_in="999999") == 3600
    assert life("repository:team/a:pull,push", expires_in="999999") == 300
    form = {"grant_type": "password", "username": ALICE[0], "password": ALICE[1], "scope": "repository:team/a:pull"}
    assert requests.post(f"{url}/token", data=form | {"expires_in": "700"}).json()["expires_in"] == 700
    for wrong in ("0", "-1", "1.5", "soon", "9" * 40):
        answer = requests.get(f"{url}/token", params={"scope": "", "expires_in": wrong}, auth=ALICE)
        assert (answer.status_code, "expires_in" in answer.text) == (400, True)


def test_a_token_for_somebody_else_is_for_that_alone(url: str, tmp_path: Path) -> None:
    pushed = push(url, "team/lent", b"chunk", ALICE)
    push(url, "team/other", b"chunk", ALICE)
    alice = RegistryClient.from_settings(ClientSettings(url=url, username="alice", password=PASSWORDS["alice"]))
    issued = alice.issue_token(["repository:team/lent:pull"], 1800)
    assert issued is not None
    assert issued.life_s == 1800
    file = tmp_path / "credentials.json"
    file.write_bytes(Credentials(token=issued.token).write())
    lent = RegistryClient.from_settings(ClientSettings(url=url, credentials_file=file))

    lent.ping()
    assert lent.repository("team/lent").read_blob(Digest.parse(pushed)) == b"chunk"
    bearer = {"Authorization": f"Bearer {issued.token}"}
    other = requests.get(f"{url}/v2/team/other/blobs/{pushed}", headers=bearer)
    assert scope_of(other) == "repository:team/other:pull"
    begun = requests.post(f"{url}/v2/team/lent/blobs/uploads/", headers=bearer)
    assert scope_of(begun) == "repository:team/lent:pull,push"
    assert [a.headers["WWW-Authenticate"].count('error="insufficient_scope"') for a in (other, begun)] == [1, 1]
    assert requests.delete(f"{url}/v2/team/lent/blobs/{pushed}", headers=bearer).status_code == 403
    assert (
        requests.get(f"{url}/token", params={"scope": "repository:team/lent:push"}, headers=bearer).status_code == 401
    )


def test_a_token_that_has_run_out_is_refused_until_there_is_a_new_one(tmp_path: Path) -> None:
    with guarded_registry(tmp_path) as server:
        pushed = push(server.url, "team/a", b"chunk", ALICE)
        scopes = [repository_scope("team/a", Action.PULL)]
        # By the registry's own key, two minutes before its time.
        former = Tokens(TokenKeys(tmp_path / "keys"), "dvcr", 60, lambda: time.time() - 120)
        file = tmp_path / "credentials.json"
        file.write_bytes(Credentials(token=former.issue(Caller("alice"), scopes)).write())
        settings = ClientSettings(url=server.url, credentials_file=file)
        answer = requests.get(
            f"{server.url}/v2/team/a/blobs/{pushed}",
            headers={"Authorization": f"Bearer {Credentials.read(file.read_bytes()).token}"},
        )
        assert scope_of(answer) == "repository:team/a:pull"
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]

        def renew(_: str) -> None:
            now = Tokens(TokenKeys(tmp_path / "keys"), "dvcr", 60)
            file.write_bytes(Credentials(token=now.issue(Caller("alice"), scopes)).write())

        # Whoever reads meanwhile waits, and goes on.
        waiting = RegistryClient.from_settings(settings).on_behalf_of(Cancellation(), renew)
        assert waiting.repository("team/a").read_blob(Digest.parse(pushed)) == b"chunk"


def test_a_token_is_not_exchanged_for_the_next_one(url: str) -> None:
    held = token(url, ALICE, "repository:team/a:pull")
    answer = requests.get(f"{url}/token", params={"scope": "repository:team/a:pull"}, headers=held)
    assert answer.status_code == 401
    assert "a token gets no other token" in answer.json()["errors"][0]["message"]


def test_a_token_request_that_makes_no_sense(url: str) -> None:
    assert requests.get(f"{url}/token", params={"service": "other"}, auth=ALICE).status_code == 400
    assert requests.get(f"{url}/token", params={"scope": "nonsense"}, auth=ALICE).status_code == 400
    host = requests.get(f"{url}/v2/", headers={"Host": 'x",realm="http://evil'})
    assert host.status_code == 400


@pytest.mark.parametrize(
    ("forwarded", "scheme"),
    [("https", "https"), ("https, http", "https"), ("http", "http"), ("http,https", "http"), ("javascript", "http")],
)
def test_a_proxy_says_that_it_ends_tls(url: str, forwarded: str, scheme: str) -> None:
    headers = {"Host": "registry.example.com", "X-Forwarded-Proto": forwarded}
    challenge = requests.get(f"{url}/v2/", headers=headers).headers["WWW-Authenticate"]
    assert f'realm="{scheme}://registry.example.com/token"' in challenge


def test_anonymous(url: str) -> None:
    digest = push(url, "public/image", b"for all", ALICE)
    blob = f"{url}/v2/public/image/blobs/{digest}"
    assert requests.get(blob).content == b"for all"
    nobody = token(url, None, "repository:public/image:pull,push", "repository:team/a:pull")
    assert requests.get(blob, headers=nobody).content == b"for all"
    assert requests.get(f"{url}/v2/", headers=nobody).status_code == 200
    scope_of(requests.post(f"{url}/v2/public/image/blobs/uploads/", headers=nobody))
    scope_of(requests.get(f"{url}/v2/team/a/tags/list", headers=nobody))
    assert requests.delete(blob, auth=ALICE).status_code == 403


def test_a_mount_checks_its_source(url: str) -> None:
    secret = push(url, "own/bob/secret", b"bob's", BOB)
    shared = push(url, "team/shared", b"alice's", ALICE)

    def mount(
        digest: str, source: str | None, who: tuple[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> int:
        query = {"mount": digest} | ({"from": source} if source else {})
        uploads = f"{url}/v2/public/mounts/blobs/uploads/"
        return requests.post(uploads, params=query, auth=who, headers=headers).status_code

    assert mount(secret, "own/bob/secret", ALICE) == 202
    assert mount(secret, None, ALICE) == 202
    assert mount(shared, "team/shared", BOB) == 202
    assert requests.get(f"{url}/v2/public/mounts/blobs/{secret}").status_code == 404
    one, both = "repository:public/mounts:pull,push", "repository:team/shared:pull"
    assert mount(shared, "team/shared", headers=token(url, ALICE, one)) == 202
    assert mount(shared, None, headers=token(url, ALICE, one)) == 202
    assert mount(shared, None, headers=token(url, ALICE, one, both)) == 201
    assert mount(shared, "team/shared", headers=token(url, ALICE, one, both)) == 201
    assert mount(shared, "team/shared", ALICE) == 201


def test_a_challenge_names_the_source_of_a_mount(url: str) -> None:
    uploads, digest = f"{url}/v2/team/a/blobs/uploads/", str(Digest.of(b""))
    named = requests.post(uploads, params={"mount": digest, "from": "team/b"})
    assert scope_of(named) == "repository:team/a:pull,push repository:team/b:pull"
    unnamed = requests.post(uploads, params={"mount": digest})
    assert scope_of(unnamed) == "repository:team/a:pull,push repository:**:pull"


def test_our_client_mounts_what_it_may_pull(url: str) -> None:
    def repository(user: str, name: str) -> Repository:
        return RegistryClient.from_settings(
            ClientSettings.model_validate({"url": url, "username": user, "password": PASSWORDS[user]})
        ).repository(name)

    data, mine = os.urandom(6 * 2**20), os.urandom(100)
    assert repository("all", "one/image").push_blob(Digest.of(data), data, mount=False)
    assert not repository("all", "two/image").push_blob(Digest.of(data), data)
    assert repository("alice", "team/image").push_blob(Digest.of(data), data)
    again = repository("alice", "team/image")
    assert again.push_blob(Digest.of(mine), mine)
    assert not again.push_blob(Digest.of(mine), mine)
    assert again.has_blob(Digest.of(data))


def test_the_catalog_shows_what_one_may_pull(url: str) -> None:
    push_manifest(url, "team/listed", ALICE)
    push_manifest(url, "own/bob/listed", BOB)
    push_manifest(url, "public/listed", BOB)

    def catalog(who: tuple[str, str] | None = None, headers: dict[str, str] | None = None) -> list[str]:
        answer = requests.get(f"{url}/v2/_catalog", params={"n": "100000"}, auth=who, headers=headers)
        return [name for name in answer.json()["repositories"] if name.endswith("listed")]

    assert catalog(ALICE) == ["public/listed", "team/listed"]
    assert catalog(BOB) == ["own/bob/listed", "public/listed"]
    assert catalog(ROOT) == ["own/bob/listed", "public/listed", "team/listed"]
    assert catalog(headers=token(url, ALICE, "registry:catalog:*")) == ["public/listed", "team/listed"]
    assert catalog() == ["public/listed"]
    assert scope_of(requests.get(f"{url}/v2/_catalog", headers=token(url, ALICE))) == "registry:catalog:*"
    first = requests.get(f"{url}/v2/_catalog", params={"n": 1}, auth=BOB)
    assert all(name.startswith(("own/bob", "public")) for name in first.json()["repositories"])


def test_only_administrators_collect_garbage(url: str) -> None:
    collect = f"{url}/admin/collect"
    assert requests.post(collect, params={"dry_run": "true"}, auth=ROOT).json()["bytes"] >= 0
    assert requests.post(collect, auth=ALICE).status_code == 403
    assert requests.post(collect, headers=token(url, ROOT)).status_code == 403
    assert requests.post(collect).status_code == 401


def test_our_client(url: str) -> None:
    client = RegistryClient.from_settings(ClientSettings(url=url, username="alice", password=PASSWORDS["alice"]))
    client.ping()
    repository = client.repository("team/client")
    assert repository.push_blob(Digest.of(b"chunk"), b"chunk")
    assert repository.read_blob(Digest.of(b"chunk")) == b"chunk"
    upload = repository.begin_upload()
    upload.append(b"more")
    upload.commit(Digest.of(b"more"))
    assert "public/none" not in list(client.repositories())
    with pytest.raises(RegistryError) as refused:
        repository.delete_blob(Digest.of(b"chunk"))
    assert (refused.value.code, refused.value.reason, refused.value.retryable) == ("DENIED", "RegistryDenied", False)
    with pytest.raises(RegistryError, match="wrong") as wrong:
        RegistryClient.from_settings(ClientSettings(url=url, username="alice", password="x")).ping()
    assert wrong.value.status == 401


def test_passwords_change_while_it_runs(tmp_path: Path) -> None:
    with guarded_registry(tmp_path) as server:
        assert requests.get(f"{server.url}/v2/", auth=ALICE).status_code == 200
        write_passwords(tmp_path / "htpasswd", {"carol": "new"})
        eventually(lambda: requests.get(f"{server.url}/v2/", auth=ALICE).status_code == 401, "alice is refused")
        assert requests.get(f"{server.url}/v2/", auth=("carol", "new")).status_code == 200


def test_servers_that_share_keys_accept_each_others_tokens(tmp_path: Path) -> None:
    with guarded_registry(tmp_path) as one, guarded_registry(tmp_path) as two:
        mine = token(one.url, ALICE, "repository:team/a:pull")
        assert requests.get(f"{two.url}/v2/", headers=mine).status_code == 200
        (key,) = (tmp_path / "keys").iterdir()
        subprocess.run(
            [sys.executable, "-c", "from dvcr.cli.main import main; main()", "access", "rotate-key"],
            env={"DVCR__ACCESS__TOKEN_KEY_DIR": str(tmp_path / "keys")},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        # The old key's name may sort last within one second; then the new one signs only after it is gone.
        key.unlink()
        eventually(lambda: requests.get(f"{two.url}/v2/", headers=mine).status_code == 401, "the key is withdrawn")
        eventually(
            lambda: requests.get(f"{two.url}/v2/", headers=token(one.url, ALICE)).status_code == 200,
            "one signs with the new key and two accepts it",
        )


@pytest.mark.parametrize("keys_from", ["file", "address"])
def test_an_identity_provider(tmp_path: Path, keys_from: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    jwks = {"keys": [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k"}]}
    (tmp_path / "jwks.json").write_text(json.dumps(jwks))
    issuer = {"name": "ci", "issuer": "https://ci.test", "audience": "registry", "groups_claim": "groups"}
    rules = [{"repositories": ["ci/**"], "users": ["@ci:builders"], "actions": ["pull", "push"]}]
    settings = {
        "DVCR__ACCESS__RULES": json.dumps(rules),
        "DVCR__ACCESS__TOKEN_KEY_DIR": str(tmp_path / "keys"),
    }

    def job(**claims: object) -> str:
        good = {"iss": "https://ci.test", "aud": "registry", "sub": "job", "exp": time.time() + 60}
        return jwt.encode(good | {"groups": ["builders"]} | claims, key, "ES256", headers={"kid": "k"})

    with ExitStack() as stack:
        from_address = stack.enter_context(serving(json.dumps(jwks).encode())).url
        issuer["jwks"] = from_address if keys_from == "address" else str(tmp_path / "jwks.json")
        settings["DVCR__ACCESS__ISSUERS"] = json.dumps([issuer])
        server = stack.enter_context(RegistryServer(tmp_path / "registry", settings))
        uploads = f"{server.url}/v2/ci/image/blobs/uploads/"
        assert requests.post(uploads, headers={"Authorization": f"Bearer {job()}"}).status_code == 202
        # As `docker login` sends it: a password, exchanged for one of our tokens.
        ours = token(server.url, ("any", job()), "repository:ci/image:push")
        assert requests.post(uploads, headers=ours).status_code == 202
        assert requests.post(uploads, auth=("any", job(groups=[]))).status_code == 403
        for bad in (job(aud="other"), job(iss="https://evil.test"), job(exp=time.time() - 600)):
            assert requests.post(uploads, headers={"Authorization": f"Bearer {bad}"}).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_nobody_is_let_in_from_elsewhere_by_oversight(tmp_path: Path, host: str) -> None:
    command = [sys.executable, "-c", "from dvcr.cli.main import main; main()", "serve", "--port", "0", "--host", host]
    environment = {"DVCR__STORAGE__FILESYSTEM__ROOT": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "access.htpasswd_file" in done.stderr
    assert 'access.anonymous = "full"' in done.stderr
    assert "Traceback" not in done.stderr


def test_many_requests_of_one_client_are_put_off(tmp_path: Path) -> None:
    with RegistryServer(tmp_path / "registry", {"DVCR__REGISTRY__MAX_CLIENT_REQUESTS": "2"}) as server:
        address = urlsplit(server.url)
        held = []
        for _ in range(2):
            connection = socket.create_connection((address.hostname, address.port))
            connection.sendall(b"POST /v2/a/blobs/uploads/?digest=" + str(Digest.of(b"x" * 9)).encode())
            connection.sendall(b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nxxxx")
            held.append(connection)

        def refused() -> bool:
            answer = requests.get(f"{server.url}/v2/")
            return answer.status_code == 429 and answer.headers["Retry-After"] == "1"

        eventually(refused, "429")
        assert requests.get(f"{server.url}/readyz").status_code == 200
        held[0].sendall(b"xxxxx")
        assert held[0].recv(1000).startswith(b"HTTP/1.1 201")
        assert requests.get(f"{server.url}/v2/").status_code == 200
        for connection in held:
            connection.close()


def test_headers_have_an_end(url: str) -> None:
    assert requests.get(f"{url}/v2/", headers={"Authorization": "Bearer " + "x" * 100_000}).status_code == 400
    assert requests.get(f"{url}/v2/{'a' * 100_000}/tags/list").status_code in (400, 414)


def test_quotas(tmp_path: Path) -> None:
    settings = {"DVCR__REGISTRY__QUOTAS": json.dumps({"team/": 3 * 2**20})}
    with RegistryServer(tmp_path / "registry", settings) as server:
        data = os.urandom(2 * 2**20)

        def push_to(repository: str, data: bytes) -> requests.Response:
            query = {"digest": str(Digest.of(data))}
            return requests.post(f"{server.url}/v2/{repository}/blobs/uploads/", params=query, data=data)

        assert push_to("team/a", data).status_code == 201
        refused = push_to("team/a", os.urandom(2 * 2**20))
        assert refused.status_code == 403
        assert refused.json()["errors"][0]["code"] == "DENIED"
        assert "team/*" in refused.json()["errors"][0]["message"]
        assert push_to("others/a", os.urandom(2 * 2**20)).status_code == 201
        begun = requests.post(f"{server.url}/v2/team/b/blobs/uploads/").headers["Location"]
        assert requests.patch(server.url + begun, data=iter([os.urandom(2**20)] * 8)).status_code == 403
        assert requests.get(server.url + begun).status_code == 404
        assert server.stored_bytes() == 4 * 2**20


def test_the_pipeline_logs_in(url: str, tmp_path: Path) -> None:
    def image(user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "DVCR__CLIENT__URL": url,
            "DVCR__CLIENT__USERNAME": user,
            "DVCR__CLIENT__PASSWORD": PASSWORDS[user],
            "DVCR__IMPORTER__SCRATCH_DIR": str(tmp_path / "scratch"),
        }
        command = [sys.executable, "-c", "from dvcr.cli.main import main; main()", "image", *arguments]
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)

    disk = build_image(tmp_path, os.urandom(5 * 2**20), "qcow2")
    with serving(disk) as source:
        imported = image("all", "import", source.url, "images/disk:v1")
        assert imported.returncode == 0, imported.stderr
        refused = image("bob", "import", source.url, "images/disk:v2")
        assert refused.returncode == 1
        assert "bob may not do this" in refused.stderr.replace("\n", " ")
    exported = image("all", "export", "images/disk:v1", str(tmp_path / "disk.raw"))
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "disk.raw").stat().st_size == 5 * 2**20
    assert image("all", "rm", "images/disk:v1").returncode == 0
