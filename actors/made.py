"""What a cluster was made of, as it is stored and sent."""

from __future__ import annotations

from paxon.actors.ballot import ServerId, Wire, are_ids

__all__ = ["Made"]


class Made(Wire, frozen=True):
    """The agreement of a cluster's servers when they made it (docs/making-a-cluster.md)."""

    identity: int
    """Random 62-bit number from 1: which cluster this is, whatever its name."""
    name: str
    """What people call it; names may be given twice."""
    members: tuple[tuple[ServerId, int], ...]
    """Each server's id with the incarnation of its data directory, in the order of ids."""
    agreed: bytes
    """The first settings that execution depends on (actors/execution/agreed.py)."""

    @property
    def servers(self) -> tuple[ServerId, ...]:
        """The members' ids."""
        return tuple(server for server, _ in self.members)

    @property
    def plausible(self) -> bool:
        """Whether its numbers can be those of a cluster: it may come from anybody."""
        numbers = (self.identity, *(incarnation for _, incarnation in self.members))
        sound = all(0 <= number < 1 << 63 for number in numbers)
        return are_ids(self.servers) and sound and self.identity > 0

    def incarnation(self, server: ServerId) -> int | None:
        """By which directory a member is known; None for anybody else."""
        return dict(self.members).get(server)
