"""Having QEMU copy an image up into the disk above it, as fast as both go.

    image's chunks, decoded ahead by several threads ──▶ in memory
    NBD `cache` requests to QEMU's own server ──▶ QEMU reads that range below the disk and writes it into the disk

No byte passes through the requests, and QEMU leaves alone what the disk has of its own by then: the guest's writes.
What the guest reads comes next: it is decoded, and may be read again.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from controller.launcher.disks import WatchedExport
from converter.nbd.client import NbdClient
from dvcr.errors import StorageError

DEPTH_CONTEXT = "qemu:allocation-depth"
"""How many layers down a range comes from: 1 is the disk itself."""
OWN_DEPTH = 1
PIECE_BYTES = 4 * 2**20
# A cluster that is all zero costs no room in the disk, but QEMU looks at each request as a whole.
REQUEST_BYTES = 2**20
REQUESTS_AT_ONCE = 4


class Filling:
    """One way through a disk and its image, in a thread of the caller's."""

    def __init__(self, image: WatchedExport) -> None:
        self._image = image
        self._position = 0
        self._wanted: deque[int] = deque()
        self._taken_early: set[int] = set()
        self._clients: list[NbdClient] = []
        self._stopped = False
        self.total_bytes = sum(e.length_bytes for e in image.extents(0, image.size_bytes) if not e.zero)
        """What of the image is to be in the disk at the end."""
        self.done_bytes = 0
        """What is there already, of what was looked at."""
        self.copied_bytes = 0
        """What was copied by this."""

    def run(self, socket: Path, export: str) -> None:
        """Return once all of the image is in the disk, durably; `export` is the disk at QEMU's server.

        Raises what the image raises where it cannot be read, StorageError where QEMU cannot write, or after `stop`.
        Everything that was done stays done.
        """
        try:
            depths = self._connect(socket, export, DEPTH_CONTEXT)
            copier = self._connect(socket, export)
            self._image.on_read = self._want
            for length in copier.cache(self._requests(depths), REQUESTS_AT_ONCE):
                self.copied_bytes += length
                self.done_bytes += length
            # QEMU answers `cache` without a word also where it may not write: to a disk that it has handed to another.
            self.done_bytes = 0
            if next(self._missing(depths, 0, self._image.size_bytes), None) is not None:
                raise StorageError("QEMU may not write to the disk now", retryable=True)
            # The disk's header must not say that it is complete before it is.
            copier.flush()
        finally:
            self._image.on_read = lambda _: None
            for client in self._clients:
                client.close()

    def stop(self) -> None:
        """Have `run` raise soon. From any thread."""
        self._stopped = True
        for client in self._clients:
            client.close()

    def _connect(self, socket: Path, export: str, *contexts: str) -> NbdClient:
        client = NbdClient.connect(socket, export, contexts)
        self._clients.append(client)
        self._check()
        return client

    def _want(self, offset_bytes: int) -> None:
        """Somebody reads there: the guest, or QEMU on our request, in a piece that has had its turn then."""
        piece = offset_bytes // PIECE_BYTES
        if piece > self._position and piece not in self._taken_early:
            self._taken_early.add(piece)
            self._wanted.append(piece)

    def _requests(self, depths: NbdClient) -> Iterator[tuple[int, int]]:
        for offset, length in self._in_turn(depths):
            self._check()
            # Decoded here, ahead of QEMU's read of the same bytes.
            self._image.read(offset, length)
            for at in range(offset, offset + length, REQUEST_BYTES):
                yield at, min(REQUEST_BYTES, offset + length - at)

    def _in_turn(self, depths: NbdClient) -> Iterator[tuple[int, int]]:
        for offset, length in self._missing(depths, 0, self._image.size_bytes):
            while self._wanted:
                start = self._wanted.popleft() * PIECE_BYTES
                yield from self._missing(depths, start, min(start + PIECE_BYTES, self._image.size_bytes))
            if offset // PIECE_BYTES not in self._taken_early:
                self._position = offset // PIECE_BYTES
                yield offset, length

    def _missing(self, depths: NbdClient, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Offset and length of pieces there that the image has and the disk lacks, within the image's chunks."""
        for extent in self._image.extents(offset, end - offset):
            if extent.zero:
                offset += extent.length_bytes
                continue
            for length, depth in depths.extents(DEPTH_CONTEXT, offset, extent.length_bytes):
                run_end = offset + length
                if depth == OWN_DEPTH:
                    self.done_bytes += length
                    offset = run_end
                while offset < run_end:
                    stop = min(run_end, (offset // PIECE_BYTES + 1) * PIECE_BYTES)
                    yield offset, stop - offset
                    offset = stop

    def _check(self) -> None:
        if self._stopped:
            raise StorageError("the copy was stopped", retryable=True)
