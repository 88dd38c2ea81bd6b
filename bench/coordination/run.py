"""`paxon bench coordination`: locks, watches, transactions and leases, beside etcd in one run.

Paxon and etcd are up together and take turns, load for load, as in `paxon bench peers`: a ratio is
that of two neighbouring measurements. Without etcd Paxon's figures stand alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, ClassVar, TypeAlias

import msgspec
import typer

from paxon.bench.coordination.etcd import open_etcd
from paxon.bench.coordination.loads import open_paxon
from paxon.bench.harness import report as col
from paxon.bench.harness.flags import RepeatedSettings, Seconds, Several, Warmup
from paxon.bench.harness.measure import Ratios, ratios_of
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section
from paxon.bench.harness.summary import spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.etcd import Etcd
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.peers.run import (
    Paxon,
    PeerNote,
    PeerRow,
    PeersSettings,
    System,
    SystemFigures,
    look_around,
    peer_row,
    peers_notes,
    started,
    take_turns,
)

__all__ = ["COORDINATION", "CoordinationReport", "CoordinationSettings", "run_coordination"]

HANDOVER, WATCH, FAN_OUT, TXN = "lock handover", "watch", "fan-out", "transactions, 64 outstanding"
WRITES, BESIDE_IDLE, RENEWALS = "writes, 64 outstanding", "writes beside idle watches", "renewals"
_CONTENDERS = 4
_LEASE, _SHORT_LEASE = 10.0, 2.0
"""Seconds that leases live, and for so long renewals are measured: each is renewed three times."""


class CoordinationSettings(RepeatedSettings, frozen=True, kw_only=True):
    """What is measured. `durability` and `options` are of Paxon's servers."""

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
        """What is put on both, in this order."""
        plain = Workload(name=WRITES, outstanding=64)
        loads = [
            Workload(name=HANDOVER, kind="lock", outstanding=_CONTENDERS),
            Workload(name=WATCH, kind="watch", watches=1),
            Workload(name=FAN_OUT, kind="watch", watches=self.watchers),
            msgspec.structs.replace(plain, name=TXN, kind="txn"),
            plain,
            msgspec.structs.replace(plain, name=BESIDE_IDLE, watches=self.idle),
            Workload(
                name=RENEWALS, kind="renew", outstanding=self.leases,
                seconds=_SHORT_LEASE if self.quick else _LEASE,
            ),
        ]  # fmt: skip
        return [msgspec.structs.replace(load, value_bytes=self.value_bytes) for load in loads]


CoordinationReport: TypeAlias = Report[CoordinationSettings, PeerNote | PeerRow]


def run_coordination(settings: CoordinationSettings, progress: Progress) -> CoordinationReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started, or Paxon measured."""
    programs = Programs(default_directory())
    ((_, note),) = look_around(PeersSettings(only=("etcd",), servers=settings.servers), programs)
    loads = settings.loads()
    with ExitStack() as stack:
        systems: list[System] = [
            Paxon(settings.servers, settings.durability, settings.options, open_paxon)
        ]
        stack.callback(systems[0].close)
        if not note.skipped:
            driven = note.driven.partition(", ")[0] + "; locks through its lock service"
            note = msgspec.structs.replace(note, driven=driven)
            systems.append(started(lambda: Etcd(programs, settings.servers, open_etcd)))
            stack.callback(systems[1].close)
        taken = take_turns(systems, loads, settings, note.problems, progress)
    names = (systems[0].name, "etcd")
    rows = [
        peer_row(load, names, ours, taken.get((load.name, "etcd"), {}))
        for load in loads
        if (ours := taken[load.name, names[0]])
    ]
    return CoordinationReport(bench="coordination", settings=settings, rows=[note, *rows])


# --- for people ----------------------------------------------------------------------------------


def _rows(report: CoordinationReport) -> list[PeerRow]:
    return [row for row in report.rows if isinstance(row, PeerRow)]


def _beside_idle(report: CoordinationReport, of: str) -> Ratios:
    """Writes with idle watches by those without."""
    found = {row.load.name: getattr(row, of) for row in _rows(report)}
    idle, plain = found.get(BESIDE_IDLE), found.get(WRITES)
    if idle is None or plain is None:
        return Ratios()
    return ratios_of(list(zip(idle.repeats, plain.repeats, strict=False)))


def _side(of: str, name: str) -> list[Column]:
    """The figures of one system."""

    def cell(show: Callable[[SystemFigures], str]) -> Callable[[PeerRow], str]:
        return lambda row: "-" if getattr(row, of) is None else show(getattr(row, of))

    return [
        Column(f"{name}\n/s", cell(lambda s: col.count(s.rate))),
        Column(f"{name}\np50 ms", cell(lambda s: col.milliseconds(s.p50))),
        Column(f"{name}\np99 ms", cell(lambda s: col.milliseconds(s.p99))),
        Column(f"{name}\ncores", cell(_cores)),
    ]


def _cores(system: SystemFigures) -> str:
    """Of the busiest server."""
    return f"{spread_of([m.busiest_cpu / m.seconds for m in system.repeats]).median:.3f}"


_COLUMNS = [
    Column("load", lambda row: _described(row.load)),
    *_side("paxon", "Paxon"), *_side("other", "etcd"),
    Column("rate\nratio", lambda row: col.ratios(row.ratios.rate)),
    Column("p50\nratio", lambda row: col.ratios(row.ratios.p50)),
    Column("failed", lambda row: str(row.paxon.failed + (row.other.failed if row.other else 0))),
]  # fmt: skip


def _described(load: Workload) -> str:
    numbers = {
        HANDOVER: f"{load.outstanding} contenders", FAN_OUT: f"{load.watches:,} watchers",
        BESIDE_IDLE: f"{load.watches:,}", RENEWALS: f"{load.outstanding:,} leases",
    }  # fmt: skip
    more = numbers.get(load.name)
    return f"{load.name} ({more})" if more else load.name


def coordination_sections(report: CoordinationReport) -> list[Section]:
    """All loads, and what idle watches cost."""
    settings = report.settings
    title = (
        f"coordination: {settings.servers} servers, durability {settings.durability}, values of "
        f"{settings.value_bytes} bytes; median of {settings.repeat} x {settings.seconds:g} s; "
        "ratios are medians of neighbouring pairs, with the least and the most"
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
    """What a reader has to know."""
    operation = (
        "An operation is: a handover, from giving the lock up to the next contender's having it; a "
        "write that its watcher (in the fan-out: each watcher, exactly once) was told of; a "
        "transaction that compares and writes; a write; a renewal. cores: of the busiest server."
    )
    return [operation, *peers_notes(report)]


COORDINATION = Bench(
    "coordination", "Locks, watches, transactions and leases, beside etcd in one run: ratios.",
    CoordinationSettings, CoordinationReport, run_coordination, coordination_sections,
    notes=coordination_notes,
)  # fmt: skip
