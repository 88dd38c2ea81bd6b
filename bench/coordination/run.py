"""`paxon bench coordination`: locks, watches, transactions and leases, beside etcd in one run.

Paxon and etcd are up together and take turns, load for load, as in `paxon bench peers`: a ratio is
that of two neighbouring measurements. Without etcd Paxon's figures stand alone.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
import typer

from paxon.bench.coordination.etcd import open_etcd
from paxon.bench.coordination.loads import open_paxon
from paxon.bench.harness import report as col
from paxon.bench.harness.flags import RepeatedSettings, Seconds, Several, Warmup
from paxon.bench.harness.measure import Ratios, ratios_of
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section
from paxon.bench.harness.summary import spread_or_none
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers import run as peers
from paxon.bench.peers.etcd import Etcd
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.peers.run import PeerNote, PeerRow, PeersSettings, System

__all__ = ["COORDINATION"]

_CONTENDERS = 4
_LEASE, _SHORT_LEASE = 10.0, 2.0
"""Seconds that leases live, and for so long renewals are measured: each is renewed three times."""


class CoordinationSettings(RepeatedSettings, frozen=True, kw_only=True):
    """The settings of a run. `durability` and `options` are of Paxon's servers."""

    QUICK: ClassVar[dict[str, float]] = {
        "seconds": 0.5, "warmup": 0.2, "repeat": 1, "watchers": 100, "idle": 1000, "leases": 500,
    }  # fmt: skip

    servers: Several = 3
    seconds: Seconds = 2.0
    warmup: Warmup = 0.5
    repeat: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 7
    watchers: Annotated[int, typer.Option(min=1, help="Watchers of one key in the fan-out.")] = 1000
    idle: Annotated[int, typer.Option(min=1, help="Watches of keys that nobody writes.")] = 10_000
    leases: Annotated[int, typer.Option(min=1, help="Leases of 10 s that are kept alive.")] = 10_000

    def loads(self) -> list[Workload]:
        """The loads for both, in this order."""
        load = functools.partial(Workload, value_bytes=self.value_bytes)
        handover = f"lock handover ({_CONTENDERS} contenders)"
        fan_out, beside = f"fan-out ({self.watchers:,} watchers)", "writes beside idle watches"
        return [
            load(name=handover, kind="lock", outstanding=_CONTENDERS),
            load(name="watch", kind="watch", watches=1),
            load(name=fan_out, kind="watch", watches=self.watchers),
            load(name="transactions, 64 outstanding", kind="txn", outstanding=64),
            load(name="writes, 64 outstanding", outstanding=64),
            load(name=f"{beside} ({self.idle:,})", outstanding=64, watches=self.idle),
            load(
                name=f"renewals ({self.leases:,} leases)", kind="renew", outstanding=self.leases,
                seconds=_SHORT_LEASE if self.quick else _LEASE,
            ),
        ]  # fmt: skip


CoordinationReport: TypeAlias = Report[CoordinationSettings, PeerNote | PeerRow]


def run_coordination(settings: CoordinationSettings, progress: Progress) -> CoordinationReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started, or Paxon measured."""
    programs = Programs(default_directory())
    ((_, note),) = peers.look_around(
        PeersSettings(only=("etcd",), servers=settings.servers), programs
    )
    loads = settings.loads()
    with ExitStack() as stack:
        systems: list[System] = [
            peers.Paxon(settings.servers, settings.durability, settings.options, open_paxon)
        ]
        stack.callback(systems[0].close)
        if not note.skipped:
            driven = note.driven.partition(", ")[0] + "; locks through its lock service"
            note = msgspec.structs.replace(note, driven=driven)
            systems.append(peers.started(lambda: Etcd(programs, settings.servers, open_etcd)))
            stack.callback(systems[1].close)
        taken = peers.take_turns(systems, loads, settings, note.problems, progress)
    names = (systems[0].name, "etcd")
    rows = [
        peers.peer_row(load, names, ours, taken.get((load.name, "etcd"), {}))
        for load in loads
        if (ours := taken[load.name, names[0]])
    ]
    return CoordinationReport(bench="coordination", settings=settings, rows=[note, *rows])


def _rows(report: CoordinationReport) -> list[PeerRow]:
    return [row for row in report.rows if isinstance(row, PeerRow)]


def _beside_idle(report: CoordinationReport, of: str) -> Ratios:
    """Writes with idle watches by those without."""
    found = {row.load.watches: getattr(row, of) for row in _rows(report) if row.load.kind == "put"}
    if len(found) < 2 or None in found.values():
        return Ratios()
    return ratios_of(list(zip(found[report.settings.idle].repeats, found[0].repeats, strict=False)))


def _side(of: str, name: str) -> list[Column]:
    """The figures of one system."""

    def figure(row: PeerRow, name: str) -> Any:
        return getattr(getattr(row, of), name, None)

    def cores(row: PeerRow) -> str:
        """Of the busiest server."""
        of_each = spread_or_none(m.busiest_cpu / m.seconds for m in figure(row, "repeats") or ())
        return col.shown(of_each, "{:.3f}")

    return [
        Column(f"{name}\n/s", lambda row: col.count(figure(row, "rate"))),
        Column(f"{name}\np50 ms", lambda row: col.milliseconds(figure(row, "p50"))),
        Column(f"{name}\np99 ms", lambda row: col.milliseconds(figure(row, "p99"))),
        Column(f"{name}\ncores", cores),
    ]


_COLUMNS = [
    Column("load", lambda row: row.load.name),
    *_side("paxon", "Paxon"), *_side("other", "etcd"),
    Column("rate\nratio", lambda row: col.ratios(row.ratios.rate)),
    Column("p50\nratio", lambda row: col.ratios(row.ratios.p50)),
    Column("failed", lambda row: str(row.paxon.failed + (row.other.failed if row.other else 0))),
]  # fmt: skip


def coordination_sections(report: CoordinationReport) -> list[Section]:
    """All loads, and what idle watches cost."""
    settings = report.settings
    title = (
        f"coordination: {settings.conditions()}; {settings.times}; ratios are medians of "
        "neighbouring pairs, with the least and the most"
    )
    idle = [
        [name, col.ratios(by.rate), col.ratios(by.cpu)]
        for name, of in (("Paxon", "paxon"), ("etcd", "other"))
        if (by := _beside_idle(report, of)).rate is not None
    ]
    return [
        col.table_of(title, _COLUMNS, _rows(report)),
        Section(
            f"writes beside {settings.idle:,} idle watches, by those without",
            ["", "rate", "CPU for each"], idle,
        ),
    ]  # fmt: skip


def coordination_notes(report: CoordinationReport) -> list[str]:
    """Sentences that a reader needs."""
    operation = (
        "An operation is: a handover, from giving the lock up to the next contender's having it; a "
        "write that its watcher (in the fan-out: each watcher, exactly once) was told of; a "
        "transaction that compares and writes; a write; a renewal. cores: of the busiest server."
    )
    return [operation, *peers.peers_notes(report)]


COORDINATION = Bench(
    "coordination", "Locks, watches, transactions and leases, beside etcd in one run: ratios.",
    CoordinationSettings, CoordinationReport, run_coordination, coordination_sections,
    notes=coordination_notes,
)  # fmt: skip
