"""What lies under a key in a bucket: a record, small enough to be replaced as a whole. See docs/storage-format.md."""

import json
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from dvcr.storage.driver import Stat


@dataclass(frozen=True, slots=True)
class Record:
    """A value, or the name of the data object that holds it; with the time of its last modification.

    Stored as a line of JSON and the value. No two encodings are equal, so an ETag names one writing.
    """

    value: bytes = b""
    data: str = ""
    """Id of the data object, if the value is not in the record."""
    data_bytes: int = 0
    deleted: bool = False
    """A tombstone: the key is gone, and so will be this object in a moment."""
    modified_ns: int = field(default_factory=time.time_ns)

    @property
    def stat(self) -> Stat:
        """Size and time of last modification of the value."""
        modified_at = datetime.fromtimestamp(self.modified_ns / 1e9, UTC)
        return Stat(self.data_bytes if self.data else len(self.value), modified_at)

    def fresh(self) -> Self:
        """The same, modified now."""
        return replace(self, modified_ns=time.time_ns())

    def encode(self) -> bytes:
        """As it is stored."""
        head: dict[str, object] = {"modified_ns": self.modified_ns, "nonce": secrets.token_hex(8)}
        if self.data:
            head |= {"data": self.data, "data_bytes": self.data_bytes}
        if self.deleted:
            head["deleted"] = True
        return json.dumps(head).encode() + b"\n" + self.value

    @classmethod
    def decode(cls, stored: bytes) -> Self:
        """The record that was stored."""
        head, _, value = stored.partition(b"\n")
        fields = json.loads(head)
        del fields["nonce"]
        return cls(value=value, **fields)
