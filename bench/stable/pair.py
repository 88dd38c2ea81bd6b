"""`paxon bench pair`: the same loads under two settings of the servers, in turns.

Two clusters are up together, and a load is put on the one, then on the other, for half a second
each, again and again: a machine that slows down hits both sides of a pair, so that differences of a
few percent show which no two runs one after the other would show.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeAlias

import msgspec
from rich.table import Table

from paxon.bench.harness.load_process import LoadProcesses
from paxon.bench.harness.measure import ClusterWatch, Measurement, jobs_for, prepare, stretch
from paxon.bench.harness.report import (
    Report,
    count,
    milliseconds,
    new_report,
    plain_table,
    ratios,
    spread_or_none,
)
from paxon.bench.harness.summary import Spread, quotient, spread_of
from paxon.bench.harness.workloads import Workload, stable_workloads
from paxon.kvstore.local_cluster import LocalCluster
from paxon.kvstore.options import Durability

__all__ = ["PairSettings", "PairRow", "PairReport", "run_pair", "pair_table"]


class PairSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    first: dict[str, Any]
    """Options of the servers of the first cluster, beside their defaults."""
    second: dict[str, Any]
    """Those of the second cluster."""
    servers: int = 3
    durability: Durability = "disk"
    value_bytes: int = 64
    seconds: float = 0.5
    """Of a load on a cluster in each turn."""
    warmup: float = 0.5
    turns: int = 20
    seed: int = 1
    quick: bool = False
    """Fewer loads."""


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """One load on both. Each value of a ratio is one pair: the first cluster by the second."""

    workload: Workload
    rates: tuple[Spread, Spread]
    """Operations a second."""
    p50: tuple[Spread | None, Spread | None]
    """Seconds."""
    p99: tuple[Spread | None, Spread | None]
    rate_ratio: Spread | None
    """None if not one pair has two rates."""
    p50_ratio: Spread | None
    p99_ratio: Spread | None
    cpu_ratio: Spread | None
    """Of the servers' CPU for each operation."""
    pairs: list[tuple[Measurement, Measurement]]


PairReport: TypeAlias = Report[PairSettings, PairRow]

Progress: TypeAlias = Callable[[str], None]


def loads_of(settings: PairSettings) -> list[Workload]:
    """Those of `paxon bench stable`."""
    return stable_workloads(value_bytes=settings.value_bytes, quick=settings.quick)


def steps_of(settings: PairSettings) -> int:
    """How many times `run_pair` reports progress."""
    return settings.turns * len(loads_of(settings))


def run_pair(settings: PairSettings, progress: Progress) -> PairReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    started = datetime.datetime.now(datetime.UTC)
    loads = loads_of(settings)
    rows = []
    with ExitStack() as stack:
        sides = []
        for options in (settings.first, settings.second):
            cluster = stack.enter_context(
                LocalCluster(
                    settings.servers,
                    durability=settings.durability,
                    log_level="WARNING",
                    **options,
                )
            )
            cluster.leader()
            processes = stack.enter_context(LoadProcesses())
            sides.append(_Side(cluster, stack.enter_context(ClusterWatch(cluster)), processes))
        for load in loads:
            for side in sides:
                jobs = jobs_for(
                    load, side.cluster.addresses, warmup=settings.warmup, seed=settings.seed
                )
                prepare(side.processes.take(load.clients), jobs)
            pairs = []
            for turn in range(settings.turns):
                progress(load.name)
                first, second = sides if turn % 2 == 0 else reversed(sides)
                figures = [side.measure(load, settings.seconds) for side in (first, second)]
                one, other = figures if turn % 2 == 0 else reversed(figures)
                pairs.append((one, other))
            rows.append(row_of(load, pairs))
    return new_report("pair", settings, rows, started)


class _Side(NamedTuple):
    """A cluster, and the clients that put load on it."""

    cluster: LocalCluster
    watch: ClusterWatch
    processes: LoadProcesses

    def measure(self, load: Workload, seconds: float) -> Measurement:
        return stretch(self.watch, self.processes.take(load.clients), seconds)


def row_of(load: Workload, pairs: list[tuple[Measurement, Measurement]]) -> PairRow:
    """Medians, and ratios of pairs."""
    sides = ([first for first, _ in pairs], [second for _, second in pairs])

    def of_pairs(figure: Callable[[Measurement], float | None]) -> Spread | None:
        return spread_or_none([quotient(figure(first), figure(second)) for first, second in pairs])

    def both(figure: Callable[[Measurement], float | None]) -> tuple[Spread | None, Spread | None]:
        first, second = ([figure(m) for m in side] for side in sides)
        return spread_or_none(first), spread_or_none(second)

    return PairRow(
        workload=load,
        rates=(spread_of([m.rate for m in sides[0]]), spread_of([m.rate for m in sides[1]])),
        p50=both(lambda m: m.latency.p50),
        p99=both(lambda m: m.latency.p99),
        rate_ratio=of_pairs(lambda m: m.rate),
        p50_ratio=of_pairs(lambda m: m.latency.p50),
        p99_ratio=of_pairs(lambda m: m.latency.p99),
        cpu_ratio=of_pairs(lambda m: m.server_cpu / m.operations if m.operations else None),
        pairs=pairs,
    )


def pair_table(report: PairReport) -> Table:
    """The rows for people."""
    settings = report.settings
    table = plain_table(
        f"A: {_named(settings.first)}\nB: {_named(settings.second)}\n"
        f"{settings.servers} servers, durability {settings.durability}, values of "
        f"{settings.value_bytes} bytes; medians of {settings.turns} pairs of "
        f"{settings.seconds:g} s, least … most of the ratios",
        ["load", "A\nop/s", "B\nop/s", "op/s\nA / B", "A p50\nms", "B p50\nms", "p50\nA / B",
         "p99\nA / B", "servers' CPU\nA / B"],
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            row.workload.name, count(row.rates[0]), count(row.rates[1]), ratios(row.rate_ratio),
            milliseconds(row.p50[0]), milliseconds(row.p50[1]), ratios(row.p50_ratio),
            ratios(row.p99_ratio), ratios(row.cpu_ratio),
        )  # fmt: skip
    return table


def _named(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items()) or "defaults"
