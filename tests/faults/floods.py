"""One client that floods the leader: what a raw socket can send, and what the others still get."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import zmq

from paxon.actors.codecs import client_codec
from paxon.actors.messages import (
    ClientMessage,
    Command,
    OpenSession,
    Query,
    SessionOpened,
    SlotRequest,
    StatusRequest,
)
from paxon.kvstore.store.operations import Append, Get, Scan, encode_operations
from tests.faults.network import RelayedCluster
from tests.faults.trial import Outcome, Trial

__all__ = ["FLOODS", "LARGE", "Flood", "floods", "resident_bytes"]

LARGE = "floods/large"
"""A key that holds a megabyte."""
FULL = "floods/full"
"""A key whose value is as long as may be, less what one append adds."""
MEMORY = 700 << 20
"""No server may take more than this while it is flooded, bytes."""

Frames = Iterator[list[ClientMessage]]


class Flood:
    """A raw client in a thread of its own that sends frames as fast as they are taken.

    With `reads` False it never looks at an answer.
    """

    def __init__(self, address: str, kind: str) -> None:
        self._codec = client_codec()
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 16)
        self._socket.setsockopt(zmq.RCVHWM, 16)
        self._socket.connect(address)
        self._kind = kind
        self._thread = threading.Thread(target=self._run)
        self.frames = 0
        """Sent so far."""
        self.session = self._open_session()

    def _open_session(self) -> int:
        self._socket.send(self._codec.encode([OpenSession(1 << 40)]))
        while self._socket.poll(20_000):
            for reply in self._codec.decode(self._socket.recv())[2]:
                if isinstance(reply, SessionOpened):
                    return reply.session
        raise AssertionError("the leader opened no session")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()

    def _run(self) -> None:
        make, reads = FLOODS[self._kind]
        for messages in make(self.session):
            frame = self._codec.encode(messages)
            while not self._socket.poll(20, zmq.POLLOUT):
                if self._stop.is_set():
                    return
            self._socket.send(frame)
            self.frames += 1
            while reads and self._socket.poll(0):
                self._socket.recv()
            if self._stop.is_set():
                return
        while not self._stop.wait(0.02):
            while reads and self._socket.poll(0):
                self._socket.recv()


def _again(messages: list[ClientMessage]) -> Frames:
    return itertools.repeat(messages)


def _slots(_session: int) -> Frames:
    return _again([SlotRequest(n, slot) for n, slot in enumerate(list(range(1, 20)) * 200)])


def _statuses(_session: int) -> Frames:
    yield [StatusRequest(n) for n in range(200_000)]
    yield from _again([StatusRequest(n) for n in range(4000)])


def _tiny(_session: int) -> Frames:
    return _again([StatusRequest(1)])


def _gets(_session: int) -> Frames:
    query = encode_operations([Get(LARGE)])
    return _again([Query(n, "stale", query) for n in range(500)])


def _reads(_session: int) -> Frames:
    query = encode_operations([Get(LARGE)])
    return _again([Query(n, "linearizable", query) for n in range(500)])


def _scans(_session: int) -> Frames:
    query = encode_operations([Scan("", 10_000)] * 20)
    return _again([Query(n, "stale", query) for n in range(50)])


def _openings(_session: int) -> Frames:
    nonces = itertools.count(1)
    yield [OpenSession(next(nonces)) for _ in range(700_000)]
    while True:
        yield [OpenSession(next(nonces)) for _ in range(2000)]


def _appends(session: int) -> Frames:
    many = encode_operations([Append(FULL, b"x")] * 20_000)
    for seq in range(1, 20):
        yield [Command(session, seq, seq, 0, many)]


def _unacknowledged(session: int) -> Frames:
    """A thousand replies of a megabyte, none of which is ever acknowledged; over and over."""
    get = encode_operations([Get(LARGE)])
    while True:
        for first in range(1, 1001, 100):
            yield [Command(session, seq, 1, 0, get) for seq in range(first, first + 100)]


def _large_commands(session: int) -> Frames:
    for seq in itertools.count(1):
        operation = Append("floods/grows", bytes(1 << 20))
        yield [Command(session, seq, max(1, seq - 20), 0, encode_operations([operation]))]


FLOODS: dict[str, tuple[Callable[[int], Frames], bool]] = {
    "slot requests": (_slots, False),
    "status requests": (_statuses, False),
    "tiny frames": (_tiny, True),
    "stale gets of a megabyte": (_gets, False),
    "reads of a megabyte": (_reads, False),
    "scans": (_scans, True),
    "openings": (_openings, False),
    "20,000 appends a command": (_appends, True),
    "unacknowledged replies": (_unacknowledged, False),
    "commands of a megabyte": (_large_commands, True),
}
"""Each: what it sends in which session, frame by frame, and whether it reads what is answered."""


def resident_bytes(pid: int) -> int:
    """What a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@contextmanager
def memory_watched(pids: list[int]) -> Iterator[dict[int, int]]:
    """The most that each process held while the block ran."""
    most = dict.fromkeys(pids, 0)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for pid in pids:
                most[pid] = max(most[pid], resident_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def floods(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """One client after the other floods the leader, each in its way."""
    with Trial("floods", cluster, directory, long=long) as trial:
        with cluster.client(timeout=20) as client:
            client.put(LARGE, bytes(1 << 20))
            client.put(FULL, bytes(8 << 20))
        for kind in FLOODS:
            pids = [row.pid for row in cluster.status() if row.pid]
            address = cluster.addresses[cluster.servers.index(cluster.leader())]
            with memory_watched(pids) as most, Flood(address, kind):
                trial.fault()
                trial.load.wait_for_more(trial.sized(40, 400))
            assert max(most.values()) < MEMORY, (kind, most)
    return trial.verify()
