import subprocess
import sys

import pytest

_PROGRAM = """
import signal, sys, threading
from controller.runtime.termination import termination

def take_the_signal():
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.{name})

asked = termination()
threading.Thread(target=take_the_signal, daemon=True).start()
asked.wait()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_heard_whichever_thread_the_system_gives_it_to(name: str) -> None:
    """Also while the main thread waits for it, and for nothing else."""
    program = [sys.executable, "-c", _PROGRAM.format(name=name)]
    done = subprocess.run(program, input="now\n", text=True, timeout=30, check=False)
    assert done.returncode == 0
