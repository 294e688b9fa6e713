"""Artifacts in the registry as exports, with the chunk cache that the machines of a node share."""

from controller.launcher.disks import ImageOpener
from controller.launcher.spec import ImageReference
from converter.nbd.export import ReadableExport
from converter.nbd.image import ImageExport
from dvcr.artifact.cache import ChunkCache
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings


def image_opener(settings: Settings) -> ImageOpener:
    """Opens artifacts of the configured registry."""
    registry = RegistryClient.from_settings(settings.client)
    cache = ChunkCache(settings.launcher.cache_dir, settings.launcher.cache_size_bytes)

    def open_image(reference: ImageReference) -> ReadableExport:
        repository = registry.repository(reference.repository)
        return ImageExport(ImageReader(repository, fetch(repository, reference.digest).image, cache))

    return open_image
