"""The store that the settings ask for."""

from dvcr.config import StorageSettings
from dvcr.storage.driver import StorageDriver


def open_storage(settings: StorageSettings) -> StorageDriver:
    """The configured driver; raises StorageError if its store is not fit for use."""
    if settings.driver == "s3":
        from dvcr.storage.s3 import S3Storage  # noqa: PLC0415  boto3 takes a third of a second to import

        return S3Storage(settings.s3)
    from dvcr.storage.filesystem import FilesystemStorage  # noqa: PLC0415  as the other one

    return FilesystemStorage(settings.filesystem.root)
