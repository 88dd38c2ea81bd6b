"""What the benches put between a server and its sockets: a delay, and eyes for what is sent.

The delay makes a round-trip time between servers without touching the machine's network, so other
programs (and other clusters) do not notice. It is constant, so nothing overtakes anything.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.messages import P1A, P1B, P2A, P2B, Heartbeat, PeerMessage
from paxon.kvstore.cluster.node import ServerSockets
from paxon.transport import Burst, BurstSource

__all__ = ["EventKind", "Event", "Recorder", "LabNetwork"]

_MOST_EVENTS = 400_000
"""A recorder that has noted so many stops: a trace is of a second or two."""
_NAP_SECONDS = 0.0002
"""ZeroMQ waits in whole milliseconds; the rest of a delay is waited for in naps of this length."""

EventKind: TypeAlias = Literal["P1A", "P1B", "P2A", "rejected", "leads"]


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One message that a server sent, as far as it tells of a duel."""

    seconds: float
    """Of the monotonic clock, which all processes of a machine share."""
    server: ServerId
    """Who sent it."""
    kind: EventKind
    """`leads`: a heartbeat, the first of which goes out when phase 1 is won. `rejected`: a P2B that
    names a higher ballot."""
    round: int
    """Of the ballot that it carries (of the higher one if it rejects) …"""
    owner: ServerId
    """… and whose ballot that is."""
    slot: int = 0
    """Of a P2A; of a heartbeat the commit index."""


class Recorder:
    """Notes what one server sends."""

    def __init__(self, server: ServerId, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._monotonic = monotonic
        self.events: list[Event] = []

    def note(self, messages: Sequence[PeerMessage]) -> None:
        """Take down those that matter to elections."""
        if len(self.events) >= _MOST_EVENTS:
            return
        now = self._monotonic()
        for message in messages:
            match message:
                case P1A(ballot=ballot):
                    self._add(now, "P1A", ballot)
                case P1B(ballot=ballot):
                    self._add(now, "P1B", ballot)
                case P2A(ballot=ballot, slot=slot):
                    self._add(now, "P2A", ballot, slot)
                case P2B(promised=Ballot() as promised):
                    self._add(now, "rejected", promised)
                case Heartbeat(ballot=ballot, commit=commit):
                    self._add(now, "leads", ballot, commit)
                case _:
                    pass  # what it tells of a duel, one of the above has told

    def _add(self, now: float, kind: EventKind, ballot: Ballot, slot: int = 0) -> None:
        self.events.append(Event(now, self._server, kind, ballot.round, ballot.leader, slot))


class LabNetwork(BurstSource):
    """A server's `Network` and `BurstSource` around its sockets. One thread, as they."""

    def __init__(
        self, sockets: ServerSockets, *, delay: float = 0.0, recorder: Recorder | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """`delay`: seconds that each message to another server takes, one way."""
        self._sockets = sockets
        self.reply = sockets.reply  # clients are near by
        self.identify, self.ignore = sockets.identify, sockets.ignore
        self.congested = sockets.congested
        self.meet, self.reach, self.elsewhere = sockets.meet, sockets.reach, sockets.elsewhere
        self.keys = sockets.keys
        self.counters = sockets.counters
        self._delay = delay
        self._recorder = recorder
        self._monotonic = monotonic
        self._sleep = sleep
        self._under_way: deque[tuple[float, Sequence[ServerId], Sequence[PeerMessage]]] = deque()
        """When each leaves the sockets, the earliest first."""

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        """See `paxon.actors.environment.Network`."""
        self.broadcast((server,), messages)

    def broadcast(self, servers: Sequence[ServerId], messages: Sequence[PeerMessage]) -> None:
        if self._recorder is not None:
            self._recorder.note(messages)
        if self._delay > 0:
            self._under_way.append((self._monotonic() + self._delay, servers, messages))
        else:
            self._sockets.broadcast(servers, messages)

    def close(self) -> None:
        """The same; what is under way is lost, as with a server that dies."""
        self._under_way.clear()
        self._sockets.close()

    def receive(self) -> Burst[Any, Any]:
        """See `paxon.transport.BurstSource`."""
        now, under_way = self._monotonic(), self._under_way
        while under_way and under_way[0][0] <= now:
            _, servers, messages = under_way.popleft()
            self._sockets.broadcast(servers, messages)
        return self._sockets.receive()

    def wait(self, timeout_seconds: float | None, wake_fd: int) -> bool:
        """The same; comes back in time for what is due next."""
        if not self._under_way:
            return self._sockets.wait(timeout_seconds, wake_fd)
        rest = self._under_way[0][0] - self._monotonic()
        if timeout_seconds is not None:
            rest = min(rest, timeout_seconds)
        whole = math.floor(rest * 1000) / 1000
        if whole > 0:
            return self._sockets.wait(whole, wake_fd)
        if rest > 0:
            self._sleep(min(rest, _NAP_SECONDS))
        return False
