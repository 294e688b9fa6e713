"""The checksums that a user promised for a source."""

import hashlib
import re
from collections.abc import Mapping

from dvcr.errors import IntegrityError, ResourceError

HEX_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Checksums:
    """Computes every promised checksum over bytes that arrive in order."""

    def __init__(self, promised: Mapping[str, str]) -> None:
        """`promised`: algorithm to hex; ResourceError where one is unknown or malformed."""
        self.promised = {algorithm: value.strip().lower() for algorithm, value in promised.items()}
        for algorithm, value in self.promised.items():
            length = HEX_LENGTHS.get(algorithm)
            if length is None:
                raise ResourceError(f"checksum {algorithm!r} is not supported; use {', '.join(HEX_LENGTHS)}")
            if len(value) != length or not _HEX.fullmatch(value):
                raise ResourceError(f"a {algorithm} checksum has {length} hex digits, not {value!r}")
        self._states = {name: hashlib.new(name, usedforsecurity=False) for name in self.promised}

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        for state in self._states.values():
            state.update(data)

    def verify(self) -> None:
        """Raise IntegrityError naming the first promise that the bytes do not keep."""
        for algorithm, state in self._states.items():
            actual = state.hexdigest()
            if actual != self.promised[algorithm]:
                raise IntegrityError(
                    f"the source has {algorithm} {actual}, expected {self.promised[algorithm]}; "
                    "correct the checksum, or find out who changed the file",
                    reason="ChecksumMismatch",
                )
