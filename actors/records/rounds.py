"""A leader's heartbeat rounds, and the lease that they bring: plain data (rule 9)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from paxon.actors.environment import NEVER

__all__ = ["LEASE_IN_USE", "Rounds"]

LEASE_IN_USE = 5.0
"""Seconds for which heartbeats ask for a lease after a client's last lease read."""


class Rounds:
    """The rounds of one reign. Each that a majority replied to proves that the leader led then."""

    def __init__(self, now: float, busy: float) -> None:
        self.began = now
        """When the reign did."""
        self.last = 0
        """The number of the last round that was begun."""
        self.confirmed = 0
        """The last one that a majority, the leader included, has replied to …"""
        self.confirmed_at = now  # (the promises: a majority was alive just now)
        """… when it was sent, …"""
        self.confirmed_busy = busy
        """… and for how long this server had been busy by then (`Following.excused`)."""
        self.sent: deque[tuple[int, float, float, float]] = deque()
        """Rounds not confirmed yet: number, when sent, seconds to count on the lease asked for, and
        how busy this server had been when it was sent."""
        self.lease_until = -NEVER
        """How long this leader may count on what the confirmed rounds asked for."""
        self.lease_wanted_until = 0.0

    def begin(self, now: float, lease: float, busy: float) -> int:
        """Number a new round, whose lease may be counted on for `lease` seconds.

        `busy`: for how many seconds this server has been busy so far.
        """
        self.last += 1
        self.sent.append((self.last, now, lease, busy))
        return self.last

    def confirm(self, answered: Iterable[int], majority: int) -> bool:
        """The others' last answers are to these rounds: True if that confirms another round."""
        confirmed = sorted([self.last, *answered], reverse=True)[majority - 1]
        if confirmed <= self.confirmed:
            return False
        self.confirmed = confirmed
        lease = 0.0
        while self.sent and self.sent[0][0] <= confirmed:
            _, self.confirmed_at, lease, self.confirmed_busy = self.sent.popleft()
        # Each of the majority replied to this round or to a later one, and may have missed any
        # other: no more is granted than the shortest lease that any of these asked for.
        lease = min(lease, min((later for _, _, later, _ in self.sent), default=lease))
        if lease:
            self.lease_until = max(self.lease_until, self.confirmed_at + lease)
        return True

    def lease_holds(self, now: float) -> bool:
        """No other can lead yet: those who granted the lease promise nothing until it has run out.

        Counted from when the confirmed heartbeat was *sent*, and shortened by the clock drift that
        it told (leases.py). Heartbeats ask for leases only while clients use them: otherwise a dead
        leader's lease would hold up its successor.
        """
        self.lease_wanted_until = now + LEASE_IN_USE
        return now < self.lease_until
