"""One client that floods a server, as a process of its own: what a raw socket can send.

`python -m tests.faults.flooding.flooder ADDRESS KIND` says "ready" once it has a session, floods
from the first line of its standard input to the end of it, says "floods" once its first frame is on
its way, and in the end what it sent and got.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import zmq

from paxon.actors.codecs import client_codec
from paxon.actors.messages import (
    ChangeSettings,
    ClientMessage,
    Command,
    OpenSession,
    Query,
    ReadMode,
    Renew,
    SessionOpened,
    SlotRequest,
    StatusRequest,
    Unwatch,
    Watch,
)
from paxon.kvstore.store.operations import (
    Append,
    Compare,
    CompareAndSet,
    Enqueue,
    Events,
    Get,
    Grant,
    KeepAlive,
    Put,
    Range,
    Scan,
    Txn,
    encode_operations,
)

__all__ = ["FLOODS", "FULL", "LARGE", "MIB", "MORE", "Kind"]

MIB = 1 << 20
LARGE = "floods/large"
"""A key that holds a megabyte."""
FULL = "floods/full"
"""A key whose value is as long as may be, less what one append adds."""

Frames = Iterator[list[ClientMessage]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to flood."""

    make: Callable[[int], Frames]
    """What it sends in which session, frame by frame."""
    reads: bool = True
    """Whether it reads what is answered."""
    at_once: int = 0
    """So many frames may be unanswered; 0: as many as are taken."""


def _again(messages: list[ClientMessage]) -> Frames:
    return itertools.repeat(messages)


def _queries(key: str, mode: ReadMode, a_frame: int, gets: int = 1) -> Callable[[int], Frames]:
    query = encode_operations([Get(key.encode())] * gets)
    return lambda _: _again([Query(n, mode, query) for n in range(a_frame)])


def _slots(_session: int) -> Frames:
    return _again([SlotRequest(n, slot) for n, slot in enumerate(list(range(1, 20)) * 200)])


def _statuses(_session: int) -> Frames:
    yield [StatusRequest(n) for n in range(200_000)]
    yield from _again([StatusRequest(n) for n in range(4000)])


def _digests(_session: int) -> Frames:
    return _again([StatusRequest(n, 0, True) for n in range(100)])


def _tiny(_session: int) -> Frames:
    return _again([StatusRequest(1)])


def _scans(_session: int) -> Frames:
    query = encode_operations([Scan(b"", 10_000)] * 20)
    return _again([Query(n, "stale", query) for n in range(50)])


def _openings(_session: int) -> Frames:
    nonces = itertools.count(1)
    yield [OpenSession(next(nonces)) for _ in range(700_000)]
    while True:
        yield [OpenSession(next(nonces)) for _ in range(2000)]


def _settings(_session: int) -> Frames:
    numbers = itertools.count(1)
    while True:
        yield [ChangeSettings(n, 0, {"session_ttl": 3600.0}) for n in itertools.islice(numbers, 50)]


def _renewals(operations: list[Any], a_frame: int) -> Callable[[int], Frames]:
    """Of leases that are not there, each is executed all the same; or of none at all."""
    renewal = encode_operations(operations)

    def frames(_session: int) -> Frames:
        numbers = itertools.count(_free_number())
        while True:
            yield [Renew(number, renewal) for number in itertools.islice(numbers, a_frame)]

    return frames


def _watches(_session: int) -> Frames:
    """Of a thousand spans each, and of a revision that does not come."""
    for number in itertools.count(1):
        spans = [(b"a%04d-%06d" % (n, number), b"a%04d." % n) for n in range(1000)]
        yield [Watch(number, encode_operations([Events(1 << 40, [*spans, (b"o", b"p")])]))]


def _again_and_again(session: int) -> Frames:
    """One command whose reply is a megabyte: asked again, it is answered from what is kept."""
    return _again([Command(session, 1, 1, 0, encode_operations([Get(LARGE.encode())]))] * 100)


def _unacknowledged(session: int) -> Frames:
    """A thousand replies of a megabyte, none of which is ever acknowledged; over and over."""
    get = encode_operations([Get(LARGE.encode())])
    while True:
        for first in range(1, 1001, 100):
            yield [Command(session, seq, 1, 0, get) for seq in range(first, first + 100)]


def _commands(
    make: Callable[[int], bytes], a_frame: int = 1, behind: int = 20
) -> Callable[[int], Frames]:
    """So many commands a frame; those more than `behind` before it are acknowledged."""

    def frames(session: int) -> Frames:
        for first in itertools.count(1, a_frame):
            acked = max(1, first - behind)
            seqs = range(first, first + a_frame)
            yield [Command(session, seq, acked, 0, make(seq)) for seq in seqs]

    return frames


