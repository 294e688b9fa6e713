"""The signals that ask a process to end, for programs without an event loop."""

import queue
import signal
import threading


def termination() -> threading.Event:
    """An event that is set once the process is asked to end, by SIGTERM or SIGINT. Call it in the main thread."""
    asked = threading.Event()
    # A handler that sets the event itself would wait for ever where it interrupts the event's own wait().
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def tell() -> None:
        signals.get()
        asked.set()

    threading.Thread(target=tell, name="termination", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: signals.put(number))
    return asked
