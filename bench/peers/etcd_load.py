"""Load on etcd, run inside a client process: gRPC calls over one connection, from one thread.

One connection carries any number of calls at a time. More of them make etcd slower, not faster
(docs/peers.md), so this is the client that it likes best.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from paxon.bench.errors import BenchError
from paxon.bench.load import Loop, Outcome
from paxon.bench.load_process import Job
from paxon.bench.peers.grpc_wire import GrpcConnection, frame_message
from paxon.bench.peers.protobuf import PUT, RANGE, put_request, range_request
from paxon.bench.workloads import WorkloadData

__all__ = ["GrpcSocket", "call", "open_etcd_load"]

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
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._grpc = GrpcConnection(method, address)
        self.request = self._grpc.request
        self.room_for = self._grpc.room_for

    def flush(self) -> None:
        """Send what was requested. Raises `BenchError`."""
        try:
            self._socket.sendall(self._grpc.outgoing)
        except OSError as error:
            raise BenchError(f"the connection is lost: {error}") from None
        self._grpc.outgoing.clear()

    def receive(self, timeout: float) -> list[tuple[int, bytes | None]]:
        """Wait for anything to come: the calls that have ended. Raises `BenchError`.

        Raises TimeoutError if nothing comes within `timeout` seconds.
        """
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise
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


class EtcdLoop:
    """A fixed number of single operations under way on one connection. See `Loop`."""

    def __init__(self, link: GrpcSocket, payloads: Sequence[bytes], outstanding: int) -> None:
        """`payloads` are framed requests, taken in turn."""
        self._link = link
        self._payloads = payloads
        self._outstanding = outstanding
        self._place = 0
        self._started: dict[int, float] = {}
        """When each call under way was made."""

    def run(self, seconds: float) -> Outcome:
        """Put load on for so long, then wait for what is under way. Raises `BenchError`."""
        outcome = Outcome()
        begin = clock()
        end = begin + seconds
        self._top_up(begin)
        try:
            while (now := clock()) < end:
                self._top_up(self._take_in(outcome, end - now))
        except TimeoutError:  # the time is up; the operations go on
            pass
        now = clock()
        outcome.seconds = now - begin
        outcome.operations = len(outcome.latencies)
        outcome.unfinished = len(self._started)
        outcome.oldest = max((now - started for started in self._started.values()), default=0.0)
        late = self._drain()  # the next stretch begins with nothing under way
        outcome.failed += late.failed
        outcome.first_error = outcome.first_error or late.first_error
        return outcome

    def run_through(self) -> None:
        """Make each request once. Raises `BenchError` if one is refused."""
        outcome = Outcome()
        total = len(self._payloads)
        while self._place < total:
            self._top_up(clock(), total - self._place)
            self._take_in(outcome, _DRAIN_SECONDS)
        late = self._drain()
        if outcome.failed or late.failed:
            raise BenchError(outcome.first_error or late.first_error)

    def _take_in(self, outcome: Outcome, timeout: float) -> float:
        """Wait for answers; returns when they came. Raises TimeoutError if none does."""
        ended = self._link.receive(timeout)
        now = clock()
        started, latencies = self._started, outcome.latencies
        for stream, answer in ended:
            began = started.pop(stream)
            if answer is None:
                outcome.note(BenchError("etcd refused an operation"))
            else:
                latencies.append(now - began)
        return now

    def _top_up(self, now: float, most: int | None = None) -> None:
        """Make requests until as many are under way as should be, or `most` have been made."""
        link, started, payloads = self._link, self._started, self._payloads
        free = self._outstanding - len(started)
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
            while self._started:
                self._take_in(late, max(give_up - clock(), 0.001))
                self._link.flush()
        except TimeoutError:
            raise BenchError(
                f"etcd has left requests without an answer for {_DRAIN_SECONDS:g} s"
            ) from None
        return late


def open_etcd_load(job: Job) -> tuple[Loop, Callable[[], None]]:
    """Connect to the first address, the leader's, as a job says; see `OpenLoad`."""
    data = WorkloadData(job.workload, job.seed)
    keys = [key.encode() for key in data.keys]
    address = job.addresses[0]
    puts = [frame_message(put_request(key, data.value)) for key in keys]
    if job.workload.kind == "put":
        link = GrpcSocket(address, PUT)
        return EtcdLoop(link, puts, job.workload.outstanding), link.close
    filling = GrpcSocket(address, PUT)
    EtcdLoop(filling, puts, _FILL_OUTSTANDING).run_through()
    filling.close()
    link = GrpcSocket(address, RANGE)
    gets = [frame_message(range_request(key)) for key in keys]
    return EtcdLoop(link, gets, job.workload.outstanding), link.close
