"""`paxon bench compare`: a stable leader against contention, in one run on one machine.

A point is one kind of run with every setting fixed. A sweep varies one setting along its x axis and
one or two others between its lines. Points that several sweeps share are measured once, each on a
fresh cluster (bench/harness/lab.py): all in random order, before any is measured again, so that a
machine that slows down meanwhile hits all alike.

`paxon bench contention` is the same with one sweep, measured for longer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import typer

from paxon.actors import ServerId, Settings
from paxon.actors.settings import PolicyName
from paxon.bench.contention.compare_plots import compare_plots
from paxon.bench.harness import flags, measure
from paxon.bench.harness import report as col
from paxon.bench.harness.flags import RepeatedSettings
from paxon.bench.harness.lab import LabCluster
from paxon.bench.harness.lab_network import Event
from paxon.bench.harness.measure import Figures, Lab, Measurement
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section, ratio, small
from paxon.bench.harness.summary import Spread, spread_of
from paxon.bench.harness.workloads import Workload

__all__ = ["COMPARE", "CONTENTION", "CompareReport", "Duel", "PointRow", "Sweep"]

SweepName: TypeAlias = Literal[
    "contention", "proposers", "load", "backoff", "servers", "value", "rtt", "batch", "window"
]
SWEEPS: tuple[SweepName, ...] = get_args(SweepName)
_QUICK_SWEEPS: tuple[SweepName, ...] = ("contention", "load")

_DEFAULTS: dict[str, Any] = {it.name: it.default for it in msgspec.structs.fields(Settings)}
_UNDER_WAY = 64
"""Operations for each client where batching or the window is the question."""


class CompareSettings(RepeatedSettings, frozen=True, kw_only=True):
    """The settings of all measurements, where they are not swept over."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 0.5, "warmup": 0.2, "repeat": 2}
    DECIDED: ClassVar[tuple[str, ...]] = ("policy", "contend")

    sweep: Annotated[
        tuple[SweepName, ...],
        typer.Option(
            help="What to sweep over; separated by commas or given several times. All by default, "
            "with --quick " + " and ".join(_QUICK_SWEEPS) + "."
        ),
    ] = ()
    policies: flags.Policies = ("stable", "backoff", "random", "immediate")
    proposers: Annotated[int, typer.Option(min=1, help="How many servers try to lead.")] = 3
    """In the sweep `contention` from 2 up to so many."""
    outstanding: flags.Outstanding = 8
    """Operations that each proposer's client has under way."""
    duels: bool = True
    """Record what servers send in a duel too, in extra runs that are not measured."""

    def __post_init__(self) -> None:
        if self.proposers > self.servers:
            raise ValueError(f"{self.proposers} of {self.servers} servers cannot try to lead")

    @property
    def sweeps(self) -> tuple[SweepName, ...]:
        """Those asked for, or all."""
        return self.sweep or (_QUICK_SWEEPS if self.quick else SWEEPS)


class ContentionSettings(CompareSettings, frozen=True, kw_only=True):
    """The preset: one setting of one's choice, measured for longer."""

    sweep: tuple[SweepName, ...] = ("contention",)
    seconds: flags.Seconds = 3.0
    warmup: flags.Warmup = 0.5
    duels: bool = False


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of run."""

    policy: PolicyName
    servers: int
    proposers: int
    """Servers that get clients' commands; with `stable`, clients, which all go to the leader."""
    outstanding: int
    """Operations under way for each proposer."""
    value_bytes: int
    packing: int = 0
    """Operations in a client's request; 0: as the client likes."""
    window: int
    batch_bytes: int
    """1: each request gets a slot of its own."""
    round_trip: float = 0.0
    """Seconds between servers, on top of what the machine takes."""
    backoff_base: float
    backoff_cap: float

    @property
    def name(self) -> str:
        """For people, short."""
        plural = "s" if self.proposers > 1 else ""
        who = "client" if self.policy == "stable" else "proposer"
        return f"{self.policy}, {self.proposers} {who}{plural}"

    @property
    def workload(self) -> Workload:
        """The clients' load."""
        return Workload(
            name=self.name, clients=self.proposers, outstanding=self.outstanding,
            packing=self.packing, value_bytes=self.value_bytes,
        )  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        """The servers' settings."""
        named = ("policy", "window", "batch_bytes", "backoff_base", "backoff_cap")
        return {name: getattr(self, name) for name in named} | {"contend": self.policy != "stable"}

    def with_stable_leader(self) -> Point:
        """The same load on a cluster whose leader nobody disturbs."""
        unused = {name: _DEFAULTS[name] for name in ("backoff_base", "backoff_cap")}
        return msgspec.structs.replace(self, policy="stable", **unused)


