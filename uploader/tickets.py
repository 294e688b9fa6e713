"""Who may upload what, and how far the upload is."""

import hmac
import secrets
from datetime import UTC, datetime, timedelta

from dvcr.digest import Digest
from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import UploadState, UploadTicket

LEASE_S = 15.0
"""An upload whose uploader died is free for a new try after this time."""


class RefusedError(DvcrError):
    """An upload that is not allowed; `status` is the HTTP status that says so."""

    default_reason = "UploadRefused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def find(board: JobBoard, token: str) -> UploadTicket:
    """The ticket of this token; RefusedError 404 if there is none."""
    ticket = board.ticket(token)
    if ticket is None or not hmac.compare_digest(ticket.token.encode(), token.encode()):
        raise RefusedError(404, "there is no such upload; take the address from the image's status")
    return ticket


class Reception:
    """One attempt to receive one file: the only writer of its ticket. Blocking."""

    def __init__(self, board: JobBoard, ticket: UploadTicket, total_bytes: int | None) -> None:
        self.ticket = ticket.model_copy(
            update={"state": UploadState.RECEIVING, "received_bytes": 0, "total_bytes": total_bytes, "message": ""}
        )
        self._board = board
        self._owner = secrets.token_hex(8)
        self._key = f"upload:{Digest.of(ticket.token.encode()).hex}"

    @classmethod
    def begin(cls, board: JobBoard, token: str, total_bytes: int | None) -> "Reception":
        """Take the ticket. RefusedError: 404 unknown, 409 done or in progress, 410 expired."""
        ticket = find(board, token)
        if ticket.state is UploadState.COMPLETE:
            raise RefusedError(409, "the file was uploaded already")
        if ticket.state is UploadState.FAILED:
            raise RefusedError(410, f"the upload has failed: {ticket.message or ticket.reason}")
        if ticket.state is UploadState.WAITING and datetime.now(UTC) >= ticket.expires_at:
            raise RefusedError(410, f"the upload had to begin before {ticket.expires_at:%Y-%m-%d %H:%M:%S} UTC")
        reception = cls(board, ticket, total_bytes)
        if not board.lease(reception._key, reception._owner, LEASE_S):
            raise RefusedError(409, "the file is being uploaded by somebody else")
        return reception

    def received(self, size_bytes: int) -> None:
        """Record how far it is; RefusedError 404 once the ticket was closed, 409 once another took it over."""
        if not self._board.lease(self._key, self._owner, LEASE_S):
            raise RefusedError(409, "the upload was taken over by a later one")
        if self._board.ticket(self.ticket.token) is None:
            raise RefusedError(404, "the image that the upload was for is gone")
        self.ticket = self.ticket.model_copy(update={"received_bytes": size_bytes})
        self._board.update_ticket(self.ticket)

    def complete(self, digest: Digest, size_bytes: int) -> None:
        """The blob is in the registry."""
        update = {
            "state": UploadState.COMPLETE,
            "digest": str(digest),
            "received_bytes": size_bytes,
            "total_bytes": size_bytes,
        }
        self._board.update_ticket(self.ticket.model_copy(update=update))
        self._board.release(self._key, self._owner)

    def give_up(self, message: str, first_byte_timeout_s: float) -> None:
        """Free the ticket for a new try, which must begin within the timeout."""
        if self._board.lease(self._key, self._owner, LEASE_S):
            update = {
                "state": UploadState.WAITING,
                "received_bytes": 0,
                "total_bytes": None,
                "message": message,
                "expires_at": max(self.ticket.expires_at, datetime.now(UTC) + timedelta(seconds=first_byte_timeout_s)),
            }
            self._board.update_ticket(self.ticket.model_copy(update=update))
            self._board.release(self._key, self._owner)
