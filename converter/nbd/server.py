"""A threaded NBD server on unix sockets (NBD protocol, fixed newstyle).

NbdServer ─ accepts, keeps count, stops      connection.py  exact receives, gathered sends
    └─ a thread a client                      handshake.py   options, up to the chosen export
          └─ negotiate() then Session         session.py     requests and replies
"""

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import structlog

from converter.nbd.connection import Connection, DisconnectError
from converter.nbd.export import ReadableExport, WritableExport
from converter.nbd.handshake import negotiate
from converter.nbd.session import Session
from dvcr.errors import DvcrError

MAX_CLIENTS = 64
HANDSHAKE_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
# Large enough that a client's two megabytes pass in a few turns of the threads, not in a hundred.
SOCKET_BUFFER_BYTES = 2 * 2**20

log = structlog.get_logger(__name__)


class NbdServer:
    """Serves the exports by their names to many clients at once, while it is entered as a context.

    With a `socket_path` anyone who can reach it may connect; the file must not exist, appears with mode 0600 and is
    gone at the end. `connect` gives a connected socket instead, for a process that inherits it.
    Hostile clients are cut off: bounded options, requests, buffers, clients, and time for the handshake.
    """

    def __init__(self, socket_path: Path | None, exports: Mapping[str, ReadableExport | WritableExport]) -> None:
        self._path = socket_path
        self._exports = exports
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._serving: set[Connection] = set()
        self._stopping = False
        self._last_served = time.monotonic()
        self.error: DvcrError | None = None
        """The first error that an export raised."""

    def __enter__(self) -> Self:
        if self._path is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(str(self._path))
                self._path.chmod(0o600)
                listener.listen(MAX_CLIENTS)
            except BaseException:
                listener.close()
                raise
            self._listener = listener
            self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
            self._acceptor.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping = True
        if self._listener is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            self._listener.close()
            self._path.unlink(missing_ok=True)
        with self._lock:
            clients = dict(self._clients)
        for sock in clients.values():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in clients:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("an NBD export does not return", export_thread=thread.name)

    def connect(self) -> socket.socket:
        """The client's end of a new connection; the caller closes it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        _enlarge_buffers(theirs)
        self._serve_in_thread(ours)
        return theirs

    def offer(self, name: str, export: ReadableExport | WritableExport) -> None:
        """Serve one more export, to clients that connect from now on."""
        with self._lock:
            # Replaced, never changed: a client that is just choosing goes on with what it has seen.
            self._exports = {**self._exports, name: export}

    def withdraw(self, name: str) -> None:
        """Serve the export to nobody else; who has it keeps it. Idempotent."""
        with self._lock:
            self._exports = {key: export for key, export in self._exports.items() if key != name}

    def idle_s(self) -> float:
        """How long all clients have neither asked for anything nor taken an answer; 0 while one waits for us."""
        with self._lock:
            serving = list(self._serving)
            since_last = time.monotonic() - self._last_served
        return min((connection.idle_s() for connection in serving), default=since_last)

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._stopping:
                    return
                # Out of file descriptors, say: clients come and go, so it passes.
                log.warning("cannot accept an NBD client", exc_info=True)
                time.sleep(0.1)
                continue
            if len(self._clients) >= MAX_CLIENTS:
                sock.close()
            else:
                self._serve_in_thread(sock)

    def _serve_in_thread(self, sock: socket.socket) -> None:
        _enlarge_buffers(sock)
        thread = threading.Thread(target=self._serve, args=(sock,), name="nbd-client", daemon=True)
        with self._lock:
            self._clients[thread] = sock
        thread.start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        try:
            connection.set_timeout(HANDSHAKE_TIMEOUT_S)
            negotiated = negotiate(connection, self._exports)
            if negotiated is None:
                return
            connection.set_timeout(None)
            with self._lock:
                self._serving.add(connection)
            try:
                Session(connection, negotiated, self._note).serve()
            finally:
                with self._lock:
                    self._serving.discard(connection)
                    self._last_served = time.monotonic()
        except DisconnectError as exc:
            if not self._stopping:
                log.debug("an NBD client left", why=str(exc))
        finally:
            sock.close()
            with self._lock:
                self._clients.pop(threading.current_thread(), None)

    def _note(self, error: DvcrError) -> None:
        with self._lock:
            self.error = self.error or error


def _enlarge_buffers(sock: socket.socket) -> None:
    # The kernel caps the size silently; only the sender's buffer counts on a unix socket.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