class Line(NamedTuple):
    """Points over one x axis."""

    label: str
    policy: PolicyName
    points: list[tuple[float, Point]]


class Sweep(NamedTuple):
    """One question, and the lines that answer it."""

    name: SweepName
    plan: _Plan
    lines: list[Line]


class _Lines(NamedTuple):
    """Lines of a sweep that have something in common, one for each of these policies."""

    policies: tuple[PolicyName, ...]
    label: str = "{policy}"
    fixed: Mapping[str, Any] = {}
    """Fields of all their points."""


class _Plan(NamedTuple):
    """A sweep before it is known what is asked for."""

    title: str
    x_label: str
    field: str
    """Of `Point`, which takes these values along each line."""
    values: tuple[float, ...]
    quick: tuple[float, ...]
    lines: tuple[_Lines, ...]
    scale: float = 1.0
    """The values are shown times this."""
    logarithmic: bool = False


_ALL: tuple[PolicyName, ...] = get_args(PolicyName)
_PROPOSERS = "servers that try to lead (stable: clients)"
_CAPS = (0.01, 0.1, 1.0)
_BUSY = {"outstanding": _UNDER_WAY}
_LONE = {**_BUSY, "proposers": 1, "packing": 1}
_PLANS: dict[SweepName, _Plan] = {
    "contention": _Plan(
        "A stable leader's phase 2 alone, against several servers that try to lead", _PROPOSERS,
        "proposers", (), (), (_Lines(_ALL),),  # as many as are asked for
    ),
    "proposers": _Plan(
        "Servers that try to lead, of 5", _PROPOSERS, "proposers", (1, 2, 3, 4, 5), (1, 3),
        (_Lines(_ALL, fixed={"servers": 5}),),
    ),
    "load": _Plan(
        "Latency against throughput", "operations under way for each client", "outstanding",
        (1, 8, 64, 256), (1, 64),
        (_Lines(("stable", "backoff", "random")),),  # a livelock has no latency
        logarithmic=True,
    ),
    "backoff": _Plan(
        "How long backoff waits", "backoff_base, ms", "backoff_base", (0.001, 0.01, 0.1),
        (0.001, 0.1),
        tuple(_Lines(("backoff",), f"cap {cap * 1e3:g} ms", {"backoff_cap": cap}) for cap in _CAPS),
        scale=1e3, logarithmic=True,
    ),
    "servers": _Plan(
        "Servers", "servers", "servers", (3, 5, 7), (3, 5),
        (_Lines(("stable", "backoff", "immediate"), fixed={"proposers": 3}),),
    ),
    "value": _Plan(
        "Size of values", "bytes of each value", "value_bytes", (16, 256, 4096, 65536),
        (16, 65536), (_Lines(("stable", "backoff")),), logarithmic=True,
    ),
    "rtt": _Plan(
        "Round-trip time between servers", "ms between servers and back, added", "round_trip",
        (0.0, 0.002, 0.01, 0.05), (0.0, 0.01), (_Lines(("stable", "backoff", "random")),),
        scale=1e3,
    ),
    "batch": _Plan(
        f"Batching, {_UNDER_WAY} operations under way for each client",
        "operations in a client's request", "packing", (1, 4, 16), (1, 16),
        (
            _Lines(("stable", "backoff"), "{policy}, a slot takes all that waits", _BUSY),
            _Lines(("stable",), "{policy}, a slot for each request", {**_BUSY, "batch_bytes": 1}),
        ),
        logarithmic=True,
    ),
    "window": _Plan(
        f"Slots in flight, {_UNDER_WAY} operations under way", "window: slots in flight at most",
        "window", (1, 4, 16, 64), (1, 16),
        (
            _Lines(("stable",), "a slot takes all that waits", _LONE),
            _Lines(("stable",), "a slot for each operation", {**_LONE, "batch_bytes": 1}),
            _Lines(
                ("stable",), "a slot for each, 10 ms round trip",
                {**_LONE, "batch_bytes": 1, "round_trip": 0.01},
            ),
        ),
        logarithmic=True,
    ),
}  # fmt: skip


