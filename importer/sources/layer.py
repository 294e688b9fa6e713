"""The disk in a container image: one file under `disk/` in a layer's tar, or a layer that is the disk itself."""

import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import IO, Any, cast

from converter.wrappers import UnpackingLimits, unpack, wrapper_of
from dvcr.descriptor import Descriptor
from dvcr.errors import RegistryError, SourceError
from importer.sources.container import ContainerImage

FOLDER = "disk"
_PIECE_BYTES = 2**20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"
_TAR_HEADER_BYTES = 512


class LayerDownload:
    """A Download of the disk's file, straight out of the layer as it arrives; nothing of the layer is kept.

    The uppermost layer with a file in `/disk` has the disk. Where the only layer is no tar, it is the disk itself
    (podman's machine images, KubeVirt's disk artifacts). The layer's digest is proven before the last piece is followed
    by the end: what came before must not be published earlier.
    """

    def __init__(self, image: ContainerImage, layers: list[Descriptor], limits: UnpackingLimits) -> None:
        self.total_bytes: int | None = None
        self._image = image
        self._layers = layers
        self._limits = limits
        self._stopped = threading.Event()

    def pieces(self) -> Iterator[bytes]:
        """As Download says. SourceError `InvalidContainerImage` where there is no disk, or more than one."""
        hidden: set[str] = set()
        for layer in reversed(self._layers):
            stream = self._stream(layer)
            head = _read_head(stream)
            body: Iterator[bytes] = chain([head], stream)
            wrapper = wrapper_of(head)
            if wrapper is not None:
                body = unpack(_InOrder(body), wrapper, self._limits)
                unpacked = _read_head(body)
                body = chain([unpacked], body)
            else:
                unpacked = head
            if not _is_tar(unpacked, layer.media_type):
                yield from self._whole(layer)
                return
            found = False
            for piece in self._file(body, hidden):
                found = True
                yield piece
            for _ in stream:
                pass  # to the end, where the digest is proven
            if found or FOLDER in hidden or self._stopped.is_set():
                break
        else:
            found = False
        if not found and not self._stopped.is_set():
            raise self._unusable(f"there is no file in /{FOLDER} in any of its layers")

    def identity(self) -> Mapping[str, Any] | None:
        """Nothing to go on with: it would take unpacking the layer again."""
        return None

    def resume(self, position: int, identity: Mapping[str, Any]) -> bool:
        """Never."""
        return False

    def stop(self) -> None:
        """End `pieces` before the next piece."""
        self._stopped.set()

    def close(self) -> None:
        """Free what the connection needs."""
        self._image.close()

    def _stream(self, layer: Descriptor) -> Iterator[bytes]:
        """The blob as stored; ends early after `stop`."""
        try:
            for piece in self._image.repository.open_blob(layer.digest):
                if self._stopped.is_set():
                    return
                yield piece
        except RegistryError as exc:
            raise self._image.failed(exc) from exc

    def _whole(self, layer: Descriptor) -> Iterator[bytes]:
        if len(self._layers) > 1:
            raise self._unusable(
                f"its layer {layer.digest} ({layer.media_type}) is no tar archive, and not the only layer"
            )
        self.total_bytes = layer.size_bytes
        return self._stream(layer)

    def _file(self, body: Iterator[bytes], hidden: set[str]) -> Iterator[bytes]:
        """The file of the disk that this layer's tar has, if any; adds to `hidden` what it hides of those below."""
        own_hidden: set[str] = set()
        found = ""
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", _Reader(body)), mode="r|", bufsize=_PIECE_BYTES) as tar:
                for member in tar:
                    parts = [part for part in member.name.split("/") if part not in ("", ".")]
                    if not parts or parts[0] not in (FOLDER, _WHITEOUT + FOLDER, _OPAQUE):
                        continue
                    own_hidden |= _hides(parts)
                    if parts[0] != FOLDER or len(parts) < 2 or parts[-1].startswith(_WHITEOUT) or member.isdir():
                        continue
                    name = "/".join(parts)
                    if FOLDER in hidden or name in hidden:
                        continue
                    if len(parts) > 2 or not member.isreg():
                        raise self._unusable(f"/{name} is no plain file directly in /{FOLDER}")
                    if found:
                        raise self._unusable(f"/{FOLDER} holds more than one file: {found} and {name}")
                    found = name
                    yield from self._content(tar, member)
        except tarfile.TarError as exc:
            if not self._stopped.is_set():
                raise self._unusable(f"a layer is damaged ({exc})") from exc
        hidden |= own_hidden

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        self.total_bytes = member.size
        file = tar.extractfile(member)
        if file is None or not member.size:
            raise self._unusable(f"/{member.name} is empty")
        while piece := file.read(_PIECE_BYTES):
            if self._stopped.is_set():
                return
            yield piece

    def _unusable(self, why: str) -> SourceError:
        message = (
            f"{self._image.reference} holds no disk that can be used: {why}; see docs/resources.md, ContainerImage"
        )
        return SourceError(message, reason="InvalidContainerImage")


def _hides(parts: list[str]) -> set[str]:
    """What an entry hides of the layers below (image-spec, "Whiteouts"): names, or the folder as a whole."""
    if parts in ([_WHITEOUT + FOLDER], [_OPAQUE], [FOLDER, _OPAQUE]):
        return {FOLDER}
    if len(parts) == 2 and parts[0] == FOLDER and parts[1].startswith(_WHITEOUT):
        return {f"{FOLDER}/{parts[1].removeprefix(_WHITEOUT)}"}
    return set()


def _is_tar(head: bytes, media_type: str) -> bool:
    empty = not head.strip(b"\0") and "tar" in media_type  # an archive of nothing is all zero
    return empty or head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC


def _read_head(pieces: Iterator[bytes]) -> bytes:
    """Enough to tell a tar by, or all there is."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _TAR_HEADER_BYTES:
            break
    return head


class _InOrder:
    """A ByteSource of pieces, for a reader that goes from front to back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    @property
    def total_bytes(self) -> int | None:
        return None

    def size_bytes(self) -> int:
        raise NotImplementedError("known only at the end")

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return next(self._pieces, b"")

    def release(self, offset_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass


class _Reader(io.RawIOBase):
    """Pieces as the file that tarfile reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