def _always(command: bytes) -> Callable[[int], bytes]:
    return lambda _: command


def _appends(session: int) -> Frames:
    """Each twenty thousand to a value that is as long as may be."""
    return _commands(_always(encode_operations([Append(FULL.encode(), b"x")] * 20_000)))(session)


def _append(seq: int) -> bytes:
    """A megabyte to a value that grows to seven, and then is made anew."""
    value = bytes(MIB)
    operation = Append(b"floods/grows", value) if seq % 7 else Put(b"floods/grows", value)
    return encode_operations([operation])


def _execute(_seq: int) -> bytes:
    return encode_operations([Put(b"floods/%d" % (number % 100), b"x") for number in range(20_000)])


def _in_vain(session: int) -> Frames:
    """Of ten thousand keys all are looked at each time, and nothing is answered."""
    span = Compare(b"floods/vain/", "version", ">", 0, b"floods/vain0")
    look = Range(b"floods/vain/", b"floods/vain0", keys_only=True, min_modified=1 << 40)
    past = Range(b"floods/vain/", b"floods/vain0", count_only=True, revision=2)
    kinds = ([Txn([span], [], [])] * 20_000, [look] * 40_000, [past] * 40_000)
    commands = [encode_operations(operations) for operations in kinds]
    for part in range(10):
        puts = [Put(b"floods/vain/%d-%03d" % (part, number), b"") for number in range(999)]
        yield [Command(session, part + 1, 1, 0, encode_operations(puts))]
    for seq in itertools.count(11):
        yield [Command(session, seq, max(1, seq - 20), 0, commands[seq % 3])]


def _free_number() -> int:
    """The first of many leases, or questions, that nobody else will have."""
    return int.from_bytes(os.urandom(5), "big") << 22


def _grants(each: int, a_frame: int) -> Callable[[int], Frames]:
    """Of so many leases a command, none of which is there yet."""

    def frames(session: int) -> Frames:
        leases = itertools.count(_free_number())

        def grant(_seq: int) -> bytes:
            return encode_operations([Grant(next(leases), 60_000) for _ in range(each)])

        return _commands(grant, a_frame, 200)(session)

    return frames


def _renewals_of_one(session: int) -> Frames:
    """Of one lease that is there, over and over."""
    lease = _free_number()
    yield [Command(session, 1, 1, 0, encode_operations([Grant(lease, 3_600_000)]))]
    yield from _renewals([KeepAlive(lease)], 4000)(session)


def _enqueues(values: int, a_frame: int = 1) -> Callable[[int], Frames]:
    command = encode_operations([Enqueue(b"floods/queue/", [b"x"] * values)])
    return _commands(_always(command), a_frame, 200)


def _puts(each: int, a_frame: int) -> Callable[[int], Frames]:
    command = encode_operations([Put(b"floods/put-%d" % n, bytes(100)) for n in range(each)])
    return _commands(_always(command), a_frame, 200)


def _unwatches(_session: int) -> Frames:
    return _again([Unwatch([number]) for number in range(4000)])


_CAS = encode_operations([CompareAndSet(LARGE.encode(), b"y" + bytes(MIB - 1), b"x")])
_PUT = encode_operations([Put(b"floods/put", bytes(MIB))])
_PUT8 = encode_operations([Put(b"floods/put", bytes(8 * MIB))])
_RANGES = encode_operations([Txn([], [Range(b"", b"\0", 1000)] * 20, [])])
_COUNTS = encode_operations([Txn([], [Range(b"", b"\0", count_only=True)] * 1000, [])])

