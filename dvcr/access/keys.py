"""The keys that sign tokens: Ed25519, a PEM file each, in one folder that every server of a registry may share.

A file's name without `.pem` is the key's id. The private key whose name sorts last signs; every key that is there,
private or public, is accepted. So a new key is a new file, and a key is revoked by removing its file.
"""

import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dvcr.errors import ConfigError

# A key that another server has just made is found within this time, and one that was removed is refused.
LOOK_INTERVAL_S = 1.0


class TokenKeys:
    """The folder's keys, read again when it changes. Thread-safe."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic) -> None:
        """Makes the first key where there is none. Raises ConfigError."""
        self._folder = folder
        self._now = now
        self._lock = threading.Lock()
        self._looked_at = now()
        if not any(folder.glob("*.pem")):
            make_key(folder)
        self._stamp = self._look()
        self._private, self._public = self._read()

    def signing(self) -> tuple[str, Ed25519PrivateKey]:
        """The id and the key that signs now."""
        with self._lock:
            kid = max(self._private)
            return kid, self._private[kid]

    def public(self, kid: str) -> Ed25519PublicKey | None:
        """The key with this id, if it is accepted."""
        with self._lock:
            return self._public.get(kid)

    def refresh(self) -> bool:
        """Look now and then whether the folder has changed; True if keys were read again.

        Raises ConfigError, and keeps the keys it has, where the folder holds something that is no key.
        """
        with self._lock:
            if self._now() - self._looked_at < LOOK_INTERVAL_S:
                return False
            self._looked_at = self._now()
            stamp = self._look()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self._private, self._public = self._read()
            return True

    def _look(self) -> frozenset[tuple[str, int, int]]:
        found = set()
        for path in self._folder.glob("*.pem"):
            with suppress(FileNotFoundError):  # removed since it was listed
                stat = path.stat()
                found.add((path.name, stat.st_mtime_ns, stat.st_ino))
        return frozenset(found)

    def _read(self) -> tuple[dict[str, Ed25519PrivateKey], dict[str, Ed25519PublicKey]]:
        private: dict[str, Ed25519PrivateKey] = {}
        public: dict[str, Ed25519PublicKey] = {}
        for path in self._folder.glob("*.pem"):
            key = _load(path)
            if isinstance(key, Ed25519PrivateKey):
                private[path.stem] = key
                public[path.stem] = key.public_key()
            else:
                public[path.stem] = key
        if not private:
            raise ConfigError(f"access.token_key_dir: {self._folder} holds no private key; `dvcr access rotate-key`")
        return private, public


def make_key(folder: Path) -> str:
    """Write a new key, readable by its owner only, and give its id. It sorts after the keys that were made before."""
    kid = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        incomplete = folder / f".{kid}"
        with os.fdopen(os.open(incomplete, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        incomplete.rename(folder / f"{kid}.pem")
    except OSError as exc:
        raise ConfigError(f"access.token_key_dir: cannot write a key to {folder}: {exc.strerror}") from exc
    return kid


def _load(path: Path) -> Ed25519PrivateKey | Ed25519PublicKey:
    try:
        pem = path.read_bytes()
        key = load_pem_public_key(pem) if b"PUBLIC KEY" in pem else load_pem_private_key(pem, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"access.token_key_dir: {path} cannot be read as a key: {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        raise ConfigError(f"access.token_key_dir: {path} is no Ed25519 key")
    return key
