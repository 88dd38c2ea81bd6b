"""Measure one workload on a running cluster: what clients saw, and what the servers did for it."""

from __future__ import annotations

import array
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import msgspec

from paxon.actors import ServerId
from paxon.actors.messages import StatusReply
from paxon.bench.harness import load, summary
from paxon.bench.harness.child import Child, Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.flags import RepeatedSettings
from paxon.bench.harness.lab import SERVER, LabCluster
from paxon.bench.harness.load import CLIENT, Job, OpenLoad, Outcome, open_client_load
from paxon.bench.harness.machine import cpu_seconds
from paxon.bench.harness.report import Progress
from paxon.bench.harness.summary import Latency, Spread, latency_of, spread_of, spread_or_none
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.cluster.local_cluster import LocalCluster

__all__ = [
    "Figures", "Lab", "Measurement", "Ratios", "ServerCounts", "counts_of", "figures_of",
    "jobs_for", "measure", "measure_on", "prepare", "ratios_of", "run_all", "stretch",
]  # fmt: skip

_STATUS_SECONDS = 5.0
_STATUS_ATTEMPTS = 3
_PATIENCE_SECONDS = 10.0
_DUEL_SECONDS = 5.0
"""A client of a proposer gives up an operation after so long; in a duel that does happen."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of one workload."""

    seconds: float
    operations: int
    failed: int
    """Without an answer in time, or with an error."""
    first_error: str
    longest_wait: float
    """Seconds that any operation waited, whether or not it got its answer."""
    rate: float
    """Operations a second, of all clients together; 0 if nothing got through."""
    latency: Latency
    client_cpu: float
    """CPU seconds that all clients used."""
    server_cpu: float
    """CPU seconds that all servers used."""
    busiest_cpu: float = 0.0
    """CPU seconds of the server that used most."""
    counters: dict[str, int]
    """What all servers together counted meanwhile (`paxon status --json` shows the names), without
    what stood still."""

    def count(self, counter: str) -> int:
        """Of a counter."""
        return self.counters.get(counter, 0)

    def each(self, figure: float) -> float | None:
        """Of a figure, for each operation; None if there was no operation."""
        return figure / self.operations if self.operations else None

    def per_second(self, counter: str) -> float:
        """Of a counter, for each second."""
        return self.count(counter) / self.seconds

    def by_slots(self, figure: float) -> float | None:
        """Of a figure, for each slot that was chosen; None if there was none."""
        slots = self.count("slots_chosen")
        return figure / slots if slots else None

    def leaderless(self) -> float:
        """The share of the time in which nobody led, from 0 to 1.

        Servers count the time for which they lead. A deposed leader that has not heard of it yet
        counts on for a message's length, so this is a lower bound, never below 0.
        """
        return min(1.0, max(0.0, 1.0 - self.count("leading_us") / 1e6 / self.seconds))


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load over all repeats; see `Measurement`. Latencies are seconds."""

    rate: Spread
    p50: Spread | None
    """This and the next two are None if no operation ever got its answer."""
    p99: Spread | None
    p999: Spread | None
    longest_wait: float
    failed: int
    first_error: str
    server_cpu: Spread | None
    """CPU seconds of all servers together for each operation."""
    client_cpu: Spread | None
    repeats: list[Measurement]

    def over(self, figure: Callable[[Measurement], float | None]) -> Spread | None:
        """Any other figure over the repeats that have it."""
        return spread_or_none(map(figure, self.repeats))

    def per_second(self, counter: str) -> Spread:
        """Of a counter."""
        return spread_of([m.per_second(counter) for m in self.repeats])

    def total(self, counter: str) -> int:
        """Of a counter, in all repeats together."""
        return sum(m.count(counter) for m in self.repeats)


def figures_of(measured: Sequence[Measurement]) -> dict[str, Any]:
    """The fields of `Figures`, to make a row of. Raises ValueError for nothing measured."""

    def over(figure: Callable[[Measurement], float | None]) -> Spread | None:
        return spread_or_none(map(figure, measured))

    return {
        "rate": spread_of([m.rate for m in measured]),
        "p50": over(lambda m: m.latency.p50),
        "p99": over(lambda m: m.latency.p99),
        "p999": over(lambda m: m.latency.p999),
        "longest_wait": max(m.longest_wait for m in measured),
        "failed": sum(m.failed for m in measured),
        "first_error": next((m.first_error for m in measured if m.first_error), ""),
        "server_cpu": over(lambda m: m.each(m.server_cpu)),
        "client_cpu": over(lambda m: m.each(m.client_cpu)),
        "repeats": list(measured),
    }


class Ratios(msgspec.Struct, frozen=True, kw_only=True):
    """One side by another; each value is one pair of measurements, next to each other in time."""

    rate: Spread | None = None
    """Above 1 this side does more operations a second."""
    p50: Spread | None = None
    """Below 1 this side is quicker; likewise the next."""
    p99: Spread | None = None
    cpu: Spread | None = None
    """Of servers' and clients' CPU for each operation: below 1 this side needs less."""


def ratios_of(pairs: Sequence[tuple[Measurement, Measurement]]) -> Ratios:
    """The first of each pair by the second."""

    def ratio(figure: Callable[[Measurement], float | None]) -> Spread | None:
        return summary.quotients((figure(one), figure(other)) for one, other in pairs)

    return Ratios(
        rate=ratio(lambda m: m.rate),
        p50=ratio(lambda m: m.latency.p50),
        p99=ratio(lambda m: m.latency.p99),
        cpu=ratio(lambda m: m.each(m.server_cpu + m.client_cpu)),
    )


class ServerCounts(msgspec.Struct, frozen=True):
    """Where the servers of a system stood at one moment, Paxon's or another's."""

    replies: dict[ServerId, StatusReply]
    """Of those that have counters."""
    cpu: dict[ServerId, float]
    """CPU seconds since each process started."""


Counts = Callable[[], ServerCounts]
"""Tells where the servers stand. Raises `BenchError`."""


def counts_of(cluster: LocalCluster | LabCluster) -> ServerCounts:
    """Of the servers that run. Raises `BenchError` if one does not answer."""
    for _ in range(_STATUS_ATTEMPTS):
        rows = cluster.status(_STATUS_SECONDS, state=False)
        pids = {row.server: row.pid for row in rows if row.pid is not None}
        replies = {row.server: row.reply for row in rows if row.reply is not None}
        if len(replies) == len(pids):
            return ServerCounts(replies, {s: cpu_seconds(pid) for s, pid in pids.items()})
    silent = sorted(set(pids) - set(replies))
    raise BenchError(f"servers {silent} do not answer; their logs may say why")


def measure_on(
    cluster: LocalCluster | LabCluster, clients: Children, workload: Workload, *, seconds: float,
    warmup: float, seed: int, follow: bool = True, open_load: OpenLoad = open_client_load,
) -> Measurement:  # fmt: skip
    """A load on a cluster that runs; see `jobs_for` and `measure`. Raises `PaxonError`."""
    jobs = jobs_for(
        workload, cluster.addresses, warmup=warmup, seed=seed, follow=follow, open_load=open_load
    )
    return measure(lambda: counts_of(cluster), clients.take(workload.clients), jobs, seconds)


def prepare(processes: Sequence[Child], jobs: Sequence[Job]) -> None:
    """Connect the clients and warm them up, all at the same time. Raises `BenchError`."""
    for process, job in zip(processes, jobs, strict=True):
        process.tell(load.prepare_load, job)
    for process, job in zip(processes, jobs, strict=True):
        process.answer(job.warmup)


def measure(
    counts: Counts, processes: Sequence[Child], jobs: Sequence[Job], seconds: float
) -> Measurement:
    """Run a job in each client process at the same time; see `stretch`."""
    prepare(processes, jobs)
    return stretch(counts, processes, seconds)


def stretch(counts: Counts, processes: Sequence[Child], seconds: float) -> Measurement:
    """Put the load of prepared clients on for so long, and count what the servers do meanwhile.

    May be called again. Raises `BenchError` if a client or server fails.
    """
    before = counts()
    begin = time.perf_counter()
    samples = run_all(processes, seconds)
    elapsed = time.perf_counter() - begin
    return combine(samples, before, counts(), elapsed)


def run_all(processes: Sequence[Child], seconds: float) -> list[Outcome]:
    """Put the load of prepared clients on for so long. Raises `BenchError`."""
    for process in processes:
        process.tell(load.put_load, seconds)
    return [process.answer(seconds) for process in processes]


def combine(
    samples: Sequence[Outcome], before: ServerCounts, after: ServerCounts, elapsed: float
) -> Measurement:
    """One measurement of what several clients and servers counted."""
    latencies: array.array[float] = array.array("d")
    counters: Counter[str] = Counter()
    for sample in samples:
        latencies.extend(sample.latencies)
    for server, reply in after.replies.items():
        counters.update(reply.counters)
        counters.subtract(before.replies[server].counters)
    latency, used = latency_of(latencies), [after.cpu[it] - before.cpu[it] for it in after.cpu]
    return Measurement(
        seconds=elapsed,
        operations=sum(sample.operations for sample in samples),
        failed=sum(sample.failed for sample in samples),
        first_error=next((s.first_error for s in samples if s.first_error), ""),
        longest_wait=max(latency.worst or 0.0, *(sample.oldest for sample in samples)),
        rate=sum(s.operations / s.seconds for s in samples if s.seconds > 0),
        latency=latency,
        client_cpu=sum(sample.cpu_seconds for sample in samples),
        server_cpu=sum(used),
        busiest_cpu=max(used),
        counters={name: count for name, count in counters.items() if count},
    )


def jobs_for(
    workload: Workload, addresses: Sequence[str], *, warmup: float, seed: int,
    follow: bool = True, open_load: OpenLoad = open_client_load,
) -> list[Job]:  # fmt: skip
    """A job for each client: all `follow` to the leader, or each stays with one server."""
    return [
        Job(
            workload, list(addresses) if follow else [addresses[number]], follow, warmup,
            _PATIENCE_SECONDS if follow else _DUEL_SECONDS, seed + number, open_load,
        )
        for number in range(workload.clients)
    ]  # fmt: skip


SettingsT = TypeVar("SettingsT", bound=RepeatedSettings)
K = TypeVar("K")


class Lab(ExitStack, Generic[SettingsT]):
    """Processes that are kept for a comparison on fresh clusters; use it in a `with` statement."""

    def __init__(self, settings: SettingsT, progress: Progress) -> None:
        super().__init__()
        self.settings, self.progress = settings, progress
        self.hosts = self.enter_context(Children(SERVER))
        self.clients = self.enter_context(Children(CLIENT))
        self._order = random.Random(settings.seed)

    def cluster(self, servers: int | None = None, **options: Any) -> LabCluster:
        """A cluster as the settings say, with some of them changed; see `LabCluster`."""
        settings = self.settings
        usual = {"durability": settings.durability, "transport": settings.transport}
        return LabCluster(
            options.pop("hosts", self.hosts), servers or settings.servers,
            **{**usual, **settings.options, **options},
        )  # fmt: skip

    def measure(self, cluster: LabCluster, load: Workload, repeat: int, **more: Any) -> Measurement:
        """A load on a cluster that runs; see `measure_on`. Raises `PaxonError`."""
        usual = {"seconds": self.settings.seconds, "warmup": self.settings.warmup}
        seed = self.settings.seed + 1000 * repeat
        return measure_on(cluster, self.clients, load, seed=seed, **{**usual, **more})

    def interleaved(
        self, kinds: Sequence[K], name: Callable[[K], str], one: Callable[[K, int], Measurement]
    ) -> dict[K, list[Measurement]]:
        """Every kind once, in random order, then every kind again: `one` takes kind and repeat."""
        measured: dict[K, list[Measurement]] = {kind: [] for kind in kinds}
        for repeat in range(self.settings.repeat):
            for kind in self._order.sample(kinds, len(kinds)):
                self.progress(name(kind))
                measured[kind].append(one(kind, repeat))
        return measured
