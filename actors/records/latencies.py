"""How long a server's steps take, as histograms: plain data that nothing depends on.

Counted once a flush or a burst, not once a command: an observation costs a third of a microsecond.
What shows them to people (`--metrics`) lives elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sized

from paxon.actors.environment import Clock

__all__ = ["BOUNDS", "Histogram", "Latencies"]

BOUNDS = tuple(100e-6 * 2**power for power in range(17))
"""Upper ends of the buckets, in seconds: 0.1 ms, doubled up to 6.6 s. Beyond is one more."""

_MOST_FLYING = 1024
"""So many flushes wait for their slots to be chosen; what comes beyond is not timed."""


class Histogram:
    """How often something took how long, in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Per bucket; the last is for all that exceeds the highest bound."""
        self.total = 0.0
        """Seconds of all observations together."""


class Latencies:
    """The times that one server takes."""

    def __init__(self) -> None:
        self.commit = Histogram()
        """From when a leader proposed a flush's first slot until all slots up to it were chosen."""
        self.sync = Histogram()
        """A transaction on the disk, its sync included."""
        self.queue = Histogram()
        """From the burst that brought a command until those that waited were proposed."""
        self.burst = Histogram()
        """A step: handling all that was received, storing it, sending."""
        self.flying: deque[tuple[int, float]] = deque()
        """Slots that were proposed, one a flush, and when."""
        self._waits_since = 0.0
        """When commands that wait for a slot came; 0: none wait."""

    def waiting(self, now: float) -> None:
        """Commands wait for a slot."""
        if not self._waits_since:
            self._waits_since = now

    def proposed(self, slot: int, now: float, left: Sized) -> None:
        """A flush sends this slot, and perhaps others above it; `left` are commands that wait."""
        if len(self.flying) < _MOST_FLYING:
            self.flying.append((slot, now))
        if self._waits_since:
            queue, seconds = self.queue, now - self._waits_since
            queue.counts[bisect_left(BOUNDS, seconds)] += 1  # (without a call: each flush does so)
            queue.total += seconds
            self._waits_since = now if left else 0.0

    def chosen(self, slot: int, clock: Clock) -> None:
        """All up to `slot` is chosen."""
        flying = self.flying
        if not flying or flying[0][0] > slot:
            return
        now, commit = clock.monotonic(), self.commit
        while flying and flying[0][0] <= slot:
            seconds = now - flying.popleft()[1]
            commit.counts[bisect_left(BOUNDS, seconds)] += 1
            commit.total += seconds

    def reigns(self) -> None:
        """A reign begins, or ends: what the one before had under way is nobody's any more."""
        self.flying.clear()
        self._waits_since = 0.0

    def all(self) -> dict[str, Histogram]:
        """By name, as they are shown."""
        return {
            "commit": self.commit, "sync": self.sync, "queue": self.queue, "burst": self.burst,
        }  # fmt: skip
