"""The one error tree of the project.

    DvcrError
    ├── ConfigError       a setting is missing, unknown or contradicts another
    ├── StorageError      a storage driver could not do what was asked
    │   ├── NotFoundError     no such key
    │   └── NoSpaceError      the store is full
    ├── IntegrityError    bytes are not what their digest or checksum says
    ├── RegistryError     an OCI registry refused; carries the OCI code and the HTTP status
    ├── SourceError       the source of an image could not be read
    ├── ImageError        the bytes are no disk image, or one that is refused
    └── ResourceError     a resource asks for something that cannot be done

`reason` is machine-readable CamelCase and becomes the reason of a condition; the message says what was wrong and what
to do. `retryable` says whether the same call may succeed later without anybody changing anything. Foreign exceptions
are translated once, at the boundary where they appear, with ``raise ... from exc``. Nobody matches message text.
"""

from typing import ClassVar


class DvcrError(Exception):
    """Base of every error that this project raises on purpose."""

    default_reason: ClassVar[str] = "InternalError"
    default_retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, reason: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retryable = self.default_retryable if retryable is None else retryable


class ConfigError(DvcrError):
    """A setting is missing, unknown or contradicts another; the message names the key."""

    default_reason = "InvalidConfiguration"


class StorageError(DvcrError):
    """A storage driver could not do what was asked."""

    default_reason = "StorageFailed"
    default_retryable = True


class NotFoundError(StorageError):
    """The key, session or object does not exist."""

    default_reason = "NotFound"
    default_retryable = False


class NoSpaceError(StorageError):
    """The store is full; the message names the place and what it lacks."""

    default_reason = "NoSpaceLeft"


class IntegrityError(DvcrError):
    """Bytes do not match the digest or checksum that was promised."""

    default_reason = "ChecksumMismatch"


class RegistryError(DvcrError):
    """An OCI registry refused a request.

    `code` is the OCI error code (distribution-spec, "Error Codes"), `status` the HTTP status.
    """

    default_reason = "RegistryFailed"

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        status: int = 500,
        reason: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            retryable=status in (408, 429) or status >= 500 if retryable is None else retryable,
        )
        self.code = code
        self.status = status


class SourceError(DvcrError):
    """The source of an image could not be read: unreachable, refused, cut off, or changed meanwhile."""

    default_reason = "SourceUnavailable"


class ImageError(DvcrError):
    """The bytes are no disk image, or one that is refused because it is broken or unsafe."""

    default_reason = "InvalidImage"


class ResourceError(DvcrError):
    """A resource asks for something that cannot be done; `field` is the path of what to change, if one is to blame."""

    default_reason = "InvalidResource"

    def __init__(
        self, message: str, *, field: str = "", reason: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message, reason=reason, retryable=retryable)
        self.field = field
