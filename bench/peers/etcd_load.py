"""Load on etcd, run inside a client process: gRPC calls from one thread.

One connection carries any number of calls at a time, and that is the client that etcd likes best.
The same load from a connection for each operation under way, as of so many clients, is the other
form. Both are measured (docs/peers.md).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Loop, Outcome
from paxon.bench.harness.load_process import Job
from paxon.bench.harness.workloads import WorkloadData
from paxon.bench.peers.grpc_wire import GrpcConnection, frame_message
from paxon.bench.peers.protobuf import PUT, RANGE, put_request, range_request

__all__ = ["GrpcSocket", "Connections", "call", "open_etcd_load"]

Connections: TypeAlias = Literal["one", "each"]
"""How many a client process has: one for all operations under way, or one for each of them."""

clock = time.perf_counter

_CONNECT_SECONDS = 5.0
_DRAIN_SECONDS = 5.0
_RECEIVE_BYTES = 1 << 18
_FILL_OUTSTANDING = 256


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
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._grpc = GrpcConnection(method, address)
        self.request = self._grpc.request
        self.room_for = self._grpc.room_for

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

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
        if timeout is not None and not self._poll.poll(timeout * 1e3):
            raise TimeoutError
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise BenchError(f"the connection is lost: {error}") from None
        if not data:
            raise BenchError("the server has closed the connection")
        return self._grpc.feed(data)

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._socket.close()


def call(address: str, method: str, message: bytes, timeout: float) -> bytes:
    """One call on a connection of its own. Raises `BenchError` for any failure."""
    link = GrpcSocket(address, method)
    try:
        link.request(frame_message(message))
        give_up = clock() + timeout
        while (remaining := give_up - clock()) > 0:
            link.flush()
            for _, answer in link.receive(remaining):
                if answer is None:
                    raise BenchError(f"the server at {address} refused {method}")
                return answer
        raise TimeoutError
    except TimeoutError:
        raise BenchError(f"the server at {address} has not answered for {timeout:g} s") from None
    finally:
        link.close()


class _Lane:
    """A connection with its share of the operations under way."""

    def __init__(self, link: GrpcSocket, outstanding: int) -> None:
        self.link = link
        self.outstanding = outstanding
        self.started: dict[int, float] = {}
        """When each call under way was made."""


class EtcdLoop:
    """A fixed number of single operations under way, shared out to connections. See `Loop`."""

    def __init__(
        self, links: Sequence[GrpcSocket], payloads: Sequence[bytes], outstanding: int
    ) -> None:
        """`payloads` are framed requests, taken in turn; no more links than are outstanding."""
        self._lanes = [
            _Lane(link, outstanding // len(links) + (number < outstanding % len(links)))
            for number, link in enumerate(links)
        ]
        self._payloads = payloads
        self._place = 0
        self._by_file = {lane.link.fileno(): lane for lane in self._lanes}
        self._poll = select.poll()
        for file in self._by_file:
            self._poll.register(file, select.POLLIN)

    def run(self, seconds: float) -> Outcome:
        """Put load on for so long, then wait for what is under way. Raises `BenchError`."""
        outcome = Outcome()
        begin = clock()
        end = begin + seconds
        for lane in self._lanes:
            self._top_up(lane, begin)
        try:
            while (now := clock()) < end:
                for lane in self._ready(end - now):
                    self._top_up(lane, self._take_in(lane, outcome))
        except TimeoutError:  # the time is up; the operations go on
            pass
        now = clock()
        waiting = [now - started for lane in self._lanes for started in lane.started.values()]
        outcome.seconds = now - begin
        outcome.operations = len(outcome.latencies)
        outcome.unfinished = len(waiting)
        outcome.oldest = max(waiting, default=0.0)
        late = self._drain()  # the next stretch begins with nothing under way
        outcome.failed += late.failed
        outcome.first_error = outcome.first_error or late.first_error
        return outcome

    def run_through(self) -> None:
        """Make each request once. Raises `BenchError` if one is refused."""
        outcome = Outcome()
        total = len(self._payloads)
        while self._place < total:
            for lane in self._lanes:
                self._top_up(lane, clock(), total - self._place)
            for lane in self._ready(_DRAIN_SECONDS):
                self._take_in(lane, outcome)
        late = self._drain()
        if outcome.failed or late.failed:
            raise BenchError(outcome.first_error or late.first_error)

    def _ready(self, timeout: float) -> Sequence[_Lane]:
        """Connections that have something to say. Raises TimeoutError if none has."""
        ready = self._poll.poll(timeout * 1e3)
        if not ready:
            raise TimeoutError
        return [self._by_file[file] for file, _ in ready]

    def _take_in(self, lane: _Lane, outcome: Outcome) -> float:
        """Take in answers that have come; returns when that was."""
        ended = lane.link.receive(None)
        now = clock()
        started, latencies = lane.started, outcome.latencies
        for stream, answer in ended:
            began = started.pop(stream)
            if answer is None:
                outcome.note(BenchError("etcd refused an operation"))
            else:
                latencies.append(now - began)
        return now

    def _top_up(self, lane: _Lane, now: float, most: int | None = None) -> None:
        """Make requests until as many are under way as should be, or `most` have been made."""
        link, started, payloads = lane.link, lane.started, self._payloads
        free = lane.outstanding - len(started)
        place, total = self._place, len(payloads)
        for _ in range(free if most is None else min(free, most)):
            payload = payloads[place % total]
            if not link.room_for(payload):
                break
            place += 1
            started[link.request(payload)] = now
        self._place = place
        link.flush()  # HTTP/2's own messages too

    def _drain(self) -> Outcome:
        """Wait until nothing is under way. Raises `BenchError` if that takes too long."""
        late = Outcome()
        give_up = clock() + _DRAIN_SECONDS
        try:
            while any(lane.started for lane in self._lanes):
                for lane in self._ready(max(give_up - clock(), 0.001)):
                    self._take_in(lane, late)
                    lane.link.flush()
        except TimeoutError:
            raise BenchError(
                f"etcd has left requests without an answer for {_DRAIN_SECONDS:g} s"
            ) from None
        return late


def open_etcd_load(connections: Connections, job: Job) -> tuple[Loop, Callable[[], None]]:
    """Connect to the first address, the leader's, as a job says; see `OpenLoad`."""
    data = WorkloadData(job.workload, job.seed)
    keys = [key.encode() for key in data.keys]
    address, outstanding = job.addresses[0], job.workload.outstanding
    puts = [frame_message(put_request(key, data.value)) for key in keys]
    method, payloads = PUT, puts
    if job.workload.kind == "get":
        filling = GrpcSocket(address, PUT)
        EtcdLoop([filling], puts, _FILL_OUTSTANDING).run_through()
        filling.close()
        method, payloads = RANGE, [frame_message(range_request(key)) for key in keys]
    links = [GrpcSocket(address, method) for _ in range(1 if connections == "one" else outstanding)]

    def close() -> None:
        for link in links:
            link.close()

    return EtcdLoop(links, payloads, outstanding), close
