"""Images, sources and chunk stores for the converter's tests."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from converter.convert import ConvertedDisk
from converter.nbd.export import Extent
from dvcr.artifact.chunk import decode_chunk
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest


class MemorySource:
    """A ByteSource over bytes; remembers what was released."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.released = 0
        self.read_bytes = 0

    @property
    def total_bytes(self) -> int | None:
        return len(self.data)

    def size_bytes(self) -> int:
        return len(self.data)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        assert offset_bytes >= 0
        assert length_bytes >= 0
        piece = self.data[offset_bytes : offset_bytes + length_bytes]
        self.read_bytes += len(piece)
        return piece

    def release(self, offset_bytes: int) -> None:
        self.released = max(self.released, offset_bytes)

    def finish(self) -> None:
        pass


class WindowSource(MemorySource):
    """Keeps only a window: what was released, or lies too far ahead of it, is not there."""

    def __init__(self, data: bytes, window_bytes: int, *, ranges: bool = True) -> None:
        super().__init__(data)
        self.window_bytes = window_bytes
        self.ranges = ranges
        self.streaming = False

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        if self.streaming:
            assert self.released <= offset_bytes
            assert min(offset_bytes + length_bytes, len(self.data)) <= self.released + self.window_bytes
        return super().read_at(offset_bytes, length_bytes)

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        return self.data[offset_bytes : offset_bytes + length_bytes] if self.ranges else None

    def release(self, offset_bytes: int) -> None:
        self.streaming = True
        super().release(offset_bytes)


class MemoryChunkStore:
    """A ChunkStore in memory."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.puts = 0
        self._lock = threading.Lock()

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        descriptor.digest.verify(data)
        with self._lock:
            self.blobs[descriptor.digest] = bytes(data)
            self.puts += 1

    def disk(self, converted: ConvertedDisk) -> bytes:
        """The raw disk that the chunks make up."""
        out = bytearray(converted.virtual_size_bytes)
        for chunk in converted.chunks:
            at = chunk.index * converted.chunk_size_bytes
            length = min(converted.chunk_size_bytes, len(out) - at)
            out[at : at + length] = decode_chunk(chunk.descriptor, self.blobs[chunk.descriptor.digest], length)
        return bytes(out)


class MemoryExport:
    """A WritableExport over a bytearray."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.flushed = 0

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(self.data[offset_bytes : offset_bytes + length_bytes])

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        end = offset_bytes + length_bytes
        while offset_bytes < end:
            step = min(4096 - offset_bytes % 4096, end - offset_bytes)
            yield Extent(step, not any(self.data[offset_bytes : offset_bytes + step]))
            offset_bytes += step

    def write(self, offset_bytes: int, data: memoryview) -> None:
        self.data[offset_bytes : offset_bytes + len(data)] = data

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        self.data[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)

    def flush(self) -> None:
        self.flushed += 1


def qemu_img(*arguments: object) -> None:
    """Run the real qemu-img, which builds images and says what is right."""
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def build_image(folder: Path, raw: bytes, image_format: str, *options: str) -> bytes:
    """`raw` as an image of that format, made by qemu-img."""
    (folder / "build.raw").write_bytes(raw)
    file = folder / "build.img"
    file.unlink(missing_ok=True)
    qemu_img("convert", "-f", "raw", "-O", image_format, *options, folder / "build.raw", file)
    return file.read_bytes()


def reference(folder: Path, image: bytes, image_format: str) -> bytes:
    """What `qemu-img convert -O raw` makes of the image."""
    (folder / "reference.img").write_bytes(image)
    qemu_img("convert", "-f", image_format, "-O", "raw", folder / "reference.img", folder / "reference.raw")
    return (folder / "reference.raw").read_bytes()
