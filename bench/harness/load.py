"""The loops that put load on a cluster, run inside a client process (see load_process.py)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from paxon.bench.harness.workloads import Workload, WorkloadData
from paxon.kvstore.client import Client, Future
from paxon.kvstore.errors import PaxonError

__all__ = ["Outcome", "Loop", "make_loop"]

clock = time.perf_counter

_DRAIN_SECONDS = 0.5
"""So long what is under way at the end of a stretch is waited for. What is not answered by then (in
a duel nothing may be) stays under way, and counts in the next stretch."""
_STRIDE = 64
"""A pipeline is timed at every 64th operation, so that timing costs next to nothing."""


class Outcome:
    """What one stretch of load came to."""

    def __init__(self) -> None:
        self.operations = 0
        """Answered within the stretch."""
        self.failed = 0
        self.first_error = ""
        self.unfinished = 0
        """Still without an answer at its end."""
        self.oldest = 0.0
        """How long the oldest of these has been waiting, seconds."""
        self.seconds = 0.0
        self.latencies: list[float] = []
        """Seconds from submitting to having the answer; of a sample of operations in pipelines."""

    def note(self, error: PaxonError) -> None:
        """Count an operation that failed."""
        self.failed += 1
        self.first_error = self.first_error or str(error)


class Loop(Protocol):
    """A load that can be run in stretches."""

    def run(self, seconds: float) -> Outcome:
        """Put load on for so long."""


def make_loop(client: Client, workload: Workload, seed: int) -> Loop:
    """The loop that a workload asks for."""
    data = WorkloadData(workload, seed)
    if workload.pipelined:
        return PipelinedLoop(client, workload, data)
    return ClosedLoop(client, workload, data)


class ClosedLoop:
    """A fixed number of single operations under way: each answer lets the next one go."""

    def __init__(self, client: Client, workload: Workload, data: WorkloadData) -> None:
        self._outstanding = workload.outstanding
        self._submit = _submitter(client, workload, data)
        self._pending: deque[tuple[float, Future[Any]]] = deque()
        """What is under way, with the time of its start."""

    def run(self, seconds: float) -> Outcome:
        """See `Loop`. What is under way at the end is waited for, but not counted."""
        outcome = Outcome()
        latencies = outcome.latencies
        submit = self._submit
        begin = clock()
        end = begin + seconds
        pending = self._pending
        while len(pending) < self._outstanding:
            pending.append((clock(), submit()))
        try:
            while (now := clock()) < end:
                pending[0][1].exception(end - now)
                now = clock()
                answered = 0
                # Answers come nearly in order: whatever is done is at the front.
                while pending and pending[0][1].done():
                    started, future = pending.popleft()
                    answered += 1
                    error = future.exception()
                    if error is None:
                        latencies.append(now - started)
                    else:
                        outcome.note(error)
                for _ in range(answered):
                    pending.append((now, submit()))
        except TimeoutError:  # the time is up; the operation goes on
            pass
        now = clock()
        waiting = [now - started for started, future in pending if not future.done()]
        outcome.seconds = now - begin
        outcome.operations = len(latencies)
        outcome.unfinished = len(waiting)
        outcome.oldest = max(waiting, default=0.0)
        self._drain()
        return outcome

    def _drain(self) -> None:
        """Wait for what is under way, for a while."""
        pending = self._pending
        give_up = clock() + _DRAIN_SECONDS
        try:
            while pending and (remaining := give_up - clock()) > 0:
                pending[0][1].exception(remaining)
                pending.popleft()
        except TimeoutError:
            return


def _submitter(client: Client, workload: Workload, data: WorkloadData) -> Callable[[], Future[Any]]:
    """A function that submits the next operation."""
    keys, value = data.keys, data.value
    place = -1
    if workload.kind == "get":

        def submit_get() -> Future[Any]:
            nonlocal place
            place = (place + 1) % len(keys)
            return client.submit_get(keys[place], mode=workload.mode)

        return submit_get

    def submit_put() -> Future[Any]:
        nonlocal place
        place = (place + 1) % len(keys)
        return client.submit_put(keys[place], value)

    return submit_put


class PipelinedLoop:
    """One long pipeline: as many operations under way as it may have."""

    def __init__(self, client: Client, workload: Workload, data: WorkloadData) -> None:
        self._client = client
        self._workload = workload
        self._data = data

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


def _settle(marks: deque[tuple[int, float]], answered: int, latencies: list[float]) -> None:
    """Time the marked operations that have been answered meanwhile."""
    if not marks or marks[0][0] >= answered:
        return
    now = clock()
    while marks and marks[0][0] < answered:
        latencies.append(now - marks.popleft()[1])
