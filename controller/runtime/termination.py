"""The signals that ask a process to end, for programs without an event loop."""

import os
import signal
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def termination() -> threading.Event:
    """An event that is set once the process is asked to end, by SIGTERM or SIGINT. Call it in the main thread."""
    asked = threading.Event()
    # The main thread would run a handler, but only once it wakes: it may be waiting for this very event, and the system
    # may give the signal to another thread. What is written here at the signal is read at once.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def tell() -> None:
        while os.read(read_end, 1)[0] not in _SIGNALS:
            continue
        asked.set()

    threading.Thread(target=tell, name="termination", daemon=True).start()
    signal.set_wakeup_fd(write_end)
    for number in _SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    return asked
