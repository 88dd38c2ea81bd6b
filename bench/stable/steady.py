"""`paxon bench steady`: does a leader keep leading while all cores are busy for long?"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeAlias

import msgspec
from rich.table import Table

from paxon.bench.harness.load_process import LoadProcesses
from paxon.bench.harness.measure import ClusterWatch, Measurement, jobs_for, measure
from paxon.bench.harness.report import Report, new_report, plain_table
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.local_cluster import LocalCluster
from paxon.kvstore.options import Durability

__all__ = ["SteadySettings", "SteadyRow", "SteadyReport", "run_steady", "steady_table"]


class SteadySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    servers: int = 3
    durability: Durability = "disk"
    value_bytes: int = 64
    clients: int = 2
    """Processes, each with a pipeline: more than two cores can serve."""
    stretches: int = 10
    seconds: float = 60.0
    """Of each stretch."""
    seed: int = 1
    options: dict[str, Any] = {}


class SteadyRow(msgspec.Struct, frozen=True):
    """One stretch of the load."""

    measured: Measurement
    pre_votes: int
    """Rounds in which a follower asked whether the leader is gone."""
    elections: int
    """Phase-1 rounds begun: each is a false election, for nothing has failed."""

    @property
    def busy(self) -> float:
        """Cores that servers and clients kept busy, on average."""
        return (self.measured.server_cpu + self.measured.client_cpu) / self.measured.seconds


SteadyReport: TypeAlias = Report[SteadySettings, SteadyRow]

Progress: TypeAlias = Callable[[str], None]


def run_steady(settings: SteadySettings, progress: Progress) -> SteadyReport:
    """Saturate a cluster stretch by stretch. Raises `PaxonError`."""
    started = datetime.datetime.now(datetime.UTC)
    load = Workload(
        name="writes, pipelined", outstanding=4096, pipelined=True, clients=settings.clients,
        value_bytes=settings.value_bytes,
    )  # fmt: skip
    rows: list[SteadyRow] = []
    with ExitStack() as stack:
        processes = stack.enter_context(LoadProcesses())
        cluster = stack.enter_context(
            LocalCluster(
                settings.servers,
                durability=settings.durability,
                log_level="WARNING",
                **settings.options,
            )
        )
        watch = stack.enter_context(ClusterWatch(cluster))
        cluster.leader()
        for stretch in range(settings.stretches):
            progress(f"stretch {stretch + 1}")
            jobs = jobs_for(load, cluster.addresses, warmup=0.5, seed=settings.seed + stretch)
            measured = measure(watch, processes.take(load.clients), jobs, settings.seconds)
            counters = measured.counters
            rows.append(SteadyRow(measured, counters["pre_votes"], counters["elections"]))
    return new_report("steady", settings, rows, started)


def steady_table(report: SteadyReport) -> Table:
    """A row for each stretch, and all of them together."""
    settings = report.settings
    table = plain_table(
        f"steady: {settings.servers} servers, durability {settings.durability}, "
        f"{settings.clients} clients with pipelines, values of {settings.value_bytes} bytes",
        ["stretch", "seconds", "op/s", "cores busy", "longest wait ms", "failed", "pre-votes",
         "elections"],
    )  # fmt: skip
    for number, row in enumerate(report.rows, 1):
        m = row.measured
        table.add_row(
            str(number), f"{m.seconds:.1f}", f"{m.rate:,.0f}", f"{row.busy:.2f}",
            f"{m.longest_wait * 1e3:.0f}", str(m.failed), str(row.pre_votes), str(row.elections),
        )  # fmt: skip
    rows = report.rows
    seconds = sum(row.measured.seconds for row in rows)
    table.add_row(
        "all", f"{seconds:.1f}", f"{sum(r.measured.operations for r in rows) / seconds:,.0f}",
        f"{sum(r.busy * r.measured.seconds for r in rows) / seconds:.2f}",
        f"{max(r.measured.longest_wait for r in rows) * 1e3:.0f}",
        str(sum(r.measured.failed for r in rows)), str(sum(r.pre_votes for r in rows)),
        str(sum(r.elections for r in rows)), style="bold",
    )  # fmt: skip
    return table
