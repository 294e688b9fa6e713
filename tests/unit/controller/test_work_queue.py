import threading

from controller.runtime.queue import WorkQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_waits_once_however_often_it_is_added() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert [queue.get(), queue.get()] == ["a", "b"]


def test_a_key_that_changes_while_it_is_worked_on_comes_again_but_to_nobody_else_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.get() == "b", "a is being worked on"
    queue.done("a")
    assert queue.get() == "a"


def test_of_two_delays_the_earlier_counts_and_it_comes_once() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add_after("a", 10)
    queue.add_after("a", 2)
    queue.add_after("a", 5)
    clock.now = 2
    assert queue.get() == "a"
    queue.done("a")
    clock.now = 20
    queue.add("b")
    assert queue.get() == "b"


def test_back_off_doubles_up_to_a_limit_and_starts_anew_after_success() -> None:
    queue: WorkQueue[str] = WorkQueue(first_backoff_s=1, max_backoff_s=8)
    delays = [queue.retry("a") for _ in range(6)]
    for delay, most in zip(delays, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.8 * most <= delay <= most
    queue.forget("a")
    assert queue.retry("a") <= 1


def test_closing_sends_a_waiting_worker_home() -> None:
    queue: WorkQueue[str] = WorkQueue()
    got: list[str | None] = []
    worker = threading.Thread(target=lambda: got.append(queue.get()))
    worker.start()
    queue.close()
    worker.join(5)
    assert got == [None]
