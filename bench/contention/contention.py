"""`paxon bench contention`: what it costs when several servers try to lead, under each policy.

Each proposer has a client of its own, in a process of its own, that talks to no other server; a
proposer that gets a command while it does not lead starts phase 1 for it (`Settings.contend`).
Beside each stands the same load on a cluster with a stable leader, to which all clients go. Every
measurement has a fresh cluster; all variants are measured once before any is measured again.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from rich.table import Table

from paxon.actors import ServerId
from paxon.actors.settings import PolicyName
from paxon.bench.harness.costs import Costs, costs_of
from paxon.bench.harness.load_process import Job, LoadProcesses
from paxon.bench.harness.measure import ClusterWatch, Measurement, measure, proposer_jobs
from paxon.bench.harness.report import (
    Report,
    count,
    milliseconds,
    new_report,
    plain_table,
    ratio,
    small,
)
from paxon.bench.harness.summary import spread_of
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.local_cluster import LocalCluster, Transport
from paxon.kvstore.options import Durability

__all__ = [
    "ContentionSettings",
    "Variant",
    "ContentionRow",
    "ContentionReport",
    "BallotPoint",
    "variants_of",
    "run_contention",
    "contention_table",
]

_GLANCE_SECONDS = 0.02
"""How often ballots are looked at for the timeline."""
_TIMELINE_SECONDS = 2.0


class ContentionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    policies: tuple[PolicyName, ...] = ("immediate", "random", "backoff")
    proposers: tuple[int, ...] = (2, 3)
    servers: int = 3
    outstanding: int = 8
    """Operations that each proposer's client has under way."""
    durability: Durability = "disk"
    transport: Transport = "tcp"
    value_bytes: int = 64
    seconds: float = 3.0
    warmup: float = 0.5
    repeat: int = 3
    seed: int = 1
    timeline: bool = False
    """Record the ballots of a duel too, in extra runs that are not measured."""
    options: dict[str, Any] = {}
    """Of the servers, beside their defaults, such as `backoff_cap`."""


class Variant(msgspec.Struct, frozen=True):
    """One line of the table."""

    policy: PolicyName
    proposers: int
    """How many servers get clients' commands; with `stable`, how many clients the leader has."""

    @property
    def name(self) -> str:
        """For people."""
        plural = "s" if self.proposers > 1 else ""
        if self.policy == "stable":
            return f"stable leader, {self.proposers} client{plural}"
        return f"{self.policy}, {self.proposers} proposer{plural}"


class BallotPoint(msgspec.Struct, frozen=True):
    """What a server said at one moment of a duel."""

    seconds: float
    """Since the timeline began."""
    server: ServerId
    round: int
    """Of the ballot that it has promised …"""
    owner: ServerId
    """… and the server whose ballot that is."""
    role: str


class ContentionRow(Costs, frozen=True, kw_only=True):
    """One variant over all repeats."""

    variant: Variant
    of_stable: float | None
    """The rate as a fraction of the stable leader's with as many clients."""
    timeline: list[BallotPoint]
    repeats: list[Measurement]
    """All that was measured."""


ContentionReport: TypeAlias = Report[ContentionSettings, ContentionRow]

Progress: TypeAlias = Callable[[str], None]


def variants_of(settings: ContentionSettings) -> list[Variant]:
    """All lines: for each number of proposers the stable leader first."""
    found = []
    for proposers in settings.proposers:
        found.append(Variant("stable", proposers))
        found += [Variant(p, proposers) for p in settings.policies if p != "stable"]
    return found


def steps_of(settings: ContentionSettings) -> int:
    """How many times `run_contention` reports progress."""
    variants = variants_of(settings)
    extra = sum(_has_timeline(settings, variant) for variant in variants)
    return settings.repeat * len(variants) + extra


def run_contention(settings: ContentionSettings, progress: Progress) -> ContentionReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    started = datetime.datetime.now(datetime.UTC)
    variants = variants_of(settings)
    measured: dict[Variant, list[Measurement]] = {variant: [] for variant in variants}
    timelines: dict[Variant, list[BallotPoint]] = {}
    order = random.Random(settings.seed)
    with LoadProcesses() as processes:
        for repeat in range(settings.repeat):
            # Each time in another order: what one leaves behind must not always hit the same.
            for variant in order.sample(variants, len(variants)):
                progress(variant.name)
                figures, _ = _measure(settings, variant, processes, repeat, timeline=False)
                measured[variant].append(figures)
        for variant in variants:
            if _has_timeline(settings, variant):
                progress(f"ballots of {variant.name}")
                _, points = _measure(settings, variant, processes, 0, timeline=True)
                timelines[variant] = points
    stable = {
        variant.proposers: spread_of([m.rate for m in measured[variant]]).median
        for variant in variants
        if variant.policy == "stable"
    }
    rows = [
        row_of(settings, v, measured[v], stable.get(v.proposers), timelines.get(v, []))
        for v in variants
    ]
    return new_report("contention", settings, rows, started)


