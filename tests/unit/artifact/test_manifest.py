"""The format, as docs/artifact-format.md states it; and everything that looks like it and is not."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvcr.artifact.chunk import CHUNK_RAW, CHUNK_ZSTD
from dvcr.artifact.image import MAX_CHUNKS, MAX_VIRTUAL_SIZE_BYTES, DiskImage, ImageSource, chunk_size_bytes
from dvcr.artifact.manifest import ARTIFACT_TYPE, CONFIG, DiskManifest, config_json, runs
from dvcr.descriptor import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.errors import ImageError
from tests.support.artifacts import CHUNK, CREATED, SOURCE, image_with

MIB = 2**20


def layer(number: int, size_bytes: int = 100, media_type: str = CHUNK_ZSTD) -> Descriptor:
    return Descriptor(media_type, Digest.of(str(number).encode()), size_bytes)


IMAGE = image_with({0: layer(0), 1: layer(1), 4: layer(4, CHUNK, CHUNK_RAW), 5: layer(5)}, 5 * CHUNK + 1000)


def written(image: DiskImage) -> tuple[bytes, bytes]:
    config = config_json(image)
    return DiskManifest.of(image, config).to_json(), config


def read(manifest: bytes, config: bytes) -> DiskImage:
    return DiskManifest.parse(manifest).image(config)


@pytest.mark.parametrize(
    ("virtual", "chunk"),
    [
        (1, 4 * MIB),
        (64 * 2**30, 4 * MIB),
        (64 * 2**30 + 1, 8 * MIB),
        (2 * 2**40, 128 * MIB),
        (MAX_VIRTUAL_SIZE_BYTES, 2**30),
    ],
)
def test_chunk_sizes(virtual: int, chunk: int) -> None:
    assert chunk_size_bytes(virtual) == chunk
    assert -(-virtual // chunk) <= MAX_CHUNKS


def test_the_json() -> None:
    manifest, config = written(IMAGE)
    assert json.loads(config) == {
        "virtualSize": 5 * CHUNK + 1000,
        "chunkSize": CHUNK,
        "chunks": [[0, 2], [4, 2]],
        "cdrom": False,
        "source": {
            "format": "qcow2",
            "size": 1000,
            "checksums": {"sha256": "0" * 64},
            "origin": "https://example.com/disk.qcow2",
        },
        "created": "2026-01-02T03:04:05Z",
    }
    parsed = json.loads(manifest)
    assert parsed == {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": "application/vnd.dvcr.disk.v1",
        "config": {
            "mediaType": "application/vnd.dvcr.disk.config.v1+json",
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [chunk.descriptor.to_json() for chunk in IMAGE.chunks],
    }


def test_it_comes_back() -> None:
    assert read(*written(IMAGE)) == IMAGE


def test_a_disk_of_zeroes_has_the_empty_descriptor_for_a_layer() -> None:
    image = image_with({}, CHUNK)
    manifest, config = written(image)
    assert json.loads(manifest)["layers"] == [
        {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
    ]
    assert read(manifest, config) == image
    assert read(changed(manifest, lambda value: value.update(layers=[])), config) == image


def test_the_largest_manifest_fits_into_4_mib() -> None:
    virtual = 64 * 2**30
    image = image_with({index: layer(index, CHUNK - 1) for index in range(MAX_CHUNKS)}, virtual)
    manifest, config = written(image)
    assert len(manifest) < 4 * MIB
    assert read(manifest, config) == image
    sha512 = {index: Descriptor(CHUNK_ZSTD, Digest.of(b"", "sha512"), 2**30 - 1) for index in range(MAX_CHUNKS)}
    assert len(written(image_with(sha512, MAX_VIRTUAL_SIZE_BYTES))[0]) < 4 * MIB


def test_the_worst_case_of_runs_fits_into_a_config() -> None:
    image = image_with({index: layer(index) for index in range(0, MAX_CHUNKS, 2)}, 64 * 2**30)
    manifest, config = written(image)
    assert len(config) < MIB
    assert read(manifest, config) == image


def test_times_are_written_in_utc() -> None:
    there = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=3)))
    image = DiskImage(1, CHUNK, (), True, SOURCE, there)
    assert json.loads(config_json(image))["created"] == "2025-12-31T23:00:00Z"


@settings(deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_indexes(indexes: set[int]) -> None:
    pairs = runs(sorted(indexes))
    assert [index for first, count in pairs for index in range(first, first + count)] == sorted(indexes)
    assert all(first + count < following for (first, count), (following, _) in pairwise(pairs))


@settings(deadline=None)
@given(
    st.integers(1, MAX_VIRTUAL_SIZE_BYTES),
    st.data(),
    st.booleans(),
    st.text(),
    st.dictionaries(st.sampled_from(["md5", "sha256"]), st.text("0123456789abcdef")),
)
def test_any_image_comes_back(
    virtual: int, data: st.DataObject, cdrom: bool, origin: str, checksums: dict[str, str]
) -> None:
    size = chunk_size_bytes(virtual)
    count = -(-virtual // size)
    indexes = data.draw(st.sets(st.integers(0, count - 1), max_size=20))
    descriptors = {index: layer(index, min(size, virtual - index * size), CHUNK_RAW) for index in indexes}
    plain = image_with(descriptors, virtual)
    source = ImageSource("raw", virtual, checksums, origin)
    image = DiskImage(virtual, size, plain.chunks, cdrom, source, CREATED)
    assert read(*written(image)) == image


def changed(body: bytes, change: Callable[[Any], object]) -> bytes:
    value = json.loads(body)
    change(value)
    return json.dumps(value).encode()


def put(*path: str | int, to: object) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("artifactType", to="application/vnd.other.v1"),
        put("artifactType", to=None),
        put("mediaType", to=IMAGE_INDEX),
        put("schemaVersion", to=1),
        put("config", to=None),
        put("config", "mediaType", to="application/vnd.oci.image.config.v1+json"),
        put("config", "size", to=2**40),
        put("config", "size", to=-1),
        put("config", "size", to="7"),
        put("config", "digest", to="sha256:../../x"),
        put("config", "digest", to=7),
        put("layers", to={}),
        put("layers", to=[None]),
        put("layers", 0, "size", to=-1),
        put("layers", 0, "size", to=0),
        put("layers", 0, "size", to=CHUNK),
        put("layers", 0, "size", to=1e300),
        put("layers", 0, "size", to=True),
        put("layers", 2, "size", to=CHUNK - 1),
        put("layers", 3, "size", to=1000),
        put("layers", 0, "digest", to="md5:" + "0" * 32),
        put("layers", 0, "digest", to="sha256:" + "A" * 64),
        put("layers", 0, "mediaType", to="application/octet-stream"),
        lambda value: value["layers"].pop(),
        lambda value: value["layers"].append(value["layers"][0]),
        lambda value: value["layers"].extend(value["layers"] * MAX_CHUNKS),
        lambda value: value.pop("layers"),
    ],
)
def test_manifests_that_break_the_format(change: Callable[[Any], object]) -> None:
    manifest, config = written(IMAGE)
    with pytest.raises(ImageError):
        read(changed(manifest, change), config)


@pytest.mark.parametrize(
    "change",
    [
        put("virtualSize", to=0),
        put("virtualSize", to=-1),
        put("virtualSize", to=MAX_VIRTUAL_SIZE_BYTES + 1),
        put("virtualSize", to=10**400),
        put("virtualSize", to=1.5),
        put("virtualSize", to="4194304"),
        put("virtualSize", to=CHUNK),
        put("chunkSize", to=0),
        put("chunkSize", to=CHUNK * 2),
        put("chunkSize", to=2**60),
        put("chunks", to=None),
        put("chunks", to=[]),
        put("chunks", to=[[0, 2], [4, 1], [5, 1], [6, 0]]),
        put("chunks", to=[[4, 2], [0, 2]]),
        put("chunks", to=[[0, 2], [1, 2]]),
        put("chunks", to=[[0, 2], [5, 2]]),
        put("chunks", to=[[-1, 4]]),
        put("chunks", to=[[0, 10**18]]),
        put("chunks", to=[[0, 4, 1]]),
        put("chunks", to=[0, 1, 4, 5]),
        put("chunks", to=[[0, 1]] * 50_000),
        put("cdrom", to="no"),
        put("source", to=None),
        put("source", "size", to=-1),
        put("source", "checksums", to={"md5": 7}),
        put("created", to="yesterday"),
        put("created", to="2026-01-02T03:04:05"),
        put("created", to=1767323045),
        lambda value: value.pop("cdrom"),
    ],
)
def test_configs_that_break_the_format(change: Callable[[Any], object]) -> None:
    manifest, config = written(IMAGE)
    with pytest.raises(ImageError) as caught:
        read(manifest, changed(config, change))
    assert caught.value.reason in ("CorruptImage", "VirtualSizeTooLarge")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"7", b"{", b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe", b'{"a":"\\ud800"}', b"\0"]
)
def test_what_is_no_json_object(body: bytes) -> None:
    manifest, _ = written(IMAGE)
    with pytest.raises(ImageError):
        DiskManifest.parse(body)
    with pytest.raises(ImageError):
        read(manifest, body)


def test_another_kind_of_artifact_is_named() -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "artifactType": "application/x.chart"}).encode()
    with pytest.raises(ImageError, match=r"application/x\.chart") as caught:
        DiskManifest.parse(body)
    assert caught.value.reason == "UnknownFormat"


def test_fields_of_a_later_minor_version_are_ignored() -> None:
    manifest, config = written(IMAGE)
    assert read(manifest, changed(config, put("comment", to="hello"))) == IMAGE
    assert read(changed(manifest, put("annotations", to={"a": "b"})), config) == IMAGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
PATHS = st.sampled_from(
    [
        ("virtualSize",),
        ("chunkSize",),
        ("chunks",),
        ("chunks", 0),
        ("chunks", 0, 0),
        ("chunks", 1, 1),
        ("cdrom",),
        ("source",),
        ("source", "format"),
        ("source", "size"),
        ("source", "checksums"),
        ("created",),
    ]
)


@settings(deadline=None)
@given(PATHS, JSON)
def test_any_value_anywhere_in_a_config_is_an_image_or_an_image_error(path: tuple[str | int, ...], value: Any) -> None:
    manifest, config = written(IMAGE)
    try:
        image = read(manifest, changed(config, put(*path, to=value)))
    except ImageError:
        return
    assert [chunk.descriptor for chunk in image.chunks] == [chunk.descriptor for chunk in IMAGE.chunks]
    assert all(0 <= chunk.index < image.chunk_count for chunk in image.chunks)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 5)), max_size=5))
def test_accepted_runs_rise_and_stay_in_range(pairs: list[tuple[int, int]]) -> None:
    image = image_with({index: layer(index) for index in range(4)}, 8 * CHUNK)
    manifest, config = written(image)
    try:
        got = read(manifest, changed(config, put("chunks", to=pairs)))
    except ImageError:
        return
    indexes = [chunk.index for chunk in got.chunks]
    assert indexes == sorted(set(indexes))
    assert all(0 <= index < 8 for index in indexes)


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_never_crashes(at: int, value: int) -> None:
    manifest, config = written(IMAGE)
    at %= len(manifest)
    with contextlib.suppress(ImageError):
        read(manifest[:at] + bytes([value]) + manifest[at + 1 :], config)


def test_images_cannot_be_made_wrong() -> None:
    with pytest.raises(ImageError, match="time zone"):
        DiskImage(1, CHUNK, (), False, SOURCE, datetime(2026, 1, 1))
    with pytest.raises(ImageError, match="chunk 1"):
        image_with({1: layer(1)}, CHUNK)


def test_stored_bytes_count_a_blob_once() -> None:
    assert image_with({0: layer(7), 1: layer(7), 2: layer(8)}, 3 * CHUNK).stored_bytes == 200
    assert IMAGE.chunk_length(0) == CHUNK
    assert IMAGE.chunk_length(5) == 1000
    assert IMAGE.created.tzinfo is UTC
    assert ARTIFACT_TYPE != CONFIG
