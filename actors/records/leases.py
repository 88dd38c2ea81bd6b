"""Leases for reads, at both ends: what a leader may count on, what a follower has granted.

A heartbeat that asks for a lease says how long, and by how much clocks may differ
(docs/running/settings.md). A server that answers it grants exactly that: while the lease lasts it
neither promises nor campaigns, whatever its own settings say and however they change. So no setting
has to be the same on two servers.
"""

from __future__ import annotations

import math

from paxon.actors.ballot import NO_BALLOT, Ballot

__all__ = ["Grants", "LONGEST_LEASE", "MOST_DRIFT", "counted", "sensible"]

LONGEST_LEASE = 60.0
"""Seconds. A server that restarts withholds its vote for as long as it may have granted, so a limit
is needed; a heartbeat that asks for more is malformed."""
MOST_DRIFT = 0.5
"""Clocks may differ by less than this fraction."""


def counted(length: float, drift: float) -> float:
    """For how many seconds, from sending, a leader may count on a lease.

    `drift` is the fraction by which the speeds of two clocks may differ, either way.
    """
    return length * (1 - drift) / (1 + drift)


def sensible(length: float, drift: float) -> bool:
    """Whether a lease may be asked for like this (0: there is none)."""
    return 0 <= length <= LONGEST_LEASE and 0 <= drift < MOST_DRIFT


class Grants:
    """The leases that a server has granted; all times are those of its own clock, in seconds."""

    def __init__(self) -> None:
        self.until = -math.inf
        """The end of the latest of all grants, those of an earlier life included …"""
        self.ballot = NO_BALLOT
        """… the ballot whose leader was granted one last …"""
        self._others_until = -math.inf
        """… and the end of the latest that was granted to any other."""
        self.forget_at = math.inf
        """When the grants of an earlier life have run out."""
        self._stored = 0
        """The longest lease that the disk knows of (or will, with the next commit), µs."""
        self._longest = 0
        """The longest granted in this life, µs."""

    def recover(self, stored: int, now: float) -> None:
        """After a restart only the longest length of a lease is known, not when it was granted."""
        self._stored = stored
        if stored:
            self.until = self.forget_at = now + stored / 1e6

    def hold(self, now: float) -> bool:
        """Whether some leader may still answer reads by a lease that was granted here."""
        return now < self.until

    def grant(self, ballot: Ballot, length: float, drift: float, now: float) -> int:
        """Grant a ballot's leader a lease from now on.

        Returns what the disk has to know before that is told, in µs; 0: nothing. For a restart the
        drift is added: after it, the lease is measured from another moment.
        """
        if ballot != self.ballot:
            self.ballot, self._others_until = ballot, self.until
        self.until = max(self.until, now + length)
        needed = math.ceil(length * (1 + drift) * 1e6)
        self._longest = max(self._longest, needed)
        if needed <= self._stored:
            return 0
        self._stored = needed
        return needed

    def forget_all(self) -> None:
        """Another epoch begins: the holder of a lease stopped counting on it before (M6, M10)."""
        self.until = self._others_until = -math.inf

    def waive(self, ballot: Ballot) -> None:
        """That ballot's leader has handed over: what was granted to it no longer counts (M21).

        What was granted to any other, or to anybody in an earlier life, stands.
        """
        if ballot == self.ballot:
            self.until = self._others_until

    def forget(self) -> int:
        """The grants of an earlier life have run out: what the disk has to know from now on, µs."""
        self.forget_at = math.inf
        self._stored = self._longest
        return self._stored
