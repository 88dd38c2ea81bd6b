"""`paxon bench stable`: one leader, phase 2 only, beside the floor.

All workloads run on one cluster, one after the other, and all of that is repeated: a machine that
slows down during the run hits all of them alike.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import msgspec
from rich.table import Table

from paxon.bench.harness.load_process import LoadProcesses
from paxon.bench.harness.measure import ClusterWatch, Measurement, jobs_for, measure
from paxon.bench.harness.report import (
    Report,
    count,
    microseconds,
    milliseconds,
    new_report,
    plain_table,
    ratio,
    small,
    spread_or_none,
)
from paxon.bench.harness.summary import Spread, spread_of
from paxon.bench.harness.workloads import Workload, stable_workloads
from paxon.bench.stable.floor import Floor, FloorFigures
from paxon.kvstore.local_cluster import LocalCluster, Transport
from paxon.kvstore.options import Durability

__all__ = ["StableSettings", "StableRow", "StableReport", "FloorRow", "run_stable", "stable_table"]

_PATIENCE_SECONDS = 30.0
"""A cluster that does not serve by then, thawed again, counts as broken."""


class StableSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    servers: int = 3
    durability: Durability = "disk"
    transport: Transport = "tcp"
    value_bytes: int = 64
    seconds: float = 5.0
    """Of each workload in each repeat."""
    warmup: float = 1.0
    repeat: int = 3
    seed: int = 1
    quick: bool = False
    """Fewer workloads."""
    floor: bool = True
    """Whether the floor is measured too."""
    options: dict[str, Any] = {}
    """Of the servers, beside their defaults."""


class FloorRow(msgspec.Struct, frozen=True):
    """What raw sockets and disks reach with the same messages, and how far off Paxon is."""

    frames: int
    """Under way at any time, as many as Paxon's client had."""
    operations: int
    """In each frame, as many as in Paxon's requests."""
    rate: Spread
    p50: Spread
    cpu: Spread
    """CPU seconds of all processes for each operation."""
    rate_ratio: float
    """The floor's rate by Paxon's: how many times slower Paxon is."""
    latency_ratio: float
    """Paxon's p50 by the floor's."""


class StableRow(msgspec.Struct, frozen=True, kw_only=True):
    """One workload over all repeats. Latencies are seconds, CPU is seconds for each operation."""

    workload: Workload
    rate: Spread
    """Operations a second."""
    p50: Spread | None
    p99: Spread | None
    p999: Spread | None
    failed: int
    first_error: str
    slots_per_operation: Spread | None
    syncs_per_operation: Spread | None
    """Of all servers together."""
    messages_per_operation: Spread | None
    """Between servers."""
    operations_per_request: Spread | None
    """How many operations the client packs into a message."""
    server_cpu: Spread | None
    """Of all servers together."""
    client_cpu: Spread | None
    floor: FloorRow | None
    repeats: list[Measurement]
    """All that was measured."""


StableReport: TypeAlias = Report[StableSettings, StableRow]

Progress: TypeAlias = Callable[[str], None]
"""Called before each step of a run, with what it is."""


class _Run:
    """What has been measured so far, by workload."""

    def __init__(self, workloads: list[Workload]) -> None:
        self.workloads = workloads
        self.measured: dict[str, list[Measurement]] = {load.name: [] for load in workloads}
        self.floors: dict[str, list[FloorFigures]] = {load.name: [] for load in workloads}
        self.shapes: dict[str, tuple[int, int]] = {}
        """Frames under way and operations in each, as the first repeat had them."""

    def rows(self) -> list[StableRow]:
        return [
            row_of(
                load, self.measured[load.name], self.floors[load.name],
                self.shapes.get(load.name, (1, 1)),
            )
            for load in self.workloads
        ]  # fmt: skip


def steps_of(settings: StableSettings) -> int:
    """How many times `run_stable` reports progress."""
    loads = stable_workloads(value_bytes=settings.value_bytes, quick=settings.quick)
    return settings.repeat * (len(loads) + sum(_has_floor(load, settings) for load in loads))


def run_stable(settings: StableSettings, progress: Progress) -> StableReport:
    """Run it all. Raises `PaxonError` if the cluster cannot be started or loaded.

    The servers' data, and that of the floor, go to temporary directories (TMPDIR says where).
    """
    started = datetime.datetime.now(datetime.UTC)
    loads = stable_workloads(value_bytes=settings.value_bytes, quick=settings.quick)
    run = _Run(loads)
    with ExitStack() as stack:
        processes = stack.enter_context(LoadProcesses())
        cluster = stack.enter_context(
            LocalCluster(
                settings.servers,
                durability=settings.durability,
                transport=settings.transport,
                log_level="WARNING",
                **settings.options,
            )
        )
        watch = stack.enter_context(ClusterWatch(cluster))
        durable = settings.durability == "disk"
        floors = {
            kind: stack.enter_context(Floor(settings.servers, durable=durable and kind == "put"))
            for kind in (("put", "get") if settings.floor else ())
        }
        cluster.leader()
        for repeat in range(settings.repeat):
            for load in loads:
                progress(load.name)
                jobs = jobs_for(
                    load, cluster.addresses, warmup=settings.warmup,
                    seed=settings.seed + 1000 * repeat,
                )  # fmt: skip
                taken = processes.take(load.clients)
                measured = measure(watch, taken, jobs, settings.seconds)
                run.measured[load.name].append(measured)
                if not _has_floor(load, settings):
                    continue
                progress(f"floor of {load.name}")
                frames, operations = run.shapes.setdefault(load.name, _shape(load, measured))
                with _frozen(cluster):
                    figures = floors[load.kind].run(
                        frames=frames,
                        operations=operations,
                        value_bytes=load.value_bytes,
                        seconds=settings.seconds,
                        warmup=settings.warmup / 2,
                    )
                run.floors[load.name].append(figures)
    return new_report("stable", settings, run.rows(), started)


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


