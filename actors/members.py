"""Who made a cluster, its members, and how somebody changes them: plain data (docs/membership.md).

What a client does with them: docs/membership.md, "How a client has them changed".
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from paxon.actors.ballot import Ballot, ServerId, Wire, are_ids

__all__ = [
    "AskMembers", "ChangeKind", "ChangeMembers", "Made", "Member", "MemberChange", "Members",
    "Outcome", "Rehearsal", "Rehearsed",
]  # fmt: skip


class Made(Wire, frozen=True):
    """The agreement of a cluster's servers when they made it (docs/design/making-a-cluster.md)."""

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


class Member(Wire, frozen=True):
    """A server of a configuration."""

    server: ServerId
    incarnation: int
    """Of its data directory: with another one it is another member."""
    voter: bool = True
    """False for a learner, that takes what is proposed and has no vote."""
    peer: str = ""
    client: str = ""
    """Where other servers reach it, and clients, if that is known."""
    key: str = ""
    """Its public key, Z85; "": the one that each server was started with, if there are keys."""


ChangeKind = Literal["add", "promote", "demote", "remove", "replace", "move"]
"""What becomes of one server: "add" makes it a learner, "promote" a voter of a learner, "demote" a
learner of a voter; "replace" gives its place, vote included, to another data directory; "move"
other addresses or another key to the same."""


class MemberChange(Wire, frozen=True):
    """One part of a change."""

    kind: ChangeKind
    server: ServerId
    incarnation: int = 0
    """Of the directory that is added, or takes the other's place."""
    peer: str = ""
    """As in `Member`, and so are the next two; "" where a member keeps what it has."""
    client: str = ""
    key: str = ""


class ChangeMembers(Wire, frozen=True, tag=13):
    """Client → leader: let the members change so, all at once.

    Answered by a `QueryReply` with a `Members` once it is refused or taken up, not when it is done.
    """

    id: int
    """Random 63-bit number: ties the reply to this, and names the change from now on."""
    ballot: Ballot
    """The reign that it is meant for; its epoch is the one whose members are to change."""
    changes: Annotated[tuple[MemberChange, ...], msgspec.Meta(max_length=1000)]


class AskMembers(Wire, frozen=True, tag=14):
    """Client → any server: who are the members, as far as you know, and how did a change end?

    Answered at once by a `QueryReply` with a `Members`.
    """

    id: int
    """Random 63-bit number that ties the reply to this."""
    request: int = 0
    ballot: Ballot = Ballot(0, 0)
    """The `ChangeMembers.id` that is asked about (0: none), and its ballot."""


Outcome = Literal["", "done", "not done", "refused", "pending", "unknown"]


class Members(Wire, frozen=True):
    """The members as a server knows them now, and how one change of them stands: msgpack."""

    server: ServerId
    """Who says so."""
    epoch: int
    ballot: Ballot
    """The highest that it has promised; while it leads, its reign."""
    leader: ServerId
    """Who it thinks leads; 0: nobody."""
    leads: bool
    """It leads itself, and has executed all that it took over: what it says is up to date."""
    members: tuple[Member, ...]
    """In the order of their ids; empty while the cluster is not in force here."""
    outcome: Outcome = ""
    """How the change ended that was asked about; "": none was."""
    reason: str = ""
    """Why it was refused, and what to do."""
    behind: dict[ServerId, int] = {}
    """From a leader: by how many slots each server is behind that it heard of late."""
    joining: tuple[Member, ...] = ()
    """Servers that wait to become members, as they said themselves of late."""
    cluster: str = ""
    identity: int = 0


class Rehearsal(Wire, frozen=True, tag=23):
    """Leader → those who are to vote after a change: can you reach each other (M18)?"""

    request: int
    """The `ChangeMembers.id`."""
    members: tuple[Member, ...]
    """Who is to be a member then."""


class Rehearsed(Wire, frozen=True, tag=24):
    """Voter to be → another: here I am, and you? Its answer; and → leader: who has answered."""

    request: int
    incarnation: int
    """Of the sender's data directory."""
    asks: bool
    """Whether it wants an answer."""
    heard: tuple[ServerId, ...] = ()
    """To the leader: the sender, and who has answered it by the very directory that is to vote."""
    chosen_to: int = 0
    """How far the sender knows the log as chosen."""