def _has_timeline(settings: ContentionSettings, variant: Variant) -> bool:
    return settings.timeline and variant.proposers == max(settings.proposers)


def _measure(
    settings: ContentionSettings,
    variant: Variant,
    processes: LoadProcesses,
    repeat: int,
    *,
    timeline: bool,
) -> tuple[Measurement, list[BallotPoint]]:
    """One variant on a fresh cluster."""
    points: list[BallotPoint] = []
    seconds = min(settings.seconds, _TIMELINE_SECONDS) if timeline else settings.seconds
    with (
        LocalCluster(
            settings.servers,
            durability=settings.durability,
            transport=settings.transport,
            log_level="ERROR",
            policy=variant.policy,
            contend=variant.policy != "stable",
            **settings.options,
        ) as cluster,
        ClusterWatch(cluster) as watch,
    ):
        cluster.leader()
        jobs = jobs_of(settings, variant, cluster.addresses, repeat)
        taken = processes.take(variant.proposers)
        meanwhile = None
        if timeline:

            def meanwhile() -> None:
                points.extend(record_ballots(watch, seconds))

        return measure(watch, taken, jobs, seconds, meanwhile=meanwhile), points


def jobs_of(
    settings: ContentionSettings, variant: Variant, addresses: Sequence[str], repeat: int
) -> list[Job]:
    """A client for each proposer, which stays with it; under `stable` all follow to the leader."""
    workload = Workload(
        name=variant.name,
        clients=variant.proposers,
        outstanding=settings.outstanding,
        value_bytes=settings.value_bytes,
    )
    return proposer_jobs(
        workload,
        addresses,
        follow=variant.policy == "stable",
        warmup=settings.warmup,
        seed=settings.seed + 1000 * repeat,
    )


def record_ballots(watch: ClusterWatch, seconds: float) -> list[BallotPoint]:
    """Look at each server's ballot again and again."""
    points = []
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < seconds:
        for server, reply in watch.glance(_GLANCE_SECONDS).items():
            moment = time.monotonic() - begin
            points.append(
                BallotPoint(moment, server, reply.ballot.round, reply.ballot.leader, reply.role)
            )
        rest = now + _GLANCE_SECONDS - (time.monotonic() - begin)
        if rest > 0:
            time.sleep(rest)
    return points


def row_of(
    settings: ContentionSettings,
    variant: Variant,
    measured: list[Measurement],
    stable_rate: float | None,
    timeline: list[BallotPoint],
) -> ContentionRow:
    """Medians over the repeats."""
    costs = costs_of(measured, settings.servers)
    return ContentionRow(
        variant=variant,
        of_stable=costs.rate.median / stable_rate if stable_rate else None,
        timeline=timeline,
        repeats=measured,
        **msgspec.structs.asdict(costs),
    )


def contention_table(report: ContentionReport) -> Table:
    """The rows for people."""
    settings = report.settings
    table = plain_table(
        f"contention: {settings.servers} servers, durability {settings.durability}, "
        f"{settings.outstanding} operations outstanding for each proposer, values of "
        f"{settings.value_bytes} bytes; median of {settings.repeat} x {settings.seconds:g} s",
        [
            "who leads", "op/s", "of\nstable", "p50\nms", "p99\nms", "longest\nwait ms",
            "no leader\n%", "phase 1\n/s", "ops\n/slot", "phase 1\n/slot", "preempted\n/slot",
            "wasted\nP2A/slot", "syncs\n/slot", "msgs\n/slot", "failed",
        ],
    )  # fmt: skip
    previous = None
    for row in report.rows:
        if previous is not None and row.variant.proposers != previous:
            table.add_section()
        previous = row.variant.proposers
        table.add_row(
            row.variant.name, count(row.rate), ratio(row.of_stable), milliseconds(row.p50),
            milliseconds(row.p99), f"{row.longest_wait * 1e3:,.0f}",
            f"{row.leaderless.median * 100:.0f}", count(row.phase1_per_second),
            small(row.operations_per_slot),
            small(row.phase1_rounds), small(row.preemptions), small(row.wasted_p2a),
            small(row.syncs), small(row.messages), str(row.failed),
        )  # fmt: skip
    return table
