"""Bodies in Kubernetes' protobuf encoding, for the few kinds that `kubectl create` sends this way.

Newer kubectl sends what it builds itself (namespaces, ConfigMaps, Secrets, ServiceAccounts, roles, bindings, requests
for tokens, reviews of access) as protobuf, and offers no other form; everything else comes as JSON. The field numbers
are those of the `generated.proto` files in k8s.io/api (core, rbac, authentication and authorization v1) and
k8s.io/apimachinery/pkg/apis/meta/v1.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from controller.api.errors import StatusError, bad_request

_MAGIC = b"k8s\x00"


@dataclass(frozen=True)
class _Field:
    name: str
    type: "Literal['string', 'bytes', 'integer', 'boolean', 'skipped'] | _Message"
    many: Literal["", "list", "map"] = ""


_Message = dict[int, _Field]

_META: _Message = {
    1: _Field("name", "string"),
    2: _Field("generateName", "string"),
    3: _Field("namespace", "string"),
    4: _Field("selfLink", "string"),
    5: _Field("uid", "string"),
    6: _Field("resourceVersion", "string"),
    7: _Field("generation", "integer"),
    8: _Field("creationTimestamp", "skipped"),  # the server's to set
    11: _Field("labels", "string", "map"),
    12: _Field("annotations", "string", "map"),
    14: _Field("finalizers", "string", "list"),
}
_METADATA = _Field("metadata", _META)
_RULE: _Message = {
    number: _Field(name, "string", "list")
    for number, name in enumerate(("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"), start=1)
}
_SUBJECT: _Message = {
    number: _Field(name, "string") for number, name in enumerate(("kind", "apiGroup", "name", "namespace"), start=1)
}
_ROLE_REFERENCE: _Message = {
    number: _Field(name, "string") for number, name in enumerate(("apiGroup", "kind", "name"), start=1)
}
_ATTRIBUTES: _Message = {
    number: _Field(name, "string")
    for number, name in enumerate(("namespace", "verb", "group", "version", "resource", "subresource", "name"), start=1)
}
_ROLE: _Message = {1: _METADATA, 2: _Field("rules", _RULE, "list")}
_BINDING: _Message = {1: _METADATA, 2: _Field("subjects", _SUBJECT, "list"), 3: _Field("roleRef", _ROLE_REFERENCE)}
_RBAC = "rbac.authorization.k8s.io/v1"
_MESSAGES: dict[tuple[str, str], _Message] = {
    ("v1", "Namespace"): {1: _METADATA, 2: _Field("spec", "skipped"), 3: _Field("status", "skipped")},
    ("v1", "ConfigMap"): {
        1: _METADATA,
        2: _Field("data", "string", "map"),
        3: _Field("binaryData", "bytes", "map"),
        4: _Field("immutable", "boolean"),
    },
    ("v1", "Secret"): {
        1: _METADATA,
        2: _Field("data", "bytes", "map"),
        3: _Field("type", "string"),
        4: _Field("stringData", "string", "map"),
        5: _Field("immutable", "boolean"),
    },
    ("v1", "ServiceAccount"): {1: _METADATA, 4: _Field("automountServiceAccountToken", "boolean")},
    ("authentication.k8s.io/v1", "TokenRequest"): {
        1: _METADATA,
        2: _Field("spec", {1: _Field("audiences", "string", "list"), 4: _Field("expirationSeconds", "integer")}),
        3: _Field("status", "skipped"),
    },
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): {
        1: _METADATA,
        2: _Field("spec", {1: _Field("resourceAttributes", _ATTRIBUTES)}),
        3: _Field("status", "skipped"),
    },
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview"): {
        1: _METADATA,
        2: _Field("spec", {1: _Field("namespace", "string")}),
        3: _Field("status", "skipped"),
    },
    ("authentication.k8s.io/v1", "SelfSubjectReview"): {1: _METADATA, 2: _Field("status", "skipped")},
    (_RBAC, "Role"): _ROLE,
    (_RBAC, "ClusterRole"): _ROLE,
    (_RBAC, "RoleBinding"): _BINDING,
    (_RBAC, "ClusterRoleBinding"): _BINDING,
}
_DELETE_OPTIONS: _Message = {
    1: _Field("gracePeriodSeconds", "integer"),
    2: _Field("preconditions", {1: _Field("uid", "string"), 2: _Field("resourceVersion", "string")}),
    3: _Field("orphanDependents", "boolean"),
    4: _Field("propagationPolicy", "string"),
    5: _Field("dryRun", "string", "list"),
}
_TYPE: _Message = {1: _Field("apiVersion", "string"), 2: _Field("kind", "string")}
_ENVELOPE: _Message = {
    1: _Field("type", _TYPE),
    2: _Field("raw", "bytes"),
    3: _Field("contentEncoding", "string"),
    4: _Field("contentType", "string"),
}


def decode(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises StatusError: 400 if it is broken, 415 for a kind or field that is not known here."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body does not begin as a Kubernetes protobuf object does")
    try:
        envelope = _decode(body[len(_MAGIC) :], _ENVELOPE)
        type_ = envelope.get("type", {})
        key = (type_.get("apiVersion", ""), type_.get("kind", ""))
        message = _DELETE_OPTIONS if key[1] == "DeleteOptions" else _MESSAGES.get(key)
        if message is None:
            raise _unsupported(f"{key[1]} of {key[0]}")
        return {**type_, **_decode(base64.b64decode(envelope.get("raw", "")), message)}
    except (IndexError, UnicodeDecodeError) as exc:
        raise bad_request("the body is a broken protobuf message") from exc


def _decode(data: bytes, message: _Message) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for number, value in _fields(data):
        field = message.get(number)
        if field is None:
            if value:
                raise _unsupported(f"field {number}")
            continue
        if field.type == "skipped":
            continue
        if field.many == "map":
            entry = _decode(_bytes(value), {1: _Field("key", "string"), 2: _Field("value", field.type)})
            result.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
            continue
        found = _value(value, field)
        if field.many == "list":
            result.setdefault(field.name, []).append(found)
        elif found != "":
            # Go writes empty strings for what is not set.
            result[field.name] = found
    return result


def _value(value: int | bytes, field: _Field) -> Any:
    match field.type:
        case "integer":
            return value
        case "boolean":
            return bool(value)
        case "string":
            return _bytes(value).decode()
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case dict() as message:
            return _decode(_bytes(value), message)
    raise _unsupported(field.name)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise IndexError
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise IndexError
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise IndexError


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
        shift += 7


def _unsupported(what: str) -> StatusError:
    return StatusError(415, "UnsupportedMediaType", f"{what} cannot be sent as protobuf to this API server: use JSON")
