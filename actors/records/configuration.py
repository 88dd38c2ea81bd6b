"""Who decides the slots of one epoch: plain data (docs/membership.md).

Each epoch of the log has one configuration. The first one is what made the cluster; each later one
stands in the slot that sealed the epoch before it, as a value that no batch can be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from paxon.actors.ballot import Ballot, ServerId, Wire, are_ids
from paxon.actors.members import Member
from paxon.actors.messages import CONFIG, Accepted, Made, PeerMessage, PreVote, Sealed

__all__ = [
    "Configuration", "Member", "decode_config", "encode_config", "epoch_of", "is_config",
    "is_sound", "seals_soundly",
]  # fmt: skip

MOST_REMOVED = 256
"""So many incarnations that were removed last are remembered: they never come back."""
MOST_REQUESTS = 64
"""So many changes before the last one are remembered, for those who ask how they ended."""


class Configuration(Wire, frozen=True):
    """The members of an epoch, and where the epoch before ended."""

    epoch: int
    sealed_at: int
    """The slot of the CONFIG that says so: this configuration decides the slots after it."""
    members: tuple[Member, ...]
    """In the order of their ids."""
    leaving: tuple[Member, ...] = ()
    """Who was in the configuration before and is not in this one."""
    request: int = 0
    """The random number of the change that led here."""
    removed: tuple[int, ...] = ()
    """Incarnations that were members once, the last ones last."""
    earlier: tuple[int, ...] = ()
    """The random numbers of the changes before, the last ones last."""

    @staticmethod
    def of(made: Made) -> Configuration:
        """The first one: all who made the cluster vote."""
        return Configuration(0, 0, tuple(Member(s, number) for s, number in made.members))

    @property
    def servers(self) -> tuple[ServerId, ...]:
        """The ids of all members, learners too."""
        return tuple(member.server for member in self.members)

    @property
    def voters(self) -> tuple[ServerId, ...]:
        """The ids of those with a vote."""
        return tuple(member.server for member in self.members if member.voter)

    @property
    def majority(self) -> int:
        """How many of the voters make a quorum."""
        return len(self.voters) // 2 + 1

    def has_quorum(self, servers: Collection[ServerId]) -> bool:
        """Whether these, and whoever else, are a majority of the voters."""
        return sum(member.voter and member.server in servers for member in self.members) >= (
            self.majority
        )

    @property
    def incarnations(self) -> dict[ServerId, int]:
        """By which directory each member is known."""
        return {member.server: member.incarnation for member in self.members}

    @property
    def bits(self) -> dict[ServerId, int]:
        """Each voter's vote is a bit at its place in the configuration; learners have none."""
        return {m.server: m.voter << place for place, m in enumerate(self.members)}

    def find(self, server: ServerId) -> Member | None:
        """The member of that id."""
        return next((member for member in self.members if member.server == server), None)

    def votes(self, server: ServerId, incarnation: int) -> bool:
        """Whether this very directory has a vote."""
        member = self.find(server)
        return member is not None and member.voter and member.incarnation == incarnation

    def followed_by(self, members: Iterable[Member], slot: int, request: int) -> Configuration:
        """The next one, with these members, if it is chosen in `slot`."""
        after = tuple(sorted(members, key=lambda member: member.server))
        kept = {(member.server, member.incarnation) for member in after}
        leaving = tuple(m for m in self.members if (m.server, m.incarnation) not in kept)
        removed = (*self.removed, *(member.incarnation for member in leaving))
        earlier = (*self.earlier, self.request) if self.epoch else ()
        return Configuration(
            self.epoch + 1, slot, after, leaving, request,
            removed[-MOST_REMOVED:], earlier[-MOST_REQUESTS:],
        )  # fmt: skip

    @property
    def plausible(self) -> bool:
        """Whether it can be one: it may come from anybody."""
        return (
            are_ids(self.servers)
            and len(self.voters) > 0
            and 0 <= self.epoch < 1 << 22
            and 0 <= self.sealed_at < 1 << 62
            and all(0 <= member.incarnation < 1 << 63 for member in self.members)
        )


def is_config(value: bytes) -> bool:
    """Whether a slot's value seals an epoch."""
    return bool(value) and value[0] == CONFIG


def encode_config(configuration: Configuration) -> bytes:
    """The value of the slot that begins it."""
    return bytes((CONFIG,)) + msgspec.msgpack.encode(configuration)


_decoder = msgspec.msgpack.Decoder(Configuration)


def decode_config(value: bytes) -> Configuration:
    """Decode such a value. Raises `msgspec.DecodeError`."""
    return _decoder.decode(memoryview(value)[1:])


def seals_soundly(value: bytes, slot: int, epoch: int) -> bool:
    """Whether a CONFIG can seal this epoch in this slot.

    Were one chosen that cannot, every server would stop.
    """
    try:
        after = decode_config(value)
    except msgspec.DecodeError:
        return False
    return after.plausible and (after.epoch, after.sealed_at) == (epoch + 1, slot)


def is_sound(accepted: Accepted) -> bool:
    """Whether what another server reports is no CONFIG, or one that can be."""
    value = accepted.value
    return not is_config(value) or seals_soundly(value, accepted.slot, accepted.ballot.epoch)


def epoch_of(message: PeerMessage) -> int:
    """From which epoch it comes; 0 if it does not say."""
    if isinstance(message, PreVote):
        return message.epoch
    if isinstance(message, Sealed):
        return message.epoch + 1
    ballot = getattr(message, "ballot", None)
    return ballot.epoch if isinstance(ballot, Ballot) else 0
