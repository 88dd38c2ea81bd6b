"""Ballots: totally ordered numbers, each owned by one server (PMMC §2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Ballot", "ServerId", "NO_BALLOT", "in_list"]

ServerId = int
"""A server's number in its cluster, from 1. In a frame's header 0 stands for a client."""


class Ballot(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """A ballot ⟨round, leader⟩, compared first by round, then by leader.

    Two servers can never lead the same ballot, for its leader is part of it.
    """

    round: int
    """Counts up by one or more at each attempt to lead; 0 only in `NO_BALLOT`."""

    leader: ServerId
    """The server that alone may propose in this ballot."""

    def next_for(self, server: ServerId) -> Ballot:
        """The smallest ballot of `server` that is above this one: 1.2 → 1.3 for 3, 2.1 for 1."""
        if server > self.leader and self.round > 0:
            return Ballot(self.round, server)
        return Ballot(self.round + 1, server)

    def __str__(self) -> str:
        return f"{self.round}.{self.leader}"


NO_BALLOT = Ballot(0, 0)
"""Below every real ballot: what an acceptor has promised before its first message."""


def in_list(servers: Sequence[ServerId]) -> str:
    """Servers in words."""
    if len(servers) == 1:
        return f"server {servers[0]}"
    return f"servers {', '.join(map(str, servers[:-1]))} and {servers[-1]}" if servers else "nobody"
