"""How far an import is, as a percentage and as speeds."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from dvcr.jobs.job import ImportStage, JobProgress, JobState

_RECENT_S = 5.0
_HIGHEST_BEFORE_THE_END = 99


class ProgressMeter:
    """Turns counters into a JobProgress. Call `progress` about once a second, from one thread.

    The percentage is the mean of what was fetched and what was converted, never goes back, and stays under 100.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._started_at = datetime.now(UTC)
        self._recent = deque([(self._started, 0)])
        self._percent = 0

    def progress(
        self,
        *,
        fetched_bytes: int,
        total_bytes: int | None,
        converted_bytes: int,
        virtual_size_bytes: int,
        stage: ImportStage = ImportStage.FETCHING,
    ) -> JobProgress:
        """The import's state now. `virtual_size_bytes` is 0 until the image was inspected."""
        now = self._clock()
        self._recent.append((now, fetched_bytes))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _RECENT_S:
            self._recent.popleft()
        since, before = self._recent[0]
        fetched = _fraction(fetched_bytes, total_bytes)
        converted = _fraction(converted_bytes, virtual_size_bytes) or 0.0
        done = converted if fetched is None else (fetched + converted) / 2
        self._percent = max(self._percent, min(int(done * 100), _HIGHEST_BEFORE_THE_END))
        return JobProgress(
            state=JobState.RUNNING,
            stage=stage,
            percent=self._percent,
            fetched_bytes=fetched_bytes,
            total_bytes=total_bytes,
            converted_bytes=converted_bytes,
            virtual_size_bytes=virtual_size_bytes,
            average_speed=_speed(fetched_bytes, now - self._started),
            current_speed=_speed(fetched_bytes - before, now - since),
            started_at=self._started_at,
        )


def _fraction(done: int, of: int | None) -> float | None:
    return min(done / of, 1.0) if of else None


def _speed(size_bytes: int, seconds: float) -> int:
    return max(0, int(size_bytes / seconds)) if seconds > 0 else 0
