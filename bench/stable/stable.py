"""`paxon bench stable`: one leader, phase 2 only, beside the floor.

All workloads run on one cluster, one after the other, and all of that is repeated: a machine that
slows down during the run hits all of them alike. With `--minutes` it is one load that keeps all
cores busy for so long: does the leader keep leading?
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Annotated, ClassVar, TypeAlias

import msgspec
import typer

from paxon.bench.harness import report as col
from paxon.bench.harness.child import Children
from paxon.bench.harness.flags import RepeatedSettings, Seconds, Warmup
from paxon.bench.harness.load import CLIENT
from paxon.bench.harness.measure import Figures, Measurement, figures_of, measure_on
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section
from paxon.bench.harness.summary import Spread, spread_of, spread_or_none
from paxon.bench.harness.workloads import Workload, stable_workloads
from paxon.bench.stable.floor import Floor, FloorFigures
from paxon.kvstore.cluster.local_cluster import LocalCluster

__all__ = ["STABLE", "StableSettings", "StableRow", "StableReport"]

_PATIENCE_SECONDS = 30.0
"""A cluster that does not serve by then, thawed again, counts as broken."""
_STRETCHES = 10
"""Of a long run."""


class StableSettings(RepeatedSettings, frozen=True, kw_only=True):
    """The settings of a run."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 1.0, "warmup": 0.5, "repeat": 2}

    seconds: Seconds = 5.0
    """Of each workload in each repeat."""
    warmup: Warmup = 1.0
    minutes: Annotated[
        float, typer.Option(min=0.0, help="Keep all cores busy with one load for so long instead.")
    ] = 0.0
    """0 for the ordinary run."""
    floor: Annotated[
        bool, typer.Option("--floor/--no-floor", help="Measure the floor beside each load.")
    ] = True

    def loads(self) -> list[Workload]:
        """The loads that are put on the cluster."""
        if not self.minutes:
            return stable_workloads(value_bytes=self.value_bytes, quick=self.quick)
        full = stable_workloads(value_bytes=self.value_bytes)
        return [load for load in full if load.clients > 1]  # more than two cores can serve

    def rounds(self) -> tuple[int, float]:
        """How often each load is measured, and for how many seconds."""
        if self.minutes:
            return _STRETCHES, self.minutes * 60 / _STRETCHES
        return self.repeat, self.seconds

    def has_floor(self, load: Workload) -> bool:
        """Lease reads have none: they take no messages between servers."""
        return self.floor and not self.minutes and load.mode == "linearizable"


class FloorRow(msgspec.Struct, frozen=True):
    """The results of raw sockets and disks with the same messages, and Paxon's distance."""

    frames: int
    """Under way at any time, as many as Paxon's client had."""
    operations: int
    """In each frame, as many as in Paxon's requests."""
    rate: Spread
    p50: Spread
    rate_ratio: float
    """The floor's rate by Paxon's: how many times slower Paxon is."""
    latency_ratio: float
    """Paxon's p50 by the floor's."""


class StableRow(Figures, frozen=True, kw_only=True):
    """One workload over all repeats."""

    workload: Workload
    floor: FloorRow | None

    @property
    def cores_busy(self) -> Spread:
        """Cores that servers and clients kept busy, on average."""
        return spread_of([(m.server_cpu + m.client_cpu) / m.seconds for m in self.repeats])

    @property
    def to_floor(self) -> float | None:
        """How many times slower: by p50 for one operation at a time, else by rates."""
        if self.floor is None:
            return None
        single = self.workload.in_flight == 1
        return self.floor.latency_ratio if single else self.floor.rate_ratio


StableReport: TypeAlias = Report[StableSettings, StableRow]


