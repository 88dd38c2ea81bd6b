"""What a server is handed: clock, random numbers, network, storage.

`PaxosServer` reaches the world through these alone. Users get real ones
(`paxon.kvstore.cluster.node`); the simulator hands over its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paxon.actors.ballot import ServerId
from paxon.actors.disk.storage import Storage
from paxon.actors.messages import ClientMessage, PeerMessage, ServerReply
from paxon.transport import Burst

__all__ = [
    "NEVER", "ClientToken", "Clock", "Environment", "Network", "Random", "ServerBurst",
]  # fmt: skip

NEVER = float("inf")
"""A time that does not come, in the clock's seconds; `-NEVER` lies before all others."""

ClientToken = bytes
"""Names the connection that a client's message came in on, to send the reply back on."""

ServerBurst = Burst[PeerMessage, ClientMessage]
"""Everything that one burst brought in (`paxon.transport.Burst`)."""


class Clock(Protocol):
    """The two clocks that a server looks at."""

    def monotonic(self) -> float:
        """Seconds that never go back and run on while the machine is suspended.

        Only differences mean anything. For timeouts and leases: a machine that wakes must find its
        lease over, which a clock that had slept with it would not tell (docs/running/settings.md).
        """

    def awake(self) -> int:
        """Nanoseconds that never go back and stand still while the machine is suspended.

        For the log's time, which must not run on while no leader serves (docs/design/time.md).
        """


class Random(Protocol):
    """The part of `random.Random` that the server needs."""

    def uniform(self, a: float, b: float) -> float: ...

    def getrandbits(self, k: int) -> int: ...


class Network(Protocol):
    """Where a server's messages go out. Nothing blocks; what cannot be sent now is dropped."""

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None: ...

    def broadcast(self, servers: Sequence[ServerId], messages: Sequence[PeerMessage]) -> None:
        """The same messages to several servers, encoded once."""

    def reply(self, client: ClientToken, messages: Sequence[ServerReply]) -> None: ...

    def identify(self, identity: int, *, in_force: bool) -> None:
        """Name this cluster in every frame to servers, and once it is in force to clients too."""

    def meet(self, keys: Mapping[ServerId, str]) -> None:
        """Talk to these other servers from now on, and to nobody else.

        Each is known by that public key (Z85); "": by the one that this server was started with, if
        there are keys. Where each is, `reach` says, before or afterwards. Called whenever that
        changes, with all of them: the members, who has left with the last change and may still have
        to hear of it, and whoever waits to become one.
        """

    def keys(self) -> Mapping[ServerId, str]:
        """By which public key each server is known now, this one too; empty if there are none."""

    def reach(self, server: ServerId, addresses: Sequence[str]) -> None:
        """A server may be at any of these addresses; the first are the likelier ones."""

    def elsewhere(self, server: ServerId) -> None:
        """A server does not answer where it is dialled: try another of its addresses."""

    def ignore(self, clients: Collection[ClientToken]) -> None:
        """Drop whatever these clients send, as long as they are in this set."""

    def congested(self, client: ClientToken) -> bool:
        """Whether a client has so much to read that what it asks for had better wait."""

    def counters(self) -> dict[str, int]:
        """Messages, bytes and dropped frames so far, by name, for `paxon status`."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Environment:
    """All of a server's world. `start` makes network and storage in the server's own thread."""

    clock: Clock
    random: Random
    storage: Callable[[], Storage]
    """Opens the storage; called once, in the actor's thread. May raise `StorageError`."""
    network: Callable[[], Network]
    """Opens the sockets; called once, in the actor's thread. May raise `TransportError`."""
    on_ready: Callable[[], None] = field(default=lambda: None)
    """Called in the actor's thread once the server serves."""
    on_failed: Callable[[BaseException], None] = field(default=lambda _exception: None)
    """Called in the actor's thread when the server has stopped by itself, with the reason."""
    log: logging.Logger | None = None
    """Where the server logs, if not to loguru."""
