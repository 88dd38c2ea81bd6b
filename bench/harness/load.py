"""The loops that put load on a system, run inside a client process (see load_process.py)."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Protocol

from paxon.bench.harness.workloads import Workload, WorkloadData
from paxon.kvstore.client.client import Client, Future
from paxon.kvstore.errors import PaxonError

__all__ = ["Outcome", "Loop", "Answer", "ClosedLoop", "ClientLink", "PipelinedLoop"]

clock = time.perf_counter

_DRAIN_SECONDS = 0.5
"""So long what is under way at the end of a stretch is waited for. What is not answered by then (in
a duel nothing may be) stays under way, and counts in the next stretch."""
_STRIDE = 64
"""A pipeline is timed at every 64th operation, so that timing costs next to nothing."""

Answer = tuple[float, PaxonError | None]
"""How many seconds an operation took, and why it failed if it did."""


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


class Link(Protocol):
    """A way to a system, Paxon or another, with a fixed number of single operations under way."""

    def top_up(self, now: float) -> None:
        """Submit operations until as many are under way as should be."""

    def take(self, seconds: float) -> list[Answer]:
        """What has been answered, waiting so long for the first. Raises TimeoutError."""

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
        self._drain(outcome)
        return outcome

    def _drain(self, outcome: Outcome) -> None:
        """Wait for what is under way, for a while."""
        give_up = clock() + _DRAIN_SECONDS
        try:
            while self._link.under_way() and (remaining := give_up - clock()) > 0:
                for _, error in self._link.take(remaining):
                    if error is not None:
                        outcome.note(error)
        except TimeoutError:
            return


class ClientLink:
    """Paxon's own client; see `Link`."""

    def __init__(self, client: Client, workload: Workload, seed: int) -> None:
        self._client = client
        self._workload = workload
        self._data = WorkloadData(workload, seed)
        self._place = -1
        self._pending: deque[tuple[float, Future[Any]]] = deque()

    def top_up(self, now: float) -> None:
        pending, client, workload = self._pending, self._client, self._workload
        keys, value = self._data.keys, self._data.value
        for _ in range(workload.outstanding - len(pending)):
            self._place = place = (self._place + 1) % len(keys)
            if workload.kind == "get":
                pending.append((now, client.submit_get(keys[place], mode=workload.mode)))
            else:
                pending.append((now, client.submit_put(keys[place], value)))

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
        self._client = client
        self._workload = workload
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


def _settle(marks: deque[tuple[int, float]], answered: int, latencies: list[float]) -> None:
    """Time the marked operations that have been answered meanwhile."""
    if not marks or marks[0][0] >= answered:
        return
    now = clock()
    while marks and marks[0][0] < answered:
        latencies.append(now - marks.popleft()[1])
