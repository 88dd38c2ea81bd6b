"""Client processes: load comes from outside the process that measures, as it does in real life.

What is here is called inside a client process (child.py): `prepare_load`, then `put_load` for each
stretch.
"""

from __future__ import annotations

import array
import resource
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import ClientLink, ClosedLoop, Loop, PipelinedLoop
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.keys import secure_with
from paxon.kvstore.client.leader_search import CoreOptions

__all__ = [
    "CLIENT", "Job", "OpenLoad", "Sample", "client_options", "open_client_load", "prepare_load",
    "put_load",
]  # fmt: skip

CLIENT = "a client process"


class Job(NamedTuple):
    """What a client process is to do."""

    workload: Workload
    addresses: list[str]
    redirect: bool
    """Whether to follow to the leader; else it stays with the first address."""
    warmup: float
    """Seconds of load before the measured ones."""
    timeout: float
    """Seconds that an operation may take."""
    seed: int
    open_load: OpenLoad
    keys: dict[str, str] | None = None
    """The servers' public keys by address; None if connections are not encrypted."""


class Sample(NamedTuple):
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
    latencies: array.array[float]
    """Seconds."""


OpenLoad: TypeAlias = Callable[[Job], tuple[Loop, Callable[[], None]]]
"""Called in a client process: connects as a job says. Returns the load, and how to disconnect.

It travels to the process, so it is a function of a module, or a `functools.partial` of one.
"""


def open_client_load(job: Job) -> tuple[Loop, Callable[[], None]]:
    """The load of Paxon's own client. Raises `PaxonError`."""
    load = job.workload
    client = Client(
        job.addresses, timeout=job.timeout, redirect=job.redirect, options=client_options(load),
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


class _Here:
    """The load of this process; None before its first job."""

    loop: Loop | None = None
    close: Callable[[], None] | None = None


def prepare_load(job: Job) -> None:
    """Connect, and warm up. Raises `PaxonError`."""
    closing, _Here.close = _Here.close, None
    if closing is not None:
        closing()
    _Here.loop, _Here.close = job.open_load(job)
    if job.warmup > 0:
        _Here.loop.run(job.warmup)


def put_load(seconds: float) -> Sample:
    """Put the load on for so long. Raises `PaxonError`."""
    if _Here.loop is None:
        raise BenchError("it was given no job")
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome = _Here.loop.run(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Sample(
        outcome.operations, outcome.failed, outcome.first_error, outcome.unfinished, outcome.oldest,
        outcome.seconds,
        (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime),
        array.array("d", outcome.latencies),
    )  # fmt: skip
