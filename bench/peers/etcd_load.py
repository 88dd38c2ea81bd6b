"""Load on etcd, run inside a client process: gRPC calls from one thread.

One connection carries any number of calls at a time, and that is the client that etcd likes best.
The same load from a connection for each operation under way, as of so many clients, is the other
form. Both are measured (docs/peers.md).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, TypeAlias

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Answer, ClosedLoop, Job, Loop
from paxon.bench.harness.workloads import WorkloadData
from paxon.bench.peers.grpc_wire import GrpcConnection, frame_message
from paxon.kvstore.etcd.messages import message

__all__ = [
    "Connections", "GrpcLink", "GrpcSocket", "Listening", "ask_all", "call", "framed",
    "open_etcd_load", "parsed", "put_payload",
]  # fmt: skip

PUT, RANGE, TXN = (f"/etcdserverpb.KV/{name}" for name in ("Put", "Range", "Txn"))
WATCH = "/etcdserverpb.Watch/Watch"
GRANT, REVOKE, KEEP_ALIVE = (
    f"/etcdserverpb.Lease/Lease{name}" for name in ("Grant", "Revoke", "KeepAlive")
)
LOCK, UNLOCK = (f"/v3lockpb.Lock/{name}" for name in ("Lock", "Unlock"))
STATUS = "/etcdserverpb.Maintenance/Status"

Connections: TypeAlias = Literal["one", "each"]
"""How many a client process has: one for all operations under way, or one for each of them."""

clock = time.perf_counter

_CONNECT_SECONDS = _CALL_SECONDS = 5.0
_FILL_SECONDS = 30.0
_RECEIVE_BYTES = 1 << 18
_FILL_OUTSTANDING = 256


def framed(method: str, /, **fields: Any) -> bytes:
    """A request of a method, ready to be made. Raises `BenchError` if protobuf is missing."""
    kind = message(f"{method.rpartition('/')[2]}Request")
    return frame_message(kind(**fields).SerializeToString())


def parsed(method: str, answer: bytes) -> Any:
    """Decode the answer of a method."""
    return message(f"{method.rpartition('/')[2]}Response").FromString(answer)


def put_payload(key: str, value: bytes) -> bytes:
    """A write, ready to be requested."""
    return framed(PUT, key=key.encode(), value=value)


class GrpcSocket:
    """A connection to a server, for one method. Blocking."""

    def __init__(self, address: str, method: str) -> None:
        """Connect to `host:port`. Raises `BenchError`."""
        host, _, port = address.rpartition(":")
        try:
            self._socket = socket.create_connection((host, int(port)), _CONNECT_SECONDS)
        except OSError as error:
            raise BenchError(f"{address} cannot be reached: {error}") from None
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listening = Listening([self])
        self._address, self._method = address, method
        self._grpc = GrpcConnection(method, address)
        self.request = self._grpc.request
        self.room_for = self._grpc.room_for
        self._stream = 0
        self.started: dict[int, float] = {}
        """When each call under way was made, by those who care."""

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def say(self, payload: bytes) -> None:
        """Queue a message of the one call that stays open, which the first one begins."""
        if self._stream:
            self._grpc.say(self._stream, payload)
        else:
            self._stream = self.request(payload, stays_open=True)

    def flush(self) -> None:
        """Send what was requested. Raises `BenchError`."""
        try:
            self._socket.sendall(self._grpc.outgoing)
        except OSError as error:
            raise BenchError(f"the connection is lost: {error}") from None
        self._grpc.outgoing.clear()

    def receive(self, timeout: float | None) -> list[tuple[int, bytes | None]]:
        """Take in what has come: the calls that have ended. Raises `BenchError`.

        Waits `timeout` seconds for it, and raises TimeoutError if nothing comes; with None it must
        be known that something has come.
        """
        if timeout is not None:
            self._listening.wait(timeout)
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise BenchError(f"the connection is lost: {error}") from None
        if not data:
            raise BenchError("the server has closed the connection")
        return self._grpc.feed(data)

    def ask(self, payload: bytes, seconds: float) -> bytes | None:
        """One call at a time: its answer, or None if it was refused.

        Raises `BenchError`, and TimeoutError if no answer comes in time.
        """
        self.request(payload)
        give_up = clock() + seconds
        while (remaining := give_up - clock()) > 0:
            self.flush()
            for _, answer in self.receive(remaining):
                return answer
        raise TimeoutError

    def demand(self, payload: bytes) -> bytes:
        """The same with a usual limit. Raises `BenchError` if it is refused too, or late."""
        try:
            answer = self.ask(payload, _CALL_SECONDS)
        except TimeoutError:
            raise BenchError(f"{self._address} was silent for {_CALL_SECONDS:g} s") from None
        if answer is None:
            raise BenchError(f"the server at {self._address} refused {self._method}")
        return answer

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._socket.close()


class Listening:
    """Waits for several connections at once."""

    def __init__(self, links: Iterable[GrpcSocket]) -> None:
        self._links = {link.fileno(): link for link in links}
        self._poll = select.poll()
        for file in self._links:
            self._poll.register(file, select.POLLIN)

    def wait(self, seconds: float) -> list[GrpcSocket]:
        """Those on which something has come. Raises TimeoutError if there is none in time."""
        ready = self._poll.poll(seconds * 1e3)
        if not ready:
            raise TimeoutError
        return [self._links[file] for file, _ in ready]


def call(address: str, method: str, **fields: Any) -> Any:
    """One call on a connection of its own; what it answers. Raises `BenchError` if it fails."""
    with closing(GrpcSocket(address, method)) as link:
        return parsed(method, link.demand(framed(method, **fields)))


def ask_all(
    link: GrpcSocket, payloads: Sequence[bytes], ask: Callable[[bytes], object]
) -> list[bytes]:
    """Ask for each of these, many at a time; their answers, as they come.

    Raises `BenchError` if one is refused or late.
    """
    answers: list[bytes] = []
    asked = 0
    try:
        while len(answers) < len(payloads):
            while asked < min(len(payloads), len(answers) + _FILL_OUTSTANDING):
                if not link.room_for(payloads[asked]):
                    break
                ask(payloads[asked])
                asked += 1
            link.flush()
            for _, answer in link.receive(_FILL_SECONDS):
                if answer is None:
                    raise BenchError("etcd refused what a load begins with")
                answers.append(answer)
    except TimeoutError:
        raise BenchError(f"etcd has answered nothing for {_FILL_SECONDS:g} s") from None
    return answers


class GrpcLink:
    """Single operations, shared out to connections. See `Link`."""

    def __init__(
        self, links: Sequence[GrpcSocket], payloads: Sequence[bytes], outstanding: int
    ) -> None:
        """`payloads` are framed requests, taken in turn; no more links than are outstanding."""
        self._each = {
            link: outstanding // len(links) + (number < outstanding % len(links))
            for number, link in enumerate(links)
        }
        self._payloads = payloads
        self._place = 0
        self._ready = dict.fromkeys(links)
        """Those that have said something since they were topped up."""
        self._listening = Listening(links)

    def top_up(self, now: float) -> None:
        payloads, total = self._payloads, len(self._payloads)
        for link in self._ready:
            for _ in range(self._each[link] - len(link.started)):
                payload = payloads[self._place % total]
                if not link.room_for(payload):
                    break
                self._place += 1
                link.started[link.request(payload)] = now
            link.flush()  # HTTP/2's own messages too
        self._ready.clear()

    def take(self, seconds: float) -> list[Answer]:
        answers: list[Answer] = []
        for link in self._listening.wait(seconds):
            self._ready[link] = None
            ended = link.receive(None)
            now = clock()
            for stream, answer in ended:
                refused = BenchError("etcd refused an operation") if answer is None else None
                answers.append((now - link.started.pop(stream), refused))
        return answers

    def under_way(self) -> list[float]:
        return [started for link in self._each for started in link.started.values()]


def open_etcd_load(connections: Connections, job: Job) -> tuple[Loop, Callable[[], None]]:
    """Connect to the first address, the leader's, as a job says; see `OpenLoad`."""
    data = WorkloadData(job.workload, job.seed)
    address, outstanding = job.addresses[0], job.workload.outstanding
    puts = [put_payload(key, data.value) for key in data.keys]
    method, payloads = PUT, puts
    if job.workload.kind == "get":
        with closing(GrpcSocket(address, PUT)) as filling:
            ask_all(filling, puts, filling.request)
        method = RANGE  # linearizable, as long as it does not say `serializable`
        payloads = [framed(RANGE, key=key.encode()) for key in data.keys]
    with ExitStack() as stack:
        count = 1 if connections == "one" else outstanding
        links = [stack.enter_context(closing(GrpcSocket(address, method))) for _ in range(count)]
        return ClosedLoop(GrpcLink(links, payloads, outstanding)), stack.pop_all().close
