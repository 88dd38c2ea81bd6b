"""The floor: the same bytes over the same sockets and disks, with no protocol at all.

A client sends frames to a "leader", which passes the bytes on to "followers"; all write them to
SQLite, synced, as Paxon's servers do; followers acknowledge, and with a majority of answers
and its own sync the leader answers. As in Paxon, what can be received at once is one burst: sent on
in one message, written in one transaction. There are no ballots, no log, no sessions, no store, no
recovery: what is left is what the messages and the disk cost in Python. Paxon's distance to it is
the price of the protocol.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import msgspec
import zmq

from paxon.bench.harness.child import Child, hear, say
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.summary import Latency, latency_of
from paxon.kvstore.client.addresses import free_ports

__all__ = ["Floor", "FloorFigures"]

_WHAT = "a process of the floor"
_BURST_FRAMES = 256
"""Frames that one burst takes at most."""
_ROWS = 1024
"""The table has a ring of so many rows for blobs of about one size: the file does not grow without
bound, and no small row replaces a large one, which would have SQLite clear that one's pages."""
_WARM_ROWS = 1200
"""Written at the start, so that SQLite's log has its full size: growing costs more than reusing."""
_KEY_BYTES = 24
"""About what key and framing add to a value."""

ZmqSocket = zmq.Socket[bytes]


class FloorFigures(msgspec.Struct, frozen=True):
    """What the floor reached."""

    rate: float
    """Operations a second: frames times operations in a frame."""
    latency: Latency
    """Of a frame, which is that of each operation in it."""
    cpu_per_operation: float
    """CPU seconds of all processes for each operation."""


class _Ready(msgspec.Struct, frozen=True, tag=True):
    """A process of the floor is at work."""


class _FloorJob(msgspec.Struct, frozen=True, tag=True):
    frames: int
    """Under way at any time."""
    frame_bytes: int
    seconds: float


class _FloorResult(msgspec.Struct, frozen=True, tag=True):
    seconds: float
    latencies: list[float]
    """Of each frame."""


_jobs: msgspec.msgpack.Decoder[_FloorJob] = msgspec.msgpack.Decoder(_FloorJob)