def run_stable(settings: StableSettings, progress: Progress) -> StableReport:
    """Run it all. Raises `PaxonError` if the cluster cannot be started or loaded.

    The servers' data, and that of the floor, go to temporary directories (TMPDIR says where).
    """
    loads = settings.loads()
    measured: dict[str, list[Measurement]] = {load.name: [] for load in loads}
    floors: dict[str, list[FloorFigures]] = {load.name: [] for load in loads}
    shapes: dict[str, tuple[int, int]] = {}
    """Of the floor: frames under way and operations in each, as the first repeat had them."""
    rounds, seconds = settings.rounds()
    with ExitStack() as stack:
        processes = stack.enter_context(Children(CLIENT))
        cluster = stack.enter_context(settings.cluster())
        if any(map(settings.has_floor, loads)):
            floor = stack.enter_context(closing(Floor(settings.servers)))
        cluster.leader()
        for repeat in range(rounds):
            for load in loads:
                progress(load.name)
                found = measure_on(
                    cluster, processes, load, seconds=seconds, warmup=settings.warmup,
                    seed=settings.seed + 1000 * repeat,
                )  # fmt: skip
                measured[load.name].append(found)
                if not settings.has_floor(load):
                    continue
                progress(f"floor of {load.name}")
                shape = shapes.setdefault(load.name, _shape(load, found))
                with _frozen(cluster):
                    figures = floor.run(
                        *shape, durable=settings.durability == "disk" and load.kind == "put",
                        value_bytes=load.value_bytes, seconds=seconds, warmup=settings.warmup / 2,
                    )  # fmt: skip
                floors[load.name].append(figures)
    rows = [
        row_of(load, measured[load.name], floors[load.name], shapes.get(load.name, (1, 1)))
        for load in loads
    ]
    return StableReport(bench="stable", settings=settings, rows=rows)


@contextmanager
def _frozen(cluster: LocalCluster) -> Iterator[None]:
    """All servers stopped, and led again afterwards: idle ones tidy their disks, which is felt."""
    for server in cluster.servers:
        cluster.pause(server)
    try:
        yield
    finally:
        for server in cluster.servers:
            cluster.resume(server)
    with cluster.client(timeout=_PATIENCE_SECONDS) as client:
        client.get("is anybody there?")


def operations_per_request(measured: Measurement) -> float | None:
    """How many operations a client's message carried, by the servers' own counters."""
    requests = measured.counters.get("client_messages_received", 0)
    return measured.operations / requests if requests and measured.operations else None


def _shape(load: Workload, measured: Measurement) -> tuple[int, int]:
    """The floor's frames under way, and operations in each, that match what was measured."""
    operations = max(1, round(operations_per_request(measured) or 1.0))
    return max(1, round(load.in_flight / operations)), operations


def row_of(
    load: Workload, measured: list[Measurement], floors: list[FloorFigures], shape: tuple[int, int]
) -> StableRow:
    """Medians over the repeats."""
    row = StableRow(workload=load, floor=None, **figures_of(measured))
    floor_p50 = spread_or_none(figures.latency.p50 for figures in floors)
    if floor_p50 is None or row.p50 is None:
        return row
    floor_rate = spread_of([figures.rate for figures in floors])
    floor = FloorRow(
        *shape, floor_rate, floor_p50, rate_ratio=floor_rate.median / row.rate.median,
        latency_ratio=row.p50.median / floor_p50.median,
    )  # fmt: skip
    return msgspec.structs.replace(row, floor=floor)


_COLUMNS = [
    Column("load", lambda row: row.workload.name + (f" ({row.failed} failed)" * (row.failed > 0))),
    col.RATE, col.P50, col.P99, col.P999, col.LONGEST_WAIT,
    col.per_operation("slots_chosen", "slots"),
    col.per_operation("syncs", "syncs"),
    col.per_operation("peer_messages_received", "msgs"),
    col.SERVER_CPU, col.CLIENT_CPU,
    Column("cores\nbusy", lambda row: col.small(row.cores_busy)),
    Column("pre-\nvotes", lambda row: str(row.total("pre_votes"))),
    Column("elec-\ntions", lambda row: str(row.total("elections"))),
    Column("floor\nop/s", lambda row: col.count(row.floor.rate if row.floor else None)),
    Column("floor\np50 ms", lambda row: col.milliseconds(row.floor.p50 if row.floor else None)),
    Column("to\nfloor", lambda row: col.ratio(row.to_floor)),
]  # fmt: skip


def stable_sections(report: StableReport) -> list[Section]:
    """The rows for people."""
    settings = report.settings
    repeat, seconds = settings.rounds()
    conditions = settings.conditions(settings.transport)
    title = f"stable leader: {conditions}; median of {repeat} x {seconds:g} s"
    return [col.table_of(title, _COLUMNS, report.rows)]


STABLE = Bench(
    "stable", "One leader: throughput, latency and cost of an operation, beside the floor.",
    StableSettings, StableReport, run_stable, stable_sections,
)  # fmt: skip
