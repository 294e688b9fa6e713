"""A SHA-256 whose state can be kept: OpenSSL's, by its low-level functions, which `hashlib` does not offer.

They are deprecated since OpenSSL 3 and may be absent one day; `AVAILABLE` says whether they are there and give right
answers. The state is OpenSSL's `SHA256_CTX` (openssl/sha.h), as this machine has it in memory, after a word that names
its form.
"""

import ctypes
import hashlib
import sys
from typing import Self

_FORM = f"sha256-ctx-{sys.byteorder}:".encode()
_UINT = ctypes.c_uint
# By name: `ctypes.util.find_library` would start programs to look for it.
_NAMES = ("libcrypto.so.3", "libcrypto.so.1.1")


class _Context(ctypes.Structure):
    _fields_ = (
        ("h", _UINT * 8),
        ("length_low", _UINT),
        ("length_high", _UINT),
        ("data", _UINT * 16),
        ("num", _UINT),
        ("digest_length", _UINT),
    )


def _load() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            library.SHA256_Init.argtypes = (ctypes.POINTER(_Context),)
            library.SHA256_Update.argtypes = (ctypes.POINTER(_Context), ctypes.c_char_p, ctypes.c_size_t)
            library.SHA256_Final.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Context))
        except (OSError, AttributeError):
            continue
        return library
    return None


_library = _load()


class Sha256:
    """As `hashlib.sha256()`, and may be saved. Only where `AVAILABLE`."""

    def __init__(self) -> None:
        assert _library is not None
        self._context = _Context()
        _library.SHA256_Init(self._context)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Hash more bytes; other threads run meanwhile."""
        assert _library is not None
        content = data if isinstance(data, bytes) else bytes(data)
        _library.SHA256_Update(self._context, content, len(content))

    def hexdigest(self) -> str:
        """The digest of all bytes so far; more may follow."""
        assert _library is not None
        end = _Context.from_buffer_copy(self._context)
        result = ctypes.create_string_buffer(32)
        _library.SHA256_Final(result, end)
        return result.raw.hex()

    def save(self) -> bytes:
        """The state, for `restore`."""
        return _FORM + bytes(self._context)

    @classmethod
    def restore(cls, saved: bytes) -> Self | None:
        """Goes on from a saved state; None if it is none, or of another kind of machine."""
        state = saved.removeprefix(_FORM)
        if len(saved) != len(_FORM) + ctypes.sizeof(_Context) or len(state) == len(saved):
            return None
        restored = cls()
        restored._context = _Context.from_buffer_copy(state)
        # What would make OpenSSL write outside its buffer.
        return restored if restored._context.num < 64 and restored._context.digest_length == 32 else None


def _works() -> bool:
    if _library is None:
        return False
    first = Sha256()
    first.update(b"ab" * 50)
    second = Sha256.restore(first.save())
    if second is None:
        return False
    second.update(b"c")
    return second.hexdigest() == hashlib.sha256(b"ab" * 50 + b"c").hexdigest()


AVAILABLE = _works()
"""Whether the system's OpenSSL still has these functions, and they do what they should."""