FLOODS = {
    "slot requests": Kind(_slots, reads=False),
    "status requests": Kind(_statuses, reads=False),
    "status with digest": Kind(_digests),
    "tiny frames": Kind(_tiny),
    "stale gets of 1 MiB, not read": Kind(_queries(LARGE, "stale", 500), reads=False),
    "stale gets of 1 MiB": Kind(_queries(LARGE, "stale", 100)),
    "stale gets of 15 MiB": Kind(_queries(LARGE, "stale", 20, 15)),
    "lease gets of 15 MiB": Kind(_queries(LARGE, "lease", 20, 15)),
    "reads of 1 MiB, not read": Kind(_queries(LARGE, "linearizable", 500), reads=False),
    "reads of 15 MiB": Kind(_queries(LARGE, "linearizable", 20, 15)),
    "scans": Kind(_scans),
    "openings": Kind(_openings, reads=False),
    "settings": Kind(_settings),
    "renewals": Kind(_renewals([KeepAlive(lease) for lease in range(1, 12_001)], 1)),
    "renewals that are none": Kind(_renewals([Put(b"floods/put", b"x")] * 20_000, 5)),
    "queue inserts": Kind(_enqueues(10_000)),
    "watches of a thousand spans": Kind(_watches),
    "one command again and again": Kind(_again_and_again),
    "20,000 appends a command": Kind(_appends, at_once=20),
    "looking in vain": Kind(_in_vain),
    "20,000 puts a command": Kind(_commands(_execute)),
    "unacknowledged replies": Kind(_unacknowledged, reads=False),
    "cas of 1 MiB": Kind(_commands(_always(_CAS))),
    "appends of 1 MiB": Kind(_commands(_append)),
    "puts of 1 MiB": Kind(_commands(_always(_PUT))),
    "puts of 8 MiB": Kind(_commands(_always(_PUT8))),
    "puts of 8 MiB, one at a time": Kind(_commands(_always(_PUT8)), at_once=1),
}
"""Each in its own process, in the suite too."""
MORE = {
    "queue inserts of 1,000": Kind(_enqueues(1000)),
    "queue inserts of 60": Kind(_enqueues(60, 20)),
    "queue inserts of 1": Kind(_enqueues(1, 100)),
    "renewals of one lease": Kind(_renewals_of_one),
    "grants of 1,000": Kind(_grants(1000, 1)),
    "grants of 64": Kind(_grants(64, 20)),
    "grants of 1": Kind(_grants(1, 100)),
    "transactions of 20 ranges": Kind(_commands(_always(_RANGES))),
    "transactions of 1,000 counts": Kind(_commands(_always(_COUNTS))),
    "puts of 64": Kind(_puts(64, 60)),
    "puts of 1": Kind(_puts(1, 100)),
    "unwatching": Kind(_unwatches),
}
"""For `shares` (shares.py), which measures what they leave the others."""


class Flooder:
    """A raw client."""

    def __init__(self, address: str) -> None:
        self._codec = client_codec()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 16)
        self._socket.setsockopt(zmq.RCVHWM, 16)
        self._socket.connect(address)
        self._over = threading.Event()
        self.sent = self.got = self.got_bytes = 0
        """Frames, and bytes in those that came."""

    def open_session(self) -> int:
        nonce = int.from_bytes(os.urandom(6), "big") | 1 << 50
        for _ in range(5):  # a server that leads no more for a moment does not keep the question
            self._socket.send(self._codec.encode([OpenSession(nonce)]))
            while self._socket.poll(1000):
                for reply in self._codec.decode(self._socket.recv())[2]:
                    if isinstance(reply, SessionOpened):
                        return reply.session
        raise SystemExit("the server opened no session")

    def stop_at_end_of_input(self) -> None:
        def wait() -> None:
            sys.stdin.read()
            self._over.set()

        threading.Thread(target=wait, daemon=True).start()

    def flood(self, kind: Kind, session: int) -> None:
        """Send until the end of the input."""
        before: list[ClientMessage] = []
        frame = b""
        for messages in kind.make(session):
            if messages is not before:
                frame, before = bytes(self._codec.encode(messages)), messages
            while not self._may_send(kind):
                if self._over.is_set():
                    return
            self._socket.send(frame, 0, len(frame) < MIB)
            self.sent += 1
            if self.sent == 1:  # some first frames take seconds to make
                print("floods", flush=True)
        self._over.wait()

    def _may_send(self, kind: Kind) -> bool:
        if kind.reads:
            while self._socket.poll(0):
                self.got += 1
                self.got_bytes += len(self._socket.recv())
        if kind.at_once and self.sent - self.got >= kind.at_once:
            self._socket.poll(20)
            return False
        waits_for = zmq.POLLOUT | (zmq.POLLIN if kind.reads else 0)
        return bool(self._socket.poll(20, waits_for) & zmq.POLLOUT) and not self._over.is_set()


def main() -> None:
    address, kind = sys.argv[1:]
    flooder = Flooder(address)
    session = flooder.open_session()
    print("ready", flush=True)
    sys.stdin.readline()
    flooder.stop_at_end_of_input()
    flooder.flood((FLOODS | MORE)[kind], session)
    print(flooder.sent, flooder.got, flooder.got_bytes, flush=True)
    os._exit(0)  # whatever is still queued


if __name__ == "__main__":
    main()
