import json

import pytest

from dvcr.descriptor import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.errors import NoSpaceError
from dvcr.registry.errors import (
    BlobUnknownError,
    DigestMismatchError,
    ManifestBlobUnknownError,
    ManifestInvalidError,
    ManifestUnknownError,
    NameInvalidError,
    NameUnknownError,
    TagInvalidError,
    UploadUnknownError,
)
from dvcr.registry.names import reference, repository_name, tag_name
from dvcr.registry.registry import Registry
from dvcr.storage import paths
from dvcr.storage.driver import SessionBusyError
from tests.support.memory_storage import MemorySession, MemoryStorage
from tests.unit.registry.samples import manifest, push_blob, push_image


class TestNames:
    @pytest.mark.parametrize("name", ["a", "vmi/default/win-11", "a.b_c__d--e/f0", "x" * 255])
    def test_valid(self, name: str) -> None:
        assert repository_name(name) == name

    @pytest.mark.parametrize(
        "name", ["", "A", "/a", "a/", "a//b", "../a", "a/../b", "a/_blobs", "a:b", "-a", "a.", "a b", "a\n", "x" * 256]
    )
    def test_invalid(self, name: str) -> None:
        with pytest.raises(NameInvalidError):
            repository_name(name)

    @pytest.mark.parametrize("tag", ["", ".", "..", "-a", "a/b", "a" * 129, "a\n", "ä"])
    def test_invalid_tags(self, tag: str) -> None:
        with pytest.raises(TagInvalidError):
            tag_name(tag)

    def test_a_reference_is_a_digest_or_a_tag(self) -> None:
        digest = Digest.of(b"")
        assert reference(str(digest)) == digest
        assert reference("latest") == "latest"


