"""What an ordinary client keeps of its rate beside clients that flood the leader.

`python -m tests.faults shares` prints a line for each kind of flood. Three servers in one thread,
each as if it had a core: its clock goes on by what its steps take of the processor, with codecs,
whatever else the machine does. Networks and disks take fixed times; there are no snapshots.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, cast

from paxon.actors import ServerId
from paxon.actors.ballot import Ballot
from paxon.actors.codecs import client_codec, peer_codec, port_codec
from paxon.actors.messages import (
    ClientMessage,
    Command,
    CommandReply,
    OpenSession,
    Overloaded,
    PeerMessage,
    ReplyStatus,
    ServerReply,
    SessionOpened,
)  # fmt: skip
from paxon.kvstore.store.operations import Put, encode_operations
from paxon.kvstore.store.store import KVStore
from paxon.transport import Burst, EndpointOptions, OversizedFrame
from paxon.transport.intake import Share, check_count
from tests.disks import MemoryDisk
from tests.faults.flooding.flooder import FLOODS, FULL, LARGE, MIB, MORE, Kind
from tests.harness import IDENTITY, Clock, Cluster, Wire

__all__ = ["Found", "main", "measured"]

LEADER = 1
LATENCY, THINKS, SYNC = 50e-6, 100e-6, 200e-6
"""Seconds: one way, from an answer to the next request, and for a disk's sync."""
LINK, DISK = 400e6, 500e6
"""Bytes a second that a client can send, and that a disk takes."""
FRAME, BYTE = 8e-6, 0.3e-9
"""Seconds of the leader's for taking in a client's frame, and for each byte in it."""
SOCKETS = 40
"""Frames of a client that wait in its socket and the leader's."""
OPTIONS = EndpointOptions()
CODEC = client_codec(pins=False)
KINDS = FLOODS | MORE

SHOWN = (
    "queue inserts", "queue inserts of 1,000", "queue inserts of 60", "queue inserts of 1",
    "renewals", "renewals of one lease", "renewals that are none",
    "grants of 1,000", "grants of 64", "grants of 1",
    "transactions of 20 ranges", "transactions of 1,000 counts",
    "20,000 puts a command", "puts of 64", "puts of 1", "20,000 appends a command",
    "slot requests", "openings", "settings", "tiny frames", "unwatching",
    "stale gets of 15 MiB", "lease gets of 15 MiB",
)  # fmt: skip
"""Those of docs/design/overload.md."""


class CpuClock(Clock):
    """Goes on in its server's steps only, as they compute."""

    _since: float | None = None

    def monotonic(self) -> float:
        return self.now if self._since is None else self.now + time.thread_time() - self._since

    def awake(self) -> int:
        return int(self.monotonic() * 1e9)

    def begin(self, now: float) -> None:
        self.now, self._since = now, time.thread_time()

    def end(self) -> None:
        self.now, self._since = self.monotonic(), None


class Disk(MemoryDisk):
    """Takes its time, on its server's clock."""

    def __init__(self, server: ServerId) -> None:
        super().__init__("test", server)
        self.clock = CpuClock()

    def save_accepted(
        self, slot: int, ballot: Ballot, value: bytes, checksum: int | None = None
    ) -> None:
        self.clock.now += len(value) / DISK
        super().save_accepted(slot, ballot, value, checksum)

    def commit(self) -> None:
        self.clock.now += SYNC * (self.dirty or self._lazy)
        super().commit()


class Link(Wire):
    """Frames leave at once, encoded; whoever gets them decodes them."""

    def broadcast(self, servers: Sequence[ServerId], messages: Sequence[PeerMessage]) -> None:
        machines = cast("Machines", self.cluster)
        frame = machines.codecs[self.server].encode(messages)
        at = machines.clocks[self.server].monotonic() + LATENCY
        for server in servers:
            heapq.heappush(machines.underway[server], (at, next(machines.numbers), frame))

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        self.broadcast([server], messages)

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        machines = cast("Machines", self.cluster)
        machines.port.encode(messages)
        at = machines.clocks[self.server].monotonic() + LATENCY
        machines.told_now.extend((at, client, message) for message in messages)

    def ignore(self, clients: Collection[bytes]) -> None:
        if self.server == LEADER:
            cast("Machines", self.cluster).ignored = clients


