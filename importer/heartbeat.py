"""The worker's pulse: renews the lease on a job, tells its progress, and notices when it is no longer wanted."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import JobProgress
from importer.pipeline import TakenOverError

INTERVAL_S = 1.0
log = structlog.get_logger(__name__)


class ForgottenError(DvcrError):
    """Nobody wants the import any more: its resource was deleted."""

    default_reason = "Forgotten"


class Heartbeat:
    """Beats about once a second while entered. The lease must have been taken."""

    def __init__(
        self,
        board: JobBoard,
        job_id: str,
        owner: str,
        *,
        lease_s: float,
        progress: Callable[[], JobProgress],
        on_lost: Callable[[], None],
    ) -> None:
        """`on_lost` is called once, from any thread, to wake whoever waits for bytes."""
        self._board, self._job_id, self._owner, self._lease_s = board, job_id, owner, lease_s
        self._progress = progress
        self._on_lost = on_lost
        self._lost: DvcrError | None = None
        self._done = threading.Event()
        self._beating = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def check(self) -> None:
        """Raise ForgottenError or TakenOverError once the job is lost."""
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Ask the board once more, then `check`: for the moment before something becomes visible."""
        self._beat()
        self.check()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set() and self._lost is None:
            self._beat()
            self._done.wait(min(INTERVAL_S, self._lease_s / 3))

    def _beat(self) -> None:
        with self._beating:
            if self._lost is not None:
                return
            try:
                if self._board.renew(self._job_id, self._owner, self._lease_s, self._progress()):
                    return
                forgotten = self._board.progress(self._job_id) is None
            except DvcrError as error:
                # Without Redis nobody else can take the job either: go on, the registry is what counts.
                log.warning("heartbeat failed", job=self._job_id, error=error.message)
                return
            if forgotten:
                self._lost = ForgottenError("the import is no longer wanted")
            else:
                self._lost = TakenOverError("another worker has taken the import over")
        self._on_lost()
