"""What the registry refuses to do, without a word of HTTP; `dvcr.http.errors` maps each to the wire."""

from dvcr.errors import DvcrError


class RefusedError(DvcrError):
    """Base of every refusal."""


class NameInvalidError(RefusedError):
    """The text is no repository name."""

    default_reason = "NameInvalid"


class NameUnknownError(RefusedError):
    """There is no such repository."""

    default_reason = "NameUnknown"


class TagInvalidError(RefusedError):
    """The text is no tag."""

    default_reason = "TagInvalid"


class BlobUnknownError(RefusedError):
    """The repository does not have the blob."""

    default_reason = "BlobUnknown"


class BlobCorruptError(RefusedError):
    """The bytes of the blob do not have its digest (any more)."""

    default_reason = "BlobCorrupt"


class UploadUnknownError(RefusedError):
    """There is no such upload session: never begun, finished, aborted or expired."""

    default_reason = "UploadUnknown"


class ManifestUnknownError(RefusedError):
    """The repository has no such manifest or tag."""

    default_reason = "ManifestUnknown"


class ManifestCorruptError(RefusedError):
    """The manifest is in the store, but its bytes do not have its digest (any more)."""

    default_reason = "ManifestCorrupt"


class ManifestInvalidError(RefusedError):
    """The bytes are no manifest of the media type they claim."""

    default_reason = "ManifestInvalid"


class ManifestBlobUnknownError(RefusedError):
    """The manifest refers to a blob that the repository does not have."""

    default_reason = "ManifestBlobUnknown"


class QuotaError(RefusedError):
    """The repositories of a prefix, or the store, may not hold as much."""

    default_reason = "QuotaExceeded"


class DigestMismatchError(RefusedError):
    """The bytes do not have the digest that was promised."""

    default_reason = "DigestMismatch"
