"""Which file it is, and whether it is still the one that was looked at."""

import os
from typing import TypeAlias

# Inode, size, and the times of the last change of the content and of anything. All writers of the store set the time of
# the content to the nanosecond, so that two files with the same inode, one after the other, differ.
Identity: TypeAlias = tuple[int, int, int, int]


def identity(found: os.stat_result) -> Identity:
    """Equal for two looks at a file exactly if it did not change in between in any way that the system can tell."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