class TestUploads:
    def test_a_blob_is_only_in_the_repository_it_was_pushed_to(self, registry: Registry) -> None:
        digest = push_blob(registry, "a", b"data")
        assert registry.blobs.size_bytes("a", digest) == 4
        with pytest.raises(BlobUnknownError):
            registry.blobs.size_bytes("b", digest)

    def test_an_upload_goes_on_over_requests_and_restarts(self, registry: Registry, storage: MemoryStorage) -> None:
        upload = registry.uploads.begin()
        upload.append(b"one ")
        upload.flush()
        upload = registry.uploads.resume(upload.id)
        upload.append(b"two ")
        upload.flush()
        upload = Registry(storage).uploads.resume(upload.id)  # another process, without hash states
        assert upload.size_bytes == 8
        upload.append(b"three")
        upload.commit("a", Digest.of(b"one two three"))
        assert registry.blobs.size_bytes("a", Digest.of(b"one two three")) == 13

    def test_bytes_that_another_server_wrote_in_between_are_hashed(
        self, registry: Registry, storage: MemoryStorage
    ) -> None:
        other = Registry(storage)
        upload = registry.uploads.begin()
        for number, server in enumerate((registry, other, registry)):
            part = server.uploads.resume(upload.id)
            part.append(b"%d" % number)
            part.flush()
        registry.uploads.resume(upload.id).commit("a", Digest.of(b"012"))
        assert registry.blobs.size_bytes("a", Digest.of(b"012")) == 3

    def test_sha512_is_decided_at_the_end(self, registry: Registry) -> None:
        upload = registry.uploads.begin()
        upload.append(b"data")
        upload.commit("a", Digest.of(b"data", "sha512"))
        assert registry.blobs.size_bytes("a", Digest.of(b"data", "sha512")) == 4

    def test_the_announced_algorithm_is_the_one_that_is_hashed(self, registry: Registry) -> None:
        upload = registry.uploads.begin(algorithm="sha512")
        for part in (b"one", b"two"):
            upload = registry.uploads.resume(upload.id)
            upload.append(part)
            upload.flush()
        upload.commit("a", Digest.of(b"onetwo", "sha512"))
        assert registry.blobs.size_bytes("a", Digest.of(b"onetwo", "sha512")) == 6

    def test_an_empty_one_hashes_as_its_end_asks(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        upload = registry.uploads.resume(registry.uploads.begin().id, "sha512")
        upload.append(b"data")
        monkeypatch.delattr(MemorySession, "open")  # nothing is read back
        upload.commit("a", Digest.of(b"data", "sha512"))
        assert registry.blobs.size_bytes("a", Digest.of(b"data", "sha512")) == 4

    def test_one_that_ended_meanwhile_is_unknown(self, registry: Registry) -> None:
        upload = registry.uploads.begin()
        late = registry.uploads.resume(upload.id)
        upload.append(b"data")
        upload.commit("a", Digest.of(b"data"))
        for call in (lambda: late.append(b"x"), lambda: late.commit("a", Digest.of(b"data")), lambda: late.size_bytes):
            with pytest.raises(UploadUnknownError):
                call()

    def test_a_writer_that_was_overtaken_forgets_what_it_hashed(
        self, registry: Registry, storage: MemoryStorage
    ) -> None:
        upload = registry.uploads.begin()
        upload.append(b"mine")
        # Another server takes the session over, as if its lease had ended, and writes something of the same length.
        content = storage.sessions[upload.id].content
        content.data[:] = b"hers"
        content.holder = storage.resume_upload(upload.id)
        with pytest.raises(SessionBusyError):
            upload.append(b"more")
        upload.flush()
        content.holder = None
        with pytest.raises(DigestMismatchError):
            registry.uploads.resume(upload.id).commit("a", Digest.of(b"mine"))

    def test_wrong_bytes_leave_nothing(self, registry: Registry, storage: MemoryStorage) -> None:
        upload = registry.uploads.begin()
        upload.append(b"data")
        with pytest.raises(DigestMismatchError):
            upload.commit("a", Digest.of(b"other"))
        with pytest.raises(UploadUnknownError):
            registry.uploads.resume(upload.id)
        assert not storage.values
        assert not storage.sessions

    def test_a_full_store_leaves_nothing(self, registry: Registry, storage: MemoryStorage) -> None:
        storage.room_bytes = 5
        upload = registry.uploads.begin()
        upload.append(b"1234")
        with pytest.raises(NoSpaceError):
            upload.append(b"5678")
        assert not storage.sessions


class TestMounts:
    def test_from_a_repository_or_from_anywhere(self, registry: Registry) -> None:
        digest = push_blob(registry, "a", b"data")
        assert not registry.blobs.mount("c", digest, "b")
        assert registry.blobs.mount("b", digest, "a")
        assert registry.blobs.mount("c", digest)
        assert registry.blobs.size_bytes("c", digest) == 4
        assert not registry.blobs.mount("c", Digest.of(b"unknown"))

    def test_deleting_leaves_other_repositories_alone(self, registry: Registry) -> None:
        digest = push_blob(registry, "a", b"data")
        registry.blobs.mount("b", digest)
        registry.blobs.delete("a", digest)
        with pytest.raises(BlobUnknownError):
            registry.blobs.confirm("a", digest)
        assert registry.blobs.confirm("b", digest) == 4
        with pytest.raises(BlobUnknownError):
            registry.blobs.delete("a", digest)


class TestManifests:
    def test_come_back_byte_for_byte(self, registry: Registry) -> None:
        push_blob(registry, "a", b"{}")
        body = manifest(b"{}").replace(b", ", b" ,\n ")
        stored = registry.manifests.put("a", body, IMAGE_MANIFEST, tags=["one", "two"])
        assert stored.digest == Digest.of(body)
        for name in (stored.digest, "one", "two"):
            found = registry.manifests.get("a", name)
            assert (found.body, found.media_type, found.digest) == (body, IMAGE_MANIFEST, stored.digest)

    def test_under_a_sha512_digest(self, registry: Registry) -> None:
        push_blob(registry, "a", b"{}")
        body = manifest(b"{}")
        digest = Digest.of(body, "sha512")
        assert registry.manifests.put("a", body, IMAGE_MANIFEST, digest=digest, tags=["t"]).digest == digest
        assert registry.manifests.get("a", "t").digest == digest

    def test_need_their_blobs_in_the_same_repository(self, registry: Registry) -> None:
        push_blob(registry, "b", b"{}")
        with pytest.raises(ManifestBlobUnknownError):
            registry.manifests.put("a", manifest(b"{}"), IMAGE_MANIFEST, tags=["t"])
        with pytest.raises(ManifestUnknownError):
            registry.manifests.get("a", "t")

    def test_say_how_many_blobs_are_missing(self, registry: Registry) -> None:
        push_blob(registry, "a", b"{}")
        layers = [b"%d" % number for number in range(40)]
        for layer in layers[2:]:
            push_blob(registry, "a", layer)
        with pytest.raises(ManifestBlobUnknownError, match=r"before the manifest that names it \(2 are missing\)"):
            registry.manifests.put("a", manifest(b"{}", *layers), IMAGE_MANIFEST)
        for layer in layers[:2]:
            push_blob(registry, "a", layer)
        body = manifest(b"{}", *layers)
        assert registry.manifests.put("a", body, IMAGE_MANIFEST).digest == Digest.of(body)

    @pytest.mark.parametrize("deletions", [1, 99])
    def test_a_deletion_meanwhile_leaves_no_tag_that_names_nothing(
        self, registry: Registry, storage: MemoryStorage, deletions: int
    ) -> None:
        digest = push_image(registry, "a", "old")
        written, left = storage.write, [deletions]

        def write(key: str, data: bytes) -> None:
            if key == paths.tag("a", "new") and left[0]:
                left[0] -= 1
                registry.manifests.delete("a", digest)
            written(key, data)

        storage.write = write  # type: ignore[method-assign]
        if deletions == 1:
            registry.manifests.put("a", manifest(b"{}"), IMAGE_MANIFEST, tags=["new"])
            assert registry.manifests.get("a", "new").digest == digest
            assert registry.tags.all("a") == ["new"]
        else:
            with pytest.raises(ManifestUnknownError, match="is being deleted: push it again"):
                registry.manifests.put("a", manifest(b"{}"), IMAGE_MANIFEST, tags=["new"])
            assert registry.tags.all("a") == []

    def test_must_have_the_digest_they_are_put_under(self, registry: Registry) -> None:
        push_blob(registry, "a", b"{}")
        with pytest.raises(DigestMismatchError):
            registry.manifests.put("a", manifest(b"{}"), IMAGE_MANIFEST, digest=Digest.of(b"other"))

    @pytest.mark.parametrize(
        ("body", "media_type"),
        [
            (b"", IMAGE_MANIFEST),
            (b"\xff\xfe", IMAGE_MANIFEST),
            (b"[]", IMAGE_MANIFEST),
            (b"[" * 100_000, IMAGE_MANIFEST),
            (b"{}", IMAGE_MANIFEST),
            (b"{}", ""),
            (manifest(b"{}"), IMAGE_INDEX),
            (manifest(b"{}", manifests=[]), IMAGE_MANIFEST),
            (manifest(b"{}", layers={}), IMAGE_MANIFEST),
            (manifest(b"{}", layers=[{"digest": "sha256:../../x"}]), IMAGE_MANIFEST),
            (manifest(b"{}", schemaVersion=1), IMAGE_MANIFEST),
            (manifest(b"{}", annotations={"a": 1}), IMAGE_MANIFEST),
            (b'{"schemaVersion": 2}', IMAGE_INDEX),
        ],
    )
    def test_malformed_ones_are_refused(self, registry: Registry, body: bytes, media_type: str) -> None:
        push_blob(registry, "a", b"{}")
        with pytest.raises(ManifestInvalidError):
            registry.manifests.put("a", body, media_type, tags=["t"])

    def test_deleting_takes_the_tags_that_name_it(self, registry: Registry) -> None:
        first = push_image(registry, "a", "one", b"1")
        registry.tags.set("a", "also-one", first)
        push_image(registry, "a", "two", b"2")
        registry.manifests.delete("a", first)
        assert registry.tags.all("a") == ["two"]
        with pytest.raises(ManifestUnknownError):
            registry.manifests.get("a", first)
        with pytest.raises(ManifestUnknownError):
            registry.manifests.delete("a", first)

    def test_deleting_a_tag_leaves_the_manifest(self, registry: Registry) -> None:
        digest = push_image(registry, "a", "one", b"1")
        registry.tags.delete("a", "one")
        assert registry.manifests.get("a", digest).digest == digest
        with pytest.raises(ManifestUnknownError):
            registry.tags.delete("a", "one")


class TestLists:
    def test_tags_in_pages(self, registry: Registry) -> None:
        digest = push_image(registry, "a", "b", b"1")
        for tag in ("a", "d", "c"):
            registry.tags.set("a", tag, digest)
        assert registry.tags.page("a", 10) == ["a", "b", "c", "d"]
        assert registry.tags.page("a", 2, after="a") == ["b", "c"]
        assert registry.tags.page("a", 2, after="z") == []
        with pytest.raises(NameUnknownError):
            registry.tags.page("unknown", 10)

    def test_repositories_with_manifests_in_pages(self, registry: Registry) -> None:
        for name in ("c", "a/b", "a"):
            push_image(registry, name, "t", b"1")
        push_blob(registry, "b", b"no manifest")
        assert registry.catalog.page(10) == ["a", "a/b", "c"]
        assert registry.catalog.page(1, after="a") == ["a/b"]
        assert registry.catalog.page(0) == []


class TestReferrers:
    def test_are_listed_by_subject_and_type_until_they_are_deleted(self, registry: Registry) -> None:
        subject = push_image(registry, "a", "t", b"1")
        link = Descriptor(IMAGE_MANIFEST, subject, 1).to_json()
        one = push_image(registry, "a", "one", b"2", subject=link, artifactType="x/one", annotations={"k": "v"})
        two = push_image(registry, "a", "two", b"3", subject=link)
        found = {item["digest"]: item for item in registry.referrers.of("a", subject)}
        assert set(found) == {str(one), str(two)}
        assert found[str(one)]["artifactType"] == "x/one"
        assert found[str(one)]["annotations"] == {"k": "v"}
        assert found[str(two)]["artifactType"] == "application/vnd.oci.image.config.v1+json"
        assert [item["digest"] for item in registry.referrers.of("a", subject, "x/one")] == [str(one)]
        registry.manifests.delete("a", one)
        assert [item["digest"] for item in registry.referrers.of("a", subject)] == [str(two)]
        assert list(registry.referrers.of("b", subject)) == []

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_include_the_index_under_the_fallback_tag(self, registry: Registry, algorithm: str) -> None:
        push_image(registry, "a", "t", b"1")
        body = manifest(b"{}", b"1")
        subject = registry.manifests.put("a", body, IMAGE_MANIFEST, digest=Digest.of(body, algorithm)).digest
        other = push_image(registry, "a", "o", b"2")
        item = Descriptor(IMAGE_MANIFEST, other, 3, artifact_type="x/y").to_json()
        index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [item]}
        registry.manifests.put("a", json.dumps(index).encode(), IMAGE_INDEX, tags=[f"{algorithm}-{subject.hex[:64]}"])
        assert list(registry.referrers.of("a", subject)) == [item]
