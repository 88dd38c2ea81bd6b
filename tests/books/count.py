"""The commits of data directories, and who was told of which (docs/design/old-copies.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from paxon.actors import NO_BALLOT, Ballot, ServerId
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    CountAnswer,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    PreVoteReply,
)
from tests.books.epoch import EpochBooks
from tests.predicates import require

if TYPE_CHECKING:
    from paxon.actors import PaxosServer

__all__ = ["CountBooks", "DiskBooks"]

Row = tuple[Ballot, bytes]

COUNTED = (P1B, P2B, HeartbeatReply, PreVoteReply)
"""Messages in which a server tells of its commits, besides heartbeats."""


def counts(message: PeerMessage) -> bool:
    """Whether it is something that may only be said by who may vote."""
    if isinstance(message, P2B):
        return message.promised is None
    if isinstance(message, PreVoteReply):
        return message.granted
    return isinstance(message, P1A | P1B | P2A | Heartbeat | HeartbeatReply)


@dataclass(slots=True)
class DiskBooks:
    """What one server's disk is known to hold, from the commits that were seen."""

    promised: Ballot = NO_BALLOT
    rows: dict[int, Row] = field(default_factory=dict)
    chosen_to: int = 0
    snapshot: int = 0
    """Slot of the newest durable snapshot."""
    discarded: int = 0
    replayable: int = 0
    """A restart executes again up to here, from snapshot and rows alone."""
    replaced: bool = False
    """It is empty in place of a lost one, and has not got that one's place yet."""
    fresh: set[int] = field(default_factory=set)
    """Slots whose rows became durable in the step at hand."""
    incarnation: int = 0
    count: int = 0
    """The number of the last commit."""
    old: bool = False
    """It is an old copy of what the server had, and enough others know that."""
    behind: bool = False
    """It is one from before the epoch in which it was put back."""
    epoch: int = 0
    """The one after the last seal that is durable on it."""

    def copy(self) -> DiskBooks:
        """The books of a copy of the disk."""
        return replace(self, rows=dict(self.rows), fresh=set())


