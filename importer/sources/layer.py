"""The disk in a container image: one file under `disk/` in a layer's tar, or a layer that is the disk itself."""

import threading
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from converter.wrappers import UnpackingLimits, unpack, wrapper_of
from dvcr.client.cancellation import RequestCancelledError
from dvcr.descriptor import Descriptor
from dvcr.errors import RegistryError, SourceError
from importer.sources.container import ContainerImage
from importer.sources.tar_stream import TarMember, TarStream, TarStreamError

FOLDER = "disk"
_MAX_HIDDEN = 1000
_SHOWN_CHARACTERS = 100
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
        try:
            yield from self._search()
        except RequestCancelledError:
            return  # by `stop`

    def _search(self) -> Iterator[bytes]:
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

    @property
    def trouble(self) -> str:
        """What the registry is asked again for."""
        return self._image.trouble

    def identity(self) -> Mapping[str, Any] | None:
        """Nothing to go on with: it would take unpacking the layer again."""
        return None

    def resume(self, position: int, identity: Mapping[str, Any]) -> bool:
        """Never."""
        return False

    def stop(self) -> None:
        """End `pieces` soon, also while the registry is silent."""
        self._stopped.set()
        self._image.cancel()

    def close(self) -> None:
        """Free what the connection needs."""
        self._image.close()

    def _stream(self, layer: Descriptor) -> Iterator[bytes]:
        """The blob as stored; ends early after `stop`."""
        try:
            for piece in self._image.repository.open_blob(layer.digest, layer.size_bytes):
                if self._stopped.is_set():
                    return
                self._image.trouble = ""
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
        tar = TarStream(body)
        try:
            for member in tar.members():
                parts = member.name.split("/")
                if parts[0] not in (FOLDER, _WHITEOUT + FOLDER, _OPAQUE):
                    continue
                own_hidden |= _hides(parts)
                if len(own_hidden) + len(hidden) > _MAX_HIDDEN:
                    raise self._unusable(f"its layers remove more than {_MAX_HIDDEN} files of /{FOLDER}")
                if parts[0] != FOLDER or len(parts) < 2 or parts[-1].startswith(_WHITEOUT) or member.is_folder:
                    continue
                if FOLDER in hidden or member.name in hidden:
                    continue
                self._check(member, found)
                found = member.name
                self.total_bytes = member.size_bytes
                yield from tar.content()
        except TarStreamError as exc:
            if not self._stopped.is_set():
                raise self._unusable(f"a layer is damaged ({exc})") from exc
        hidden |= own_hidden

    def _check(self, member: TarMember, found: str) -> None:
        name = member.name[:_SHOWN_CHARACTERS]
        if found:
            raise self._unusable(f"/{FOLDER} holds more than one file: {found[:_SHOWN_CHARACTERS]} and {name}")
        if member.is_sparse:
            raise self._unusable(f"/{name} is stored sparsely; pack it without --sparse", "SparseArchiveRefused")
        if not member.is_file or member.name.count("/") > 1:
            raise self._unusable(f"/{name} is no plain file directly in /{FOLDER}")
        if not member.size_bytes:
            raise self._unusable(f"/{name} is empty")

    def _unusable(self, why: str, reason: str = "InvalidContainerImage") -> SourceError:
        message = f"{self._image.reference} holds no disk that can be used: {why}; see docs/sources.md, ContainerImage"
        return SourceError(message, reason=reason)


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
