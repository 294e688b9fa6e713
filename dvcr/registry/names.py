"""The grammar of names (distribution-spec, "Pulling manifests"), checked before anything touches the storage."""

import re

from dvcr.digest import Digest
from dvcr.registry.errors import NameInvalidError, TagInvalidError

MAX_NAME_LENGTH = 255

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def repository_name(text: str) -> str:
    """`text` if it is a repository name; raises NameInvalidError."""
    if len(text) > MAX_NAME_LENGTH:
        raise NameInvalidError(f"a repository name has at most {MAX_NAME_LENGTH} characters, this one {len(text)}")
    if not _NAME.fullmatch(text):
        raise NameInvalidError(f"{text!r} is no repository name: lower-case letters, digits, '.', '_', '-' and '/'")
    return text


def tag_name(text: str) -> str:
    """`text` if it is a tag; raises TagInvalidError."""
    if not _TAG.fullmatch(text):
        raise TagInvalidError(f"{text!r} is no tag: at most 128 letters, digits, '_', '.' and '-', first no '.' or '-'")
    return text


def reference(text: str) -> Digest | str:
    """The digest or the tag that a manifest is asked for by; raises InvalidDigestError or TagInvalidError."""
    return Digest.parse(text) if ":" in text else tag_name(text)
