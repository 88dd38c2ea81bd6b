"""`paxon bench coordination`: locks, watches, transactions and leases, beside etcd in one run.

Paxon and etcd are up together and take turns, load for load, as in `paxon bench peers`: a ratio is
that of two neighbouring measurements. Without etcd Paxon's figures stand alone.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import typer

from paxon.bench.coordination.etcd import open_etcd
from paxon.bench.coordination.loads import open_paxon
from paxon.bench.harness.columns import table_of
from paxon.bench.harness.flags import RepeatedSettings, Seconds, Several, Warmup
from paxon.bench.harness.measure import Ratios, ratios_of
from paxon.bench.harness.report import (
    Bench,
    Column,
    Progress,
    Report,
    Section,
    count,
    milliseconds,
    new_report,
    ratios,
)
from paxon.bench.harness.summary import Spread, quotients
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.etcd import Etcd
from paxon.bench.peers.figures import PeerNote, PeersSettings, SystemFigures, Taken, system_figures
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.peers.run import Paxon, System, Turns, look_around, paired, started, take_turns

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


class CoordinationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One load on both."""

    load: Workload
    paxon: SystemFigures
    etcd: SystemFigures | None
    ratios: Ratios
    """Paxon's figures by etcd's, of neighbours in time."""


class CoordinationReport(Report[CoordinationSettings, CoordinationRow], frozen=True, kw_only=True):
    """A whole run."""

    peer: PeerNote


def _programs() -> Programs:
    return Programs(default_directory())


def _look(settings: CoordinationSettings, programs: Programs) -> PeerNote:
    """etcd, or why it is left out."""
    ((_, note),) = look_around(PeersSettings(only=("etcd",), servers=settings.servers), programs)
    driven = (
        f"{settings.servers} members; gRPC straight to the leader from one client process; locks "
        "through its lock service"
    )
    return note if note.skipped else msgspec.structs.replace(note, driven=driven)


def steps_of(settings: CoordinationSettings) -> int:
    """How many times `run_coordination` reports progress."""
    systems = 1 if _look(settings, _programs()).skipped else 2
    return systems * settings.repeat * len(settings.loads())


