"""The forms of texts in resources: names, URLs, image references, checksums, quantities, addresses.

Each has a length too, by which API servers estimate what a rule may cost them.
"""

import base64
from typing import Annotated

from pydantic import BeforeValidator, Field

from controller.api.quantity import QUANTITY, parse_bytes
from controller.api.rules import Rule, matching

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_PORT = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[^\x00-\x20/?#@:\[\]]+)"
_IMAGE_PATH = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
LEASE_NAME = f"ip(?:-{_OCTET}){{4}}"
"""What leases of addresses are called."""


def _hex_digits(count: int) -> Rule:
    return matching(f"[0-9a-fA-F]{{{count}}}", f"must be {count} hexadecimal digits")


def _holding(content: bytes, message: str) -> Rule:
    """Base64 of what has `content` in it, at any of its three alignments. CEL decodes no base64 that has `+` or `/`."""
    inside = []
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + content).decode()
        inside.append(encoded[-(-shift * 8 // 6) : (shift + len(content)) * 8 // 6])
    form = matching(_BASE64, message)
    found = " || ".join(f"self.contains('{part}')" for part in inside)
    return Rule(
        f"{form.cel} && ({found})", lambda text: form.holds(text) and any(part in text for part in inside), message
    )


def _is_more_than_zero(quantity: str) -> bool:
    try:
        return parse_bytes(quantity) > 0
    except ValueError:
        return True  # the other rule tells


ObjectName = Annotated[
    str,
    Field(max_length=253),
    matching(
        rf"{_LABEL}(?:\.{_LABEL})*", "must be what an object can be called: lower-case letters, digits, '-' and '.'"
    ),
]
Url = Annotated[
    str,
    Field(max_length=8192),
    matching(
        rf"(?i:https?)://(?:[^\x00-\x20/?#@]*@)?{_HOST}(?::{_PORT}?)?(?:[/?#][^\x00-\x20]*)?",
        "must be an http:// or https:// URL",
    ),
]
ImageReference = Annotated[
    str,
    Field(max_length=1024),
    matching(
        r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?/)?"
        rf"{_IMAGE_PATH}(?:/{_IMAGE_PATH})*"
        r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?",
        "must be an image reference, such as registry.example.com/folder/image:tag",
    ),
]
CaBundle = Annotated[
    str,
    Field(max_length=2**19),
    _holding(b"-----BEGIN CERTIFICATE-----", "must be base64 of certificates in PEM form"),
]
Md5 = Annotated[str, Field(max_length=32), _hex_digits(32)]
Sha1 = Annotated[str, Field(max_length=40), _hex_digits(40)]
Sha256 = Annotated[str, Field(max_length=64), _hex_digits(64)]
Sha512 = Annotated[str, Field(max_length=128), _hex_digits(128)]
ProcessorWord = Annotated[
    str,
    Field(max_length=63),
    matching("[A-Za-z0-9][A-Za-z0-9._-]*", "must be a name that QEMU knows, such as Nehalem or sse4.2"),
]
Address = Annotated[str, Field(max_length=15), matching(rf"{_OCTET}(?:\.{_OCTET}){{3}}", "must be an IPv4 address")]
LeaseName = Annotated[
    str, Field(max_length=18), matching(LEASE_NAME, "must be what leases are called, such as ip-192-0-2-7")
]
# What Kubernetes calls IntOrString; the schema says so too.
Size = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(max_length=64, json_schema_extra={"x-kubernetes-int-or-string": True}),
    matching(QUANTITY, "must be a quantity of bytes, such as 10Gi, 512Mi or 20G", of="string(self)"),
    Rule(
        "!isQuantity(string(self)) || quantity(string(self)).isGreaterThan(quantity('0'))",
        _is_more_than_zero,
        "must be more than 0",
    ),
]
