"""What is fetched ahead of whom."""

from dvcr.artifact.streams import MAX_STREAMS, Streams


def ahead(streams: Streams, *ranks: int) -> list[list[int]]:
    return [list(streams.follow(rank)) for rank in ranks]


def test_the_distance_grows_as_a_stream_goes_on() -> None:
    assert ahead(Streams(4, lambda: 100), 7, 8, 9, 10, 11) == [[], [9], [10, 11], [11, 12, 13, 14], [12, 13, 14, 15]]


def test_reads_in_the_same_chunk_change_nothing() -> None:
    assert ahead(Streams(4, lambda: 100), 7, 7, 8, 8, 8, 9) == [[], [], [9], [9], [9], [10, 11]]


def test_random_reads_fetch_nothing_ahead() -> None:
    assert ahead(Streams(4, lambda: 100), 5, 90, 3, 41, 17) == [[]] * 5


def test_streams_share_the_room() -> None:
    streams = Streams(4, lambda: 8)
    for step in range(10):
        waiting = [streams.follow(start + step) for start in (0, 100, 200)]
    assert [len(one) for one in waiting] == [1, 1, 1]


def test_a_stream_survives_a_few_others_and_not_many() -> None:
    streams = Streams(4, lambda: 100)
    ahead(streams, 0, 1, *range(100, 100 + 10 * (MAX_STREAMS - 1), 10))
    assert ahead(streams, 2) == [[3, 4]]
    ahead(streams, *range(500, 500 + 10 * MAX_STREAMS, 10))
    assert ahead(streams, 3) == [[]]
