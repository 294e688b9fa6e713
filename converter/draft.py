"""Where a file is made before it appears under its name: a folder beside it, which outlives nobody for long."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FILE = "disk"


@contextmanager
def draft_of(destination: Path) -> Iterator[Path]:
    """A path for what will be `destination`, alone in a folder beside it; both are gone afterwards, or the file moved.

    What a process that was killed left of drafts of `destination` is removed. Raises OSError.
    """
    prefix = f".{destination.name}.draft-"
    _remove_dead(destination.parent, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent)).absolute()
        with _locked(folder) as ours:
            if not ours:
                continue  # another process took it for a dead one's, and removed it
            try:
                yield folder / _FILE
            finally:
                _remove(folder)
            return


def _remove_dead(parent: Path, prefix: str) -> None:
    for folder in parent.iterdir():
        if folder.name.startswith(prefix):
            # What cannot be removed is in nobody's way.
            with suppress(OSError), _locked(folder) as ours:
                if ours:
                    _remove(folder)


def _remove(folder: Path) -> None:
    """Not as a tree: what somebody else has put there stays."""
    (folder / _FILE).unlink(missing_ok=True)
    folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether nobody else holds the folder; while entered nobody else does."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = folder.exists()
    except BlockingIOError:
        held = False
    try:
        yield held
    finally:
        os.close(fd)
