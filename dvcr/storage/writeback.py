"""Early write-back: the disk begins with a file while more of it arrives, so that little is left for `fsync`."""

import ctypes
import sys

STEP_BYTES = 4 * 2**20

_START_WRITE = 2  # SYNC_FILE_RANGE_WRITE in linux/fs.h
_libc = ctypes.CDLL(None)
if sys.platform == "linux":
    # Python's os has no such call; ctypes lets other threads run during it.
    _libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def begin(fd: int, start: int, end: int) -> None:
    """Have the kernel begin to write each block of `STEP_BYTES` that became full when `start` to `end` was written.

    Promises nothing about the disk, and knows no failure: one to write is told by the next `fsync`. Does nothing where
    the system cannot.
    """
    first, last = start - start % STEP_BYTES, end - end % STEP_BYTES
    if last > first and sys.platform == "linux":
        _libc.sync_file_range(fd, first, last - first, _START_WRITE)
