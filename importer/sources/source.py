"""What the pipeline needs of a source, beyond what the converter needs."""

from typing import Protocol

from converter.source import ByteSource


class ImportSource(ByteSource, Protocol):
    """A ByteSource that tells how far it is, and can be given up."""

    @property
    def fetched_bytes(self) -> int:
        """Bytes received so far."""
        ...

    @property
    def total_bytes(self) -> int | None:
        """The length, where it is known already."""
        ...

    @property
    def trouble(self) -> str:
        """Why no bytes come at the moment, in words; empty while they do."""
        ...

    def abort(self) -> None:
        """Stop, from any thread; readers get SourceError within moments, also of a server that hangs. Idempotent."""
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...
