"""What the controller asks of a worker, and what a worker tells of it.

The registry is the truth about which images exist; a job only makes one. Jobs may be lost or sent twice: they are
idempotent by `ImportJob.id`, and whoever wants the image sends the job again when its progress has gone stale.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr

from dvcr.artifact.staged import Part

IMPORT_TASK = "dvcr.import_image"
IMPORT_QUEUE = "imports"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# Printed as stars, sent to the worker as it is: whoever may read the broker may read it, see docs/security.md.
Secret = Annotated[SecretStr, PlainSerializer(SecretStr.get_secret_value, return_type=str, when_used="json")]


class HttpOrigin(_Message):
    """Bytes at a URL."""

    kind: Literal["http"] = "http"
    url: str
    ca_bundle: str = ""
    """PEM certificates to trust instead of the system's."""
    insecure_skip_verify: bool = False
    username: str = ""
    password: Secret = SecretStr("")
    headers: dict[str, Secret] = {}
    """Sent with every request; like user and password to the URL's own server only, not to where it redirects."""


class ContainerOrigin(_Message):
    """A disk in an image of any registry."""

    kind: Literal["container"] = "container"
    image: str
    """As `docker pull` takes it: registry.example.com/folder/image:tag or @sha256:..."""
    ca_bundle: str = ""
    docker_config: Secret = SecretStr("")
    """Credentials by registry, in the form of docker's config.json; empty for none."""


class ImageOrigin(_Message):
    """A disk artifact that is in the registry already."""

    kind: Literal["image"] = "image"
    repository: str
    digest: str
    """Of the manifest."""


class BlobOrigin(_Message):
    """Bytes that already are blobs of the registry: what a user uploaded. They are removed after the import."""

    kind: Literal["blob"] = "blob"
    repository: str
    digest: str
    """Of the manifest that lists the parts (dvcr.artifact.staged)."""
    size_bytes: int
    verified: bool = False
    """The uploader has seen every byte and found that the promised checksums hold."""


Origin = Annotated[HttpOrigin | ContainerOrigin | ImageOrigin | BlobOrigin, Field(discriminator="kind")]


class ImportJob(_Message):
    """Make the disk artifact `repository`:`tag` (and the tag `latest`) out of `origin`."""

    id: str
    """Idempotency key: the uid of the resource."""
    namespace: str = ""
    """Of the resource; empty where it has none. Namespaces take turns."""
    repository: str
    tag: str
    origin: Origin
    checksums: dict[str, str] = {}
    """Algorithm (md5, sha1, sha256, sha512) to lower-case hex; the bytes as fetched must match every one."""


class JobState(StrEnum):
    QUEUED = "Queued"
    RUNNING = "Running"
    WAITING = "Waiting"
    """For another attempt at `retry_at`: the last one failed with a cause that may go away."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ImportStage(StrEnum):
    """What a running import does; each stage overlaps with the next one where the format allows."""

    FETCHING = "Fetching"
    CONVERTING = "Converting"
    STORING = "Storing"
    VERIFYING = "Verifying"


class JobProgress(_Message):
    """The last word of a worker on a job."""

    state: JobState
    stage: ImportStage | None = None
    """When Running, or how far it had come."""
    percent: int = Field(0, ge=0, le=100)
    """Never goes back, also not when the job is delivered again; 100 only when Succeeded."""
    fetched_bytes: int = 0
    """Of `total_bytes`. Never goes back: a delivery that begins anew is told when it is further than the last one."""
    total_bytes: int | None = None
    """Size of the source as fetched, where known."""
    converted_bytes: int = 0
    """How much of `virtual_size_bytes` is converted and stored. Never goes back either."""
    virtual_size_bytes: int = 0
    """Size of the virtual disk; 0 until the image was inspected."""
    average_speed: int = 0
    """Bytes a second that were fetched since `started_at`, by the delivery that tells it."""
    current_speed: int = 0
    """Bytes a second that were fetched of late; 0 unless Running."""
    reason: str = ""
    """Machine-readable, when Waiting or Failed: the `reason` of the error."""
    message: str = ""
    """What went wrong and what to do, when Failed; what is tried again and when, when Waiting; when Running, what is
    waited for, if nothing moves."""
    retryable: bool = False
    """When Failed: the cause may go away without anybody changing the resource."""
    retry_at: datetime | None = None
    """When Waiting: the time of the next attempt."""
    started_at: datetime | None = None
    """When the worker that tells this took the job."""
    finished_at: datetime | None = None
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def reached(self, percent: int, fetched_bytes: int, converted_bytes: int) -> "JobProgress":
        """The same, going on from the highest figures that were told before."""
        fetched_bytes = max(self.fetched_bytes, fetched_bytes)
        converted_bytes = max(self.converted_bytes, converted_bytes)
        limit = 100 if self.state is JobState.SUCCEEDED else 99
        return self.model_copy(
            update={
                "percent": min(max(self.percent, percent), limit),
                # The source may have become smaller.
                "fetched_bytes": fetched_bytes if self.total_bytes is None else min(fetched_bytes, self.total_bytes),
                "converted_bytes": min(converted_bytes, self.virtual_size_bytes or converted_bytes),
            }
        )


class UploadState(StrEnum):
    WAITING = "Waiting"
    """For the first byte, or for the next one after the connection was cut."""
    RECEIVING = "Receiving"
    COMPLETE = "Complete"
    FAILED = "Failed"


class UploadTicket(_Message):
    """Leave to upload one file, under an unguessable token that is part of the URL (`<uploader>/upload/<token>`).

    The controller opens it; the uploader receives the bytes into blobs of `repository` and records how far it is. Who
    changes it holds the lease `lease_id`.
    """

    token: str
    repository: str
    checksums: dict[str, str] = {}
    """Algorithm to lower-case hex; the import checks them."""
    expires_at: datetime
    """The first byte must come before this; later: the next one."""
    state: UploadState = UploadState.WAITING
    parts: tuple[Part, ...] = ()
    """What is safe in the registry, in order. An upload goes on after the last part, whatever dies meanwhile."""
    refreshed_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """No part was used longer ago, so that the registry's garbage collection leaves them all."""
    received_bytes: int = 0
    """The parts', and when Receiving also what came after them."""
    total_bytes: int | None = None
    tus_metadata: str = ""
    """The `Upload-Metadata` of a tus client, as it was sent."""
    digest: str = ""
    """Of the manifest that lists the parts, when Complete."""
    verified: bool = False
    """When Complete: every checksum was found to hold."""
    reason: str = ""
    """Machine-readable, when Failed."""
    message: str = ""
    """What went wrong and what to do, when Failed or cut."""
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def lease_id(self) -> str:
        """Which lease (`JobBoard.lease`) makes its owner the only writer of this ticket."""
        return f"upload:{hashlib.sha256(self.token.encode()).hexdigest()}"

    @property
    def offset_bytes(self) -> int:
        """Where the upload goes on."""
        return sum(part.size_bytes for part in self.parts)

    def dead_at(self, moment: datetime, idle_timeout: timedelta) -> bool:
        """Whether an upload that says Receiving has fallen silent: its uploader died without a word."""
        return self.state is UploadState.RECEIVING and moment - self.updated_at > idle_timeout
