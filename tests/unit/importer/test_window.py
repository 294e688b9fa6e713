"""Bytes in memory: whatever is appended and not dropped can be read, without a copy."""

import random

from importer.window import Window


def test_ranges_over_pieces_of_any_length() -> None:
    rng = random.Random(1)
    data = rng.randbytes(5000)
    window, at = Window(), 0
    while at < len(data):
        piece = data[at : at + rng.randrange(1, 400)]
        window.append(piece)
        at += len(piece)
    for _ in range(200):
        start, end = sorted(rng.randrange(5001) for _ in range(2))
        assert b"".join(window.views(start, end)) == data[start:end]


def test_dropping_keeps_what_begins_before_and_ends_after() -> None:
    window = Window()
    window.append(b"abc")
    window.append(b"def")
    window.drop(4)
    assert window.start == 3
    assert b"".join(window.views(4, 6)) == b"ef"
    window.drop(6)
    assert (window.start, window.end) == (6, 6)
    window.skip(4)
    window.append(b"xy")
    assert (window.start, window.end) == (10, 12)
    assert b"".join(window.views(10, 12)) == b"xy"
    assert window.views(12, 12) == []
