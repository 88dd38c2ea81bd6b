"""Reads that cost no slot: rounds that confirm a leader, reads that wait for one, leases (rule 9).

A heartbeat that asks for a lease says how long, and by how much clocks may differ
(docs/running/settings.md). A server that answers it grants exactly that: while the lease lasts it
neither promises nor campaigns, whatever its own settings say and however they change. So no setting
has to be the same on two servers. All of this is plain data.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from paxon.actors.ballot import NO_BALLOT, Ballot
from paxon.actors.environment import NEVER, ClientToken
from paxon.actors.limits.allowances import MAX_READ_BYTES, MAX_READS
from paxon.actors.messages import Query

__all__ = ["Grants", "LONGEST_LEASE", "ReadQueue", "Rounds", "counted", "sensible"]

LEASE_IN_USE = 5.0
"""Seconds for which heartbeats ask for a lease after a client's last lease read."""
LONGEST_LEASE = 60.0
"""Seconds. A server that restarts withholds its vote for as long as it may have granted, so a limit
is needed; a heartbeat that asks for more is malformed."""
MOST_DRIFT = 0.5
"""Clocks may differ by less than this fraction."""

WaitingRead = tuple[int, int, ClientToken, Query]
"""The heartbeat round that must be confirmed, the slot to have executed, whom to answer, what."""


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
        self.confirmed_busy = busy
        """… when it was sent, and how long this server had been busy then (`Following.excused`)."""
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
        it told (`counted`). Heartbeats ask for leases only while clients use them: otherwise a dead
        leader's lease would hold up its successor.
        """
        self.lease_wanted_until = now + LEASE_IN_USE
        return now < self.lease_until


class ReadQueue:
    """Reads in order of arrival; one confirmed round serves all that arrived before it began."""

    def __init__(self) -> None:
        self.waiting: deque[WaitingRead] = deque()
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether so many wait that there may be no more."""
        return len(self.waiting) >= MAX_READS or self.bytes >= MAX_READ_BYTES

    def add(self, round_number: int, commit: int, client: ClientToken, query: Query) -> None:
        self.bytes += len(query.query)
        self.waiting.append((round_number, commit, client, query))

    def ready(self, confirmed: int, executed: int) -> list[tuple[ClientToken, Query]]:
        """Take out what may be answered, with `confirmed` the last round a majority replied to."""
        answers = []
        while self.waiting:
            round_number, commit, client, query = self.waiting[0]
            if round_number > confirmed or commit > executed:
                break
            answers.append((client, query))
            self.bytes -= len(query.query)
            self.waiting.popleft()
        return answers

    def later_than(self, round_number: int) -> list[tuple[ClientToken, Query]]:
        """Take out those that wait for a round after this one."""
        later = [(c, query) for number, _, c, query in self.waiting if number > round_number]
        self.waiting = deque(read for read in self.waiting if read[0] <= round_number)
        self.bytes -= sum(len(query.query) for _, query in later)
        return later

    def clear(self) -> list[tuple[ClientToken, Query]]:
        """Take out all, unanswered."""
        reads = [(client, query) for _, _, client, query in self.waiting]
        self.waiting.clear()
        self.bytes = 0
        return reads


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
        self.until = self._others_until = -math.inf
        """The end of the latest of all grants, those of an earlier life included, and …"""
        self.ballot = NO_BALLOT
        """… of those to any other than the ballot whose leader was granted one last."""
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
