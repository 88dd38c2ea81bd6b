"""Who has granted which leader a lease, and for how long: books kept from what servers sent.

A lease is a promise about time, so these books need clocks: each server's own, as the test knows
it, running on through restarts. A grant begins at the latest when its server handled the heartbeat,
and lasts for the lease's length by that server's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from paxon.actors import NO_BALLOT, Ballot, ServerId
from paxon.actors.messages import Handover, Heartbeat, HeartbeatReply, PeerMessage

__all__ = ["Age", "Grant", "LeaseBooks"]

Age = Callable[[ServerId], float]
"""How many seconds a server's clock has counted up to now, restarts and all."""

KEPT_ROUNDS = 1000
"""Of each ballot's heartbeats so many of the last are remembered."""


@dataclass(slots=True)
class Grant:
    """The lease that a server granted last, and until when by its own clock."""

    ballot: Ballot = NO_BALLOT
    until: float = float("-inf")
    forgotten: bool = False
    """Its server has lost the disk: it need not know, for it cannot help others to lead either."""


class LeaseBooks:
    """What has been granted in one cluster."""

    def __init__(self, servers: Iterable[ServerId], age: Age, length: float) -> None:
        """`length` in seconds: of a lease whose heartbeat does not say how long it is."""
        self._age = age
        self._length = length
        self._asked: dict[Ballot, dict[int, float]] = {}
        """Per ballot and round the lease that its heartbeat asked for, in seconds."""
        self.grants = {server: Grant() for server in servers}
        self._step_began: dict[ServerId, float] = {}
        self.over: set[Ballot] = set()
        """Ballots whose leader has handed over: what was granted to it binds nobody any more."""

    def begin_step(self, server: ServerId) -> None:
        """A server is about to handle a burst: what it grants in it, it grants now."""
        self._step_began[server] = self._age(server)

    def on_heartbeat_sent(self, heartbeat: Heartbeat) -> None:
        if not heartbeat.lease:
            return
        length = self._length if heartbeat.lease is True else float(heartbeat.lease)
        rounds = self._asked.setdefault(heartbeat.ballot, {})
        rounds[heartbeat.round] = length
        if len(rounds) > KEPT_ROUNDS:
            del rounds[min(rounds)]

    def on_reply_sent(self, server: ServerId, reply: HeartbeatReply) -> None:
        """A server tells a leader that it follows: what that asked for, it has granted."""
        length = self._asked.get(reply.ballot, {}).get(reply.round, 0.0)
        if not length:
            return
        until = self._step_began.get(server, self._age(server)) + length
        grant = self.grants[server]
        if reply.ballot > grant.ballot:
            self.grants[server] = Grant(reply.ballot, until)
        elif reply.ballot == grant.ballot:
            grant.until = max(grant.until, until)

    def binding(self, server: ServerId) -> Grant | None:
        """The grant that binds a server at the step at hand; None if none does."""
        grant = self.grants[server]
        began = self._step_began.get(server, self._age(server))
        if grant.forgotten or grant.ballot in self.over:
            return None
        return grant if began < grant.until else None

    def binds(self, server: ServerId, ballot: Ballot) -> bool:
        """Whether a grant keeps a server from promising that ballot; not in another epoch."""
        grant = self.binding(server)
        return grant is not None and grant.ballot < ballot and grant.ballot.epoch == ballot.epoch

    def on_disk_lost(self, server: ServerId) -> None:
        """It votes again only in a later epoch, in which no lease of this one binds anybody."""
        self.grants[server].forgotten = True

    def covering(self, leader: ServerId, ballot: Ballot) -> list[ServerId]:
        """Who keeps others from leading now: the leader, and all whose grant to it still binds."""
        return [
            server
            for server, grant in self.grants.items()
            if server == leader or (grant.ballot == ballot and self._age(server) < grant.until)
        ]

    def note_sent(
        self, server: ServerId, messages: Sequence[PeerMessage], targets: Sequence[ServerId]
    ) -> None:
        """Keep books of what leaves a server (a deposed leader is answered, granted nothing)."""
        for message in messages:
            if isinstance(message, Handover):
                self.over.add(message.ballot)
            elif isinstance(message, Heartbeat):
                self.on_heartbeat_sent(message)
            elif isinstance(message, HeartbeatReply) and message.ballot.leader in targets:
                self.on_reply_sent(server, message)
