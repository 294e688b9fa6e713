"""What tests of the HTTP source fetch, and how it ends."""

import hashlib
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from dvcr.errors import DvcrError
from importer.sources.spooled import SpooledSource

MIB = 2**20
CONTENT = random.Random(1).randbytes(3 * MIB + 17)
Open = Callable[..., AbstractContextManager[SpooledSource]]


def sums(content: bytes = CONTENT) -> dict[str, str]:
    return {name: hashlib.new(name, content).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}


def whole(source: SpooledSource) -> bytes:
    return source.read_at(0, source.size_bytes())


def failure(open_source: Open, url: str, **options: Any) -> DvcrError:
    with open_source(url, **options) as source, pytest.raises(DvcrError) as caught:
        source.finish()
    return caught.value
