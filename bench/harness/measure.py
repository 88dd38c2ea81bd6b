"""Measure one workload on a running cluster: what clients saw, and what the servers did for it."""

from __future__ import annotations

import array
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from paxon.actors import ServerId
from paxon.actors.messages import StatusReply
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.lab import LabCluster
from paxon.bench.harness.load_process import Job, LoadProcess, Sample
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.summary import Latency, latency_of
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.cluster_status import StatusProbe
from paxon.kvstore.local_cluster import LocalCluster

__all__ = [
    "Measurement",
    "Watch",
    "ClusterWatch",
    "ServerCounts",
    "measure",
    "prepare",
    "stretch",
    "combine",
    "jobs_for",
    "proposer_jobs",
]

_STATUS_SECONDS = 5.0
_STATUS_ATTEMPTS = 3
_DUEL_SECONDS = 5.0
"""A client of a proposer gives up an operation after so long; in a duel that does happen."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of one workload."""

    seconds: float
    operations: int
    failed: int
    first_error: str
    unfinished: int
    """Without an answer at the end: as many as are kept under way, unless all were answered."""
    longest_wait: float
    """Seconds that any operation waited, whether it got its answer or was still waiting."""
    rate: float
    """Operations a second, of all clients together."""
    latency: Latency
    client_cpu: float
    """CPU seconds that all clients used."""
    server_cpu: float
    """CPU seconds that all servers used."""
    counters: dict[str, int]
    """What all servers together counted meanwhile (`paxon status --json` shows the names)."""

    def slim(self) -> Measurement:
        """Without the counters that stood still: for files that are kept."""
        moved = {name: value for name, value in self.counters.items() if value}
        return msgspec.structs.replace(self, counters=moved)

    def per_operation(self, counter: str) -> float | None:
        """Of a counter, for each operation; None if there was no operation."""
        return self.counters.get(counter, 0) / self.operations if self.operations else None

    def per_second(self, counter: str) -> float:
        """Of a counter, for each second."""
        return self.counters.get(counter, 0) / self.seconds

    def per_slot(self, counter: str) -> float | None:
        """Of a counter, for each slot that was chosen; None if there was none."""
        slots = self.counters.get("slots_chosen", 0)
        return self.counters.get(counter, 0) / slots if slots else None


class ServerCounts(msgspec.Struct, frozen=True):
    """Where the servers stood at one moment."""

    replies: dict[ServerId, StatusReply]
    cpu: dict[ServerId, float]
    """CPU seconds since each process started."""


class Watch(Protocol):
    """Tells where the servers of a system stand, Paxon's or another's."""

    def counts(self) -> ServerCounts:
        """CPU of all servers, and counters of those that have any. Raises `BenchError`."""


class ClusterWatch:
    """Asks the servers of a cluster for their counters; keeps its connections. One thread."""

    def __init__(self, cluster: LocalCluster | LabCluster) -> None:
        """Watch the servers that run now."""
        addresses = dict(zip(cluster.servers, cluster.addresses, strict=True))
        if isinstance(cluster, LabCluster):
            self._pids = cluster.pids
        else:
            self._pids = {row.server: row.pid for row in cluster.status() if row.pid is not None}
        self._addresses = {server: addresses[server] for server in self._pids}
        self._probe = StatusProbe()

    def counts(self) -> ServerCounts:
        """Counters and CPU of all servers. Raises `BenchError` if one does not answer."""
        replies: dict[ServerId, StatusReply] = {}
        for _ in range(_STATUS_ATTEMPTS):
            missing = {s: a for s, a in self._addresses.items() if s not in replies}
            replies |= self._probe.ask(missing, _STATUS_SECONDS)
            if len(replies) == len(self._addresses):
                cpu = {s: cpu_seconds(pid) for s, pid in self._pids.items()}
                return ServerCounts(replies, cpu)
        silent = sorted(set(self._addresses) - set(replies))
        raise BenchError(f"servers {silent} do not answer; their logs may say why")

    def glance(self, timeout: float) -> dict[ServerId, StatusReply]:
        """The status of those that answer in time."""
        return self._probe.ask(self._addresses, timeout)

    def close(self) -> None:
        """Close the connections."""
        self._probe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


def measure(
    watch: Watch,
    processes: Sequence[LoadProcess],
    jobs: Sequence[Job],
    seconds: float,
    *,
    meanwhile: Callable[[], None] | None = None,
) -> Measurement:
    """Run a job in each client process at the same time, and count what the servers do.

    `meanwhile` is called while the clients are at work. Raises `BenchError` if a client or server
    fails.
    """
    prepare(processes, jobs)
    return stretch(watch, processes, seconds, meanwhile=meanwhile)


def prepare(processes: Sequence[LoadProcess], jobs: Sequence[Job]) -> None:
    """Connect the clients and warm them up, all at the same time. Raises `BenchError`."""
    for process, job in zip(processes, jobs, strict=True):
        process.prepare(job)
    for process, job in zip(processes, jobs, strict=True):
        process.wait_ready(job.warmup)


def stretch(
    watch: Watch,
    processes: Sequence[LoadProcess],
    seconds: float,
    *,
    meanwhile: Callable[[], None] | None = None,
) -> Measurement:
    """Put the load of prepared clients on for so long; may be called again. See `measure`."""
    before = watch.counts()
    begin = time.perf_counter()
    for process in processes:
        process.go(seconds)
    if meanwhile is not None:
        meanwhile()
    samples = [process.result(seconds) for process in processes]
    elapsed = time.perf_counter() - begin
    return combine(samples, before, watch.counts(), elapsed)


def combine(
    samples: Sequence[Sample], before: ServerCounts, after: ServerCounts, elapsed: float
) -> Measurement:
    """One measurement of what several clients and servers counted."""
    latencies: array.array[float] = array.array("d")
    for sample in samples:
        latencies.extend(sample.latencies())
    counters: Counter[str] = Counter()
    for server, reply in after.replies.items():
        earlier = before.replies[server].counters
        for name, value in reply.counters.items():
            counters[name] += value - earlier.get(name, 0)
    latency = latency_of(latencies)
    oldest = max(sample.oldest for sample in samples)
    return Measurement(
        seconds=elapsed,
        operations=sum(sample.operations for sample in samples),
        failed=sum(sample.failed for sample in samples),
        first_error=next((s.first_error for s in samples if s.first_error), ""),
        unfinished=sum(sample.unfinished for sample in samples),
        longest_wait=max(oldest, latency.worst or 0.0),
        rate=sum(s.operations / s.seconds for s in samples if s.seconds > 0),
        latency=latency,
        client_cpu=sum(sample.cpu_seconds for sample in samples),
        server_cpu=sum(after.cpu[s] - before.cpu[s] for s in after.cpu),
        counters=dict(counters),
    )


def jobs_for(workload: Workload, addresses: list[str], *, warmup: float, seed: int) -> list[Job]:
    """A job for each client of a workload; all follow to the leader."""
    return [
        Job(
            workload=workload,
            addresses=addresses,
            redirect=True,
            warmup=warmup,
            timeout=10.0,
            seed=seed + number,
        )
        for number in range(workload.clients)
    ]


def proposer_jobs(
    workload: Workload, addresses: Sequence[str], *, follow: bool, warmup: float, seed: int
) -> list[Job]:
    """A job for each client: each stays with one server, or all `follow` to the leader."""
    return [
        Job(
            workload=workload,
            addresses=list(addresses) if follow else [addresses[number]],
            redirect=follow,
            warmup=warmup,
            timeout=_DUEL_SECONDS,
            seed=seed + number,
        )
        for number in range(workload.clients)
    ]
