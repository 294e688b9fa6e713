import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.errors import StatusError
from controller.local.protobuf import decode


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value])
    raw = value.encode() if isinstance(value, str) else value
    assert len(raw) < 128
    return bytes([number << 3 | 2, len(raw)]) + raw


def envelope(kind: str, raw: bytes, api_version: str = "v1") -> bytes:
    return b"k8s\x00" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw) + field(3, "") + field(4, "")


META = field(1, field(1, "a") + field(2, "") + field(8, b"") + field(11, field(1, "k") + field(2, "v")))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            envelope("Namespace", META + field(2, b"") + field(3, field(1, ""))),
            {"apiVersion": "v1", "kind": "Namespace"},
        ),
        (
            envelope(
                "Secret", META + field(2, field(1, "p") + field(2, b"\x00\xff")) + field(3, "Opaque") + field(5, 1)
            ),
            {"apiVersion": "v1", "kind": "Secret", "data": {"p": "AP8="}, "type": "Opaque", "immutable": True},
        ),
        (
            envelope("ConfigMap", META + field(2, field(1, "a") + field(2, "b")) + field(2, field(1, "c"))),
            {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b", "c": ""}},
        ),
    ],
)
def test_objects_of_kubectl_create(body: bytes, expected: dict[str, Any]) -> None:
    assert decode(body) == {**expected, "metadata": {"name": "a", "labels": {"k": "v"}}}


def test_delete_options() -> None:
    raw = field(1, 0) + field(2, field(1, "uid")) + field(4, "Foreground") + field(5, "All")
    found = decode(envelope("DeleteOptions", raw, "meta.k8s.io/v1"))
    assert found["gracePeriodSeconds"] == 0
    assert found["preconditions"] == {"uid": "uid"}
    assert (found["propagationPolicy"], found["dryRun"]) == ("Foreground", ["All"])


@pytest.mark.parametrize("body", [envelope("Pod", META), envelope("Namespace", META + field(9, "x"))])
def test_what_would_be_lost_is_refused(body: bytes) -> None:
    with pytest.raises(StatusError) as refused:
        decode(body)
    assert refused.value.code == 415


@given(st.binary(max_size=64))
def test_garbage_is_read_or_refused(garbage: bytes) -> None:
    for body in (garbage, b"k8s\x00" + garbage, envelope("ConfigMap", garbage)):
        with contextlib.suppress(StatusError):
            assert isinstance(decode(body), dict)