def _has_floor(load: Workload, settings: StableSettings) -> bool:
    """A lease read has none: it takes no messages between servers and no sync."""
    return settings.floor and load.mode == "linearizable"


def operations_per_request(measured: Measurement) -> float | None:
    """How many operations a client's message carried, by the servers' own counters."""
    requests = measured.counters.get("client_messages_received", 0)
    return measured.operations / requests if requests and measured.operations else None


def _shape(load: Workload, measured: Measurement) -> tuple[int, int]:
    """The floor's frames under way, and operations in each, that match what was measured."""
    packed = operations_per_request(measured) or 1.0
    operations = max(1, round(packed))
    return max(1, round(load.in_flight / operations)), operations


def row_of(
    load: Workload,
    measured: list[Measurement],
    floors: list[FloorFigures],
    shape: tuple[int, int],
) -> StableRow:
    """Medians over the repeats."""
    rate = spread_of([m.rate for m in measured])
    p50 = spread_or_none([m.latency.p50 for m in measured])

    def each(counter: str) -> Spread | None:
        return spread_or_none([m.per_operation(counter) for m in measured])

    def cpu(which: Callable[[Measurement], float]) -> Spread | None:
        return spread_or_none([which(m) / m.operations for m in measured if m.operations])

    return StableRow(
        workload=load,
        rate=rate,
        p50=p50,
        p99=spread_or_none([m.latency.p99 for m in measured]),
        p999=spread_or_none([m.latency.p999 for m in measured]),
        failed=sum(m.failed for m in measured),
        first_error=next((m.first_error for m in measured if m.first_error), ""),
        slots_per_operation=each("slots_chosen"),
        syncs_per_operation=each("syncs"),
        messages_per_operation=each("peer_messages_received"),
        operations_per_request=spread_or_none([operations_per_request(m) for m in measured]),
        server_cpu=cpu(lambda m: m.server_cpu),
        client_cpu=cpu(lambda m: m.client_cpu),
        floor=_floor_row(floors, shape, rate, p50),
        repeats=measured,
    )


def _floor_row(
    floors: list[FloorFigures], shape: tuple[int, int], rate: Spread, p50: Spread | None
) -> FloorRow | None:
    floor_p50 = spread_or_none([figures.latency.p50 for figures in floors])
    if floor_p50 is None or p50 is None:
        return None
    floor_rate = spread_of([figures.rate for figures in floors])
    return FloorRow(
        frames=shape[0],
        operations=shape[1],
        rate=floor_rate,
        p50=floor_p50,
        cpu=spread_of([figures.cpu_per_operation for figures in floors]),
        rate_ratio=floor_rate.median / rate.median,
        latency_ratio=p50.median / floor_p50.median,
    )


def stable_table(report: StableReport) -> Table:
    """The rows for people. The ratio is of p50 for one operation at a time, else of rates."""
    settings = report.settings
    table = plain_table(
        f"stable leader: {settings.servers} servers, durability {settings.durability}, "
        f"{settings.transport}, values of {settings.value_bytes} bytes; median of "
        f"{settings.repeat} x {settings.seconds:g} s",
        [
            "load", "op/s", "p50\nms", "p99\nms", "p99.9\nms", "slots\n/op", "syncs\n/op",
            "msgs\n/op", "servers\nµs/op", "clients\nµs/op", "floor\nop/s", "floor\np50 ms",
            "to\nfloor",
        ],
    )  # fmt: skip
    for row in report.rows:
        floor = row.floor
        single = row.workload.in_flight == 1
        table.add_row(
            row.workload.name + (f" ({row.failed} failed)" if row.failed else ""),
            count(row.rate), milliseconds(row.p50), milliseconds(row.p99), milliseconds(row.p999),
            small(row.slots_per_operation), small(row.syncs_per_operation),
            small(row.messages_per_operation), microseconds(row.server_cpu),
            microseconds(row.client_cpu),
            count(floor.rate if floor else None), milliseconds(floor.p50 if floor else None),
            ratio((floor.latency_ratio if single else floor.rate_ratio) if floor else None),
        )  # fmt: skip
    return table
