"""Versions of files: whether a file may have changed since it was read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Version(NamedTuple):
    """A state of a file. It changes with the file's content, also where an edit keeps size and modification time (`cp
    -p`): no program can set the time of the last change of the inode (`changed_ns`).

    path: the file. inode, size: its inode number, and its size in bytes. modified_ns, changed_ns: times in nanoseconds.
    """

    path: Path
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def version(path: Path) -> Version:
    """The present version of the file `path`; raises `OSError` if there is none."""
    stat = path.stat()
    return Version(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
