"""Ballots: totally ordered numbers, each owned by one server (PMMC §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from paxon.actors.invariants import invariant

__all__ = [
    "Ballot", "EPOCH_BITS", "MOST_SERVERS", "ServerId", "NO_BALLOT", "Wire", "are_ids", "in_list",
]  # fmt: skip

ServerId = int
"""A server's number in its cluster, from 1. In a frame's header 0 stands for a client."""
MOST_SERVERS = 63
"""Ids go up to this: votes are bits of an integer."""

EPOCH_BITS = 40
"""The lower bits of a round count within its epoch: 2⁴⁰ attempts to lead are more than there ever
are in one, and 2²³ epochs are one an hour for nine centuries."""


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The base of all messages, and of what they and slots hold: an array of just its fields."""


class Ballot(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """A ballot ⟨round, leader⟩, compared first by round, then by leader.

    Two servers can never lead the same ballot, for its leader is part of it. It belongs to an epoch
    (docs/membership.md), which is the higher part of its round: so it compares by that first.
    """

    round: int
    """Counts up by one or more at each attempt to lead; 0 only in `NO_BALLOT`."""

    leader: ServerId
    """The server that alone may propose in this ballot."""

    @property
    def epoch(self) -> int:
        """Which configuration decides what is proposed in this ballot."""
        return self.round >> EPOCH_BITS

    @staticmethod
    def first_of(epoch: int) -> Ballot:
        """Below every ballot in which anybody leads in that epoch, above all of those before."""
        return Ballot(epoch << EPOCH_BITS, 0)

    def next_for(self, server: ServerId) -> Ballot:
        """The smallest ballot of `server` that is above this one: 1.2 → 1.3 for 3, 2.1 for 1."""
        if server > self.leader and self.round > 0:
            return Ballot(self.round, server)
        following = Ballot(self.round + 1, server)
        invariant(following.epoch == self.epoch, "the rounds of epoch %d are used up", self.epoch)
        return following

    def __str__(self) -> str:
        epoch = self.epoch
        text = f"{self.round - (epoch << EPOCH_BITS)}.{self.leader}"
        return f"e{epoch}:{text}" if epoch else text


NO_BALLOT = Ballot(0, 0)
"""Below every real ballot: what an acceptor has promised before its first message."""


def are_ids(servers: Sequence[ServerId]) -> bool:
    """Whether these can be a cluster's, in their order: they may come from anybody."""
    rising = all(one < next_ for one, next_ in pairwise(servers))
    return len(servers) > 0 and rising and servers[0] >= 1 and servers[-1] <= MOST_SERVERS


def in_list(servers: Sequence[ServerId]) -> str:
    """Servers in words."""
    if len(servers) == 1:
        return f"server {servers[0]}"
    return f"servers {', '.join(map(str, servers[:-1]))} and {servers[-1]}" if servers else "nobody"
