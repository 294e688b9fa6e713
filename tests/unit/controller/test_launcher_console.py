from hypothesis import given
from hypothesis import strategies as st

from controller.launcher.console import Backlog


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_the_backlog_is_the_end_of_all_that_was_written(pieces: list[bytes], limit_bytes: int) -> None:
    backlog = Backlog(limit_bytes)

    for piece in pieces:
        backlog.append(piece)

    assert bytes(backlog) == b"".join(pieces)[-limit_bytes:]
