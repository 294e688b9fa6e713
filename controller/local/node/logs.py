"""Reading the logs that the shims write."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from controller.local.node.containers import run_numbers
from dvcr.errors import NotFoundError

_LINE = re.compile(rb"(\S+) (?:stdout|stderr) ([FP]) (.*)", re.DOTALL)
_POLL_S = 0.2
_PIECE = 2**16


def log_of(container: Path, *, previous: bool = False) -> Path:
    """The log of a container's present or previous run. NotFoundError if there was no such run."""
    numbers = run_numbers(container)
    place = -2 if previous else -1
    if len(numbers) < -place:
        which = "previous " if previous else ""
        raise NotFoundError(f"{which}container {container.name!r} has not started yet")
    return container / str(numbers[place]) / "log"


def text(line: bytes, *, timestamps: bool = False) -> bytes:
    """What the container wrote, out of one line of its log."""
    match = _LINE.fullmatch(line.removesuffix(b"\n"))
    if match is None:
        return line
    content = match[3] + (b"\n" if match[2] == b"F" else b"")
    return match[1] + b" " + content if timestamps else content


def read(
    log: Path,
    *,
    tail_lines: int | None = None,
    timestamps: bool = False,
    follow: Callable[[], bool] | None = None,
) -> Iterator[bytes]:
    """The log's text in pieces, from the rotated file on. Blocking.

    With `follow` it goes on until that returns False (asked before the last look, so nothing is lost); then empty
    pieces come while nothing is written, which lets a reader go away.
    """
    for line in _lines(log, follow) if tail_lines is None else _tail(log, follow, tail_lines):
        yield text(line, timestamps=timestamps) if line else b""


def _tail(log: Path, follow: Callable[[], bool] | None, count: int) -> Iterator[bytes]:
    # What there is when the reader comes counts, then all that follows. One line of text may be several lines of the
    # log, all but the last marked P.
    kept: list[list[bytes]] = [[]]
    lines = _lines(log, follow)
    for line in lines:
        if not line:
            break
        kept[-1].append(line)
        if text(line).endswith(b"\n"):
            kept.append([])
            del kept[: max(0, len(kept) - count - 1)]
    if not kept[-1]:
        kept.pop()
    for pieces in kept[-count:] if count else ():
        yield from pieces
    yield from lines


def _lines(log: Path, follow: Callable[[], bool] | None) -> Iterator[bytes]:
    rotated = log.with_suffix(".1")
    if rotated.exists():
        with rotated.open("rb") as file:
            yield from file
    while not log.exists():
        if follow is None or not follow():
            return
        yield b""
        time.sleep(_POLL_S)
    file = log.open("rb")
    rest = b""
    try:
        while True:
            going_on = follow is not None and follow()
            while piece := file.read(_PIECE):
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line + b"\n" for line in whole)
            if log.exists() and not _same(log, file.fileno()):
                file.close()
                file = log.open("rb")
            elif not going_on:
                return
            else:
                yield b""
                time.sleep(_POLL_S)
    finally:
        file.close()


def _same(path: Path, descriptor: int) -> bool:
    return path.stat().st_ino == Path(f"/proc/self/fd/{descriptor}").stat().st_ino
