"""What distribution-spec asks of a registry beyond single requests, and what Docker's clients expect besides."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from dvcr.config import RegistrySettings
from dvcr.descriptor import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    OCTET_STREAM,
    Descriptor,
)
from dvcr.digest import Digest
from dvcr.registry.registry import Registry
from tests.support.app_server import AppServer
from tests.support.memory_storage import MemoryStorage

MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with AppServer(Registry(MemoryStorage()), RegistrySettings(min_chunk_bytes=5 * MIB)) as server:
        yield server


@pytest.fixture
def repository(server: AppServer, request: pytest.FixtureRequest) -> str:
    return f"{server.url}/v2/r{Digest.of(request.node.name.encode()).hex[:16]}"


def push(http: requests.Session, repository: str, data: bytes, media_type: str = OCTET_STREAM) -> dict[str, Any]:
    digest = Digest.of(data)
    answer = http.post(f"{repository}/blobs/uploads/", params={"digest": str(digest)}, data=data)
    assert answer.status_code == 201
    return Descriptor(media_type, digest, len(data)).to_json()


def put(
    http: requests.Session, repository: str, reference: str, value: dict[str, Any], **params: Any
) -> requests.Response:
    return http.put(
        f"{repository}/manifests/{reference}",
        data=json.dumps({"schemaVersion": 2} | value).encode(),
        headers={"Content-Type": value["mediaType"]},
        params=params,
    )


def image(http: requests.Session, repository: str, **fields: Any) -> dict[str, Any]:
    return {"mediaType": IMAGE_MANIFEST, "config": push(http, repository, b"{}", IMAGE_CONFIG), "layers": []} | fields


def digest_of(value: dict[str, Any], algorithm: str = "sha256") -> str:
    return str(Digest.of(json.dumps({"schemaVersion": 2} | value).encode(), algorithm))


def test_an_upload_may_announce_its_algorithm(http: requests.Session, repository: str) -> None:
    begun = http.post(f"{repository}/blobs/uploads/", params={"digest-algorithm": "sha512"})
    assert begun.status_code == 202
    digest = str(Digest.of(b"data", "sha512"))
    location = urljoin(repository, begun.headers["Location"])
    assert http.put(location, params={"digest": digest}, data=b"data").status_code == 201
    assert http.get(f"{repository}/blobs/{digest}").content == b"data"
    refused = http.post(f"{repository}/blobs/uploads/", params={"digest-algorithm": "md5"})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["code"] == "DIGEST_INVALID"


class TestTagsOfAManifestPutByDigest:
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_every_one_is_set_and_told(self, http: requests.Session, repository: str, algorithm: str) -> None:
        value = image(http, repository, annotations={"a": algorithm})
        digest = digest_of(value, algorithm)
        answer = put(http, repository, digest, value, tag=["one", "two"])
        assert answer.status_code == 201
        assert answer.raw.headers.getlist("OCI-Tag") == ["one", "two"]
        for tag in ("one", "two"):
            assert http.head(f"{repository}/manifests/{tag}").headers["Docker-Content-Digest"] == digest

    @pytest.mark.parametrize("tags", [["good", "no/tag"], [""], ["t" * 129], [f"t{n}" for n in range(101)]])
    def test_a_wrong_one_leaves_nothing(self, http: requests.Session, repository: str, tags: list[str]) -> None:
        value = image(http, repository)
        answer = put(http, repository, digest_of(value), value, tag=tags)
        assert answer.status_code in (400, 413)
        assert http.get(f"{repository}/manifests/{digest_of(value)}").status_code == 404
        assert http.get(f"{repository}/manifests/good").status_code == 404


class TestUploads:
    def test_small_chunks_are_taken_though_larger_ones_are_asked_for(
        self, http: requests.Session, repository: str, server: AppServer
    ) -> None:
        begun = http.post(f"{repository}/blobs/uploads/")
        assert begun.headers["OCI-Chunk-Min-Length"] == str(5 * MIB)
        location = server.url + begun.headers["Location"]
        for offset in range(3):
            answer = http.patch(location, data=b"x", headers={"Content-Range": f"{offset}-{offset}"})
            assert answer.headers["Range"] == f"0-{offset}"
        assert http.put(location, params={"digest": str(Digest.of(b"xxx"))}).status_code == 201

    def test_a_patch_whose_answer_was_lost_goes_on_from_what_get_tells(
        self, http: requests.Session, repository: str, server: AppServer
    ) -> None:
        location = server.url + http.post(f"{repository}/blobs/uploads/").headers["Location"]
        sent = http.patch(location, data=b"0123", headers={"Content-Range": "0-3"})
        assert sent.status_code == 202  # the client did not see this
        repeated = http.patch(location, data=b"0123", headers={"Content-Range": "0-3"})
        assert (repeated.status_code, repeated.headers["Range"]) == (416, "0-3")
        told = http.get(location)
        assert (told.status_code, told.headers["Range"]) == (204, "0-3")
        answer = http.put(
            server.url + told.headers["Location"],
            params={"digest": str(Digest.of(b"01234567", "sha512"))},  # an algorithm that nobody announced
            data=b"4567",
            headers={"Content-Range": "4-7"},
        )
        assert answer.status_code == 201


class TestManifests:
    @pytest.mark.parametrize(
        "media_type",
        [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ],
    )
    def test_layers_that_lie_elsewhere_need_not_be_here(
        self, http: requests.Session, repository: str, media_type: str
    ) -> None:
        layer = Descriptor(media_type, Digest.of(b"elsewhere"), 9).to_json() | {"urls": ["https://example.com/layer"]}
        answer = put(http, repository, "v1", image(http, repository, layers=[layer]))
        assert (answer.status_code, answer.headers.get("Warning")) == (201, None)

    def test_of_docker_and_lists_of_them(self, http: requests.Session, repository: str) -> None:
        config = push(http, repository, b"{}", "application/vnd.docker.container.image.v1+json")
        layer = push(http, repository, b"layer", "application/vnd.docker.image.rootfs.diff.tar.gzip")
        manifest = {"mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]}
        assert put(http, repository, "v1", manifest).status_code == 201
        entry = Descriptor(DOCKER_MANIFEST, Digest.parse(digest_of(manifest)), 1).to_json()
        listed = entry | {"platform": {"os": "linux", "architecture": "amd64"}}
        assert put(http, repository, "all", {"mediaType": DOCKER_MANIFEST_LIST, "manifests": [listed]}).ok
        for tag, media_type in (("v1", DOCKER_MANIFEST), ("all", DOCKER_MANIFEST_LIST)):
            # The answer is what was pushed, whatever the client says it prefers.
            answer = http.get(f"{repository}/manifests/{tag}", headers={"Accept": IMAGE_MANIFEST})
            assert answer.headers["Content-Type"] == media_type

    def test_of_four_mib(self, http: requests.Session, repository: str) -> None:
        value = image(http, repository, annotations={"fill": ""})
        fill = 4 * MIB - len(json.dumps({"schemaVersion": 2} | value))
        value["annotations"] = {"fill": "x" * fill}
        assert put(http, repository, "large", value).status_code == 201
        assert len(http.get(f"{repository}/manifests/large").content) == 4 * MIB
        value["annotations"] = {"fill": "x" * (fill + 1)}
        assert put(http, repository, "larger", value).status_code == 413

    def test_a_sparse_index_is_taken_with_a_warning(self, http: requests.Session, repository: str) -> None:
        there = image(http, repository)
        put(http, repository, "there", there)
        absent = Descriptor(IMAGE_MANIFEST, Digest.of(b"never pushed"), 1).to_json()
        entry = Descriptor(IMAGE_MANIFEST, Digest.parse(digest_of(there)), 1).to_json()
        whole = put(http, repository, "whole", {"mediaType": IMAGE_INDEX, "manifests": [entry]})
        assert (whole.status_code, whole.headers.get("Warning")) == (201, None)
        sparse = put(http, repository, "sparse", {"mediaType": IMAGE_INDEX, "manifests": [entry, absent]})
        assert sparse.status_code == 201
        assert sparse.headers["Warning"].startswith('299 - "1 manifests in this manifest are not in ')
        assert absent["digest"] in sparse.headers["Warning"]

    def test_a_sparse_image_is_refused_or_taken_with_a_warning(self, http: requests.Session, repository: str) -> None:
        layer = Descriptor(OCTET_STREAM, Digest.of(b"never pushed"), 1).to_json()
        refused = put(http, repository, "v1", image(http, repository, layers=[layer]))
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (404, "MANIFEST_BLOB_UNKNOWN")
        with AppServer(Registry(MemoryStorage(), sparse_images=True)) as lenient:
            mirror = f"{lenient.url}/v2/mirror"
            taken = put(http, mirror, "v1", image(http, mirror, layers=[layer]))
            assert taken.status_code == 201
            assert taken.headers["Warning"].startswith('299 - "1 blobs of this manifest are not in mirror')


def test_head_gives_the_headers_of_get(http: requests.Session, repository: str, server: AppServer) -> None:
    value = image(http, repository)
    put(http, repository, "v1", value)
    digest = digest_of(value)
    for url in (
        f"{server.url}/v2/",
        f"{server.url}/v2/_catalog",
        f"{repository}/tags/list",
        f"{repository}/manifests/v1",
        f"{repository}/manifests/{digest}",
        f"{repository}/referrers/{digest}",
        f"{repository}/blobs/{Digest.of(b'{}')}",
    ):
        get, head = http.get(url), http.head(url)
        assert (head.status_code, head.content) == (200, b"")
        ignored = {"Date", "X-Request-ID"}
        assert {k: v for k, v in head.headers.items() if k not in ignored} == {
            k: v for k, v in get.headers.items() if k not in ignored
        }
    for url in (f"{repository}/manifests/absent", f"{repository}/blobs/{Digest.of(b'absent')}"):
        assert (http.head(url).status_code, http.head(url).content) == (404, b"")


class TestLongLists:
    """However much there is, an answer ends; what follows is one link away."""

    def pages(self, http: requests.Session, server: AppServer, url: str) -> list[requests.Response]:
        pages = [http.get(url)]
        while link := pages[-1].links.get("next"):
            pages.append(http.get(server.url + link["url"]))
        return pages

    def test_of_referrers(self, http: requests.Session, repository: str, server: AppServer) -> None:
        subject = Descriptor(IMAGE_MANIFEST, Digest.of(b"subject"), 7).to_json()
        pushed = []
        for number in range(5):
            note = {"note": str(number) * (MIB if number else 3 * MIB)}
            value = image(http, repository, subject=subject, artifactType="x/note", annotations=note)
            assert put(http, repository, f"t{number}", value).status_code == 201
            pushed.append(digest_of(value))
        assert put(http, repository, "other", image(http, repository, subject=subject, artifactType="x/other")).ok
        pages = self.pages(http, server, f"{repository}/referrers/{subject['digest']}?artifactType=x/note")
        assert 2 <= len(pages) <= 3
        assert all(len(page.content) <= 4 * MIB for page in pages)
        assert {page.headers["OCI-Filters-Applied"] for page in pages} == {"artifactType"}
        assert [item["digest"] for page in pages for item in page.json()["manifests"]] == sorted(pushed)
        everything = self.pages(http, server, f"{repository}/referrers/{subject['digest']}")
        assert sum(len(page.json()["manifests"]) for page in everything) == 6

    @pytest.mark.parametrize("query", ["", "?n=50000"])
    def test_of_tags(self, http: requests.Session, repository: str, server: AppServer, query: str) -> None:
        assert put(http, repository, "t", image(http, repository)).status_code == 201
        name = repository.rpartition("/")[2]
        for number in range(10_000):
            server.registry.tags.set(name, f"u{number:05}", Digest.of(b""))
        pages = self.pages(http, server, f"{repository}/tags/list{query}")
        assert [len(page.json()["tags"]) for page in pages] == [10_000, 1]
        assert pages[1].json()["tags"] == ["u09999"]
