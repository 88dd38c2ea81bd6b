"""When to take a snapshot, and when to try again what the machine had no room for."""

from __future__ import annotations

from paxon.actors.disk.storage import SnapshotInfo
from paxon.actors.environment import NEVER
from paxon.actors.settings import Settings

__all__ = ["LONGEST_SECONDS_FOR_ROOM", "LONGEST_SECONDS", "Retry", "Snapshots"]

LOG_PART = 8
"""A large state's log may take one part of so many of its size before the next snapshot."""

SMALL = 1.25
"""Times `snapshot_bytes`: what a snapshot and the log after it may come to, as far as a large state
leaves a choice. (The next snapshot may be larger by all of that log, so the disk holds twice this.)
"""

FIRST_SECONDS = 1.0
"""Between a snapshot that failed and the next try; twice as long after each failure, up to …"""
LONGEST_SECONDS = 60.0
"""… this, or …"""
LONGEST_SECONDS_FOR_ROOM = 4.0
"""… this while the log has no room: clients wait for that snapshot."""


class Retry:
    """Puts off what failed, longer each time. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._at = 0.0

    def due(self, now: float) -> bool:
        """Whether it may be tried."""
        return now >= self._at

    def failed(self, now: float, longest: float = LONGEST_SECONDS) -> None:
        """It failed: not again before a pause, twice as long as the one before."""
        self._pause = min(max(2 * self._pause, FIRST_SECONDS), longest)
        self._at = now + self._pause

    def succeeded(self) -> None:
        """It went well: the next failure is the first one."""
        self._pause = 0.0
        self._at = 0.0


class Snapshots:
    """The snapshots that one server takes; the storage writes them."""

    def __init__(self) -> None:
        self.executed_bytes = 0
        """Of values, since the last one was begun or taken over."""
        self.poll_at = NEVER
        """When to see whether the one under way is done, monotonic seconds."""
        self.began_at = 0.0
        """When the last one was begun, monotonic seconds."""
        self.retry = Retry()
        """For one that could not be taken for want of disk or descriptors."""

    def is_due(self, executed: int, last: SnapshotInfo | None, settings: Settings) -> bool:
        """Whether enough was executed since the last one, in relation to its size.

        While a snapshot is taken the disk holds the one before, this one, and the log since. A
        small state's log is as long as it may be: each snapshot writes all of the state again, the
        store's history of 16 MiB too, and slows down whoever writes. Of a large state's disk the
        log may take a small part only. In between it gets shorter as the state grows.
        """
        size, since = (0, 0) if last is None else (last.size, last.slot)
        usual = settings.snapshot_bytes
        most = max(size / LOG_PART, min(usual, SMALL * usual - size))
        return (
            self.executed_bytes >= most
            or executed - since >= settings.snapshot_slots * most / usual
        )
