"""A relay between real processes, which can cut, lose, delay and stall (docs/checks/faults.md).

Servers and clients dial the relay instead of each other. It speaks TCP and looks into ZeroMQ's
frames, so that what it loses is a whole message, as the protocol would see it in real life. It runs
as a process of its own, `python -m tests.faults.networks.relay`: each line on stdin is a request in
JSON, each line on stdout its answer, and the end of stdin is its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.faults.networks.zmtp import Kind, Piece, Splitter, identity, without_identity

__all__ = ["Relay", "Rules"]

LOOPBACK = "127.0.0.1"
WRITE_BUFFER = 1 << 20
"""Bytes that may wait for a slow receiver before its sender is made to wait."""

Link = tuple[str, str]
"""Source and target: server ids as text, or names of groups of clients."""


@dataclass(slots=True)
class Rules:
    """What happens on the links now; replaced as a whole."""

    cut: frozenset[Link] = frozenset()
    """Nothing gets through, neither message nor sign of life; new connections wait."""
    stalled: frozenset[Link] = frozenset()
    """Nothing moves, as with TCP into a black hole; all of it arrives late, after the healing."""
    loss: float = 0.0
    """The fraction of messages that is lost, on every link."""
    delay: float = 0.0
    """Seconds that everything takes, on every link …"""
    jitter: float = 0.0
    """… and up to so many more, drawn for each message; none overtakes another."""


@dataclass(slots=True)
class Counts:
    """What the relay did."""

    passed: int = 0
    lost: int = 0
    cut_off: int = 0
    connections: int = 0


class Side(asyncio.Protocol):
    """One end of a relayed connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None
        self.splitter = Splitter()
        self.waiting: deque[tuple[float, bytes]] = deque()
        """Delayed bytes on their way out of this side, and when each is due."""
        self._pauses: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self.connection.made(self)

    def data_received(self, data: bytes) -> None:
        for piece in self.splitter.feed(data):
            self.connection.take(self, piece)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.side_ended()

    def pause_writing(self) -> None:
        self.connection.other(self).pause("full")

    def resume_writing(self) -> None:
        self.connection.other(self).resume("full")

    def pause(self, reason: str) -> None:
        """Read no more until each reason for it is gone."""
        if not self._pauses and self.transport is not None:
            self.transport.pause_reading()
        self._pauses.add(reason)

    def resume(self, reason: str) -> None:
        if reason not in self._pauses:
            return
        self._pauses.remove(reason)
        if not self._pauses and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_later(self, data: bytes, due: float) -> None:
        """Write when `due`, but never before what is under way already."""
        if self.waiting:
            due = max(due, self.waiting[-1][0])
        self.waiting.append((due, data))
        asyncio.get_running_loop().call_at(due, self._write_next)

    def _write_next(self) -> None:
        self.write(self.waiting.popleft()[1])


