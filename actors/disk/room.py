"""What room the log and snapshots have, and how the disk promises it (docs/full-disks.md)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from paxon.actors.disk.data_directory import DATABASE_NAME
from paxon.actors.disk.storage import NO_ROOM

__all__ = [
    "LOG_ROOM", "PAGE_BYTES", "Disk", "NoRoomError", "allocated_bytes", "checkpoint_pages",
    "filled_by_others", "free_bytes", "leave_room", "reserve",
]  # fmt: skip

PAGE_BYTES = 4096
"""Of the database."""
LOG_ROOM = 1 << 20
"""Bytes of the disk that neither a snapshot nor a client's value takes: promises, marks and
deletions have to go on, and SQLite writes each page twice …"""
LAST_ROOM = LOG_ROOM // 2
"""… of which small values may take all but so many."""
AMPLE = 64 << 20
"""With so many bytes left over nothing is looked at any closer."""
FEWEST_PAGES, MOST_PAGES = 64, 1000
"""The write-ahead log is copied into the database at so many pages: the fewer, the less room."""
OUR_NAMES = ("paxon.", "snapshot-", "incoming-")
"""How the names of a server's large files begin."""

_KEEP_SIZE = 1
"""From <linux/falloc.h>."""
_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
"""Linux's; looked up before any fork as well."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Free space, and the part of it that is spoken for; bytes."""

    free: int
    wanted: int = 0
    """What the snapshot under way is still to take, or the next one will."""
    growth: int = 0
    """By how much the database grows once its write-ahead log is copied into it."""
    inside: int = 0
    """Free pages of the database."""

    @property
    def is_ample(self) -> bool:
        return self.free - self.wanted >= AMPLE

    def room(self) -> int:
        """Bytes of values that the log may still take (see `Storage.room`).

        Each goes into the write-ahead log first and then into the database, which has free pages
        for some of them.
        """
        if self.is_ample:
            return (self.free - self.wanted - LOG_ROOM) // 2
        if self.free - self.growth < LAST_ROOM:
            return NO_ROOM
        return self._left if self._left <= self.inside else (self._left + self.inside) // 2

    @property
    def _left(self) -> int:
        return self.free - self.wanted - self.growth - LOG_ROOM

    def surplus(self) -> int:
        """Bytes of free pages that would do more for the log outside of the database."""
        return max(0, (self.inside - self._left) // 2)


def checkpoint_pages(room: int) -> int:
    """At how many pages the write-ahead log is copied into the database."""
    return max(FEWEST_PAGES, min(MOST_PAGES, room // 8 // PAGE_BYTES))


_NO_ROOM = (
    f"the disk is full: less than {LOG_ROOM >> 20} MiB would be left for the log, free some space"
)


class NoRoomError(Exception):
    """A snapshot would take the disk's last bytes from the log; the text says so."""


def reserve(descriptor: int, size: int) -> None:
    """Have the disk promise room for a file of `size` bytes, beside what the log needs.

    Raises `OSError` or `NoRoomError` before a byte is written in vain. The file's length stays as
    it is. Without such a call (outside Linux, or on a file system that cannot) it promises nothing.
    """
    missing = size - os.fstat(descriptor).st_size
    if missing > 0 and free_bytes(descriptor) < missing + LOG_ROOM:
        raise NoRoomError(_NO_ROOM)
    if _fallocate is not None and missing > 0:
        ctypes.set_errno(0)
        result = _fallocate(descriptor, _KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(size))
        if result and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def leave_room(descriptor: int) -> None:
    """Raise `NoRoomError` if the log has too little room left beside this file."""
    if free_bytes(descriptor) < LOG_ROOM:
        raise NoRoomError(_NO_ROOM)


def free_bytes(descriptor: int) -> int:
    """Bytes left on the disk of an open file, for this process's user."""
    state = os.fstatvfs(descriptor)
    return state.f_bavail * state.f_frsize


def filled_by_others(directory: Path) -> bool:
    """Whether most of what a disk holds is nobody's of this cluster: not of the directories here.

    Servers that share a disk have theirs side by side.
    """
    state = os.statvfs(directory)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    ours, disk = 0, directory.stat().st_dev
    for database in directory.parent.glob(f"*/{DATABASE_NAME}"):
        for entry in database.parent.iterdir():
            if entry.name.startswith(OUR_NAMES):
                with contextlib.suppress(FileNotFoundError):  # a snapshot got its name
                    found = entry.stat()
                    ours += allocated_bytes(found) if found.st_dev == disk else 0
    return used > 2 * ours


def allocated_bytes(state: os.stat_result) -> int:
    """Bytes that a file takes on the disk, with those promised to it."""
    return state.st_blocks * 512
