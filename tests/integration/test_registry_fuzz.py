"""Whatever a client sends, it gets an answer: never a 500, and every refusal is an OCI error."""

import base64
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvcr.config import AccessSettings, RuleSettings
from dvcr.descriptor import DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, IMAGE_INDEX, IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.registry.registry import Registry
from tests.support.access import write_passwords
from tests.support.app_server import AppServer
from tests.support.memory_storage import MemoryStorage

LONGEST_ANSWER_S = 5
MANIFEST_TYPES = [IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_MANIFEST_LIST]

fuzzed = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Peer:
    """A client that tidies nothing up."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=LONGEST_ANSWER_S)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer; fails unless it is one that a client can work with."""
        begin = time.monotonic()
        try:
            self._connection.request(method, path, body, headers or {})
            answer = self._connection.getresponse()
            content = answer.read()
        except (http.client.HTTPException, ConnectionError):
            # Refused before it was a request: the server closed the connection.
            self._connection.close()
            return 0, b""
        assert time.monotonic() - begin < LONGEST_ANSWER_S
        assert answer.status < 500, f"{method} {path} {headers}: {answer.status} {content!r}"
        if answer.status >= 400 and method != "HEAD" and answer.getheader("Content-Type") == "application/json":
            errors = json.loads(content)["errors"]
            assert errors[0]["code"].isupper()
            assert errors[0]["message"]
        elif answer.status >= 400 and method != "HEAD":
            # The HTTP parser's own refusal, before there is a request that our code could see.
            assert answer.status == 400, f"{method} {path}: {answer.status} {content!r}"
        return answer.status, content


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with AppServer(Registry(MemoryStorage())) as server:
        registry = server.registry
        upload = registry.uploads.begin()
        upload.append(b"{}")
        upload.commit("a", Digest.of(b"{}"))
        yield Peer(server.url.removeprefix("http://"))


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
near_names = st.text("ab0/._-:@%A\x00é", max_size=60)
near_digests = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["sha256", "sha512", "md5", "", "SHA256", "sha256+b64"]), near_names),
    st.builds("sha256:{}".format, st.text("0123456789abcdefABCg", min_size=60, max_size=70)),
    st.sampled_from([str(Digest.of(b"{}")), str(Digest.of(b"", "sha512"))]),
)
texts = st.one_of(anything, near_names, near_digests)
methods = st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"])
shapes = st.sampled_from(
    [
        "/v2/{}/manifests/{}",
        "/v2/{}/blobs/{}",
        "/v2/{}/blobs/uploads/{}",
        "/v2/{}/referrers/{}",
        "/v2/{}/tags/{}",
        "/v2/a/manifests/{}{}",
        "/v2/a/blobs/{}{}",
        "/v2/{}{}",
        "/{}{}",
    ]
)
queries = st.lists(
    st.tuples(
        st.sampled_from(["n", "last", "digest", "mount", "from", "tag", "artifactType", "x"]),
        st.one_of(texts, st.integers().map(str), st.sampled_from(["9" * 400, "-1", "1e9", "0x10", "٣", "a"])),
    ),
    max_size=4,
)


