"""The checksums that a file was promised to have, over bytes that may come in several requests."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

from dvcr.errors import IntegrityError

_REMEMBERED = 1024


class Promises:
    """Hashes of a file from its beginning; empty where nothing was promised, or not all of it was seen."""

    def __init__(self, promised: Mapping[str, str]) -> None:
        self._promised = dict(promised)
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in promised}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        for state in self._hashes.values():
            state.update(data)

    def verify(self) -> None:
        """Raise IntegrityError naming the first promise that the bytes do not keep."""
        for name, state in self._hashes.items():
            if state.hexdigest() != self._promised[name]:
                raise IntegrityError(
                    f"the file has {name} {state.hexdigest()}, expected {self._promised[name]}; "
                    "correct the checksum, or find out who changed the file",
                    reason="ChecksumMismatch",
                )


class RememberedPromises:
    """Between the requests of an upload, in this process: what is not remembered is verified by the import."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, tuple[int, Promises]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, token: str, offset_bytes: int, promised: Mapping[str, str]) -> Promises:
        """The state of a file that goes on there."""
        with self._lock:
            remembered_at, promises = self._states.pop(token, (0, Promises({})))
        if offset_bytes == 0:
            return Promises(promised)
        return promises if remembered_at == offset_bytes else Promises({})

    def keep(self, token: str, offset_bytes: int, promises: Promises) -> None:
        """Remember the state for the request that goes on there."""
        with self._lock:
            if promises:
                self._states[token] = offset_bytes, promises
            while len(self._states) > _REMEMBERED:
                self._states.popitem(last=False)