class CountBooks:
    """The part of `tests.invariants.ClusterWatch` that is about counts of commits."""

    def __init__(self, servers: Iterable[ServerId], members: Iterable[ServerId] = ()) -> None:
        """`members` are those of the first epoch, by default all servers."""
        self.servers = tuple(servers)
        self.epochs = EpochBooks(tuple(members) or self.servers)
        self.disks = {server: DiskBooks() for server in self.servers}
        self._asks: dict[ServerId, int | None] = dict.fromkeys(self.servers)
        """The question of a started server that must not take part yet; None: it may."""
        self._makes = dict.fromkeys(self.servers, True)
        self._confirmers: dict[ServerId, set[ServerId]] = {s: set() for s in self.servers}
        self._born: dict[ServerId, bool] = dict.fromkeys(self.servers, True)
        """Whether the process that runs has made its directory itself."""
        self._answers: dict[ServerId, dict[int, set[ServerId]]] = {s: {} for s in self.servers}
        """Who has answered each question that it has asked about its directory."""
        self._sure_to = dict.fromkeys(self.servers, 0)
        self.told: dict[tuple[ServerId, int], int] = {}
        """The highest count that each directory's server has told."""

    def on_life(
        self, server: ServerId, *, made_disk: bool, incarnation: int, count: int,
        in_force: bool = True,
    ) -> None:  # fmt: skip
        """A server process starts; it has to be confirmed unless it makes its disk just now.

        Before its cluster is in force it may store what belongs to making it.
        """
        disk = self.disks[server]
        if disk.incarnation != incarnation:
            disk.incarnation, disk.count = incarnation, count
        self._makes[server] = not in_force
        alone = self.epochs.voters(disk.epoch) == (server,)
        self._asks[server] = None if made_disk or alone else 0
        self._confirmers[server] = set()
        self._born[server], self._answers[server] = made_disk, {}
        self._sure_to[server] = disk.epoch if alone else -1

    def on_commit(self, server: ServerId, count: int) -> None:
        """A transaction became durable."""
        if not self._makes[server]:
            self._require_confirmed(server, "stored something")
        require(
            count > self.disks[server].count, "restart loses nothing",
            "server %d's commit %d comes after %d", server, count, self.disks[server].count,
        )  # fmt: skip
        self.disks[server].count = count

    def on_answer(self, server: ServerId, sender: ServerId, answer: CountAnswer) -> None:
        """An answer about its directory reaches a started server."""
        if answer.life == self._asks[server]:
            self._confirmers[server].add(sender)
        if answer.life in self._answers[server]:
            self._answers[server][answer.life].add(sender)

    def _require_confirmed(self, server: ServerId, deed: str) -> None:
        require(
            self._asks[server] is None or self._is_confirmed(server),
            "confirmed first",
            "server %d %s, and only %s have confirmed its directory",
            server, deed, self._confirmers[server],
        )  # fmt: skip
        require(
            not self.disks[server].old or self._may_catch_up(server), "old copies stay out",
            "server %d %s, on an old copy of its directory", server, deed,
        )  # fmt: skip

    def _may_catch_up(self, server: ServerId) -> bool:
        """Whether an old copy may store what is chosen: it is of an earlier epoch, or of no voter.

        In no epoch in which it has a vote it uses that.
        """
        disk, last = self.disks[server], self.epochs.last
        return disk.behind or disk.epoch < last.epoch or not last.votes(server, disk.incarnation)

    def _require_sure(self, server: ServerId, message: PeerMessage) -> None:
        """A directory that this process did not make is confirmed in each epoch before it votes."""
        disk = self.disks[server]
        ballot = getattr(message, "ballot", None)
        epoch = disk.epoch if ballot is None else ballot.epoch
        if not counts(message) or not self.epochs.votes(epoch, server, disk.incarnation):
            return
        require(
            not disk.old, "old copies stay out",
            "server %d sent %r, on an old copy of its directory", server, message,
        )  # fmt: skip
        if self._born[server] or epoch <= self._sure_to[server]:
            return
        later = [
            known
            for asked in self._answers[server].values()
            for known in range(epoch, len(self.epochs))
            if self.epochs.is_majority(known, {server, *asked})
        ]
        if self.epochs.voters(epoch) == (server,):
            later.append(epoch)
        require(
            later, "confirmed first", "server %d sent %r, and in epoch %d only %s were asked",
            server, message, epoch, self._answers[server],
        )  # fmt: skip
        self._sure_to[server] = max(later)

    def _is_confirmed(self, server: ServerId) -> bool:
        """By a majority of its epoch, or of a later one that somebody told of."""
        sure = {*self._confirmers[server], server}
        epochs = range(self.disks[server].epoch, len(self.epochs))
        if not any(self.epochs.is_majority(epoch, sure) for epoch in epochs):
            return False
        self._asks[server] = None  # once and for all
        return True

    def _note_told(self, server: ServerId, message: PeerMessage) -> None:
        """A count leaves a server, in a message that only one that takes part may send."""
        self._require_confirmed(server, f"sent {message!r:.80}")
        self._require_sure(server, message)
        self.note_count(server, message)

    def note_count(self, server: ServerId, message: PeerMessage) -> None:
        """Others may remember from now on what a message tells of the commits on this disk."""
        disk = self.disks[server]
        count = message.count if isinstance(message, COUNTED) else 0
        if isinstance(message, Heartbeat):
            count = max(c for s, i, c in message.incarnations if s == server)
        require(
            count <= disk.count, "durable before sent",
            "server %d, whose last commit is %d, sent %r", server, disk.count, message,
        )  # fmt: skip
        key = (server, disk.incarnation)
        self.told[key] = max(count, self.told.get(key, 0))

    def _check_remembered(self, server_id: ServerId, server: PaxosServer) -> None:
        for other, count in server.disks.counts.items():
            known = server.disks.incarnations.get(other)
            if known is not None:
                require(
                    count <= self.told.get((other, known), 0), "counts are told",
                    "server %d remembers commit %d of server %d, which told of %d at most",
                    server_id, count, other, self.told.get((other, known), 0),
                )  # fmt: skip

    def check_handed_on(self, servers: Iterable[PaxosServer], told: Mapping[Any, int]) -> None:
        """All servers run, and heartbeats went round since `told` was noted: all remember that."""
        for server in servers:
            for other, known in server.disks.incarnations.items():
                before = told.get((other, known), 0)
                require(
                    server.disks.counts.get(other, 0) >= before, "counts are handed on",
                    "server %d remembers commit %d of server %d, which told of %d",
                    server.settings.server, server.disks.counts.get(other, 0), other, before,
                )  # fmt: skip
