"""`paxon bench compare`: a stable leader against contention, in one run on one machine.

Every measurement has a fresh cluster (bench/harness/lab.py). All points are measured once, in
random order, before any is measured again: a machine that slows down meanwhile hits all alike.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from paxon.bench.contention.compare import CompareSettings, Point, Sweep, points_of, sweeps_of
from paxon.bench.contention.duels import Duel, duel_of
from paxon.bench.harness.costs import Costs, costs_of
from paxon.bench.harness.lab import LabCluster, ServerHosts
from paxon.bench.harness.load_process import LoadProcesses
from paxon.bench.harness.machine import describe_machine
from paxon.bench.harness.measure import ClusterWatch, Measurement, measure, proposer_jobs
from paxon.bench.harness.report import Report

__all__ = ["PointRow", "CompareReport", "Progress", "steps_of", "run_compare", "rows_of"]

_DUEL_SECONDS = 1.0

Progress: TypeAlias = Callable[[str], None]
"""Called before each step of a run, with what it is."""


class PointRow(Costs, frozen=True, kw_only=True):
    """One point over all repeats."""

    point: Point
    of_stable: float | None
    """The rate as a fraction of the stable leader's under the same load; None if not measured."""
    repeats: list[Measurement]
    """All that was measured."""


class CompareReport(Report[CompareSettings, PointRow], frozen=True, kw_only=True):
    """A whole run."""

    sweeps: list[Sweep]
    """Which rows belong together."""
    duels: list[Duel]

    @property
    def by_point(self) -> dict[Point, PointRow]:
        """The rows by what they are of."""
        return {row.point: row for row in self.rows}


def steps_of(settings: CompareSettings) -> int:
    """How many times `run_compare` reports progress."""
    return settings.repeat * len(points_of(sweeps_of(settings))) + len(_duels(settings))


def run_compare(settings: CompareSettings, progress: Progress) -> CompareReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    started = datetime.datetime.now(datetime.UTC)
    sweeps = sweeps_of(settings)
    points = points_of(sweeps)
    measured: dict[Point, list[Measurement]] = {point: [] for point in points}
    order = random.Random(settings.seed)
    with LoadProcesses() as processes, ServerHosts() as hosts:
        for repeat in range(settings.repeat):
            for point in order.sample(points, len(points)):
                progress(point.name)
                measured[point].append(_measure(settings, point, hosts, processes, repeat))
        duels = []
        for point in _duels(settings):
            progress(f"messages of {point.name}")
            duels.append(_record(settings, point, hosts, processes))
    return CompareReport(
        bench="compare",
        started=started.isoformat(timespec="seconds"),
        machine=describe_machine(),
        settings=settings,
        rows=rows_of(measured),
        sweeps=sweeps,
        duels=duels,
    )


def rows_of(measured: Mapping[Point, list[Measurement]]) -> list[PointRow]:
    """A row for each point, beside its stable leader if that was measured too."""
    costs = {point: costs_of(repeats, point.servers) for point, repeats in measured.items()}
    rows = []
    for point, repeats in measured.items():
        stable = costs.get(point.with_stable_leader())
        ratio = None
        if stable is not None and stable.rate.median > 0:
            ratio = costs[point].rate.median / stable.rate.median
        rows.append(
            PointRow(
                point=point, of_stable=ratio, repeats=[m.slim() for m in repeats],
                **msgspec.structs.asdict(costs[point]),
            )
        )  # fmt: skip
    return rows


def _cluster(
    settings: CompareSettings, point: Point, hosts: ServerHosts, trace: bool
) -> LabCluster:
    return LabCluster(
        hosts,
        point.servers,
        durability=settings.durability,
        transport=settings.transport,
        round_trip=point.round_trip,
        trace=trace,
        **{**settings.options, **point.options},
    )


def _measure(
    settings: CompareSettings,
    point: Point,
    hosts: ServerHosts,
    processes: LoadProcesses,
    repeat: int,
) -> Measurement:
    with (
        _cluster(settings, point, hosts, trace=False) as cluster,
        ClusterWatch(cluster) as watch,
    ):
        cluster.leader()
        workload = point.workload
        jobs = proposer_jobs(
            workload, cluster.addresses, follow=point.policy == "stable",
            warmup=settings.warmup, seed=settings.seed + 1000 * repeat,
        )  # fmt: skip
        return measure(watch, processes.take(workload.clients), jobs, settings.seconds)


def _duels(settings: CompareSettings) -> list[Point]:
    """For each policy a duel of three servers."""
    if not settings.duels:
        return []
    only = msgspec.structs.replace(settings, sweeps=("proposers",), quick=True)
    return [line.points[-1][1] for sweep in sweeps_of(only) for line in sweep.lines]


def _record(
    settings: CompareSettings, point: Point, hosts: ServerHosts, processes: LoadProcesses
) -> Duel:
    """The messages of a duel, from its clients' first operations on."""
    cluster = _cluster(settings, point, hosts, trace=True).start()
    try:
        cluster.leader()
        jobs = proposer_jobs(
            point.workload, cluster.addresses, follow=point.policy == "stable",
            warmup=0.0, seed=settings.seed,
        )  # fmt: skip
        taken = processes.take(point.proposers)
        for process, job in zip(taken, jobs, strict=True):
            process.prepare(job)
        for process in taken:
            process.wait_ready(0.0)
        begin = time.monotonic()
        for process in taken:
            process.go(_DUEL_SECONDS)
        for process in taken:
            process.result(_DUEL_SECONDS)
    finally:
        events = cluster.stop()
    return duel_of(
        events, policy=point.policy, proposers=point.proposers, servers=point.servers,
        begin=begin, seconds=_DUEL_SECONDS,
    )  # fmt: skip
