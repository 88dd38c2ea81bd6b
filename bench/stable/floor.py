"""The floor: the same bytes over the same sockets and disks, with no protocol at all.

A client sends frames to a "leader", which passes the bytes on to "followers"; all write them to
SQLite, synced, as Paxon's servers do; followers acknowledge, and with a majority of answers
and its own sync the leader answers. As in Paxon, what can be received at once is one burst: sent on
in one message, written in one transaction. There are no ballots, no log, no sessions, no store, no
recovery: what is left is what the messages and the disk cost in Python. Paxon's distance to it is
the price of the protocol.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import zmq

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.summary import Latency, latency_of
from paxon.kvstore.addresses import free_ports
from paxon.kvstore.spawning import die_with_parent, start_process

__all__ = ["Floor", "FloorFigures"]

_START_SECONDS = 30.0
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


class _FloorJob(msgspec.Struct, frozen=True):
    frames: int
    """Under way at any time."""
    frame_bytes: int
    seconds: float


class _FloorResult(msgspec.Struct, frozen=True):
    seconds: float
    latencies: list[float]
    """Of each frame."""


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
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        try:
            for address, file in zip(addresses[1:], files[1:], strict=True):
                self._start(_follow, address, file)
            self._start(_lead, addresses[0], files[0], addresses[1:])
            self._start(_load, addresses[0])
            for pipe in self._pipes:
                self._receive(pipe, _START_SECONDS)
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
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        start_process(process)
        theirs.close()
        self._processes.append(process)
        self._pipes.append(ours)

    def _stretch(self, job: _FloorJob) -> _FloorResult:
        load = self._pipes[-1]
        load.send_bytes(msgspec.msgpack.encode(job))
        answer = self._receive(load, job.seconds + _START_SECONDS)
        return msgspec.msgpack.decode(answer, type=_FloorResult)

    @staticmethod
    def _receive(pipe: Connection, timeout: float) -> bytes:
        try:
            if not pipe.poll(timeout):
                raise BenchError(f"the floor's processes have not answered for {timeout:g} s")
            return pipe.recv_bytes()
        except EOFError:
            raise BenchError("a process of the floor has died; run the benchmark again") from None

    def _cpu(self) -> float:
        """CPU seconds of all processes so far."""
        pids = [process.pid for process in self._processes]
        return sum(cpu_seconds(pid) for pid in pids if pid is not None)


# --- inside the processes ------------------------------------------------------------------------


def _begin(pipe: Connection) -> zmq.Context[ZmqSocket]:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    pipe.send_bytes(b"ready")
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
        try:
            job = msgspec.msgpack.decode(pipe.recv_bytes(), type=_FloorJob)
        except EOFError:
            return
        pipe.send_bytes(msgspec.msgpack.encode(_closed_loop(socket, job)))


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