class Floor:
    """Runs the floor's processes; use it in a `with` statement."""

    def __init__(self, servers: int, *, durable: bool, directory: Path | None = None) -> None:
        """Start a leader, `servers` - 1 followers, and a client.

        `directory` should be on the disk of the cluster that this is compared with. Raises
        `BenchError` if the processes do not start.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="paxon-floor-", dir=directory)
        addresses = [f"tcp://127.0.0.1:{port}" for port in free_ports(servers)]
        path = Path(self._temporary.name)
        files = [str(path / f"{number}.sqlite") if durable else "" for number in range(servers)]
        self._children: list[Child] = []
        try:
            for address, file in zip(addresses[1:], files[1:], strict=True):
                self._children.append(Child(_WHAT, _follow, address, file))
            self._children.append(Child(_WHAT, _lead, addresses[0], files[0], addresses[1:]))
            self._children.append(Child(_WHAT, _load, addresses[0]))
            for child in self._children:
                child.answer(_Ready)
        except BaseException:
            self.close()
            raise

    def run(
        self, *, frames: int, operations: int, value_bytes: int, seconds: float, warmup: float
    ) -> FloorFigures:
        """Keep `frames` frames of `operations` operations each under way. Raises `BenchError`."""
        frame_bytes = operations * (value_bytes + _KEY_BYTES)
        if warmup > 0:
            self._stretch(_FloorJob(frames, frame_bytes, warmup))
        before = self._cpu()
        result = self._stretch(_FloorJob(frames, frame_bytes, seconds))
        done = len(result.latencies) * operations
        return FloorFigures(
            rate=done / result.seconds,
            latency=latency_of(result.latencies),
            cpu_per_operation=(self._cpu() - before) / done if done else 0.0,
        )

    def close(self) -> None:
        """End the processes and remove the files; may be called twice."""
        for child in self._children:
            child.close(0.0)
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stretch(self, job: _FloorJob) -> _FloorResult:
        load = self._children[-1]
        load.tell(job)
        return load.answer(_FloorResult, job.seconds)

    def _cpu(self) -> float:
        """CPU seconds of all processes so far."""
        return sum(cpu_seconds(child.pid) for child in self._children)


# --- inside the processes ------------------------------------------------------------------------


def _begin(pipe: Connection) -> zmq.Context[ZmqSocket]:
    say(pipe, _Ready())
    return zmq.Context()


def _burst(socket: ZmqSocket) -> list[list[bytes]]:
    """All that can be received without waiting, bounded."""
    frames: list[list[bytes]] = []
    try:
        while len(frames) < _BURST_FRAMES:
            frames.append(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        return frames
    return frames


class _Disk:
    """A table in a file, or nothing at all without a path."""

    def __init__(self, path: str) -> None:
        self._connection: sqlite3.Connection | None = None
        self._row = 0
        if path:
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA secure_delete = OFF")
            self._connection.execute("CREATE TABLE log (slot INTEGER PRIMARY KEY, value BLOB)")
            self._connection.execute("PRAGMA synchronous = OFF")
            for _ in range(_WARM_ROWS):
                self.write(b"")
            self._connection.execute("DELETE FROM log")
            self._connection.execute("PRAGMA synchronous = FULL")

    def write(self, blob: bytes) -> None:
        """Write and sync."""
        if self._connection is None:
            return
        self._row = (self._row + 1) % _ROWS
        row = len(blob).bit_length() * _ROWS + self._row
        # One statement is a transaction of its own.
        self._connection.execute("INSERT OR REPLACE INTO log VALUES (?, ?)", (row, blob))


def _follow(pipe: Connection, address: str, path: str) -> None:
    """Write what the leader sends and acknowledge the last of each burst."""
    context = _begin(pipe)
    socket = context.socket(zmq.ROUTER)
    socket.bind(address)
    disk = _Disk(path)
    while True:
        socket.poll()
        frames = _burst(socket)
        disk.write(b"".join(frame[2] for frame in frames))
        leader, number, _ = frames[-1]
        socket.send_multipart([leader, number])


def _lead(pipe: Connection, address: str, path: str, follower_addresses: list[str]) -> None:
    """Pass on, write, count acknowledgements, answer."""
    context = _begin(pipe)
    clients = context.socket(zmq.ROUTER)
    clients.bind(address)
    followers = [context.socket(zmq.DEALER) for _ in follower_addresses]
    poller = zmq.Poller()
    poller.register(clients, zmq.POLLIN)
    for follower, follower_address in zip(followers, follower_addresses, strict=True):
        follower.connect(follower_address)
        poller.register(follower, zmq.POLLIN)
    disk = _Disk(path)
    needed = (len(followers) + 1) // 2
    waiting: deque[tuple[int, list[bytes]]] = deque()
    """Bursts without a majority: their numbers, and whom to answer."""
    acknowledged = [0] * len(followers)
    number = 0
    while True:
        poller.poll()
        frames = _burst(clients)
        if frames:
            number += 1
            blob = b"".join(frame[1] for frame in frames)
            for follower in followers:
                follower.send_multipart([b"%d" % number, blob])
            disk.write(blob)
            waiting.append((number, [frame[0] for frame in frames]))
        for index, follower in enumerate(followers):
            for frame in _burst(follower):
                acknowledged[index] = int(frame[0])
        reached = sorted(acknowledged, reverse=True)[needed - 1] if needed else number
        while waiting and waiting[0][0] <= reached:
            for client in waiting.popleft()[1]:
                clients.send_multipart([client, b"done"])


def _load(pipe: Connection, address: str) -> None:
    """Keep so many frames under way, and time each."""
    context = _begin(pipe)
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    while True:
        say(pipe, _closed_loop(socket, hear(pipe, _jobs)))


def _closed_loop(socket: ZmqSocket, job: _FloorJob) -> _FloorResult:
    frame = bytes(job.frame_bytes)
    latencies: list[float] = []
    sent: deque[float] = deque()
    clock = time.perf_counter
    begin = clock()
    end = begin + job.seconds
    for _ in range(job.frames):
        sent.append(clock())
        socket.send(frame)
    while sent:  # answers come in the order of the frames
        socket.poll()
        answered = len(_burst(socket))
        now = clock()
        for _ in range(answered):
            latencies.append(now - sent.popleft())
            if now < end:
                sent.append(now)
                socket.send(frame)
    return _FloorResult(seconds=clock() - begin, latencies=latencies)
