"""Digests as in OCI image-spec, "Digests": ``<algorithm>:<lower-case hex>``."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from dvcr.errors import IntegrityError
from dvcr.sha256 import AVAILABLE, Sha256

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class InvalidDigestError(ValueError):
    """The text is no digest, or one of an algorithm that is not supported."""


def digest_algorithm(text: str) -> str:
    """`text`, if it names a supported algorithm; raises InvalidDigestError."""
    if text not in HEX_LENGTHS:
        raise InvalidDigestError(f"digest algorithm {text!r} is not supported; use sha256 or sha512")
    return text


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content address. Immutable, hashable, ordered; `str()` gives the canonical text."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The digest that `text` spells; raises InvalidDigestError with what is wrong."""
        algorithm, separator, hex_ = text.partition(":")
        if not separator:
            raise InvalidDigestError(f"digest {text!r} has no algorithm; expected sha256:<64 hex digits>")
        length = HEX_LENGTHS[digest_algorithm(algorithm)]
        if len(hex_) != length or not _HEX.fullmatch(hex_):
            raise InvalidDigestError(f"a {algorithm} digest has {length} lower-case hex digits, not {hex_!r}")
        return cls(algorithm, hex_)

    @classmethod
    def of(cls, data: "ReadableBuffer", algorithm: str = "sha256") -> Self:
        """The digest of `data`, which may be any buffer; hashing releases the GIL."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> "Hasher":
        """A fresh hasher of this digest's algorithm."""
        return Hasher(self.algorithm)

    def verify(self, data: "ReadableBuffer") -> None:
        """Raise IntegrityError unless `data` has this digest."""
        actual = Digest.of(data, self.algorithm)
        if actual != self:
            raise IntegrityError(f"expected {self}, the bytes are {actual}", reason="DigestMismatch")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Hasher:
    """Digest of bytes that arrive in pieces."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self._state = hashlib.new(algorithm)
        self.update: Callable[[ReadableBuffer], None] = self._state.update

    def digest(self) -> Digest:
        """The digest of all bytes so far; more may follow."""
        return Digest(self.algorithm, self._state.hexdigest())


class SavableHasher:
    """As Hasher, and its state can be kept where that is possible: for sha256, with OpenSSL."""

    def __init__(self, algorithm: str = "sha256", state: Sha256 | None = None) -> None:
        self.algorithm = algorithm
        savable = algorithm == "sha256" and AVAILABLE
        self._state = state or (Sha256() if savable else hashlib.new(algorithm))
        self.update: Callable[[bytes | bytearray | memoryview], None] = self._state.update

    def digest(self) -> Digest:
        """The digest of all bytes so far; more may follow."""
        return Digest(self.algorithm, self._state.hexdigest())

    def save(self) -> bytes:
        """The state, for `restore`; empty if it cannot be kept."""
        return self._state.save() if isinstance(self._state, Sha256) else b""

    @classmethod
    def restore(cls, saved: bytes) -> Self | None:
        """Goes on from a saved state; None if it is of no use here."""
        state = Sha256.restore(saved) if AVAILABLE else None
        return cls("sha256", state) if state else None
