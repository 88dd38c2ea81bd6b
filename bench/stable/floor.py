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
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import zmq

from paxon.bench.harness.child import Child
from paxon.bench.harness.summary import Latency, latency_of
from paxon.kvstore.client.addresses import free_ports, hold_ports

__all__ = ["Floor", "FloorFigures"]

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
    """The floor's results."""

    rate: float
    """Operations a second: frames times operations in a frame."""
    latency: Latency
    """Of a frame, which is that of each operation in it."""


class Floor:
    """Runs the floor's processes, until `close`."""

    def __init__(self, servers: int, *, directory: Path | None = None) -> None:
        """Start a leader, `servers` - 1 followers, and a client.

        `directory` should be on the disk of the cluster that this is compared with. Raises
        `BenchError` if the processes do not start.
        """
        with ExitStack() as stack:
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="paxon-floor-", dir=directory)
            )
            ports = free_ports(servers)
            for held in hold_ports(ports):
                stack.enter_context(held)
            addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
            files = [f"{place}/{number}.sqlite" for number in range(servers)]
            children = [Child("a process of the floor") for _ in range(servers + 1)]
            for child in children:
                stack.callback(child.close, 0.0)
            *followers, leader, self._load = children
            for child, address, file in zip([leader, *followers], addresses, files, strict=True):
                child.tell(_open, zmq.ROUTER, address, file)
            self._load.tell(_open, zmq.DEALER, addresses[0], "")
            for child in children:
                child.answer()
            for child in followers:
                child.tell(_follow)
            leader.tell(_lead, addresses[1:])
            self.close = stack.pop_all().close

    def run(
        self, frames: int, operations: int, *, durable: bool, value_bytes: int, seconds: float,
        warmup: float,
    ) -> FloorFigures:  # fmt: skip
        """Keep `frames` frames of `operations` operations each under way. Raises `BenchError`."""
        # The first byte says whether it is to be written.
        frame = bytes([durable]).ljust(operations * (value_bytes + _KEY_BYTES), b"\0")
        for length in (warmup, seconds):
            self._load.tell(_closed_loop, frames, frame, length)
            elapsed, latencies = self._load.answer(length)
        return FloorFigures(len(latencies) * operations / elapsed, latency_of(latencies))


# --- inside the processes ------------------------------------------------------------------------


def _burst(socket: ZmqSocket) -> list[list[bytes]]:
    """All that can be received without waiting, bounded."""
    frames: list[list[bytes]] = []
    with suppress(zmq.Again):
        while len(frames) < _BURST_FRAMES:
            frames.append(socket.recv_multipart(zmq.NOBLOCK))
    return frames


class _Disk:
    """A table in a file."""

    def __init__(self, path: str) -> None:
        self._row = 0
        self._connection = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL", "PRAGMA secure_delete = OFF",
            "CREATE TABLE log (slot INTEGER PRIMARY KEY, value BLOB)", "PRAGMA synchronous = OFF",
        ):  # fmt: skip
            self._connection.execute(statement)
        for _ in range(_WARM_ROWS):
            self.write(b"\1")
        self._connection.execute("DELETE FROM log")
        self._connection.execute("PRAGMA synchronous = FULL")

    def write(self, blob: bytes) -> None:
        """Write and sync, if its first byte says so."""
        if blob[0]:  # (one statement is a transaction of its own)
            self._row = (self._row + 1) % _ROWS
            row = len(blob).bit_length() * _ROWS + self._row
            self._connection.execute("INSERT OR REPLACE INTO log VALUES (?, ?)", (row, blob))


class _Here:
    """The socket and the disk of this process."""

    socket: ZmqSocket
    disk: _Disk


def _open(kind: int, address: str, path: str) -> None:
    """Bind a ROUTER and make its disk, or connect a DEALER."""
    socket: ZmqSocket = zmq.Context.instance().socket(kind)
    _Here.socket = socket
    (socket.bind if kind == zmq.ROUTER else socket.connect)(address)
    if path:
        _Here.disk = _Disk(path)


def _follow() -> None:
    """Write what the leader sends and acknowledge the last of each burst."""
    socket, disk = _Here.socket, _Here.disk
    while True:
        socket.poll()
        frames = _burst(socket)
        disk.write(b"".join(frame[2] for frame in frames))
        leader, number, _ = frames[-1]
        socket.send_multipart([leader, number])


def _lead(follower_addresses: list[str]) -> None:
    """Pass on, write, count acknowledgements, answer."""
    clients, disk = _Here.socket, _Here.disk
    followers: list[ZmqSocket] = []
    poller = zmq.Poller()
    poller.register(clients, zmq.POLLIN)
    for address in follower_addresses:
        followers.append(zmq.Context.instance().socket(zmq.DEALER))
        followers[-1].connect(address)
        poller.register(followers[-1], zmq.POLLIN)
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


def _closed_loop(frames: int, frame: bytes, seconds: float) -> tuple[float, list[float]]:
    """Keep so many frames under way, and time each."""
    socket, clock = _Here.socket, time.perf_counter
    latencies: list[float] = []
    sent: deque[float] = deque()
    begin = clock()
    end = begin + seconds
    for _ in range(frames):
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
    return clock() - begin, latencies