class Connection:
    """A connection to a front, and the one to the server behind it."""

    def __init__(self, relay: Relay, source: str | None, target: str, port: int) -> None:
        self.relay = relay
        self.source = source
        """None until a client has said to which group it belongs."""
        self.target = target
        self._port = port
        self.front = Side(self)
        self.back = Side(self)
        self._greeted: list[tuple[Side, bytes]] = []
        """READY commands that wait until both have come and the link is whole."""
        self.open = False
        """The handshake is through."""
        self._ended = False
        self._half_ended = False
        """One side is gone, and the other cannot know yet."""
        self._early: list[Piece] = []

    def other(self, side: Side) -> Side:
        return self.back if side is self.front else self.front

    def link(self, side: Side) -> Link:
        """The link that what comes in from `side` travels on."""
        source = self.source or ""
        return (source, self.target) if side is self.front else (self.target, source)

    def made(self, side: Side) -> None:
        if side is self.front:
            self.relay.connections.add(self)
            self.relay.counts.connections += 1
            self.relay.start(self._dial())
        for piece in self._early:
            self.back.write(piece.data)
        self._early.clear()
        self.obey()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.back, LOOPBACK, self._port)
        except OSError:  # nobody listens: tell the front as a kernel would
            self.end()
        if self._ended:
            self.end()

    def take(self, side: Side, piece: Piece) -> None:
        """Something came in."""
        if piece.kind is Kind.GREETING:
            if self.other(side).transport is None:
                self._early.append(piece)
            else:
                self.other(side).write(piece.data)
        elif piece.kind is Kind.READY and not self.open:
            data = piece.data
            if side is self.front:
                if self.source is None:
                    self.source = identity(data)
                data = without_identity(data)
            self._greeted.append((side, data))
            self.obey()
        else:
            self._pass_on(side, piece)

    def _pass_on(self, side: Side, piece: Piece) -> None:
        rules, counts = self.relay.rules, self.relay.counts
        if self.link(side) in rules.cut:
            counts.cut_off += piece.kind is Kind.MESSAGE
            return
        if piece.kind is Kind.MESSAGE:
            if rules.loss and self.relay.draw.random() < rules.loss:
                counts.lost += 1
                return
            counts.passed += 1
        out = self.other(side)
        if not out.waiting and not rules.delay and not rules.jitter:
            out.write(piece.data)
            return
        due = asyncio.get_running_loop().time() + rules.delay
        due += self.relay.draw.uniform(0.0, rules.jitter)
        out.write_later(piece.data, due)

    def obey(self) -> None:
        """The rules or the state have changed: let through what may pass, stop what may not."""
        rules = self.relay.rules
        both = {self.link(self.front), self.link(self.back)}
        for side in (self.front, self.back):
            if self.link(side) in rules.stalled:
                side.pause("stalled")
            else:
                side.resume("stalled")
        barred = bool(both & (rules.cut | rules.stalled))
        if self._half_ended and not barred:
            self.end()
        if self.open or len(self._greeted) < 2 or barred:
            return
        self.open = True
        for side, data in self._greeted:
            self.other(side).write(data)

    def side_ended(self) -> None:
        """One side is gone: the other hears of it at once, unless the link is cut."""
        barred = self.relay.rules.cut | self.relay.rules.stalled
        if (
            self.open
            and not self._half_ended
            and {self.link(self.front), self.link(self.back)} & (barred)
        ):
            self._half_ended = True
        else:
            self.end()

    def end(self) -> None:
        """End both sides."""
        self._ended = True
        self.relay.connections.discard(self)
        for side in (self.front, self.back):
            if side.transport is not None:
                side.transport.abort()


@dataclass
class Relay:
    """All fronts and connections."""

    rules: Rules = field(default_factory=Rules)
    counts: Counts = field(default_factory=Counts)
    connections: set[Connection] = field(default_factory=set)
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    _servers: list[asyncio.Server] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Any) -> None:
        """Run a coroutine; asyncio keeps no reference to it by itself."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open_front(self, source: str | None, target: str, port: int) -> int:
        """Listen for `source` (None: for clients, who say who they are) in place of `target`."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self, source, target, port).front, LOOPBACK, 0, backlog=256
        )
        self._servers.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number

    def set_rules(self, rules: Rules) -> None:
        self.rules = rules
        for connection in list(self.connections):
            connection.obey()

    def reset(self, links: set[Link]) -> None:
        """End the connections on these links at once, as a rebooting switch might."""
        for connection in list(self.connections):
            if links & {connection.link(connection.front), connection.link(connection.back)}:
                connection.end()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        match request["do"]:
            case "open":
                source, target, port = request["source"], request["target"], request["port"]
                return {"port": await self.open_front(source, target, port)}
            case "rules":
                self.set_rules(
                    Rules(
                        cut=frozenset((a, b) for a, b in request["cut"]),
                        stalled=frozenset((a, b) for a, b in request["stalled"]),
                        loss=request["loss"],
                        delay=request["delay"],
                        jitter=request["jitter"],
                    )
                )
                return {}
            case "reset":
                self.reset({(a, b) for a, b in request["links"]})
                return {}
            case "counts":
                counts = self.counts
                return {
                    "passed": counts.passed, "lost": counts.lost,
                    "cut_off": counts.cut_off, "connections": counts.connections,
                }  # fmt: skip
            case other:
                raise ValueError(f"no such request: {other!r}")


async def _serve(seed: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    relay = Relay(draw=random.Random(seed))
    while line := await reader.readline():
        answer = await relay.answer(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
