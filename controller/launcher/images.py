"""Artifacts in the registry as exports, with the chunk cache that the machines of a node share."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from controller.launcher.disks import ImageOpener
from controller.launcher.spec import ImageReference
from converter.nbd.export import ReadableExport
from converter.nbd.image import ImageExport
from dvcr.artifact.cache import ChunkCache
from dvcr.artifact.memory import ChunkMemory
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.digest import Digest

READ_AHEAD_CHUNKS = 4


@contextmanager
def images(settings: Settings, memory: ChunkMemory) -> Iterator[ImageOpener]:
    """Opens artifacts of the configured registry, while the context is entered; their chunks are held in `memory`."""
    registry = RegistryClient.from_settings(settings.client)
    cache = ChunkCache(settings.launcher.cache_dir / "chunks", settings.launcher.cache_size_bytes)
    with ExitStack() as stack:

        def open_image(reference: ImageReference) -> ReadableExport:
            # Asks once, where all else asks for long: whoever opens images says what it waits for, and can be stopped.
            registry.ping()
            repository = registry.repository(reference.repository)
            image = fetch(repository, Digest.parse(reference.digest)).image
            reader = ImageReader(repository, image, cache=cache, memory=memory, read_ahead=READ_AHEAD_CHUNKS)
            return ImageExport(stack.enter_context(reader))

        yield open_image
