"""Books over the epochs of a cluster: who may decide which slot (docs/membership.md)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from paxon.actors import Ballot, ServerId
from paxon.actors.messages import Made
from paxon.actors.records.configuration import (
    Configuration,
    Member,
    decode_config,
    is_config,
)

__all__ = ["EpochBooks"]

ANY = -1
"""As the incarnation of a member of the first epoch, until the cluster is in force."""


class EpochBooks:
    """The configurations that were chosen, one an epoch. Methods return what is wrong, or ""."""

    def __init__(self, members: Iterable[ServerId]) -> None:
        first = Configuration(0, 0, tuple(Member(server, ANY) for server in members))
        self.configurations = [first]
        """By epoch."""
        self.entered: dict[tuple[ServerId, int], int] = {}
        """The latest epoch that was ever durable in each directory."""
        self.denied: dict[int, str] = {}
        """Changes that somebody was told will never be, by their numbers: what he was told."""

    def returns(self) -> int:
        """A directory that is a member again after it was removed; 0 if none is."""
        now = set(self.last.incarnations.values())
        gone: set[int] = set()
        for earlier, later in pairwise(self.configurations):
            gone |= set(earlier.incarnations.values()) - set(later.incarnations.values())
        return min(gone & now, default=0)

    def begin(self, made: Made) -> None:
        """The cluster is in force: these directories are the first epoch's members."""
        self.configurations[0] = Configuration.of(made)

    def __len__(self) -> int:
        return len(self.configurations)

    @property
    def last(self) -> Configuration:
        return self.configurations[-1]

    def voters(self, epoch: int) -> tuple[ServerId, ...]:
        return self.configurations[epoch].voters

    def votes(self, epoch: int, server: ServerId, incarnation: int) -> bool:
        """Whether what this directory accepts counts in that epoch."""
        if epoch >= len(self.configurations):
            return False
        known = self.configurations[epoch].find(server)
        return known is not None and known.voter and known.incarnation in (ANY, incarnation)

    def is_majority(self, epoch: int, servers: Iterable[ServerId]) -> bool:
        configuration = self.configurations[epoch]
        return len(set(servers).intersection(configuration.voters)) >= configuration.majority

    def begun_by(self, request: int) -> Configuration | None:
        """The configuration that a change has led to."""
        return next((c for c in self.configurations[1:] if c.request == request), None)

    def on_chosen(self, slot: int, ballot: Ballot, value: bytes) -> str:
        """A majority of the ballot's epoch has accepted it."""
        epoch = ballot.epoch
        if slot <= self.configurations[epoch].sealed_at:
            return f"slot {slot} is chosen in {ballot}, which begins after it"
        if epoch + 1 < len(self.configurations):
            after = self.configurations[epoch + 1]
            if slot > after.sealed_at:
                return f"slot {slot} is chosen in {ballot}, which was sealed at {after.sealed_at}"
            return ""
        if is_config(value):
            after = decode_config(value)
            if (after.epoch, after.sealed_at) != (epoch + 1, slot):
                return f"slot {slot} holds {after}, chosen in {ballot}"
            self.configurations.append(after)
        return ""
