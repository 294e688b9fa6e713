"""Tokens that nobody should accept."""

import base64
import json
from collections.abc import Mapping


def unsigned(claims: Mapping[str, object], kid: str) -> str:
    """A token with `alg: none` and no signature."""
    parts = ({"alg": "none", "typ": "JWT", "kid": kid}, dict(claims))
    return "".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") + "." for part in parts)
