"""The room that log and snapshots have, and how disks promise it (docs/design/full-disks.md)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paxon.actors.ballot import ServerId
from paxon.actors.disk.data_directory import WITNESS_NAME, owner_of
from paxon.actors.disk.storage import NO_ROOM

__all__ = [
    "GROWTH", "LOG_ROOM", "PAGE_BYTES", "Disk", "NoRoomError", "SharedDisk", "allocated_bytes",
    "checkpoint_pages", "later_bytes", "part_of", "reserve",
]  # fmt: skip

PAGE_BYTES = 4096
"""Of the database."""
LOG_ROOM = 1 << 20
"""Bytes of the disk that neither a snapshot nor a client's value takes: promises, marks and
deletions have to go on, and SQLite writes each page twice …"""
LAST_ROOM = LOG_ROOM // 2
"""… of which small values may take all but so many."""
GROWTH = 3
"""By so many times what was logged since a snapshot the next may be larger: the store's shortest
commands make 2.8 times their size of the state. How large it is shows only once it is taken."""
AMPLE = 64 << 20
"""With so many bytes left over nothing is looked at any closer."""
FEWEST_PAGES, MOST_PAGES = 64, 1000
"""The write-ahead log is copied into the database at so many pages: the fewer, the less room."""
SURVEY_SECONDS = 1.0
"""Between two looks at who else has how much of a disk …"""
SHARED_BELOW = 8
"""… of which no more is free than so many times what this server has, and 64 MiB each time."""
MOST_BESIDE = 1000
"""At most so many entries of a directory are looked at."""
OUR_NAMES = ("paxon.", "snapshot-", "incoming-")
"""How the names of a server's large files begin."""

