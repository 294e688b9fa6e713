"""What the controller asks of a worker, and what a worker tells of it.

The registry is the truth about which images exist; a job only makes one. Jobs may be lost or delivered twice: they are
idempotent by `ImportJob.id`, and whoever wants the image sends the job again when its progress has gone stale.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

IMPORT_TASK = "dvcr.import_image"
IMPORT_QUEUE = "imports"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class HttpOrigin(_Message):
    """Bytes at a URL."""

    kind: Literal["http"] = "http"
    url: str
    ca_bundle: str = ""
    """PEM certificates to trust instead of the system's."""
    insecure_skip_verify: bool = False


class BlobOrigin(_Message):
    """Bytes that already are a blob of the registry: what a user uploaded. The blob is removed after the import."""

    kind: Literal["blob"] = "blob"
    repository: str
    digest: str
    size_bytes: int


Origin = Annotated[HttpOrigin | BlobOrigin, Field(discriminator="kind")]


class ImportJob(_Message):
    """Make the disk artifact `repository`:`tag` (and the tag `latest`) out of `origin`."""

    id: str
    """Idempotency key: the uid of the resource."""
    repository: str
    tag: str
    origin: Origin
    checksums: dict[str, str] = {}
    """Algorithm (md5, sha1, sha256, sha512) to lower-case hex; the bytes as fetched must match every one."""


class JobState(StrEnum):
    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class JobProgress(_Message):
    """The last word of a worker on a job."""

    state: JobState
    percent: int = Field(0, ge=0, le=100)
    """Never goes back, also not when the job is delivered again; 100 only when Succeeded."""
    fetched_bytes: int = 0
    total_bytes: int | None = None
    """Size of the source as fetched, where known."""
    average_speed: int = 0
    """Bytes a second since the start."""
    current_speed: int = 0
    """Bytes a second of late."""
    reason: str = ""
    """Machine-readable, when Failed: the `reason` of the error."""
    message: str = ""
    """What went wrong and what to do, when Failed."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class UploadState(StrEnum):
    WAITING = "Waiting"
    RECEIVING = "Receiving"
    COMPLETE = "Complete"
    FAILED = "Failed"


class UploadTicket(_Message):
    """Leave to upload one file, under an unguessable token that is part of the URL (`<uploader>/upload/<token>`).

    The controller opens it; the uploader receives the bytes into a blob of `repository` and records how far it is.
    """

    token: str
    repository: str
    checksums: dict[str, str] = {}
    """Algorithm to lower-case hex; the import checks them."""
    expires_at: datetime
    """The first byte must come before this."""
    state: UploadState = UploadState.WAITING
    received_bytes: int = 0
    total_bytes: int | None = None
    digest: str = ""
    """Of the blob, when Complete."""
    reason: str = ""
    message: str = ""