def _point(settings: CompareSettings, policy: PolicyName, **changes: Any) -> Point:
    """A point that differs from the settings' own in what is swept."""
    chosen = {**_DEFAULTS, **settings.options}
    waits = chosen if policy == "backoff" else _DEFAULTS
    base = {name: getattr(settings, name)
            for name in ("servers", "proposers", "outstanding", "value_bytes")}  # fmt: skip
    base |= {name: chosen[name] for name in ("window", "batch_bytes")}
    base |= {name: waits[name] for name in ("backoff_base", "backoff_cap")}
    return Point(policy=policy, **{**base, **changes})


def sweeps_of(settings: CompareSettings) -> list[Sweep]:
    """The sweeps that were asked for, without those that have no line (no policy asked for)."""
    sweeps = [Sweep(name, _PLANS[name], _lines(settings, name)) for name in settings.sweeps]
    return [sweep for sweep in sweeps if sweep.lines]


def _lines(settings: CompareSettings, name: SweepName) -> list[Line]:
    plan, most = _PLANS[name], settings.proposers
    values = plan.quick if settings.quick else plan.values
    if name == "contention":
        values = (most,) if settings.quick else tuple(range(min(2, most), most + 1))
    return [
        Line(
            like.label.format(policy=policy), policy,
            [
                (value, _point(settings, policy, **{**like.fixed, plan.field: value}))
                for value in values
                if plan.field != "backoff_base" or value <= like.fixed["backoff_cap"]
            ],
        )
        for policy in settings.policies
        for like in plan.lines
        if policy in like.policies
    ]  # fmt: skip


def points_of(sweeps: Sequence[Sweep]) -> list[Point]:
    """All points, each once, in the order of the sweeps."""
    lines = itertools.chain(*(sweep.lines for sweep in sweeps))
    return list(dict.fromkeys(point for line in lines for _, point in line.points))


# --- duels ---------------------------------------------------------------------------------------

DUEL_SECONDS = 1.0