_KEEP_SIZE = 1
"""From <linux/falloc.h>."""
_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
"""Linux's; looked up before any fork as well."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Free space, and what is spoken for; bytes."""

    free: int
    wanted: int = 0
    """What the snapshot under way is still to take, or the next one if it is as large as the last.
    """
    later: int = 0
    """What the one after it wants beyond what comes back when it is done, going by the log."""
    is_taken: bool = False
    """Whether one is under way, so that there is an end to it."""
    growth: int = 0
    """By how much the database grows once its write-ahead log is copied into it."""
    inside: int = 0
    """Free pages of the database."""

    @property
    def is_ample(self) -> bool:
        return self._unpromised - max(0, self.later) >= AMPLE

    def room(self) -> int:
        """Bytes of values that the log may still take (see `Storage.room`).

        Each goes into the write-ahead log first and then into the database, which has free pages
        for some of them. And each may add `GROWTH` times as much to the snapshot after it.
        """
        left, inside = self._unpromised - self.growth - LOG_ROOM, self.inside
        beyond = left + inside - self.later
        if self.free - self.growth < LAST_ROOM or (self.is_taken and beyond < LAST_ROOM - LOG_ROOM):
            return NO_ROOM
        return min(left if left <= inside else (left + inside) // 2, beyond // (1 + GROWTH))

    @property
    def _unpromised(self) -> int:
        return self.free - self.wanted

    def largest(self) -> int:
        """See `Storage.largest`: what a snapshot under way is still to take is not there."""
        promised = self.wanted if self.is_taken else 0
        return (self.free - promised - self.growth - LAST_ROOM) // 2

    def surplus(self) -> int:
        """Bytes of free pages that would do more for the log outside of the database."""
        return max(0, (self.inside - (self._unpromised - self.growth - LOG_ROOM)) // 2)


def later_bytes(last: int, size: int, logged: int, covered: int) -> int:
    """`Disk.later`: of `logged` bytes the one under way covers some, and will have `size` bytes.

    When it counts those go, and the snapshot before, of `last` bytes. (Where none is under way the
    last is both.)
    """
    return size - last - covered + GROWTH * (logged - covered)


def checkpoint_pages(room: int) -> int:
    """At how many pages the write-ahead log is copied into the database."""
    return max(FEWEST_PAGES, min(MOST_PAGES, room // 8 // PAGE_BYTES))


_NO_ROOM = (
    f"the disk is full: less than {LOG_ROOM >> 20} MiB would be left for the log, free some space"
)


class NoRoomError(Exception):
    """A snapshot would take the disk's last bytes from the log; the text says so."""


def reserve(descriptor: int, size: int) -> None:
    """Have the disk promise room for a file of `size` bytes, besides what the log needs.

    Raises `OSError` or `NoRoomError` before a byte is written in vain. The file's length stays as
    it is. Without such a call (outside Linux, or on a file system that cannot) it promises nothing.
    """
    missing = size - os.fstat(descriptor).st_size
    if missing > 0 and _free(os.fstatvfs(descriptor)) < missing + LOG_ROOM:
        raise NoRoomError(_NO_ROOM)
    if _fallocate is not None and missing > 0:
        ctypes.set_errno(0)
        result = _fallocate(descriptor, _KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(size))
        if result and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class SharedDisk:
    """The disk of a server's directory, and others of its cluster that lie beside it there.

    Once it may get tight each has its part, so that no log takes what another counts on. A snapshot
    is taken wherever there is room, because it makes some.
    """

    def __init__(self, directory: Path, cluster: str, server: ServerId) -> None:
        self._directory = directory
        self._cluster = cluster
        self._server = server
        self._surveyed_at = -SURVEY_SECONDS
        self._pool, self._others = 0, list[int]()
        """Bytes that are free or any of these servers', and what each of the others had of it."""
        self.filled_by_others = False
        """Whether most of what a tight disk holds is in no server's directory here."""

    def free_bytes(self) -> int | None:
        """Bytes that this server may take of the disk; None if it does not say."""
        free = None
        with contextlib.suppress(OSError):  # (no descriptor, for one)
            state = os.statvfs(self._directory)
            free = _free(state) if state.f_blocks else None
            own = _taken(self._directory)
            if free is not None and free < SHARED_BELOW * (own + AMPLE):
                self._survey(own)
                if self._others:
                    return min(free, part_of(self._pool, own, self._others))
        return free

    def _survey(self, own: int) -> None:
        """Once in a while look at who else has how much."""
        now = time.monotonic()
        if now < self._surveyed_at + SURVEY_SECONDS:
            return
        self._surveyed_at = now
        before = _free(os.statvfs(self._directory))
        newest: dict[ServerId, tuple[float, int]] = {}
        ours = own
        for directory in _beside(self._directory):
            with contextlib.suppress(OSError):  # it has gone, or is not to be looked into
                owner, taken = owner_of(directory), _taken(directory)
                ours += taken
                if owner.cluster == self._cluster and owner.server != self._server:
                    this = ((directory / WITNESS_NAME).stat().st_mtime, taken)
                    newest[owner.server] = max(this, newest.get(owner.server, this))
        self._others = [taken for _, taken in newest.values()]
        after = os.statvfs(self._directory)
        # What one of them has just taken, or given back, is counted once at the most.
        self._pool = min(before, _free(after)) + own + sum(self._others)
        self.filled_by_others = (after.f_blocks - after.f_bfree) * after.f_frsize > 2 * ours


def _beside(directory: Path) -> list[Path]:
    """Other data directories beside this one, on its disk."""
    found = []
    with contextlib.suppress(OSError):
        own = Path(os.path.realpath(directory))
        disk, mounted = own.stat().st_dev, _mounted()
        with os.scandir(own.parent) as entries:
            for entry in itertools.islice(entries, MOST_BESIDE):
                path = Path(entry.path)
                if path == own or entry.path in mounted or not entry.is_dir(follow_symlinks=False):
                    continue
                with contextlib.suppress(OSError):
                    if path.stat().st_dev == disk and (path / WITNESS_NAME).is_file():
                        found.append(path)
    return found


def _mounted() -> set[str]:
    """Where something is mounted (on Linux): to look there might never end."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return set()
    # Spaces and the like are told as octal numbers.
    return {re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[4]) for line in lines}


def part_of(pool: int, own: int, others: Sequence[int]) -> int:
    """Bytes that a server with `own` ones may take of a disk that it shares.

    The `pool` is what is free or any server's. All who have less than an equal part may have that,
    and the parts come to no more than is free. Where all have plenty nobody is held to it.
    """
    plenty = pool - own - sum(3 * other + 2 * AMPLE for other in others)
    sharing = len(others) + 1
    for taken in sorted((own, *others), reverse=True):
        if sharing == 1 or taken * sharing <= pool:
            break
        pool, sharing = pool - taken, sharing - 1
    return max(0, plenty, pool // sharing - own)


def _free(state: os.statvfs_result) -> int:
    """Bytes left for this process's user."""
    return state.f_bavail * state.f_frsize


def _taken(directory: Path) -> int:
    """The bytes that the large files of a server's directory take."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(OUR_NAMES):
                with contextlib.suppress(FileNotFoundError):  # a snapshot got its name
                    total += allocated_bytes(entry.stat())
    return total


def allocated_bytes(state: os.stat_result) -> int:
    """Bytes that a file takes on the disk, with those promised to it."""
    return state.st_blocks * 512
