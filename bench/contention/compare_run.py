"""`paxon bench compare`: a stable leader against contention, in one run on one machine.

Every measurement has a fresh cluster (bench/harness/lab.py). All points are measured once, in
random order, before any is measured again: a machine that slows down meanwhile hits all alike.

`paxon bench contention` is the same with one sweep, measured for longer.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import random
import time

import msgspec

from paxon.bench.contention.compare import (
    CompareSettings,
    ContentionSettings,
    Point,
    Sweep,
    points_of,
    sweeps_of,
)
from paxon.bench.contention.compare_plots import compare_plots
from paxon.bench.contention.rows import CompareReport, Duel, duel_of, rows_of
from paxon.bench.harness import report as col
from paxon.bench.harness.child import Children
from paxon.bench.harness.lab import SERVER, LabCluster
from paxon.bench.harness.load_process import CLIENT
from paxon.bench.harness.measure import (
    Measurement,
    counts_of,
    jobs_for,
    measure,
    prepare,
    run_all,
)
from paxon.bench.harness.report import Bench, Column, Progress, Section, new_report, ratio, small

__all__ = ["COMPARE", "CONTENTION", "compare_sections"]

_DUEL_SECONDS = 1.0


def run_compare(settings: CompareSettings, progress: Progress) -> CompareReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    started = datetime.datetime.now(datetime.UTC)
    points = points_of(sweeps_of(settings))
    measured: dict[Point, list[Measurement]] = {point: [] for point in points}
    order = random.Random(settings.seed)
    with Children(CLIENT) as processes, Children(SERVER) as hosts:
        for repeat in range(settings.repeat):
            for point in order.sample(points, len(points)):
                progress(point.name)
                measured[point].append(_measure(settings, point, hosts, processes, repeat))
        duels = []
        for point in _duels(settings):
            progress(f"messages of {point.name}")
            duels.append(_record(settings, point, hosts, processes))
    name = "contention" if isinstance(settings, ContentionSettings) else "compare"
    rows = rows_of(measured)
    return new_report(CompareReport, name, settings, rows, started, duels=duels)


def _cluster(settings: CompareSettings, point: Point, hosts: Children, trace: bool) -> LabCluster:
    return LabCluster(
        hosts, point.servers, durability=settings.durability, transport=settings.transport,
        round_trip=point.round_trip, trace=trace, **{**settings.options, **point.options},
    )  # fmt: skip


def _measure(
    settings: CompareSettings, point: Point, hosts: Children, processes: Children, repeat: int
) -> Measurement:
    with _cluster(settings, point, hosts, trace=False) as cluster:
        cluster.leader()
        jobs = jobs_for(
            point.workload, cluster.addresses, follow=point.policy == "stable",
            warmup=settings.warmup, seed=settings.seed + 1000 * repeat,
        )  # fmt: skip
        counts = functools.partial(counts_of, cluster)
        return measure(counts, processes.take(point.proposers), jobs, settings.seconds)


def _duels(settings: CompareSettings) -> list[Point]:
    """For each policy a duel of three servers."""
    if not settings.duels:
        return []
    only = msgspec.structs.replace(settings, sweep=("contention",), quick=True)
    return [line.points[-1][1] for sweep in sweeps_of(only) for line in sweep.lines]


def _record(settings: CompareSettings, point: Point, hosts: Children, processes: Children) -> Duel:
    """The messages of a duel, from its clients' first operations on."""
    cluster = _cluster(settings, point, hosts, trace=True).start()
    try:
        cluster.leader()
        jobs = jobs_for(
            point.workload, cluster.addresses, follow=point.policy == "stable",
            warmup=0.0, seed=settings.seed,
        )  # fmt: skip
        taken = processes.take(point.proposers)
        prepare(taken, jobs)
        begin = time.monotonic()
        run_all(taken, _DUEL_SECONDS)
    finally:
        events = cluster.stop()
    return duel_of(
        events, policy=point.policy, proposers=point.proposers, servers=point.servers,
        begin=begin, seconds=_DUEL_SECONDS,
    )  # fmt: skip


# --- tables --------------------------------------------------------------------------------------


def _operations_per_slot(measured: Measurement) -> float | None:
    slots = measured.counters.get("slots_chosen", 0)
    return measured.operations / slots if slots else None


_OF_STABLE = Column("of\nstable", lambda row: ratio(row.of_stable))
_NO_LEADER = Column("no leader\n%", lambda row: f"{row.leaderless.median * 100:.0f}")
_FEW_COLUMNS = [
    col.RATE, _OF_STABLE, col.per_second("phase1_rounds", "phase-1\nrounds"),
    col.per_second("preemptions", "preemptions"), _NO_LEADER, col.P50, col.P99,
    col.LONGEST_WAIT, col.FAILED,
]  # fmt: skip
_COLUMNS = [
    col.RATE, _OF_STABLE, col.P50, col.P99, col.P999, col.LONGEST_WAIT, _NO_LEADER,
    col.per_second("phase1_rounds", "phase 1"),
    Column("ops\n/slot", lambda row: small(row.over(_operations_per_slot))),
    col.per_slot("phase1_rounds", "phase 1"), col.per_slot("preemptions", "preempted"),
    Column("wasted\nP2A/slot", lambda row: small(row.wasted_p2a)),
    col.per_slot("syncs", "syncs"), col.per_slot("peer_messages_received", "msgs"), col.FAILED,
]  # fmt: skip


def _conditions(settings: CompareSettings) -> str:
    return (
        f"{settings.servers} servers, durability {settings.durability}, {settings.proposers} "
        f"proposers with {settings.outstanding} operations under way each, values of "
        f"{settings.value_bytes} bytes, where not swept over; median of {settings.repeat} x "
        f"{settings.seconds:g} s, ± half the range"
    )


def compare_sections(report: CompareReport) -> list[Section]:
    """A table for each sweep: on a page the first one open, the others folded up."""
    return [
        _section(report, sweep, f"{_conditions(report.settings)}\n\n" if number == 0 else "")
        for number, sweep in enumerate(report.sweeps)
    ]


def _section(report: CompareReport, sweep: Sweep, head: str) -> Section:
    columns = _FEW_COLUMNS if sweep.name == "contention" else _COLUMNS
    points = [(line.label, value, point) for line in sweep.lines for value, point in line.points]
    table = col.table_of(
        head + sweep.plan.title, columns, [report.by_point[p] for _, _, p in points]
    )
    cells = [
        [label, f"{value * sweep.plan.scale:,.12g}", *row]
        for (label, value, _), row in zip(points, table.rows, strict=True)
    ]
    x_label = sweep.plan.x_label.replace(", ", ",\n").replace(" (", "\n(")
    blocks = list(itertools.accumulate(len(line.points) for line in sweep.lines))
    heads = ["who leads", x_label, *table.columns]
    return Section(table.title, heads, cells, folded=not head, blocks=blocks)


COMPARE = Bench(
    name="compare",
    help="A stable leader against contention, in one run: what policies give, and what it costs.",
    settings=CompareSettings,
    report=CompareReport,
    run=run_compare,
    sections=compare_sections,
    plots=compare_plots,
)
CONTENTION = COMPARE._replace(
    name="contention",
    help="Several servers try to lead, beside a stable leader: `compare --sweep contention`.",
    settings=ContentionSettings,
)