class TestRequests:
    @fuzzed
    @given(methods, shapes, texts, texts, queries, st.booleans())
    def test_paths_and_queries(
        self, peer: Peer, method: str, shape: str, first: str, second: str, query: list[tuple[str, str]], safe: bool
    ) -> None:
        first, second = (quote(text, safe="/:@.%" if safe else "") for text in (first, second))
        peer.send(method, shape.format(first, second) + "?" + urlencode(query), b"" if method != "GET" else None)

    @fuzzed
    @given(queries)
    def test_queries_of_lists(self, peer: Peer, query: list[tuple[str, str]]) -> None:
        for path in ("/v2/_catalog", "/v2/a/tags/list", f"/v2/a/referrers/{Digest.of(b'')}"):
            peer.send("GET", f"{path}?{urlencode(query)}")

    @fuzzed
    @given(
        st.dictionaries(
            st.sampled_from(
                ["Range", "If-Range", "If-None-Match", "Content-Range", "Content-Type", "X-Request-ID", "Accept"]
            ),
            st.one_of(
                st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60),
                st.from_regex(r"(bytes=)?([0-9]{0,20}-[0-9]{0,20},?){1,40}", fullmatch=True),
            ),
            max_size=4,
        )
    )
    def test_headers(self, peer: Peer, headers: dict[str, str]) -> None:
        blob = f"/v2/a/blobs/{Digest.of(b'{}')}"
        status, content = peer.send("GET", blob, headers=headers)
        assert status in (0, 200, 206, 304, 400, 416)
        assert status != 200 or content == b"{}"
        peer.send("PUT", "/v2/a/manifests/t", b"{}", headers)
        peer.send("POST", "/v2/a/blobs/uploads/", b"x", headers)

    @fuzzed
    @given(st.lists(st.tuples(st.none() | st.integers(0, 30), st.integers(0, 30), st.binary(max_size=20)), max_size=6))
    def test_chunks(self, peer: Peer, chunks: list[tuple[int | None, int, bytes]]) -> None:
        """A session holds exactly the chunks that were accepted, whatever was refused in between."""
        connection = peer._connection
        connection.request("POST", "/v2/a/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        location = answer.getheader("Location", "")
        held = b""
        for first, last, data in chunks:
            if first is None:  # the one that is right
                first, last = len(held), len(held) + len(data) - 1
            status, _ = peer.send("PATCH", location, data, {"Content-Range": f"{first}-{last}"})
            accepted = bool(data) and first == len(held) and last - first + 1 == len(data)
            assert status == (202 if accepted else 416 if last >= first and first != len(held) else 400)
            held += data if accepted else b""
        status, _ = peer.send("PUT", f"{location}?digest={Digest.of(held)}", b"")
        assert status == 201


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.sampled_from([IMAGE_MANIFEST, "text/plain"]) | json_values,
        "digest": near_digests | json_values,
        "size": st.integers() | json_values,
        "annotations": json_values,
        "artifactType": json_values,
        "data": json_values,
    },
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.just(2) | json_values,
        "mediaType": st.sampled_from(MANIFEST_TYPES) | json_values,
        "config": descriptors | json_values,
        "layers": st.lists(descriptors, max_size=3) | json_values,
        "manifests": st.lists(descriptors, max_size=3) | json_values,
        "blobs": st.lists(descriptors, max_size=3) | json_values,
        "subject": descriptors | json_values,
        "artifactType": json_values,
        "annotations": json_values,
    },
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("guarded")
    write_passwords(folder / "htpasswd")
    rule = RuleSettings(repositories=("public/**",), anonymous=True, actions=("pull",))
    access = AccessSettings(htpasswd_file=folder / "htpasswd", token_key_dir=folder / "keys", rules=(rule,))
    with AppServer(Registry(MemoryStorage()), access=access) as server:
        yield Peer(server.url.removeprefix("http://"))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


headers_of_tokens: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"alg": st.sampled_from(["EdDSA", "none", "HS256", "", 5, None])},
    optional={"kid": texts | st.none() | st.integers(), "typ": texts, "jwk": st.just({}), "crit": st.just(["exp"])},
)
claims = st.dictionaries(
    st.sampled_from(["iss", "aud", "sub", "iat", "nbf", "exp", "access", "groups"]),
    texts | st.none() | st.integers() | st.floats() | st.lists(texts, max_size=2) | st.just("dvcr"),
)
tokens = st.builds(
    lambda header, body, signature: ".".join(map(encoded, (header, body, signature))),
    st.binary(max_size=20) | headers_of_tokens.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20) | claims.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 3000),
    st.binary(max_size=70),
)
credentials = st.one_of(
    tokens.map("Bearer {}".format),
    st.binary(max_size=60).map(lambda data: f"Basic {base64.b64encode(data).decode()}"),
    texts.map(lambda text: f"Basic {base64.b64encode(f'alice:{text}'.encode()).decode()}"),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
)
scopes = st.lists(
    st.from_regex(r"(repository|registry|x)(\(.\))?:[a-z/*:.]{0,20}:[a-z*,]{0,20}", fullmatch=True)
    | st.sampled_from(["repository:public/a:pull,push", "repository:**:pull", "registry:catalog:*"])
    | texts,
    max_size=5,
)


