"""Client processes: load comes from outside the process that measures, as it does in real life."""

from __future__ import annotations

import array
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeAlias

import msgspec

from paxon.bench.harness.child import Child, Children, Failed, hear, say
from paxon.bench.harness.load import ClientLink, ClosedLoop, Loop, PipelinedLoop
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.keys import secure_with
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.errors import PaxonError

__all__ = [
    "Go",
    "Job",
    "LoadProcess",
    "LoadProcesses",
    "OpenLoad",
    "Ready",
    "Sample",
    "client_options",
    "do_jobs",
    "open_client_load",
]


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
    keys: dict[str, str] = {}
    """The servers' public keys by address; empty if connections are not encrypted."""


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


_requests: msgspec.msgpack.Decoder[Job | Go] = msgspec.msgpack.Decoder(Job | Go)

OpenLoad: TypeAlias = Callable[[Job], tuple[Loop, Callable[[], None]]]
"""Called in a client process: connects as a job says. Returns the load, and how to disconnect.

It travels to the process, so it is a function of a module, or a `functools.partial` of one.
"""


def open_client_load(job: Job) -> tuple[Loop, Callable[[], None]]:
    """The load of Paxon's own client. Raises `PaxonError`."""
    load = job.workload
    options = client_options(load)
    client = Client(
        job.addresses, timeout=job.timeout, redirect=job.redirect, options=options,
        secure=secure_with(job.keys) if job.keys else None,
    )  # fmt: skip
    if load.kind == "get" and load.fill:  # reads are of keys that are there
        with client.pipeline(timeout=60.0) as pipeline:
            for number in range(load.keys):
                pipeline.put(f"key-{number:07}", bytes(load.value_bytes))
    if load.pipelined:
        return PipelinedLoop(client, load, job.seed), client.close
    return ClosedLoop(ClientLink(client, load, job.seed)), client.close


def client_options(workload: Workload) -> CoreOptions | None:
    """What the client is told of packing; None: nothing, it decides as for any user."""
    if workload.packing == 0:
        return None
    # A request goes as soon as it is full. Only an idle client sends one that is not.
    return CoreOptions(eager=1, full_weight=workload.packing, batch_weight=workload.packing)


class LoadProcess(Child):
    """A client process: told a `Job` it gets `Ready`, told to `Go` it has a `Sample`."""

    def __init__(self, open_load: OpenLoad = open_client_load) -> None:
        super().__init__("a client process", do_jobs, open_load)


class LoadProcesses(Children[LoadProcess]):
    """As many client processes as the largest workload needs."""

    def __init__(self, open_load: OpenLoad = open_client_load) -> None:
        super().__init__(lambda: LoadProcess(open_load))


# --- inside the client process -------------------------------------------------------------------


def do_jobs(pipe: Connection, open_load: OpenLoad) -> None:
    """Main function of a client process. Raises EOFError or OSError once the parent is gone."""
    loop: Loop | None = None
    close: Callable[[], None] | None = None
    while True:
        request = hear(pipe, _requests)
        try:
            if isinstance(request, Job):
                closing, close = close, None
                if closing is not None:
                    closing()
                loop, close = open_load(request)
                if request.warmup > 0:
                    loop.run(request.warmup)
                say(pipe, Ready())
            elif loop is None:
                say(pipe, Failed("a client process was started without a job"))
            else:
                say(pipe, _measure(loop, request.seconds))
        except PaxonError as error:
            say(pipe, Failed(f"a client could not put load on the cluster: {error}"))


def _measure(loop: Loop, seconds: float) -> Sample:
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome = loop.run(seconds)
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
