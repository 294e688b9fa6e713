from hypothesis import given
from hypothesis import strategies as st

from dvcr.jobs.job import JobState
from importer.progress import ProgressMeter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_percent_is_the_mean_of_fetching_and_converting() -> None:
    meter = ProgressMeter(Clock())
    told = meter.progress(fetched_bytes=50, total_bytes=100, converted_bytes=10, virtual_size_bytes=100)
    assert (told.state, told.percent, told.fetched_bytes, told.total_bytes) == (JobState.RUNNING, 30, 50, 100)


def test_percent_follows_the_conversion_where_the_length_is_unknown() -> None:
    meter = ProgressMeter(Clock())
    told = meter.progress(fetched_bytes=50, total_bytes=None, converted_bytes=10, virtual_size_bytes=100)
    assert told.percent == 10


def test_percent_stays_under_100_until_the_end() -> None:
    meter = ProgressMeter(Clock())
    told = meter.progress(fetched_bytes=100, total_bytes=100, converted_bytes=100, virtual_size_bytes=100)
    assert told.percent == 99


@given(st.lists(st.tuples(st.integers(0, 200), st.one_of(st.none(), st.integers(0, 200)), st.integers(0, 200))))
def test_percent_never_goes_back(steps: list[tuple[int, int | None, int]]) -> None:
    meter = ProgressMeter(Clock())
    told = [
        meter.progress(fetched_bytes=f, total_bytes=t, converted_bytes=c, virtual_size_bytes=100).percent
        for f, t, c in steps
    ]
    assert told == sorted(told)
    assert all(0 <= percent <= 99 for percent in told)


def test_speeds() -> None:
    clock = Clock()
    meter = ProgressMeter(clock)
    for second in range(1, 21):
        clock.now = 100.0 + second
        # 10 bytes a second for 10 seconds, then 100
        fetched = 10 * second if second <= 10 else 100 + 100 * (second - 10)
        told = meter.progress(fetched_bytes=fetched, total_bytes=None, converted_bytes=0, virtual_size_bytes=0)
    assert told.current_speed == 100
    assert told.average_speed == 1100 // 20
