import pytest

from dvcr.descriptor import OCTET_STREAM, Descriptor
from dvcr.digest import Digest

DIGEST = Digest.of(b"hello")


def test_json_round_trip_keeps_everything() -> None:
    full = Descriptor(OCTET_STREAM, DIGEST, 5, {"org.example.a": "b"}, "application/x")
    assert full.to_json() == {
        "mediaType": OCTET_STREAM,
        "digest": str(DIGEST),
        "size": 5,
        "artifactType": "application/x",
        "annotations": {"org.example.a": "b"},
    }
    assert Descriptor.from_json(full.to_json()) == full


def test_empty_fields_are_left_out() -> None:
    assert set(Descriptor(OCTET_STREAM, DIGEST, 5).to_json()) == {"mediaType", "digest", "size"}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"mediaType": OCTET_STREAM, "digest": str(DIGEST)},
        {"mediaType": OCTET_STREAM, "digest": str(DIGEST), "size": -1},
        {"mediaType": OCTET_STREAM, "digest": str(DIGEST), "size": True},
        {"mediaType": OCTET_STREAM, "digest": str(DIGEST), "size": "5"},
        {"mediaType": OCTET_STREAM, "digest": "sha256:zz", "size": 5},
        {"mediaType": 1, "digest": str(DIGEST), "size": 5},
    ],
)
def test_refuses_what_is_no_descriptor(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"descriptor|digest|mediaType"):
        Descriptor.from_json(value)
