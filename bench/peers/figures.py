"""What comes out of measuring Paxon beside others: rows, and ratios of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from paxon.bench.harness.measure import Measurement
from paxon.bench.harness.report import Report, spread_or_none
from paxon.bench.harness.summary import Spread, quotient, spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.stable.failover import Kill

__all__ = [
    "Peer",
    "PeersSettings",
    "PeerNote",
    "Taken",
    "SystemFigures",
    "PairRow",
    "GapRow",
    "PeersReport",
    "pair_row",
    "gap_row",
]

Peer: TypeAlias = Literal["etcd", "redis", "pysyncobj"]


class PeersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    only: tuple[Peer, ...] = ("etcd", "redis", "pysyncobj")
    servers: int = 3
    """Of Paxon, of etcd and of PySyncObj."""
    value_bytes: int = 64
    seconds: float = 3.0
    """Of each measurement."""
    warmup: float = 1.0
    repeat: int = 5
    kills: int = 4
    """Of the leader in each repeat; 0 for none."""
    seed: int = 1
    quick: bool = False
    """Fewer loads."""
    options: dict[str, Any] = {}
    """Of Paxon's servers, beside their defaults."""


class PeerNote(msgspec.Struct, frozen=True, kw_only=True, tag="note"):
    """A peer and how it was treated."""

    peer: str
    version: str
    """Empty if it is not installed."""
    skipped: str = ""
    """Why it was not measured, as a sentence."""
    driven: str = ""
    """Where its load comes from."""
    durability: str = ""
    """What it has on disk when it answers."""
    problems: list[str] = []
    """Measurements that failed; their pairs are left out."""


class Taken(msgspec.Struct, frozen=True):
    """One system under one load, once."""

    measured: Measurement
    idle_cores: float
    """CPU seconds a second that the servers of the *other* systems used meanwhile."""


class SystemFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One system under one load, over all repeats. Latencies are seconds."""

    name: str
    rate: Spread
    """Operations a second."""
    p50: Spread | None
    p99: Spread | None
    server_cpu: Spread | None
    """CPU seconds of all servers for each operation."""
    client_cpu: Spread | None
    """The same of the clients; 0 where the load is made inside a server."""
    disturbance: Spread
    """Cores that the servers of the others, idle at that time, took."""
    failed: int
    first_error: str
    repeats: list[Measurement]


class PairRow(msgspec.Struct, frozen=True, kw_only=True, tag="pair"):
    """Paxon and another under the same load. Each value of a ratio is one interleaved pair."""

    load: Workload
    paxon: SystemFigures
    other: SystemFigures
    rate_ratio: Spread
    """Paxon's operations a second by the other's: above 1 Paxon does more."""
    p50_ratio: Spread | None
    """Paxon's median latency by the other's: below 1 Paxon is quicker."""
    p99_ratio: Spread | None


class GapRow(msgspec.Struct, frozen=True, kw_only=True, tag="gap"):
    """From kill -9 of the leader to the next acknowledged write, seconds; each value is a kill."""

    other_name: str
    paxon: Spread
    other: Spread
    ratio: float
    """Paxon's median by the other's."""


PeersReport: TypeAlias = Report[PeersSettings, PeerNote | PairRow | GapRow]


def pair_row(
    load: Workload, names: tuple[str, str], pairs: Sequence[tuple[Taken, Taken]]
) -> PairRow:
    """Sum up pairs of Paxon's and another's measurement. Raises ValueError for none."""

    def ratios(figure: Callable[[Measurement], float | None]) -> Spread | None:
        return spread_or_none(
            [quotient(figure(ours.measured), figure(theirs.measured)) for ours, theirs in pairs]
        )

    rate_ratio = ratios(lambda measured: measured.rate)
    if rate_ratio is None:
        raise ValueError("no pair has two rates")
    return PairRow(
        load=load,
        paxon=_figures(names[0], [ours for ours, _ in pairs]),
        other=_figures(names[1], [theirs for _, theirs in pairs]),
        rate_ratio=rate_ratio,
        p50_ratio=ratios(lambda measured: measured.latency.p50),
        p99_ratio=ratios(lambda measured: measured.latency.p99),
    )


def gap_row(other_name: str, ours: Sequence[Kill], theirs: Sequence[Kill]) -> GapRow:
    """Sum up kills. Raises ValueError for none."""
    paxon, other = spread_of([kill.gap for kill in ours]), spread_of([kill.gap for kill in theirs])
    return GapRow(
        other_name=other_name, paxon=paxon, other=other, ratio=paxon.median / other.median
    )


def _figures(name: str, taken: Sequence[Taken]) -> SystemFigures:
    measured = [one.measured for one in taken]

    def cpu(which: Callable[[Measurement], float]) -> Spread | None:
        return spread_or_none([which(m) / m.operations for m in measured if m.operations])

    return SystemFigures(
        name=name,
        rate=spread_of([m.rate for m in measured]),
        p50=spread_or_none([m.latency.p50 for m in measured]),
        p99=spread_or_none([m.latency.p99 for m in measured]),
        server_cpu=cpu(lambda m: m.server_cpu),
        client_cpu=cpu(lambda m: m.client_cpu),
        disturbance=spread_of([one.idle_cores for one in taken]),
        failed=sum(m.failed for m in measured),
        first_error=next((m.first_error for m in measured if m.first_error), ""),
        repeats=list(measured),
    )
