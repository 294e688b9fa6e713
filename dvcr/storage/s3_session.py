"""What a bucket holds of an upload session.

uploads/<id>      SessionState: a line of JSON, and the bytes after the last whole part
data/<id>         what becomes of the bytes
"""

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class SessionState:
    """What any server needs to go on with a session."""

    upload: str = ""
    """Id of the multipart upload, once there is one."""
    parts: tuple[str, ...] = ()
    """ETags of its parts."""
    parts_bytes: int = 0
    tail: bytes = b""
    note: str = ""
    """What the last flush noted, in hex."""
    holder: str = ""
    held_until: float = 0
    closing: bool = False
    """All bytes are in the parts, and the upload may have been completed."""
    key: str = ""
    """The key whose record may name the data."""

    @property
    def size_bytes(self) -> int:
        """Bytes in the session."""
        return self.parts_bytes + len(self.tail)

    def encode(self) -> bytes:
        """As it is stored; no two encodings are equal."""
        fields = asdict(self)
        tail: bytes = fields.pop("tail")
        return json.dumps(fields | {"nonce": secrets.token_hex(8)}).encode() + b"\n" + tail

    @classmethod
    def decode(cls, stored: bytes) -> Self:
        """The state that was stored."""
        head, _, tail = stored.partition(b"\n")
        fields = json.loads(head)
        del fields["nonce"]
        return cls(tail=tail, **fields | {"parts": tuple(fields["parts"])})


def state_name(session_id: str) -> str:
    """Name of the object with a session's state."""
    return f"uploads/{session_id}"


def data_name(session_id: str) -> str:
    """Name of the object that a session's bytes become."""
    return f"data/{session_id}"
