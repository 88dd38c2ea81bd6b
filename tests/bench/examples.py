"""Made-up measurements and reports with figures that are easy to follow."""

from __future__ import annotations

import array
from typing import cast

from paxon.actors import Ballot
from paxon.actors.messages import StatusReply
from paxon.actors.settings import PolicyName
from paxon.bench.contention.compare import (
    SWEEPS,
    CompareReport,
    CompareSettings,
    Duel,
    Reign,
    points_of,
    rows_of,
    sweeps_of,
)
from paxon.bench.harness.lab_network import Event
from paxon.bench.harness.load import Outcome
from paxon.bench.harness.measure import Measurement, ServerCounts
from paxon.bench.harness.summary import latency_of, spread_of
from paxon.bench.harness.workloads import stable_workloads
from paxon.bench.scale.scale import (
    MemoryRow,
    PartName,
    PauseRow,
    ReplayRow,
    ScaleReport,
    ScaleSettings,
    cost_row,
)
from paxon.bench.stable.failover import FailoverReport, FailoverSettings
from paxon.bench.stable.floor import FloorFigures
from paxon.bench.stable.stable import StableReport, StableSettings, row_of

STARTED = "2024-02-29T12:00:00+00:00"


def sample(
    *,
    operations: int = 100,
    seconds: float = 2.0,
    latencies: tuple[float, ...] = (0.001, 0.002, 0.003),
    failed: int = 0,
    oldest: float = 0.0,
) -> Outcome:
    """What one client measured."""
    return Outcome(
        operations=operations,
        failed=failed,
        first_error="it did not work" if failed else "",
        oldest=oldest,
        seconds=seconds,
        cpu_seconds=0.5,
        latencies=array.array("d", latencies),
    )


def counts(cpu: float, **counters: int) -> ServerCounts:
    """Three servers that all counted the same."""
    replies = {
        server: StatusReply(
            id=1, server=server, cluster="c", role="follower", ballot=Ballot(1, 1), leader=1,
            accepted=0, chosen=0, executed=0, discarded=0, snapshot=0, uptime=1.0, disk_bytes=0,
            state_digest="", counters=dict(counters),
        )
        for server in (1, 2, 3)
    }  # fmt: skip
    return ServerCounts(replies, dict.fromkeys(replies, cpu))


def measurement(rate: float = 1000.0, *, operations: int = 2000, **counters: int) -> Measurement:
    """A stretch of 2 seconds."""
    latencies = [0.001] * 98 + [0.004, 0.008] if operations else []
    return Measurement(
        seconds=2.0,
        operations=operations,
        failed=0,
        first_error="",
        longest_wait=0.008,
        rate=rate,
        latency=latency_of(latencies),
        client_cpu=0.2,
        server_cpu=1.0,
        counters=counters,
    )


def stable_report() -> StableReport:
    """Two repeats of the quick workloads, twice as far from the floor as it could be."""
    settings = StableSettings(quick=True, repeat=2)
    floor = FloorFigures(rate=2000.0, latency=latency_of([0.0005]))
    measured = [
        measurement(rate, slots_chosen=1000, syncs=3000, client_messages_received=500)
        for rate in (900.0, 1100.0)
    ]
    rows = [
        row_of(load, measured, [floor, floor], (16, 4))
        for load in stable_workloads(value_bytes=64, quick=True)
    ]
    return StableReport(bench="stable", settings=settings, rows=rows, started=STARTED)


def failover_report() -> FailoverReport:
    """Three kills."""
    rows = [spread_of([0.3, 0.2, 0.4])]
    return FailoverReport(
        bench="failover", settings=FailoverSettings(runs=3), rows=rows, started=STARTED
    )


def compare_report() -> CompareReport:
    """All sweeps in their quick form: stable gives 2,000, backoff half, immediate nothing."""
    settings = CompareSettings(sweep=SWEEPS, quick=True, repeat=2)
    kinds: dict[PolicyName, Measurement] = {
        "stable": measurement(
            2000.0, slots_chosen=500, p2a_sent=1000, syncs=1500, peer_messages_received=2000,
            leading_us=2_000_000,
        ),
        "backoff": measurement(
            1000.0, slots_chosen=500, p2a_sent=1250, phase1_rounds=50, preemptions=40,
            leading_us=1_500_000,
        ),
        "random": measurement(1500.0, slots_chosen=500, p2a_sent=1000, leading_us=1_900_000),
        "immediate": measurement(0.0, operations=0, phase1_rounds=900, preemptions=900),
    }  # fmt: skip
    measured = {point: [kinds[point.policy]] * 2 for point in points_of(sweeps_of(settings))}
    duels = [duel("stable"), duel("immediate")]
    return CompareReport(
        bench="compare", settings=settings, rows=rows_of(measured), started=STARTED, duels=duels
    )


def duel(policy: PolicyName) -> Duel:
    """Two ballots: one in vain, one that proposes three slots."""
    contention = CompareSettings(sweep=("contention",), policies=(policy,))
    point = points_of(sweeps_of(contention))[-1]
    return Duel(
        point=point,
        reigns=[
            Reign(server=1, round=1, asked=0.1, led=None, ended=0.1, slots=0),
            Reign(server=2, round=2, asked=0.2, led=0.25, ended=0.7, slots=3),
        ],
        close_up_from=0.19,
        close_up=[
            Event(0.2, 2, "P1A", 2, 2),
            Event(0.201, 1, "P1B", 2, 2),
            Event(0.202, 1, "rejected", 2, 2),
            Event(0.203, 2, "P2A", 2, 2, 1),
        ],
    )


def scale_report() -> ScaleReport:
    """Two sizes of each part."""
    settings = ScaleSettings(quick=True)
    rows = [
        cost_row(cast("PartName", part), line, x, [measurement(1000.0, snapshots_taken=1)])
        for part, line in (
            ("sessions", "writes"), ("keys", "writes"), ("keys", "linearizable reads"),
            ("log", "writes, a slot each"), ("value", "writes"), ("reads", "lease reads"),
        )
        for x in (1, 1000)
    ]  # fmt: skip
    memory = [
        MemoryRow(keys=1000, value_bytes=64, server=4 << 20, server_peak=6 << 20, bare=2 << 20)
    ]
    replay = [
        ReplayRow(kind="empty", disk_bytes=0, keys=0, slots=0, seconds=spread_of([0.01])),
        ReplayRow(
            kind="log", disk_bytes=64 << 20, keys=65536, slots=128, seconds=spread_of([0.5, 0.5])
        ),
    ]
    pause = [
        PauseRow("before", 64 << 20, 5.0, latency_of([0.001, 0.003]), latency_of([0.002])),
        PauseRow("snapshot", 64 << 20, 10.0, latency_of([0.001, 0.02]), latency_of([0.04])),
    ]
    return ScaleReport(
        bench="scale",
        settings=settings,
        rows=rows,
        started=STARTED,
        memory=memory,
        replay=replay,
        pause=pause,
    )
