"""Client processes: load comes from outside the process that measures, as it does in real life."""

from __future__ import annotations

import array
import gc
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Loop, Outcome, make_loop
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.client import Client
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.leader_search import CoreOptions
from paxon.kvstore.spawning import die_with_parent, start_process

__all__ = ["Job", "Sample", "OpenLoad", "open_client_load", "LoadProcess", "LoadProcesses"]

_GRACE_SECONDS = 60.0
"""How much longer than its job a client process may take before it counts as stuck."""


class Job(msgspec.Struct, frozen=True, tag=True):
    """What a client process is to do next."""

    workload: Workload
    addresses: list[str]
    redirect: bool
    """Whether to follow to the leader; else it stays with the first address."""
    warmup: float
    """Seconds of load before the measured ones."""
    timeout: float
    """Seconds that an operation may take."""
    seed: int


class Go(msgspec.Struct, frozen=True, tag=True):
    """Measure for so many seconds now."""

    seconds: float


class Sample(msgspec.Struct, frozen=True, tag=True):
    """What one client measured."""

    operations: int
    failed: int
    first_error: str
    unfinished: int
    oldest: float
    """Seconds that the oldest unfinished operation has been waiting."""
    seconds: float
    cpu_seconds: float
    """User and system time of the client process."""
    latency_bytes: bytes
    """Seconds as doubles of this machine."""

    def latencies(self) -> array.array[float]:
        """Latencies in seconds."""
        values = array.array("d")
        values.frombytes(self.latency_bytes)
        return values


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The client is warm."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The client cannot do its job."""

    sentence: str


_requests: msgspec.msgpack.Decoder[Job | Go] = msgspec.msgpack.Decoder(Job | Go)
_answers: msgspec.msgpack.Decoder[Ready | Sample | Failed] = msgspec.msgpack.Decoder(
    Ready | Sample | Failed
)
_encoder = msgspec.msgpack.Encoder()


OpenLoad: TypeAlias = Callable[[Job], tuple[Loop, Callable[[], None]]]
"""Called in a client process: connects as a job says. Returns the load, and how to disconnect.

It travels to the process, so it is a function of a module, or a `functools.partial` of one.
"""


def open_client_load(job: Job) -> tuple[Loop, Callable[[], None]]:
    """The load of Paxon's own client. Raises `PaxonError`."""
    options = client_options(job.workload)
    client = Client(job.addresses, timeout=job.timeout, redirect=job.redirect, options=options)
    loop = make_loop(client, job.workload, job.seed)
    _fill(client, job)
    return loop, client.close


def client_options(workload: Workload) -> CoreOptions | None:
    """What the client is told of packing; None: nothing, it decides as for any user."""
    if workload.packing == 0:
        return None
    # A request goes as soon as it is full. Only an idle client sends one that is not.
    return CoreOptions(eager=1, full_weight=workload.packing, batch_weight=workload.packing)


class LoadProcess:
    """A client process, kept for many jobs: `prepare`, `wait_ready`, `go`, `result`."""

    def __init__(self, open_load: OpenLoad = open_client_load) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, open_load), daemon=True)
        start_process(self._process)
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        if self._process.pid is None:
            raise AssertionError("unreachable: it was started in __init__")
        return self._process.pid

    def prepare(self, job: Job) -> None:
        """Make a client for the job and warm it up; see `wait_ready`."""
        self._send(job)

    def wait_ready(self, warmup: float) -> None:
        """Wait until a prepared client is warm. Raises `BenchError` if it cannot be."""
        answer = self._receive(warmup + _GRACE_SECONDS)
        if not isinstance(answer, Ready):
            raise BenchError("a client process answered out of turn")

    def go(self, seconds: float) -> None:
        """Start measuring; see `result`."""
        self._send(Go(seconds))

    def result(self, seconds: float) -> Sample:
        """Wait for what was measured. Raises `BenchError`."""
        answer = self._receive(seconds + _GRACE_SECONDS)
        if not isinstance(answer, Sample):
            raise BenchError("a client process answered out of turn")
        return answer

    def close(self) -> None:
        """End the process; may be called twice."""
        self._pipe.close()
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, message: Job | Go) -> None:
        try:
            self._pipe.send_bytes(_encoder.encode(message))
        except OSError:
            raise BenchError("a client process has died; run the benchmark again") from None

    def _receive(self, timeout: float) -> Ready | Sample | Failed:
        try:
            if not self._pipe.poll(timeout):
                raise BenchError(f"a client process has not answered for {timeout:g} s")
            answer = _answers.decode(self._pipe.recv_bytes())
        except EOFError:
            raise BenchError("a client process has died; run the benchmark again") from None
        if isinstance(answer, Failed):
            raise BenchError(answer.sentence)
        return answer


class LoadProcesses:
    """As many client processes as the largest workload needs; use it in a `with` statement."""

    def __init__(self) -> None:
        self._processes: list[LoadProcess] = []

    def take(self, count: int) -> list[LoadProcess]:
        """The first `count` of them, started as needed."""
        while len(self._processes) < count:
            self._processes.append(LoadProcess())
        return self._processes[:count]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.close()


# --- inside the client process -------------------------------------------------------------------


def _serve(pipe: Connection, open_load: OpenLoad) -> None:
    """Main function of a client process: do jobs until the other end of the pipe is closed."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    gc.freeze()
    _do_jobs(pipe, open_load)
    os._exit(0)  # whatever the client still has under way is of no interest


def _do_jobs(pipe: Connection, open_load: OpenLoad) -> None:
    """Return once the other end is closed."""
    loop: Loop | None = None
    close: Callable[[], None] | None = None
    while True:
        try:
            request = _requests.decode(pipe.recv_bytes())
        except (EOFError, ConnectionError):
            return
        answer: Ready | Sample | Failed
        try:
            if isinstance(request, Job):
                if close is not None:
                    close()
                    close = None
                loop, close = open_load(request)
                if request.warmup > 0:
                    loop.run(request.warmup)
                answer = Ready()
            elif loop is None:
                answer = Failed("a client process was started without a job")
            else:
                answer = _measure(loop, request.seconds)
        except PaxonError as error:
            answer = Failed(f"a client could not put load on the cluster: {error}")
        try:
            pipe.send_bytes(_encoder.encode(answer))
        except ConnectionError:
            return


def _fill(client: Client, job: Job) -> None:
    """Reads are of keys that are there."""
    if job.workload.kind != "get" or not job.workload.fill:
        return
    value = bytes(job.workload.value_bytes)
    with client.pipeline(timeout=60.0) as pipeline:
        for number in range(job.workload.keys):
            pipeline.put(f"key-{number:07}", value)


def _measure(loop: Loop, seconds: float) -> Sample:
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome: Outcome = loop.run(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Sample(
        operations=outcome.operations,
        failed=outcome.failed,
        first_error=outcome.first_error,
        unfinished=outcome.unfinished,
        oldest=outcome.oldest,
        seconds=outcome.seconds,
        cpu_seconds=(after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime),
        latency_bytes=array.array("d", outcome.latencies).tobytes(),
    )