def run_coordination(settings: CoordinationSettings, progress: Progress) -> CoordinationReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started, or Paxon measured."""
    began = datetime.datetime.now(datetime.UTC)
    programs = _programs()
    note = _look(settings, programs)
    loads = settings.loads()
    with ExitStack() as stack:
        systems: list[System] = [
            Paxon(settings.servers, settings.durability, settings.options, open_paxon)
        ]
        stack.callback(systems[0].close)
        if not note.skipped:
            systems.append(started(lambda: Etcd(programs, settings.servers, None, open_etcd)))
            stack.callback(systems[1].close)
        taken = take_turns(systems, loads, settings, note.problems, progress)
    rows = [row for load in loads if (row := _row(load, taken, [each.name for each in systems]))]
    return new_report(CoordinationReport, "coordination", settings, rows, began, peer=note)


def _row(load: Workload, taken: Turns, names: Sequence[str]) -> CoordinationRow | None:
    """One load; None if it failed each time."""
    ours = taken[load.name, names[0]]
    theirs: dict[int, Taken] = taken[load.name, names[1]] if len(names) > 1 else {}
    if not ours:
        return None
    pairs = [(one.measured, other.measured) for one, other in paired(ours, theirs)]
    return CoordinationRow(
        load=load,
        paxon=system_figures(names[0], list(ours.values())),
        etcd=system_figures(names[1], list(theirs.values())) if theirs else None,
        ratios=ratios_of(pairs),
    )


# --- for people ----------------------------------------------------------------------------------


class _Target(NamedTuple):
    """What is wanted of a load."""

    load: str
    what: str
    figure: Callable[[CoordinationReport], Spread | None]
    most: float | None = None
    least: float | None = None


def _of(load: str, figure: Callable[[CoordinationRow], Spread | None]) -> Callable[
    [CoordinationReport], Spread | None
]:  # fmt: skip
    def found(report: CoordinationReport) -> Spread | None:
        row = next((row for row in report.rows if row.load.name == load), None)
        return None if row is None else figure(row)

    return found


def _cores(system: SystemFigures | None) -> Spread | None:
    """Of the busiest server."""
    return None if system is None else system.over(lambda m: m.busiest_cpu / m.seconds)


def _turned(figure: Spread | None) -> Spread | None:
    """Two for half."""
    return quotients((1.0, value) for value in figure.values) if figure else None


def _beside_idle(report: CoordinationReport, of: str) -> dict[str, Spread | None]:
    """The rate of writes with idle watches by that without, and the CPU time likewise."""
    found = {row.load.name: getattr(row, of) for row in report.rows}
    idle, plain = found.get(BESIDE_IDLE), found.get(WRITES)
    if idle is None or plain is None:
        return {"rate": None, "cpu": None}
    by = ratios_of(list(zip(idle.repeats, plain.repeats, strict=False)))
    return {"rate": by.rate, "cpu": by.cpu}


_TARGETS = [
    _Target(HANDOVER, "times etcd's speed (p50)", _of(HANDOVER, lambda r: _turned(r.ratios.p50)),
            least=1.5),
    _Target(HANDOVER, "times etcd's rate", _of(HANDOVER, lambda r: r.ratios.rate), least=1.5),
    _Target(WATCH, "of etcd's p50", _of(WATCH, lambda r: r.ratios.p50), most=1.0),
    _Target(TXN, "times etcd's rate", _of(TXN, lambda r: r.ratios.rate), least=3.0),
    _Target(BESIDE_IDLE, "of the rate without", lambda r: _beside_idle(r, "paxon")["rate"],
            least=0.95),
    _Target(RENEWALS, "of a core, busiest server", _of(RENEWALS, lambda r: _cores(r.paxon)),
            most=0.1),
]  # fmt: skip


def _side(of: str) -> list[Column]:
    """The figures of one system."""

    def cell(show: Callable[[SystemFigures], str]) -> Callable[[CoordinationRow], str]:
        return lambda row: "-" if getattr(row, of) is None else show(getattr(row, of))

    name = "Paxon" if of == "paxon" else of
    return [
        Column(f"{name}\n/s", cell(lambda s: count(s.rate))),
        Column(f"{name}\np50 ms", cell(lambda s: milliseconds(s.p50))),
        Column(f"{name}\np99 ms", cell(lambda s: milliseconds(s.p99))),
        Column(f"{name}\ncores", cell(lambda s: _share(_cores(s)))),
    ]


def _share(figure: Spread | None) -> str:
    return "-" if figure is None else f"{figure.median:.3f}"


_COLUMNS = [
    Column("load", lambda row: _described(row.load)),
    *_side("paxon"), *_side("etcd"),
    Column("rate\nratio", lambda row: ratios(row.ratios.rate)),
    Column("p50\nratio", lambda row: ratios(row.ratios.p50)),
    Column("failed", lambda row: str(row.paxon.failed + (row.etcd.failed if row.etcd else 0))),
]  # fmt: skip


def _described(load: Workload) -> str:
    numbers = {
        HANDOVER: f"{load.outstanding} contenders", FAN_OUT: f"{load.watches:,} watchers",
        BESIDE_IDLE: f"{load.watches:,}", RENEWALS: f"{load.outstanding:,} leases",
    }  # fmt: skip
    more = numbers.get(load.name)
    return f"{load.name} ({more})" if more else load.name


def coordination_sections(report: CoordinationReport) -> list[Section]:
    """All loads; what idle watches cost; and what was wanted."""
    settings = report.settings
    title = (
        f"coordination: {settings.servers} servers, durability {settings.durability}, values of "
        f"{settings.value_bytes} bytes; median of {settings.repeat} x {settings.seconds:g} s; "
        "ratios are medians of neighbouring pairs, with the least and the most"
    )
    idle = [
        [name, ratios(by["rate"]), ratios(by["cpu"])]
        for name, of in (("Paxon", "paxon"), ("etcd", "etcd"))
        if (by := _beside_idle(report, of))["rate"] is not None
    ]
    wanted = []
    for target in _TARGETS:
        found = target.figure(report)
        bound = f"at least {target.least:g}" if target.least else f"at most {target.most:g}"
        met = found is not None and (target.least or 0) <= found.median <= (target.most or 1e9)
        verdict = "-" if found is None else "yes" if met else "NO"
        wanted.append([f"{target.load}: {target.what}", bound, ratios(found), verdict])
    return [
        table_of(title, _COLUMNS, report.rows),
        Section(
            f"writes beside {settings.idle:,} idle watches, by those without",
            ["", "rate", "CPU for each"], idle,
        ),
        Section("what is wanted", ["figure", "wanted", "found", "met"], wanted),
    ]  # fmt: skip


def coordination_notes(report: CoordinationReport) -> list[str]:
    """What a reader has to know."""
    peer = report.peer
    lines = [
        "An operation is: a handover, from giving the lock up to the next contender's having it; a "
        "write that its watcher (in the fan-out: each watcher, exactly once) was told of; a "
        "transaction that compares and writes; a write; a renewal. cores: of the busiest server.",
        peer.skipped or f"etcd {peer.version}: {peer.driven}. Durability: {peer.durability}.",
    ]
    return lines + [f"Left out, because it failed: {problem}" for problem in peer.problems]


COORDINATION = Bench(
    name="coordination",
    help="Locks, watches, transactions and leases, beside etcd in one run: ratios.",
    settings=CoordinationSettings,
    report=CoordinationReport,
    steps=steps_of,
    run=run_coordination,
    sections=coordination_sections,
    notes=coordination_notes,
)