class TestTheDoor:
    @fuzzed
    @given(credentials, methods)
    def test_what_is_not_good_opens_nothing(self, guarded: Peer, value: str, method: str) -> None:
        status, _ = guarded.send(method, "/v2/secret/tags/list", headers={"Authorization": value})
        assert status in (0, 400, 401, 405)
        status, _ = guarded.send("GET", "/token?scope=repository:secret:pull", headers={"Authorization": value})
        assert status in (0, 400, 401)

    @fuzzed
    @given(scopes, queries)
    def test_nobody_gets_more_than_the_rules_say(
        self, guarded: Peer, wanted: list[str], query: list[tuple[str, str]]
    ) -> None:
        asked = [("scope", text) for text in wanted]
        status, content = guarded.send("GET", f"/token?{urlencode(asked + query)}")
        assert status in (0, 200, 400)
        if status == 200:
            granted = set(json.loads(content)["scope"].split()) - {"registry:catalog:*"}  # which shows what is public
            assert all(text.startswith("repository:public/") and text.endswith(":pull") for text in granted)

    @fuzzed
    @given(st.binary(max_size=200) | st.builds(urlencode, queries.map(lambda q: [("grant_type", "password"), *q])))
    def test_forms(self, guarded: Peer, form: bytes | str) -> None:
        status, _ = guarded.send("POST", "/token", form.encode() if isinstance(form, str) else form)
        assert status in (0, 400, 401)


class TestManifests:
    @fuzzed
    @given(manifests | json_values, st.sampled_from([*MANIFEST_TYPES, "application/json", ""]))
    def test_of_any_shape(self, peer: Peer, value: Any, media_type: str) -> None:
        body = json.dumps(value).encode()
        status, _ = peer.send("PUT", "/v2/a/manifests/t", body, {"Content-Type": media_type})
        if status == 201:
            assert peer.send("GET", "/v2/a/manifests/t")[1] == body
            subject = value.get("subject")
            if subject:
                peer.send("GET", f"/v2/a/referrers/{subject['digest']}")
            assert peer.send("DELETE", f"/v2/a/manifests/{Digest.of(body)}")[0] == 202
        else:
            assert status in (400, 404)

    @fuzzed
    @given(st.binary(max_size=100))
    def test_of_any_bytes(self, peer: Peer, body: bytes) -> None:
        status, _ = peer.send("PUT", "/v2/a/manifests/t", body, {"Content-Type": IMAGE_MANIFEST})
        assert status == 400

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 4_000_000,
            b'{"a":' * 700_000,
            b'{"layers":[' + b"{}," * 1_300_000 + b"{}]}",
            b'{"schemaVersion":2,"layers":' + b"9" * 4_000_000 + b"}",
            b'{"schemaVersion":2,"config":{},"layers":' + b"[" * 3_000_000 + b"]" * 900_000 + b"}",
            b'{"x":"' + b"\\ud800" * 600_000 + b'"}',
            b'{"a":NaN,"a":Infinity}',
            b"\xef\xbb\xbf{}",
            "{}".encode("utf-16"),
            b"{}" + b" " * (4 * 2**20),
        ],
        ids=["arrays", "objects", "many", "number", "closed", "surrogates", "nan", "bom", "utf-16", "blank"],
    )
    def test_that_are_bombs(self, peer: Peer, body: bytes) -> None:
        assert peer.send("PUT", "/v2/a/manifests/t", body, {"Content-Type": IMAGE_MANIFEST})[0] in (400, 413)

    def test_a_referrer_with_surrogates_is_listed(self, peer: Peer) -> None:
        subject = {"mediaType": IMAGE_MANIFEST, "digest": str(Digest.of(b"s")), "size": 1}
        body = json.dumps({"schemaVersion": 2, "manifests": [], "subject": subject, "artifactType": "\ud800"}).encode()
        assert peer.send("PUT", "/v2/a/manifests/t", body, {"Content-Type": IMAGE_INDEX})[0] == 201
        status, content = peer.send("GET", f"/v2/a/referrers/{Digest.of(b's')}?artifactType=%ED%A0%80")
        assert (status, json.loads(content)["manifests"]) == (200, [])
        assert len(json.loads(peer.send("GET", f"/v2/a/referrers/{Digest.of(b's')}")[1])["manifests"]) == 1