class Reign(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One ballot of one server, from its first P1A. Times are seconds since the duel began."""

    server: ServerId
    round: int
    asked: float
    """When phase 1 began."""
    led: float | None
    """When a majority had promised; None if it never did."""
    ended: float
    """When the last message in this ballot was sent by its owner."""
    slots: int
    """Proposed in this ballot."""


class Duel(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a duel: its ballots, and all its messages in a close-up. Times are seconds."""

    point: Point
    seconds: float = DUEL_SECONDS
    reigns: list[Reign]
    close_up_from: float
    close_up_seconds: float = 0.025
    close_up: list[Event]
    """Messages in the close-up; times are since the duel began."""


def reigns_of(events: Sequence[Event]) -> list[Reign]:
    """A reign for each ballot that its own server spoke in, in the order of their beginnings.

    One whose P1A lies before the first event counts from the first message that is there.
    """
    said: dict[tuple[ServerId, int], list[Event]] = {}
    for event in events:
        if event.owner == event.server and event.kind in ("P1A", "P2A", "leads"):
            said.setdefault((event.server, event.round), []).append(event)
    return [
        Reign(
            server=server, round=number, asked=spoken[0].seconds, ended=spoken[-1].seconds,
            led=next((event.seconds for event in spoken if event.kind != "P1A"), None),
            slots=len({event.slot for event in spoken if event.kind == "P2A"}),
        )
        for (server, number), spoken in said.items()
    ]  # fmt: skip


def duel_of(events: Sequence[Event], point: Point, begin: float) -> Duel:
    """The part worth keeping of the events from `begin` on (of their clock)."""
    duel = Duel(point=point, reigns=[], close_up_from=0.0, close_up=[])
    moved = [
        msgspec.structs.replace(event, seconds=event.seconds - begin)
        for event in events
        if begin <= event.seconds < begin + duel.seconds
    ]
    # Shortly before a candidacy about the middle, where there is one; else the middle.
    latest = duel.seconds - duel.close_up_seconds
    candidacies = [event.seconds for event in moved if event.kind == "P1A"]
    nearest = min(candidacies, key=lambda it: abs(it - latest / 2), default=latest / 2)
    start = max(0.0, min(nearest - duel.close_up_seconds / 4, latest))
    shown = [event for event in moved if start <= event.seconds < start + duel.close_up_seconds]
    return msgspec.structs.replace(
        duel, reigns=reigns_of(moved), close_up_from=start, close_up=shown
    )


class PointRow(Figures, frozen=True, kw_only=True):
    """One point over all repeats."""

    point: Point
    of_stable: float | None
    """The rate as a fraction of the stable leader's under the same load; None if not measured."""

    @property
    def leaderless(self) -> Spread:
        """The share of time in which no server led, from 0 to 1."""
        return spread_of([m.leaderless() for m in self.repeats])

    @property
    def wasted_p2a(self) -> Spread | None:
        """P2As for each chosen slot beyond one for each other server; None if none was chosen."""
        others = self.point.servers - 1

        def wasted(measured: Measurement) -> float | None:
            sent = measured.by_slots(measured.count("p2a_sent"))
            return None if sent is None else max(0.0, sent - others)

        return self.over(wasted)


class CompareReport(Report[CompareSettings, PointRow], frozen=True, kw_only=True):
    """A whole run."""

    duels: list[Duel]

    @property
    def sweeps(self) -> list[Sweep]:
        """Which rows belong together."""
        return sweeps_of(self.settings)

    @property
    def by_point(self) -> dict[Point, PointRow]:
        """The rows by what they are of."""
        return {row.point: row for row in self.rows}


def rows_of(measured: Mapping[Point, list[Measurement]]) -> list[PointRow]:
    """A row for each point, beside its stable leader if that was measured too."""
    figures = {point: measure.figures_of(repeats) for point, repeats in measured.items()}

    def of_stable(point: Point) -> float | None:
        stable = figures.get(point.with_stable_leader())
        if stable is None or not stable["rate"].median:
            return None
        return float(figures[point]["rate"].median / stable["rate"].median)

    return [PointRow(point=p, of_stable=of_stable(p), **figures[p]) for p in measured]


# --- a run ---------------------------------------------------------------------------------------


def run_compare(settings: CompareSettings, progress: Progress) -> CompareReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    points = points_of(sweeps_of(settings))
    with Lab(settings, progress) as lab:

        def one(point: Point, repeat: int) -> Measurement:
            with _cluster(lab, point) as cluster:
                cluster.leader()
                follow = point.policy == "stable"
                return lab.measure(cluster, point.workload, repeat, follow=follow)

        rows = rows_of(lab.interleaved(points, lambda point: point.name, one))
        duels = [_record(lab, point) for point in _duels(settings)]
    name = "contention" if isinstance(settings, ContentionSettings) else "compare"
    return CompareReport(bench=name, settings=settings, rows=rows, duels=duels)


def _cluster(lab: Lab[CompareSettings], point: Point, *, trace: bool = False) -> LabCluster:
    return lab.cluster(point.servers, round_trip=point.round_trip, trace=trace, **point.options)


def _duels(settings: CompareSettings) -> list[Point]:
    """For each policy a duel of three servers."""
    if not settings.duels:
        return []
    only = msgspec.structs.replace(settings, sweep=("contention",), quick=True)
    return [line.points[-1][1] for sweep in sweeps_of(only) for line in sweep.lines]


def _record(lab: Lab[CompareSettings], point: Point) -> Duel:
    """The messages of a duel, from its clients' first operations on."""
    lab.progress(f"messages of {point.name}")
    cluster = _cluster(lab, point, trace=True).start()
    try:
        cluster.leader()
        jobs = measure.jobs_for(
            point.workload, cluster.addresses, follow=point.policy == "stable",
            warmup=0.0, seed=lab.settings.seed,
        )  # fmt: skip
        taken = lab.clients.take(point.proposers)
        measure.prepare(taken, jobs)
        begin = time.monotonic()
        measure.run_all(taken, DUEL_SECONDS)
    finally:
        events = cluster.stop()
    return duel_of(events, point, begin)


# --- tables --------------------------------------------------------------------------------------

_OF_STABLE = Column("of\nstable", lambda row: ratio(row.of_stable))
_NO_LEADER = Column("no leader\n%", lambda row: f"{row.leaderless.median * 100:.0f}")
_FEW_COLUMNS = [
    col.RATE, _OF_STABLE, col.per_second("phase1_rounds", "phase-1\nrounds"),
    col.per_second("preemptions", "preemptions"), _NO_LEADER, col.P50, col.P99,
    col.LONGEST_WAIT, col.FAILED,
]  # fmt: skip
_COLUMNS = [
    col.RATE, _OF_STABLE, col.P50, col.P99, col.P999, col.LONGEST_WAIT, _NO_LEADER,
    col.per_second("phase1_rounds", "phase 1"),
    Column("ops\n/slot", lambda row: small(row.over(lambda m: m.by_slots(m.operations)))),
    col.per_slot("phase1_rounds", "phase 1"), col.per_slot("preemptions", "preempted"),
    Column("wasted\nP2A/slot", lambda row: small(row.wasted_p2a)),
    col.per_slot("syncs", "syncs"), col.per_slot("peer_messages_received", "msgs"), col.FAILED,
]  # fmt: skip


def compare_sections(report: CompareReport) -> list[Section]:
    """A table for each sweep: on a page the first one open, the others folded up."""
    settings = report.settings
    load = f"{settings.proposers} proposers with {settings.outstanding} operations under way each"
    conditions = f"{settings.conditions(load)}, where not swept over; {settings.times}"
    heads = itertools.chain([f"{conditions}, ± half the range\n\n"], itertools.repeat(""))
    return list(map(_section, itertools.repeat(report), report.sweeps, heads))


def _section(report: CompareReport, sweep: Sweep, head: str) -> Section:
    columns = _FEW_COLUMNS if sweep.name == "contention" else _COLUMNS
    points = [(line.label, value, point) for line in sweep.lines for value, point in line.points]
    table = col.table_of(
        head + sweep.plan.title, columns, [report.by_point[p] for _, _, p in points]
    )
    cells = [
        [label, f"{value * sweep.plan.scale:,.12g}", *row]
        for (label, value, _), row in zip(points, table.rows, strict=True)
    ]
    x_label = sweep.plan.x_label.replace(", ", ",\n").replace(" (", "\n(")
    blocks = list(itertools.accumulate(len(line.points) for line in sweep.lines))
    heads = ["who leads", x_label, *table.columns]
    return Section(table.title, heads, cells, folded=not head, blocks=blocks)


COMPARE = Bench(
    "compare",
    "A stable leader against contention, in one run: what policies give, and what it costs.",
    CompareSettings, CompareReport, run_compare, compare_sections, compare_plots,
)  # fmt: skip
CONTENTION = COMPARE._replace(
    name="contention", settings=ContentionSettings,
    help="Several servers try to lead, beside a stable leader: `compare --sweep contention`.",
)  # fmt: skip
