"""The end of a worker: in time, whatever Celery waits for.

Celery ends its pool inside of the handler of the signal, in the middle of whatever the main thread was at, and was seen
to wait there for ever, once in some hundreds of ends. So the time is kept by a thread that the signal reaches by
itself. What is ended by force loses nothing: jobs are given back by the children, or taken over when their lease ends.
"""

import os
import signal
import threading
import time

import structlog
from celery.signals import worker_process_init

END_S = 10.0

log = structlog.get_logger(__name__)


def end_in_time() -> None:
    """From now on SIGTERM leaves this process ten seconds to end, before it is ended with all its children.

    To be called in the main thread, before the children of the pool are made. The kernel ends them with their parent.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    worker_process_init.connect(_leave_signals_alone, weak=False)
    threading.Thread(target=_keep_time, args=(reader,), name="ending", daemon=True).start()


def _keep_time(signals: int) -> None:
    while os.read(signals, 1)[0] != signal.SIGTERM:
        pass
    time.sleep(END_S)
    log.error("the worker does not end by itself", waited_s=END_S)
    os._exit(1)


def _leave_signals_alone(**_: object) -> None:
    """A child's signals are not its parent's, whose pipe it has."""
    signal.set_wakeup_fd(-1)
