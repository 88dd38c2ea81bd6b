"""A client core driven by hand: every frame, answer and second of the clock is the test's doing."""

from __future__ import annotations

import random
from collections.abc import Callable

from paxon.actors.messages import (
    ClientMessage,
    Command,
    ServerReply,
)
from paxon.kvstore.client.core import ClientCore, CoreOptions, KVTicket
from paxon.kvstore.store.operations import (
    Append,
    Get,
    Operation,
    Put,
)
from tests.kvstore.client.fake_cluster import FakeCluster

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"

Filter = Callable[[str, ClientMessage], bool]


class World:
    """A core, a fake cluster, and what is between them."""

    asks_addresses = False
    """What goes once over each connection would be in the way of tests that count messages."""

    def __init__(
        self,
        known: tuple[str, ...] = (A, B, C),
        *,
        options: CoreOptions | None = None,
        redirect: bool = True,
    ) -> None:
        self.now = 100.0
        self.cluster = FakeCluster([A, B, C])
        self.core = ClientCore(known, random.Random(7), options=options, redirect=redirect)
        if not self.asks_addresses:
            self.core.search.ask_addresses = lambda send: None  # type: ignore[method-assign]
        self.lost: Filter = lambda _address, _message: False
        """Requests that never arrive."""
        self.unheard: Callable[[str, ServerReply], bool] = lambda _address, _reply: False
        """Answers that never arrive."""

    @property
    def session(self) -> int:
        """The one session that the core has."""
        [number] = self.core._sessions
        return number

    def submit(
        self, *operations: Operation, timeout: float = 10.0, after: KVTicket | None = None
    ) -> KVTicket:
        return self.core.submit_operations(
            list(operations), now=self.now, deadline=self.now + timeout, ordered_after=after
        )

    def exchange(self) -> int:
        """Send and answer until nothing more moves; how many messages were sent."""
        sent = 0
        while frames := self.core.poll(self.now):
            for address, messages in frames:
                sent += len(messages)
                arrived = [m for m in messages if not self.lost(address, m)]
                replies = self.cluster.serve(address, arrived)
                heard = [r for r in replies if not self.unheard(address, r)]
                if heard:
                    self.core.receive(address, heard, self.now)
        return sent

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with all that is due in it."""
        end = self.now + seconds
        self.exchange()
        while (due := self.core.next_deadline()) <= end:
            assert due > self.now, "a deadline that nothing is done about keeps a driver spinning"
            self.now = due
            self.exchange()
        self.now = end

    def answer(self, address: str, *replies: ServerReply) -> None:
        self.core.receive(address, replies, self.now)

    def sends(self) -> list[tuple[str, ClientMessage]]:
        return [(a, m) for a, messages in self.core.poll(self.now) for m in messages]

    def executed(self, key: str) -> bytes | None:
        """The key's value at the cluster, whatever the client knows."""
        from paxon.kvstore.store.operations import decode_results, encode_operations

        reply = self.cluster.application.machine.query(encode_operations([Get(key.encode())]))
        value: bytes | None = decode_results(reply)[0]
        return value


def open_session(world: World) -> None:
    world.submit(Put(b"warm", b""))
    world.exchange()
    world.cluster.received.clear()


def commands(world: World) -> list[Command]:
    return [m for _, m in world.cluster.received if isinstance(m, Command)]


def chain(world: World, count: int, timeout: float = 10.0) -> list[KVTicket]:
    """Chunks, each to be executed after the one before, each sent by itself."""
    tickets: list[KVTicket] = []
    for i in range(count):
        before = tickets[-1] if tickets else None
        tickets.append(world.submit(Append(b"k", b"%d" % i), timeout=timeout, after=before))
    return tickets


def separate() -> CoreOptions:
    """Every ticket is a command of its own, all in flight at once."""
    return CoreOptions(batch_weight=1, eager=1000)
