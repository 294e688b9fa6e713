import threading
from pathlib import Path

from importer.dispatcher import Dispatcher
from tests.support.jobs import MemoryJobBoard


class Broken(MemoryJobBoard):
    """Has a bug that each first look meets."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.seen_again = threading.Event()

    def wake(self) -> int:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("a bug")
        self.seen_again.set()
        return super().wake()


def test_a_bug_met_by_one_look_does_not_end_those_that_follow(tmp_path: Path) -> None:
    board = Broken()
    Dispatcher(board, tmp_path, interval_s=0.01).start()
    assert board.seen_again.wait(30)
