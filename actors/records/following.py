"""Whether a follower's leader lives, and when to try to lead: plain data (rule 6)."""

from __future__ import annotations

from paxon.actors.ballot import ServerId
from paxon.actors.environment import NEVER
from paxon.actors.settings import Settings

__all__ = ["LARGE_VALUE", "Following"]

EXCUSED = 4
"""This server's own long steps excuse a silence for at most this many election timeouts."""
LARGE_VALUE, SECONDS_PER_STORED_BYTE = 256 << 10, 0.125 / (1 << 20)
"""While a value from this size on is stored, nobody expects to hear from its leader, or the leader
from others, for so much longer."""


class Following:
    """News of the leader, as one server has heard it, and its questions to the others.

    All times are monotonic seconds.
    """

    def __init__(self, settings: Settings) -> None:
        self._most_excused = EXCUSED * settings.election_timeout_max
        self.heard_at = -NEVER
        """When the leader that this server follows was heard last."""
        self.busy = self.heard_busy = 0.0
        """Seconds that long steps have taken so far; and until the leader was heard last."""
        self.election_at = 0.0
        """When to find out whether an election is wanted, unless the leader is heard."""
        self.retry_at = 0.0
        """When one that was preempted may try again for the clients that wait here."""
        self.heir: ServerId = 0
        """Whom this server has handed over to, until it promises anew; 0: nobody."""
        self.round = 0
        """Of pre-votes."""
        self.pre_votes: set[ServerId] = set()
        """Who has lost the leader, too; empty while nobody is asked."""

    def excused(self, busy_before: float) -> float:
        """Seconds by which a silence seems longer than it is; `busy_before` is of its beginning.

        A busy server cannot listen, so it hears nobody meanwhile, alive or not. Without this,
        servers that store several megabytes at the same time would take each other for dead. There
        is a limit: a server may really be dead while clients keep this one busy.
        """
        return min(self.busy - busy_before, self._most_excused)

    def store(self, size: int) -> None:
        """A large value is stored: its leader, and those who get it from this one, are as busy."""
        self.was_busy(size * SECONDS_PER_STORED_BYTE)

    def was_busy(self, seconds: float) -> None:
        """Excuse so much more silence of this server's leader, or of its followers."""
        before = self.excused(self.heard_busy)
        self.busy += seconds
        self.election_at += self.excused(self.heard_busy) - before
