"""Who may upload what, and how far the upload is."""

import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta

from dvcr.artifact.staged import Part
from dvcr.config import UploaderSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import UploadState, UploadTicket

LEASE_S = 15.0
"""A writer that is dead, or silent, holds nobody else off for longer."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")


class RefusedError(DvcrError):
    """A request that is not granted; `status` is the HTTP status that says so."""

    default_reason = "UploadRefused"

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class TakenOverError(RefusedError):
    """Another request writes this file now; what it wrote must stay."""


class ClosedError(RefusedError):
    """Nobody wants the file any more."""


def find(board: JobBoard, token: str) -> UploadTicket:
    """The ticket of this token; RefusedError 404 if there is none."""
    ticket = board.ticket(token) if _TOKEN.fullmatch(token) else None
    if ticket is None or not hmac.compare_digest(ticket.token.encode(), token.encode()):
        raise RefusedError(404, "there is no such upload; take the address from status.uploadCommand of the resource")
    return ticket


def require_open(ticket: UploadTicket) -> None:
    """RefusedError: 409 the file is complete, 410 it failed or came too late."""
    if ticket.state is UploadState.COMPLETE:
        raise RefusedError(409, "the file is here already; there is nothing left to upload")
    if ticket.state is UploadState.FAILED:
        raise RefusedError(
            410, f"the upload has failed: {ticket.message or ticket.reason}; create the resource again to upload anew"
        )
    if datetime.now(UTC) >= ticket.expires_at:
        what = "go on" if ticket.parts else "begin"
        raise RefusedError(
            410,
            f"the upload had to {what} before {ticket.expires_at:%Y-%m-%d %H:%M:%S} UTC; "
            "create the resource again to get a new address",
        )


class Reception:
    """The only writer of a ticket, until `pause`, `complete` or `fail`. Blocking."""

    def __init__(self, board: JobBoard, ticket: UploadTicket, settings: UploaderSettings, owner: str) -> None:
        self.ticket = ticket
        self._board = board
        self._owner = owner
        self._idle = timedelta(seconds=settings.idle_timeout_s)
        self._resume = timedelta(seconds=settings.resume_timeout_s)

    @classmethod
    def begin(cls, board: JobBoard, token: str, settings: UploaderSettings) -> "Reception":
        """Take the ticket. RefusedError: 404 unknown, 409 done or in progress, 410 expired."""
        ticket = find(board, token)
        require_open(ticket)
        owner = secrets.token_hex(8)
        if not board.lease(ticket.lease_id, owner, LEASE_S):
            raise RefusedError(
                409, "the file is being uploaded by another request; wait until that ends", {"Retry-After": "5"}
            )
        try:
            ticket = find(board, token)  # as its last writer left it
            require_open(ticket)
        except BaseException:
            board.release(ticket.lease_id, owner)
            raise
        return cls(board, ticket, settings, owner)

    def received(self, size_bytes: int, parts: tuple[Part, ...], total_bytes: int | None) -> None:
        """Tell how far it is, and which parts are safe. TakenOverError or ClosedError if that interests nobody."""
        self._tell(
            expires_at=datetime.now(UTC) + self._idle + self._resume,
            state=UploadState.RECEIVING,
            received_bytes=size_bytes,
            parts=parts,
            total_bytes=total_bytes,
            message="",
        )

    def refreshed(self) -> None:
        """Note that all parts were used just now."""
        self._tell(refreshed_at=datetime.now(UTC))

    def describe(self, total_bytes: int | None, tus_metadata: str) -> None:
        """Note what a tus client says of the file."""
        self._tell(total_bytes=total_bytes, tus_metadata=tus_metadata)

    def pause(self, parts: tuple[Part, ...], total_bytes: int | None, message: str = "") -> None:
        """Free the ticket for the next request, which must begin within `resume_timeout_s`."""
        self._tell(
            expires_at=datetime.now(UTC) + self._resume,
            state=UploadState.WAITING,
            received_bytes=sum(part.size_bytes for part in parts),
            parts=parts,
            total_bytes=total_bytes,
            message=message,
        )
        self.release()

    def complete(self, parts: tuple[Part, ...], manifest: Digest, *, verified: bool) -> None:
        """The whole file is in the registry."""
        size_bytes = sum(part.size_bytes for part in parts)
        self._tell(
            state=UploadState.COMPLETE,
            digest=str(manifest),
            received_bytes=size_bytes,
            total_bytes=size_bytes,
            parts=parts,
            verified=verified,
            message="",
        )
        self.release()

    def fail(self, reason: str, message: str) -> None:
        """The upload is over, and what was received is gone."""
        self._tell(state=UploadState.FAILED, reason=reason, message=message, parts=(), received_bytes=0)
        self.release()

    def release(self) -> None:
        """Give the ticket back as it is."""
        self._board.release(self.ticket.lease_id, self._owner)

    def _tell(self, **update: object) -> None:
        if not self._board.lease(self.ticket.lease_id, self._owner, LEASE_S):
            raise self._ended()
        ticket = self.ticket.model_copy(update={**update, "updated_at": datetime.now(UTC)})
        if not self._board.update_ticket(ticket, self._owner):
            raise self._ended()
        self.ticket = ticket

    def _ended(self) -> RefusedError:
        """Why nothing more is recorded of the upload."""
        now = self._board.ticket(self.ticket.token)
        if now is None:
            return ClosedError(404, "the image that the upload was for is gone")
        if now.state is UploadState.FAILED:
            return ClosedError(410, f"the upload has failed: {now.message or now.reason}")
        return TakenOverError(409, "the upload was taken over by a later request")
