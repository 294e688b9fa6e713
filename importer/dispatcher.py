"""What keeps jobs moving whatever message Celery or Redis may lose: a look at the board, every few seconds."""

import threading
from pathlib import Path

import structlog
from prometheus_client import Gauge

from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from importer.kept import discard, jobs

_LONGEST_INTERVAL_S = 5.0
log = structlog.get_logger(__name__)
IN_LINE = Gauge("dvcr_imports_in_line", "Imports that no worker has taken yet, of all workers together.")
UNFINISHED = Gauge(
    "dvcr_imports_unfinished", "Imports in line, under way or to be tried again, of all workers together."
)


class Dispatcher:
    """Calls workers for jobs that are in line or whose lease or wait has ended, and removes what `scratch_dir` keeps
    for jobs that nobody wants any more. Every worker has one: it takes one that lives to take over from one that died.
    """

    def __init__(self, board: JobBoard, scratch_dir: Path, interval_s: float) -> None:
        self._board = board
        self._scratch_dir = scratch_dir
        self._interval_s = min(interval_s, _LONGEST_INTERVAL_S)
        self._stopped = threading.Event()

    def start(self, **_: object) -> None:
        """Begin, in a thread that ends with the process."""
        threading.Thread(target=self._run, name="dispatcher", daemon=True).start()

    def look(self) -> None:
        """Once. A Redis that does not answer is logged: the next look finds what this one missed."""
        try:
            IN_LINE.set(self._board.wake())
            UNFINISHED.set(self._board.unfinished())
            for job_id in jobs(self._scratch_dir):
                if self._board.progress(job_id) is None:
                    discard(self._scratch_dir, job_id)
        except DvcrError as error:
            log.warning("the job board does not answer", error=error.message)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self.look()
            except Exception:
                log.exception("the dispatcher will look again")
