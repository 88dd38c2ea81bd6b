"""Load comes from outside the process that measures, as it does in real life: client processes.

The loops are run inside a client process (child.py), which is told to `prepare_load`, and then to
`put_load` for each stretch.
"""

from __future__ import annotations

import array
import itertools
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.workloads import Workload, WorkloadData
from paxon.kvstore.client.client import Client, Future
from paxon.kvstore.client.keys import secure_with
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.errors import PaxonError

__all__ = [
    "Answer", "CLIENT", "ClientLink", "ClosedLoop", "Job", "Loop", "OpenLoad", "Outcome",
    "PipelinedLoop", "client_options", "open_client_load", "prepare_load", "put_load",
]  # fmt: skip

clock = time.perf_counter

_DRAIN_SECONDS = 0.5
"""So long what is under way at the end of a stretch is waited for. What is not answered by then (in
a duel nothing may be) stays under way, and counts in the next stretch."""
_STRIDE = 64
"""A pipeline is timed at every 64th operation, so that timing costs next to nothing."""

Answer = tuple[float, PaxonError | None]
"""How many seconds an operation took, and why it failed if it did."""


@dataclass(slots=True)
class Outcome:
    """The result of one stretch of load."""

    operations: int = 0
    """Answered within the stretch."""
    failed: int = 0
    first_error: str = ""
    unfinished: int = 0
    """Still without an answer at its end."""
    oldest: float = 0.0
    """How long the oldest of these has been waiting, seconds."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """User and system time of the client process."""
    latencies: array.array[float] = field(default_factory=lambda: array.array("d"))
    """Seconds from submitting to having the answer; of a sample of operations in pipelines."""

    def note(self, error: PaxonError) -> None:
        """Count an operation that failed."""
        self.failed += 1
        self.first_error = self.first_error or str(error)


class Loop(Protocol):
    """A load that can be run in stretches."""

    def run(self, seconds: float) -> Outcome:
        """Put load on for so long."""


class Link(Protocol):
    """A way to a system, Paxon or another, with a fixed number of single operations under way."""

    def top_up(self, now: float) -> None:
        """Submit operations until as many are under way as should be."""

    def take(self, seconds: float) -> list[Answer]:
        """The answers that have come, waiting so long for the first. Raises TimeoutError."""

    def under_way(self) -> list[float]:
        """When each operation was submitted whose answer was not taken yet."""


class ClosedLoop:
    """Each answer lets the next operation go."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def run(self, seconds: float) -> Outcome:
        """See `Loop`. What is under way at the end is waited for, but not counted."""
        outcome = Outcome()
        link, latencies = self._link, outcome.latencies
        begin = now = clock()
        end = begin + seconds
        link.top_up(now)
        try:
            while now < end:
                for taken, error in link.take(end - now):
                    if error is None:
                        latencies.append(taken)
                    else:
                        outcome.note(error)
                now = clock()
                link.top_up(now)
        except TimeoutError:  # the time is up; the operations go on
            now = clock()
        waiting = [now - started for started in link.under_way()]
        outcome.seconds = now - begin
        outcome.operations = len(latencies)
        outcome.unfinished = len(waiting)
        outcome.oldest = max(waiting, default=0.0)
        give_up = clock() + _DRAIN_SECONDS
        with suppress(TimeoutError):
            while link.under_way() and (remaining := give_up - clock()) > 0:
                for _, error in link.take(remaining):
                    if error is not None:
                        outcome.note(error)
        return outcome


class ClientLink:
    """Paxon's own client; see `Link`."""

    def __init__(self, client: Client, workload: Workload, seed: int) -> None:
        self._client, self._workload = client, workload
        data = WorkloadData(workload, seed)
        self._keys, self._value = itertools.cycle(data.keys), data.value
        self._pending: deque[tuple[float, Future[Any]]] = deque()

    def top_up(self, now: float) -> None:
        pending, client, workload = self._pending, self._client, self._workload
        for key in itertools.islice(self._keys, workload.outstanding - len(pending)):
            if workload.kind == "get":
                pending.append((now, client.submit_get(key, mode=workload.mode)))
            else:
                pending.append((now, client.submit_put(key, self._value)))

    def take(self, seconds: float) -> list[Answer]:
        pending = self._pending
        pending[0][1].exception(seconds)
        now = clock()
        answers: list[Answer] = []
        # Answers come nearly in order: whatever is done is at the front.
        while pending and pending[0][1].done():
            started, future = pending.popleft()
            answers.append((now - started, future.exception()))
        return answers

    def under_way(self) -> list[float]:
        return [started for started, _ in self._pending]


class PipelinedLoop:
    """One long pipeline: as many operations under way as it may have."""

    def __init__(self, client: Client, workload: Workload, seed: int) -> None:
        self._client, self._workload = client, workload
        self._data = WorkloadData(workload, seed)

    def run(self, seconds: float) -> Outcome:
        """See `Loop`. The time until the last answer counts."""
        outcome = Outcome()
        workload, keys, value = self._workload, self._data.keys, self._data.value
        pipeline = self._client.pipeline(max_in_flight=workload.outstanding, mode=workload.mode)
        results = pipeline.results
        marks: deque[tuple[int, float]] = deque()
        begin = clock()
        end = begin + seconds
        place = 0
        try:
            while (now := clock()) < end:
                marks.append((len(pipeline), now))
                stretch = keys[place : place + _STRIDE]
                place = place + _STRIDE if place + _STRIDE < len(keys) else 0
                if workload.kind == "get":
                    for key in stretch:
                        pipeline.get(key)
                else:
                    for key in stretch:
                        pipeline.put(key, value)
                _settle(marks, len(results), outcome.latencies)
            pipeline.execute()
        except PaxonError as error:
            outcome.note(error)
        outcome.seconds = clock() - begin
        _settle(marks, len(results), outcome.latencies)
        outcome.unfinished = len(pipeline) - len(results)
        failures = sum(isinstance(result, PaxonError) for result in results)
        outcome.failed = max(outcome.failed, failures)
        outcome.operations = len(results) - failures
        return outcome


def _settle(marks: deque[tuple[int, float]], answered: int, latencies: array.array[float]) -> None:
    """Time the marked operations that have been answered meanwhile."""
    now = clock()
    while marks and marks[0][0] < answered:
        latencies.append(now - marks.popleft()[1])


CLIENT = "a client process"


class Job(NamedTuple):
    """A client process's orders."""

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
    """The client's options for packing; None: it decides by itself, as for any user."""
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


def put_load(seconds: float) -> Outcome:
    """Put the load on for so long. Raises `PaxonError`."""
    if _Here.loop is None:
        raise BenchError("it was given no job")
    before = time.process_time()
    outcome = _Here.loop.run(seconds)
    outcome.cpu_seconds = time.process_time() - before
    return outcome
