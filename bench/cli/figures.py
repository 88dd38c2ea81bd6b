"""`paxon bench figures`: the README's table. Each load beside the floor and beside etcd.

It is three benches in one run: `stable`, `peers` with etcd alone if that is installed, `failover`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paxon.bench.harness.flags import RepeatedSettings, Seconds, Several, Warmup
from paxon.bench.harness.report import Bench, Progress, Report, Section, count
from paxon.bench.harness.summary import Spread
from paxon.bench.peers import run
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.peers.run import GapRow, PeerRow, PeersReport, PeersSettings
from paxon.bench.stable.failover import FailoverSettings, run_failover
from paxon.bench.stable.stable import StableReport, StableRow, StableSettings, run_stable
from paxon.kvstore.cluster.options import Durability

__all__ = ["FIGURES", "FiguresReport", "figures_report", "figures_sections"]

_KILLS = 20
_LOADS = {
    **{load: load for load in (f"writes, {n} outstanding" for n in (1, 64, 256))},
    "writes, pipelined": "writes, pipelined (up to 4,096)",
    **{load: f"linearizable {load}" for load in (f"reads, {n} outstanding" for n in (1, 64))},
    "lease reads, 64 outstanding": "lease reads, 64 outstanding",
}
"""Those that are shown, and how they are called."""


class FiguresSettings(RepeatedSettings, frozen=True, kw_only=True):
    """How long each load is measured."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 0.5, "warmup": 0.2, "repeat": 1}

    servers: Several = 3
    seconds: Seconds = 2.0
    warmup: Warmup = 1.0
    durability: Durability = "disk"
    """Not a flag: all is synced."""

    def parts(self) -> tuple[StableSettings, PeersSettings | None, FailoverSettings]:
        """The settings of the three, which run one after the other; no peers without etcd."""
        names = ("servers", "value_bytes", "seed", "options", "transport")
        shared = {name: getattr(self, name) for name in names}
        times = {name: getattr(self, name) for name in ("seconds", "warmup", "repeat")}
        peers = PeersSettings(only=("etcd",), kills=0 if self.quick else 4, **shared, **times)
        ((_, note),) = run.look_around(peers, Programs(default_directory()))
        return (
            StableSettings(**shared, **times),
            None if note.skipped else peers,
            FailoverSettings(runs=2 if self.quick else _KILLS, **shared),
        )


class FiguresReport(Report[FiguresSettings, StableRow], frozen=True, kw_only=True):
    """A whole run."""

    etcd: dict[str, list[Spread]]
    """By load: Paxon's operations a second by etcd's, on one connection and on one for each."""
    gap: Spread
    """Seconds from kill -9 of the leader to the next acknowledged write."""
    etcd_gap: Spread | None


def run_figures(settings: FiguresSettings, progress: Progress) -> FiguresReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    stable, peers, failover = settings.parts()
    taken = run_stable(stable, progress)
    beside = run.run_peers(peers, progress) if peers else None
    gap = run_failover(failover, progress).rows[0]
    return figures_report(settings, taken, beside, gap)


def figures_report(
    settings: FiguresSettings, stable: StableReport, peers: PeersReport | None, gap: Spread
) -> FiguresReport:
    """The findings of the three in one report."""
    etcd: dict[str, list[Spread]] = {}
    etcd_gap = None
    for row in peers.rows if peers else ():
        if isinstance(row, PeerRow) and row.ratios.rate is not None:
            etcd.setdefault(row.load.name, []).append(row.ratios.rate)
        elif isinstance(row, GapRow):
            etcd_gap = row.other
    return FiguresReport(
        bench="figures", settings=settings, rows=stable.rows, etcd=etcd, gap=gap, etcd_gap=etcd_gap
    )


def _short(number: float) -> str:
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _milliseconds(figure: Spread | None) -> str:
    return "" if figure is None else _short(figure.median * 1e3)


def _times(ratios: Sequence[Spread]) -> str:
    return ", ".join(f"{_short(ratio.median)}x" for ratio in ratios)


def figures_sections(report: FiguresReport) -> list[Section]:
    """One table."""
    settings = report.settings
    title = (
        f"{settings.servers} servers, each write synced by a majority, values of "
        f"{settings.value_bytes} bytes; {settings.times}, ± half the range"
    )
    columns = ["load", "op/s", "p50 ms", "p99 ms", "to the floor", "beside etcd"]
    cells = [
        [
            _LOADS[row.workload.name], count(row.rate), _milliseconds(row.p50),
            _milliseconds(row.p99), "" if row.to_floor is None else f"{_short(row.to_floor)}x",
            _times(report.etcd.get(row.workload.name, ())),
        ]
        for row in report.rows
        if row.workload.name in _LOADS
    ]  # fmt: skip
    gap, other = report.gap, report.etcd_gap
    beside = "" if other is None else f"etcd: {other.median * 1e3:,.0f} ms"
    kills = f"`kill -9` of the leader → next acknowledged write ({len(gap.values)} times)"
    cells.append([kills, "", _milliseconds(gap), f"most {gap.high * 1e3:.0f}", "", beside])
    return [Section(title, columns, cells)]


FIGURES = Bench(
    "figures", "The README's table: what a stable leader does, beside its floor and beside etcd.",
    FiguresSettings, FiguresReport, run_figures, figures_sections,
)  # fmt: skip
