"""What a candidate has heard so far in its ballot: plain data, kept by the server."""

from __future__ import annotations

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.messages import NO_OP, P1B, Accepted

__all__ = ["Candidacy"]


class Candidacy:
    """The promises for one ballot and, per slot, the value accepted at the highest ballot."""

    def __init__(self, ballot: Ballot, first_slot: int, ask_again_at: float = 0.0) -> None:
        self.ballot = ballot
        self.first_slot = first_slot
        self.promised: set[ServerId] = set()
        """Servers whose P1B arrived whole."""
        self.ask_again_at = ask_again_at
        """When to ask those again whose promises have not come, monotonic seconds."""
        self._expected: dict[ServerId, int] = {}
        """Per server the slot at which its next chunk has to start."""
        self._reported: dict[int, Accepted] = {}

    def take(self, p1b: P1B, sender: ServerId) -> int:
        """Add a chunk of a promise; returns the slot to ask from next, 0 if there is none.

        A chunk that is not the next one expected (a duplicate, or late) changes nothing.
        """
        if p1b.first_slot != self._expected.get(sender, self.first_slot):
            return 0
        for accepted in p1b.accepted:
            self.report(accepted)
        if p1b.next_slot:
            self._expected[sender] = p1b.next_slot
            return p1b.next_slot
        self._expected[sender] = -1
        self.promised.add(sender)
        return 0

    def report(self, accepted: Accepted) -> None:
        """Some acceptor holds this value; the highest ballot's one counts (PMMC §2.3, pmax)."""
        best = self._reported.get(accepted.slot)
        if best is None or accepted.ballot > best.ballot:
            self._reported[accepted.slot] = accepted

    def next_chunk(self, server: ServerId) -> int:
        """Where to (re)start asking this server."""
        return self._expected.get(server, self.first_slot)

    @property
    def last(self) -> int:
        """The highest slot that anything was reported for; 0 if there is none."""
        return max(self._reported, default=0)

    @property
    def highest(self) -> Ballot:
        """The highest ballot of anything that was reported."""
        return max((accepted.ballot for accepted in self._reported.values()), default=NO_BALLOT)

    def values(self, first: int) -> list[tuple[int, bytes]]:
        """What to propose from slot `first` on: the reported values, no-ops into the holes."""
        return [
            (slot, self._reported[slot].value if slot in self._reported else NO_OP)
            for slot in range(first, self.last + 1)
        ]