class Ordinary:
    """A client that waits for each of its puts."""

    def __init__(self, token: bytes, puts: Iterator[list[Put]]) -> None:
        self.token, self._puts = token, puts
        self.frames: deque[bytes] = deque()
        """At the leader's port."""
        self._coming: deque[tuple[float, bytes]] = deque()
        self.session = self._seq = self.answered = 0
        self.sent_at = self.longest = 0.0

    def send(self, at: float, message: ClientMessage) -> None:
        self._coming.append((at + LATENCY, CODEC.encode([message])))

    def fill(self, now: float) -> None:
        """Have come what has come by now."""
        while self._coming and self._coming[0][0] <= now:
            self.frames.append(self._coming.popleft()[1])

    def next_at(self) -> float:
        """When the next frame comes."""
        return self._coming[0][0] if self._coming else math.inf

    def told(self, at: float, reply: ServerReply) -> None:
        if isinstance(reply, Overloaded):
            self.send(at + reply.retry_after_ms / 1000, self._message)
        elif isinstance(reply, CommandReply) and reply.seq == self._seq:
            self.answered += reply.status is ReplyStatus.OK
            self.longest = max(self.longest, at - self.sent_at)
            self.begin(at + THINKS)
        elif isinstance(reply, SessionOpened):
            self.session = reply.session
            self.begin(at)

    def begin(self, at: float) -> None:
        """With its session, or with its next put."""
        for puts in itertools.islice(self._puts, 1):
            self._seq, self.sent_at = self._seq + 1, at
            command = encode_operations(puts)
            self._message = Command(self.session, self._seq, self._seq, 0, command)
            self.send(at, self._message)


class Flooding(Ordinary):
    """Sends whenever there is room, as fast as its network can."""

    def __init__(self, token: bytes, kind: Kind) -> None:
        super().__init__(token, iter(()))
        self._kind, self._line_at = kind, math.inf
        self._sent = self._got = 0

    def begin(self, at: float) -> None:
        self._made = self._kind.make(self.session)
        self._line_at, self._messages = at, next(self._made)
        self._frame = CODEC.encode(self._messages)

    def fill(self, now: float) -> None:
        super().fill(now)
        self._line_at = max(self._line_at, now - 4 * MIB / LINK)  # what the kernels hold
        while self.session and self.next_at() <= now and len(self.frames) < SOCKETS:
            self.frames.append(self._frame)
            self._sent += 1
            self._line_at += len(self._frame) / LINK
            if (messages := next(self._made)) is not self._messages:
                self._messages, self._frame = messages, CODEC.encode(messages)

    def next_at(self) -> float:
        if not self.session:
            return super().next_at()
        at_once = self._kind.at_once
        return math.inf if at_once and self._sent - self._got >= at_once else self._line_at

    def told(self, at: float, reply: ServerReply) -> None:
        if not self.session:
            super().told(at, reply)
        self._got += 1


