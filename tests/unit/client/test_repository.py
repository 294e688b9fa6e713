"""The client against a registry that does as it is told, and against one that fails."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dvcr.client.repository import MAX_MANIFEST_BYTES, Repository
from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.errors import IntegrityError, RegistryError
from tests.support.memory_registry import Answer, Fault, MemoryRegistry, Zeroes, refusal

DATA = bytes(range(256)) * 5000  # over one piece of 1 MiB
DIGEST = Digest.of(DATA)
BLOBS = r"/blobs/sha256:"
UPLOADS = "/v2/a/b/blobs/uploads/"


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def repository(registry: MemoryRegistry) -> Repository:
    return registry.client().repository("a/b")


def test_a_connection_that_breaks_is_tried_again_with_growing_waits(
    registry: MemoryRegistry, repository: Repository
) -> None:
    repository.push_blob(DIGEST, DATA)
    registry.faults = [Fault("HEAD", BLOBS, times=3)]
    assert repository.has_blob(DIGEST)
    assert registry.sleeps == sorted(registry.sleeps)
    assert len(registry.sleeps) == 3


def test_a_registry_that_stays_away_is_an_error_that_says_so(registry: MemoryRegistry, repository: Repository) -> None:
    registry.faults = [Fault("HEAD", BLOBS, times=99)]
    with pytest.raises(RegistryError, match="does not answer") as caught:
        repository.has_blob(DIGEST)
    assert (caught.value.reason, caught.value.retryable) == ("RegistryUnavailable", True)
    assert registry.count("HEAD") == 4


def test_the_registry_decides_when_to_come_back(registry: MemoryRegistry, repository: Repository) -> None:
    registry.faults = [Fault("HEAD", BLOBS, times=2, answer=refusal(429, "TOOMANYREQUESTS", Retry_After="7"))]
    assert not repository.has_blob(DIGEST)
    assert registry.sleeps == [7, 7]


def test_a_wait_of_hours_is_cut(registry: MemoryRegistry, repository: Repository) -> None:
    registry.faults = [Fault("HEAD", BLOBS, answer=refusal(503, "UNAVAILABLE", Retry_After="86400"))]
    repository.has_blob(DIGEST)
    assert registry.sleeps == [30]


def test_a_refusal_is_final_and_carries_the_code(registry: MemoryRegistry, repository: Repository) -> None:
    registry.faults = [Fault("POST", "uploads", answer=refusal(403, "DENIED"))]
    with pytest.raises(RegistryError, match="403 DENIED: denied") as caught:
        repository.push_blob(DIGEST, DATA)
    assert (caught.value.code, caught.value.status, caught.value.retryable) == ("DENIED", 403, False)
    assert registry.sleeps == []


@pytest.mark.parametrize(
    "body", [b"", b"<html>bad gateway</html>", b'{"errors": []}', b'{"errors": [7]}', b"[" * 100_000, b"null"]
)
def test_an_error_page_of_something_else_still_becomes_an_error(
    registry: MemoryRegistry, repository: Repository, body: bytes
) -> None:
    registry.faults = [
        Fault("HEAD", BLOBS, times=9, answer=Answer(400, body)),
        Fault("GET", "tags", answer=Answer(400, body)),
    ]
    with pytest.raises(RegistryError, match="400 UNKNOWN"):
        repository.tags()


def test_pushing_again_sends_nothing(registry: MemoryRegistry, repository: Repository) -> None:
    assert repository.push_blob(DIGEST, DATA)
    assert not repository.push_blob(DIGEST, DATA)
    assert not registry.client().repository("c").push_blob(DIGEST, DATA)
    assert registry.received_bytes == len(DATA)


@pytest.mark.parametrize("takes_single_posts", [True, False])
def test_a_push_without_asking_is_one_request_where_the_registry_takes_that(
    registry: MemoryRegistry, repository: Repository, takes_single_posts: bool
) -> None:
    registry.takes_single_posts = takes_single_posts
    other = b"other"
    assert repository.push_blob(DIGEST, DATA, mount=False)
    assert repository.push_blob(Digest.of(other), other, mount=False)
    assert registry.blobs["a/b"] == {str(DIGEST): DATA, str(Digest.of(other)): other}
    assert (registry.count("POST"), registry.count("PUT")) == ((2, 0) if takes_single_posts else (2, 2))
    assert registry.received_bytes == len(DATA) * (1 if takes_single_posts else 2) + len(other), "refused only once"


@pytest.mark.parametrize("after", [False, True])
def test_a_push_that_breaks_is_repeated_as_a_whole(
    registry: MemoryRegistry, repository: Repository, after: bool
) -> None:
    registry.faults = [Fault("PUT", "uploads", after=after)]
    assert repository.push_blob(DIGEST, DATA), "bytes were sent, so the blob is ours to delete"
    assert registry.blobs["a/b"] == {str(DIGEST): DATA}


def test_a_push_takes_any_buffer(repository: Repository) -> None:
    repository.push_blob(DIGEST, memoryview(bytearray(DATA)))
    assert repository.read_blob(DIGEST) == DATA


@pytest.mark.parametrize("ignores_ranges", [False, True])
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), (0, 10), (7, None), (2**20 - 3, 9), (5, 10**9), (len(DATA), 4), (10**9, 1), (3, 0)],
)
def test_ranges(
    registry: MemoryRegistry, repository: Repository, ignores_ranges: bool, offset: int, length: int | None
) -> None:
    registry.ignores_ranges = ignores_ranges
    repository.push_blob(DIGEST, DATA)
    expected = DATA[offset:] if length is None else DATA[offset : offset + length]
    assert repository.read_blob(DIGEST, offset, length) == expected


def test_a_blob_of_no_bytes(repository: Repository) -> None:
    repository.push_blob(Digest.of(b""), b"")
    assert repository.read_blob(Digest.of(b"")) == b""
    assert list(repository.open_blob(Digest.of(b""), 0)) == []


def test_a_read_that_breaks_is_repeated(registry: MemoryRegistry, repository: Repository) -> None:
    repository.push_blob(DIGEST, DATA)
    registry.faults = [Fault("GET", BLOBS, keep_bytes=1000)]
    assert repository.read_blob(DIGEST) == DATA


def test_a_whole_read_is_verified(registry: MemoryRegistry, repository: Repository) -> None:
    registry.blobs["a/b"] = {str(DIGEST): DATA[:-1] + b"?"}
    with pytest.raises(IntegrityError):
        repository.read_blob(DIGEST)
    with pytest.raises(IntegrityError):
        list(repository.open_blob(DIGEST, len(DATA)))


@pytest.mark.parametrize("length", [0, 5, len(DATA) - 1, len(DATA) + 1, 2 * len(DATA)])
def test_a_stream_has_the_size_of_the_blob(registry: MemoryRegistry, repository: Repository, length: int) -> None:
    registry.blobs["a/b"] = {str(DIGEST): (DATA * 2)[:length]}
    pieces: list[bytes] = []
    with pytest.raises(IntegrityError, match="more than its" if length > len(DATA) else f"sent {length} of") as caught:
        pieces.extend(repository.open_blob(DIGEST, len(DATA)))
    assert caught.value.reason == "DigestMismatch"
    assert sum(map(len, pieces)) <= len(DATA)


def test_an_endless_stream_is_left(registry: MemoryRegistry, repository: Repository) -> None:
    body = Zeroes()
    registry.faults = [Fault("GET", BLOBS, answer=Answer(200, stream=body))]
    with pytest.raises(IntegrityError, match="more than its"):
        list(repository.open_blob(DIGEST, len(DATA)))
    assert body.closed
    assert body.read_bytes < len(DATA) + 2**21


def test_a_stream_goes_on_where_the_connection_broke(registry: MemoryRegistry, repository: Repository) -> None:
    repository.push_blob(DIGEST, DATA)
    registry.faults = [
        Fault("GET", BLOBS, keep_bytes=2**20 + 50),
        Fault("GET", BLOBS),
        Fault("GET", BLOBS, keep_bytes=7),
    ]
    pieces = list(repository.open_blob(DIGEST, len(DATA)))
    assert b"".join(pieces) == DATA
    assert max(map(len, pieces)) <= 2**20


def test_a_stream_that_breaks_at_its_very_end_is_whole(registry: MemoryRegistry, repository: Repository) -> None:
    repository.push_blob(DIGEST, DATA)
    registry.faults = [Fault("GET", BLOBS, answer=Answer(200, DATA, announced_bytes=len(DATA) + 1))]
    assert b"".join(repository.open_blob(DIGEST, len(DATA))) == DATA


def test_a_stream_that_never_goes_on_fails(registry: MemoryRegistry, repository: Repository) -> None:
    repository.push_blob(DIGEST, DATA)
    registry.faults = [Fault("GET", BLOBS, keep_bytes=10), Fault("GET", BLOBS, times=99)]
    with pytest.raises(RegistryError):
        list(repository.open_blob(DIGEST, len(DATA)))


def test_deleting_twice_is_no_error(repository: Repository) -> None:
    repository.push_blob(DIGEST, DATA)
    repository.delete_blob(DIGEST)
    repository.delete_blob(DIGEST)
    assert not repository.has_blob(DIGEST)
    repository.delete_manifest(DIGEST)


def test_a_blob_that_is_not_there(repository: Repository) -> None:
    with pytest.raises(RegistryError) as caught:
        repository.read_blob(DIGEST)
    assert (caught.value.code, caught.value.status) == ("BLOB_UNKNOWN", 404)


class TestUpload:
    def test_in_pieces(self, registry: MemoryRegistry, repository: Repository) -> None:
        upload = repository.begin_upload()
        for start in range(0, len(DATA), 300_000):
            upload.append(DATA[start : start + 300_000])
            assert upload.size_bytes == min(start + 300_000, len(DATA))
        upload.append(b"")
        upload.commit(DIGEST)
        assert repository.read_blob(DIGEST) == DATA
        assert registry.uploads == {}

    @pytest.mark.parametrize("kept", [0, 1, 1000])
    def test_only_what_did_not_arrive_is_sent_again(
        self, registry: MemoryRegistry, repository: Repository, kept: int
    ) -> None:
        upload = repository.begin_upload()
        upload.append(DATA[:500])
        registry.faults = [Fault("PATCH", "uploads", keep_bytes=kept, arrived=True)]
        upload.append(DATA[500:])
        upload.commit(DIGEST)
        assert registry.received_bytes == len(DATA)

    def test_an_answer_that_got_lost(self, registry: MemoryRegistry, repository: Repository) -> None:
        upload = repository.begin_upload()
        registry.faults = [Fault("PATCH", "uploads", after=True), Fault("PUT", "uploads", after=True)]
        upload.append(DATA)
        upload.commit(DIGEST)
        assert registry.received_bytes == len(DATA)
        assert repository.has_blob(DIGEST)

    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_a_session_that_a_dead_server_still_holds(
        self, registry: MemoryRegistry, repository: Repository, method: str
    ) -> None:
        upload = repository.begin_upload()
        registry.faults = [
            Fault(method, "uploads", times=3, answer=refusal(409, "BLOB_UPLOAD_INVALID", Retry_After="5"))
        ]
        upload.append(DATA)
        upload.commit(DIGEST)
        assert registry.sleeps == [5, 5, 5]
        assert repository.has_blob(DIGEST)

    def test_another_client_goes_on(self, registry: MemoryRegistry, repository: Repository) -> None:
        upload = repository.begin_upload()
        upload.append(DATA[:1000])
        second = registry.client().repository("a/b").resume_upload(upload.location)
        assert second.size_bytes == 1000
        second.append(DATA[1000:])
        second.commit(DIGEST)

    def test_a_session_that_is_gone(self, registry: MemoryRegistry, repository: Repository) -> None:
        upload = repository.begin_upload()
        upload.abort()
        upload.abort()
        with pytest.raises(RegistryError) as caught:
            upload.append(DATA)
        assert (caught.value.code, caught.value.status) == ("BLOB_UPLOAD_UNKNOWN", 404)
        with pytest.raises(RegistryError):
            repository.resume_upload(upload.location)

    def test_a_session_that_lost_bytes_is_refused(self, registry: MemoryRegistry, repository: Repository) -> None:
        upload = repository.begin_upload()
        upload.append(DATA[:1000])
        registry.uploads = dict.fromkeys(registry.uploads, DATA[:400])
        registry.faults = [Fault("PATCH", "uploads")]
        with pytest.raises(RegistryError, match="has 400 bytes, expected 1000"):
            upload.append(DATA[1000:])

    def test_the_wrong_digest(self, repository: Repository) -> None:
        upload = repository.begin_upload()
        upload.append(b"something else")
        with pytest.raises(RegistryError) as caught:
            upload.commit(DIGEST)
        assert caught.value.code == "DIGEST_INVALID"


class TestManifest:
    BODY = b'{"schemaVersion":2}'

    def test_under_tag_and_digest(self, repository: Repository) -> None:
        digest = repository.put_manifest("v1", self.BODY, IMAGE_MANIFEST)
        assert digest == Digest.of(self.BODY)
        for reference in ("v1", digest, str(digest)):
            manifest = repository.manifest(reference)
            assert (manifest.media_type, manifest.digest, manifest.body) == (IMAGE_MANIFEST, digest, self.BODY)

    def test_one_that_is_not_there(self, repository: Repository) -> None:
        with pytest.raises(RegistryError, match="there is no manifest a/b:v1") as caught:
            repository.manifest("v1")
        assert (caught.value.code, caught.value.status) == ("MANIFEST_UNKNOWN", 404)

    def test_bytes_that_are_not_what_was_asked_for(self, registry: MemoryRegistry, repository: Repository) -> None:
        digest = repository.put_manifest("v1", self.BODY, IMAGE_MANIFEST)
        registry.manifests["a/b"][str(digest)] = (IMAGE_MANIFEST, b"{}")
        for reference in ("v1", digest):
            with pytest.raises(IntegrityError):
                repository.manifest(reference)

    def test_one_that_is_too_large_is_not_read(self, registry: MemoryRegistry, repository: Repository) -> None:
        registry.faults = [Fault("GET", "manifests", answer=Answer(200, b" " * (MAX_MANIFEST_BYTES + 1)))]
        with pytest.raises(RegistryError, match="more than 4194304 bytes"):
            repository.manifest("v1")

    def test_deleting_it_removes_the_tags(self, repository: Repository) -> None:
        digest = repository.put_manifest("v1", self.BODY, IMAGE_MANIFEST)
        repository.delete_manifest(digest)
        assert repository.tags() == []


def test_listings_follow_every_page(registry: MemoryRegistry, repository: Repository) -> None:
    tags = [f"t{number}" for number in range(8)]
    for tag in tags:
        repository.put_manifest(tag, b"{}", IMAGE_MANIFEST)
        registry.blobs[tag] = {}
    assert repository.tags() == tags
    assert list(registry.client().repositories()) == tags
    assert registry.client().repository("unknown").tags() == []


def test_a_listing_that_goes_round_ends(registry: MemoryRegistry, repository: Repository) -> None:
    link = {"Link": '</v2/a/b/tags/list?n=1000>; rel="next"'}
    registry.faults = [Fault("GET", "tags", times=99, answer=Answer(200, b'{"tags": ["x"]}', link))]
    assert set(repository.tags()) == {"x"}
    assert registry.count("GET") <= 3


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"tags": 7}', b'{"tags": [7]}', b"{}"])
def test_a_listing_that_is_none(registry: MemoryRegistry, repository: Repository, body: bytes) -> None:
    registry.faults = [Fault("GET", "tags", times=99, answer=Answer(200, body))]
    if body == b"{}":
        assert repository.tags() == []
    else:
        with pytest.raises(RegistryError, match="is this a registry"):
            repository.tags()


@pytest.mark.parametrize("name", ["", "A", "a//b", "/a", "a/", "../x", "a b", "a/?x"])
def test_names_that_would_change_the_request_are_refused(registry: MemoryRegistry, name: str) -> None:
    with pytest.raises(ValueError, match="repository name"):
        registry.client().repository(name)


@pytest.mark.parametrize("reference", ["", "../x", "a/b", "-x", "x" * 129, "a:b"])
def test_tags_that_would_change_the_request_are_refused(repository: Repository, reference: str) -> None:
    with pytest.raises(ValueError, match=r"tag|digest"):
        repository.manifest(reference)


def test_ping_asks_once(registry: MemoryRegistry) -> None:
    registry.client().ping()
    registry.faults = [Fault("GET", "/v2/", times=9)]
    with pytest.raises(RegistryError):
        registry.client().ping()
    assert registry.asked == ["GET /v2/", "GET /v2/"]


def test_eight_threads_push_at_once(registry: MemoryRegistry, repository: Repository) -> None:
    barrier = threading.Barrier(8)

    def push(number: int) -> None:
        barrier.wait()
        for part in range(20):
            data = f"{number}/{part}".encode()
            repository.push_blob(Digest.of(data), data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, range(8)))
    assert len(registry.blobs["a/b"]) == 160


def test_errors_cross_process_borders(registry: MemoryRegistry, repository: Repository) -> None:
    """A worker's errors are pickled on their way to whoever waits."""
    registry.faults = [Fault("HEAD", BLOBS, times=9, answer=refusal(503, "UNAVAILABLE", Retry_After="7"))]
    with pytest.raises(RegistryError) as caught:
        repository.has_blob(DIGEST)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.code, copy.status, copy.retryable) == (str(caught.value), "UNAVAILABLE", 503, True)