class Machines(Cluster):
    """Three servers and their clients, in the order of their clocks."""

    def __init__(self) -> None:
        super().__init__(3, machine=KVStore, wire=Link, options={"snapshot_bytes": 1 << 34})
        self.underway: dict[ServerId, list[tuple[float, int, bytes]]] = {s: [] for s in self.ids}
        self.told_now: list[tuple[float, bytes, ServerReply]] = []
        self.numbers = itertools.count()
        self.ignored: Collection[bytes] = ()
        self.clients: deque[Ordinary] = deque()
        """In the order in which the leader's port takes their next frames."""
        self.port = port_codec(LEADER)
        self.clocks = {s: cast("Disk", disk).clock for s, disk in self.storages.items()}
        self.codecs = {s: peer_codec(s, disk.incarnation) for s, disk in self.storages.items()}
        self.now = self.clocks[LEADER].now
        for server in self.ids:
            self.clock = self.clocks[server]
            self.codecs[server].identify(IDENTITY)
            self.start(server)
        self.campaign(LEADER)
        self.run(1.0)

    def new_disk(self, server: ServerId) -> MemoryDisk:
        return Disk(server)

    @property
    def elections(self) -> int:
        return sum(server._counters["elections"] for server in self.servers.values())

    def connect(self, client: Ordinary) -> None:
        self.clients.append(client)
        client.send(self.now, OpenSession(1 << 50 | len(self.clients)))
        until = self.now + 2
        while not client.session and self.now < until:
            self.run(0.05)
        assert client.session, "the leader opened no session"

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (following := min((self._next_at(s), s) for s in self.ids))[0] < end:
            self.now, server = following
            self.step(server)
        self.now = end

    def _next_at(self, server: ServerId) -> float:
        """When a server's next step begins."""
        free, at = self.clocks[server].now, self.servers[server].next_deadline()
        if self.underway[server]:
            at = min(at, self.underway[server][0][0])
        for client in self.clients if server == LEADER else ():
            client.fill(max(self.now, free))
            at = min(at, self.now if client.frames else client.next_at())
        return max(at, free, self.now)

    def step(self, server: ServerId, burst: Burst[Any, Any] | None = None) -> None:
        self.clocks[server].begin(self.now)
        burst, frames = Burst(), self.underway[server]
        while frames and frames[0][0] <= self.now and len(burst.peers) < OPTIONS.burst_frames:
            burst.peers.append(self.codecs[server].decode(heapq.heappop(frames)[2]))
        if server == LEADER:
            self._receive(burst)
        super().step(server, burst)
        self.clocks[server].end()
        clients = {client.token: client for client in self.clients}
        for at, token, reply in self.told_now:
            clients[token].told(at, reply)
        self.told_now.clear()

    def _receive(self, burst: Burst[Any, Any]) -> None:
        """A frame of each client in turns, up to the burst's limits, as `ZmqEndpoint` does."""
        share = Share(OPTIONS)
        while burst.client_bytes < OPTIONS.burst_bytes:
            client = next((client for client in self.clients if client.frames), None)
            if client is None:
                return
            self.clients.remove(client)
            self.clients.append(client)
            token, frame = client.token, client.frames.popleft()
            burst.client_bytes += len(frame)
            self.clocks[LEADER].now += FRAME + len(frame) * BYTE
            try:
                if token not in self.ignored:
                    check_count(self.port.count(frame), OPTIONS.client_frame_messages)
                    messages = self.port.decode(frame)[2]
                    burst.clients.append((token, messages))
                    if share.is_spent(token, len(messages)):
                        return
                    continue
                burst.ignored.add(token)
            except OversizedFrame:
                burst.refused.append(token)
            if share.is_wasted(cast("Any", frame), len(frame)):
                return


class Found(NamedTuple):
    """What one client got, in puts a second, and how long it waited for one of them."""

    alone: float
    beside: float
    longest: float
    elections: int


def measured(kind: str, seconds: float = 2.0, clients: int = 1) -> Found:
    """An ordinary client alone for so long, and then beside so many that flood."""
    machines = Machines()
    stock = [Put(b"key-%05d" % number, b"value" * 20) for number in range(2000)]
    large = [Put(LARGE.encode(), bytes(MIB))], [Put(FULL.encode(), bytes(8 * MIB))]
    stocking = Ordinary(b"stocking", iter([*large, stock]))
    machines.connect(stocking)
    machines.run(1.0)
    assert stocking.answered == 3, "what floods ask for is not there"
    ordinary = Ordinary(b"ordinary", itertools.repeat([Put(b"ordinary", b"x")]))
    machines.connect(ordinary)
    alone, elections = rate(machines, ordinary, seconds), machines.elections
    for number in range(clients):
        machines.connect(Flooding(b"flooder-%d" % number, KINDS[kind]))
    beside = rate(machines, ordinary, seconds)
    longest = max(ordinary.longest, machines.now - ordinary.sent_at)
    return Found(alone, beside, longest, machines.elections - elections)


def rate(machines: Machines, ordinary: Ordinary, seconds: float) -> float:
    """Its puts a second, once it has settled."""
    machines.run(min(0.3, seconds))
    before, ordinary.longest = ordinary.answered, 0.0
    machines.run(seconds)
    return (ordinary.answered - before) / seconds


def main(arguments: Sequence[str]) -> int:
    """Print a line for each kind of flood."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults shares", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the servers' own time")
    parser.add_argument("--clients", type=int, default=1, help="so many flood at once")
    chosen = parser.parse_args(arguments)
    for kind in chosen.kinds:
        if kind not in KINDS:
            parser.error(f"no flood {kind!r}: there are {', '.join(KINDS)}")
    print(
        f"{'beside':<30}{'alone/s':>8}{'beside':>8}{'share':>7}{'longest, ms':>13}{'elections':>11}"
    )
    for kind in chosen.kinds or SHOWN:
        found = measured(kind, chosen.seconds, chosen.clients)
        print(
            f"{kind:<30}{found.alone:>8.0f}{found.beside:>8.0f}{found.beside / found.alone:>7.0%}"
            f"{found.longest * 1000:>13.0f}{found.elections:>11}", flush=True,
        )  # fmt: skip
        gc.collect()
    return 0
