"""`paxon bench peers`: Paxon beside etcd, Redis and PySyncObj, taking turns on one machine.

For each peer a Paxon cluster and the peer's servers are up together. Each load is put on one and
then on the other, A B A B, while the one whose turn it is not idles; a ratio is that of two
neighbouring measurements, so a machine that slows down meanwhile hits both sides of it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, get_args

import msgspec
import typer

from paxon.bench.harness import measure
from paxon.bench.harness import plot_style as style
from paxon.bench.harness import report as col
from paxon.bench.harness.child import Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.flags import Repeat, RepeatedSettings, Seconds, Several, Warmup
from paxon.bench.harness.load import CLIENT, OpenLoad, open_client_load
from paxon.bench.harness.measure import Figures, Measurement, Ratios, ServerCounts
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section
from paxon.bench.harness.summary import Spread, spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.peers.etcd import Etcd, Gateway, etcd_kills, open_etcds_calls
from paxon.bench.peers.etcd_load import Connections, open_etcd_load
from paxon.bench.peers.grpc_wire import library
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.peers.pysyncobj import PySyncObj
from paxon.bench.peers.redis import PIPELINE, Redis
from paxon.bench.stable.failover import FailoverSettings, paxon_kills
from paxon.kvstore.cluster.local_cluster import LocalCluster, Transport
from paxon.kvstore.cluster.options import Durability
from paxon.kvstore.errors import PaxonError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "GapRow", "PEERS", "Paxon", "PeerNote", "PeerRow", "PeersReport", "PeersSettings", "System",
    "SystemFigures", "look_around", "peer_row", "peers_notes", "run_peers", "started",
    "take_turns",
]  # fmt: skip

Peer: TypeAlias = Literal["etcd", "redis", "pysyncobj"]
_NAMES: tuple[Peer, ...] = get_args(Peer)


class PeersSettings(RepeatedSettings, frozen=True, kw_only=True):
    """The settings of a run. `servers` are those of Paxon, of etcd and of PySyncObj."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 1.0, "warmup": 0.3, "repeat": 2, "kills": 1}

    only: Annotated[tuple[Peer, ...], typer.Option(help="Leave out all peers but these.")] = _NAMES
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Fetch the peers from Debian and PyPI into $PAXON_PEERS or ~/.cache/paxon/peers, "
            "then end.",
        ),
    ] = False
    servers: Several = 3
    seconds: Seconds = 3.0
    warmup: Warmup = 1.0
    repeat: Repeat = 5
    kills: Annotated[
        int, typer.Option(min=0, help="How often leaders are killed in each repeat.")
    ] = 4
    durability: Durability = "disk"
    transport: Transport = "tcp"
    """No flags: what is compared decides."""


class PeerNote(msgspec.Struct, frozen=True, kw_only=True, tag="note"):
    """A peer and how it was treated."""

    peer: str
    version: str = ""
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


class SystemFigures(Figures, frozen=True, kw_only=True):
    """One system under one load. Its clients' CPU is 0 where the load is made inside a server."""

    name: str
    disturbance: Spread
    """Cores that the servers of the others, idle at that time, took."""


class PeerRow(msgspec.Struct, frozen=True, kw_only=True, tag="pair"):
    """Paxon and another under the same load."""

    load: Workload
    paxon: SystemFigures
    other: SystemFigures | None
    """None if it is not there, or failed each time."""
    ratios: Ratios
    """Paxon's figures by the other's, of neighbours in time."""


class GapRow(msgspec.Struct, frozen=True, kw_only=True, tag="gap"):
    """From kill -9 of the leader to the next acknowledged write, seconds; each value is a kill."""

    other_name: str
    paxon: Spread
    other: Spread


PeersReport: TypeAlias = Report[PeersSettings, PeerNote | PeerRow | GapRow]
Turns: TypeAlias = dict[int, Taken]
"""What was measured, by the number of the repeat; one that failed is not there."""


def peer_row(load: Workload, names: Sequence[str], ours: Turns, theirs: Turns) -> PeerRow:
    """Sum up what was measured of Paxon and of another. Raises ValueError for nothing of Paxon."""
    pairs = [(ours[n].measured, theirs[n].measured) for n in ours if n in theirs]
    return PeerRow(
        load=load, paxon=_system(names[0], list(ours.values())),
        other=_system(names[1], list(theirs.values())) if theirs else None,
        ratios=measure.ratios_of(pairs),
    )  # fmt: skip


def _system(name: str, taken: Sequence[Taken]) -> SystemFigures:
    idle = spread_of([one.idle_cores for one in taken])
    figures = measure.figures_of([one.measured for one in taken])
    return SystemFigures(name=name, disturbance=idle, **figures)


# --- for people ----------------------------------------------------------------------------------


def _pairs(report: Report[Any, Any]) -> list[tuple[PeerRow, SystemFigures]]:
    return [(r, r.other) for r in report.rows if isinstance(r, PeerRow) and r.other is not None]


def peers_sections(report: PeersReport) -> list[Section]:
    """All pairs, and failovers if there were any."""
    settings = report.settings
    pairs = _pairs(report)
    others = [other.name.partition(",")[0] for _, other in pairs]
    title = (
        f"{settings.servers} servers, values of {settings.value_bytes} bytes, {settings.times}; "
        "ratios are medians of neighbouring pairs, with the least and the most"
    )
    blocks = [n for n in range(1, len(others)) if others[n] != others[n - 1]]
    rows = [row for row, _ in pairs]
    sections = [col.table_of(title, _COLUMNS, rows, left=2, blocks=blocks)]
    gaps = [row for row in report.rows if isinstance(row, GapRow)]
    if gaps:
        title = "kill -9 of the leader to the next acknowledged write"
        sections.append(col.table_of(title, _GAP_COLUMNS, gaps))
    return sections


def _named(row: PeerRow) -> str:
    return row.load.name + ("" if row.paxon.name == "Paxon" else f" ({row.paxon.name})")


def _gap(seconds: Spread) -> str:
    """Median, and the least and most, in milliseconds."""
    return f"{seconds.median * 1e3:.0f} ({seconds.low * 1e3:.0f} … {seconds.high * 1e3:.0f})"


def _cpu(system: SystemFigures) -> str:
    """Microseconds for each operation."""
    if system.server_cpu is None or system.client_cpu is None:
        return "-"
    servers, clients = system.server_cpu.median * 1e6, system.client_cpu.median * 1e6
    return f"{servers:.1f} + {clients:.1f}" if clients else f"{servers:.1f} in all"


_COLUMNS = [
    Column("load", _named),
    Column("beside", lambda row: row.other.name),
    Column("Paxon\nop/s", lambda row: col.count(row.paxon.rate)),
    Column("other\nop/s", lambda row: col.count(row.other.rate)),
    Column("op/s\nratio", lambda row: col.ratios(row.ratios.rate)),
    Column("Paxon\np50 ms", lambda row: col.milliseconds(row.paxon.p50)),
    Column("other\np50 ms", lambda row: col.milliseconds(row.other.p50)),
    Column("p50\nratio", lambda row: col.shown(row.ratios.p50, "{:.2f}")),
    Column("p99\nratio", lambda row: col.shown(row.ratios.p99, "{:.2f}")),
    Column("Paxon µs/op\nservers + clients", lambda row: _cpu(row.paxon)),
    Column("other µs/op\nservers + clients", lambda row: _cpu(row.other)),
]
_GAP_COLUMNS = [
    Column("beside", lambda row: row.other_name),
    Column("kills\neach", lambda row: str(len(row.paxon.values))),
    Column("Paxon\nms", lambda row: _gap(row.paxon)),
    Column("other\nms", lambda row: _gap(row.other)),
    Column("ratio", lambda row: f"{row.paxon.median / row.other.median:.2f}"),
]


def peers_notes(report: Report[Any, Any]) -> list[str]:
    """Sentences on each peer, and on what went wrong."""
    lines = []
    for note in (row for row in report.rows if isinstance(row, PeerNote)):
        how = f"{note.peer} {note.version}: {note.driven}. Durability: {note.durability}."
        lines.append(note.skipped or how)
        lines += [f"Left out, because it failed: {problem}" for problem in note.problems]
    systems = [(row, system) for row, other in _pairs(report) for system in (row.paxon, other)]
    lines += [
        f"{system.name}, {row.load.name}: {system.failed} operations failed ({system.first_error})"
        for row, system in systems
        if system.failed
    ]
    if systems:
        most = max(system.disturbance.high for _, system in systems) * 100
        lines.append(
            f"Servers whose turn it was not took at most {most:.1f} % of a core meanwhile."
        )
    return lines


def plot_peers(report: PeersReport) -> Figure:
    """A bar for each pair: how many times the other's operations a second Paxon does."""
    rows = [
        (f"{_named(row)} / {other.name}", other.name.partition(",")[0], ratio)
        for row, other in _pairs(report)
        if (ratio := row.ratios.rate) is not None
    ]
    figure = style.new_figure(9, 0.34 * len(rows) + 1.6, report.machine.sentence())
    axes = figure.subplots()
    axes.set_xscale("log")
    of = dict(zip(("etcd", "Redis", "PySyncObj"), style.SERVER_COLOURS, strict=False))
    # From 1, the line of equals: to the right Paxon does more, to the left the other.
    style.bars(
        axes, [name for name, _, _ in rows], [ratio for _, _, ratio in rows],
        [of.get(other, style.GREY) for _, other, _ in rows],
        "Paxon's operations a second by the other's (median, least and most pair)",
        show="{:.3g}", start=1.0,
    )  # fmt: skip
    axes.axvline(1.0, color=style.GREY, linewidth=1)
    return figure


# --- systems -------------------------------------------------------------------------------------

_START_ATTEMPTS = 3
_REDIS_DEFAULT = 50 * PIPELINE
"""In flight with redis-benchmark's own default of 50 connections. More is better for Redis too."""


class System(Protocol):
    """Servers that are up, and a way to put load on them. All raise `PaxonError`."""

    @property
    def name(self) -> str:
        """As it stands in the table."""

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        """Put on a load: for so long to warm up, then to be measured."""

    def counts(self) -> ServerCounts:
        """The servers' CPU and counters so far."""

    def close(self) -> None:
        """End all its processes."""


class Paxon:
    """A local cluster and its own client; see `System`."""

    def __init__(
        self, servers: int, durability: Durability, options: dict[str, Any],
        open_load: OpenLoad = open_client_load,
    ) -> None:  # fmt: skip
        """Start all. Raises `PaxonError`."""
        self.name = "Paxon" if durability == "disk" else "Paxon in memory"
        self._open = open_load
        with ExitStack() as stack:
            self._processes = stack.enter_context(Children(CLIENT))
            self._cluster = stack.enter_context(
                LocalCluster(servers, durability=durability, log_level="WARNING", **options)
            )
            self._cluster.leader()
            self.close = stack.pop_all().close

    def counts(self) -> ServerCounts:
        return measure.counts_of(self._cluster)

    def measure(self, load: Workload, *, seconds: float, warmup: float, seed: int) -> Measurement:
        return measure.measure_on(
            self._cluster, self._processes, load, seconds=seconds, warmup=warmup, seed=seed,
            open_load=self._open,
        )  # fmt: skip


# --- which loads on which systems, and which of these are there ----------------------------------


class Block(msgspec.Struct, frozen=True):
    """Systems that are up at the same time and take turns."""

    peer: Peer
    durability: Durability
    """Paxon's."""
    loads: list[Workload]
    through: bool = False
    """Paxon is called as etcd is, through its gateway."""


def blocks_of(settings: PeersSettings, peers: Sequence[Peer]) -> list[Block]:
    """All that is measured beside these peers."""
    few = settings.quick

    def writes(*outstanding: int) -> list[Workload]:
        return [Workload(name=f"writes, {n:,} outstanding", outstanding=n) for n in outstanding]

    reads = [
        Workload(name=f"reads, {n:,} outstanding", kind="get", outstanding=n)
        for n in ((64,) if few else (1, 16, 64, 256))
    ]
    lease = Workload(name="lease reads, 64 outstanding", kind="get", outstanding=64, mode="lease")
    pipelined = [
        Workload(name=f"writes, pipelined, {n:,} in flight", outstanding=n, pipelined=True)
        for n in ((4096,) if few else (_REDIS_DEFAULT, 4096))
    ]
    plans: list[tuple[Peer, Durability, list[Workload]]] = [
        ("etcd", "disk", [*writes(*((1, 64) if few else (1, 64, 256))), *reads, lease]),
        ("redis", "disk", [*writes(*((64,) if few else (1, 64, 256))), *pipelined]),
        ("pysyncobj", "disk", writes(*((64, 1024) if few else (1, 64, 256, 1024, 8192)))),
        ("pysyncobj", "memory", writes(1)),
    ]
    made = [Block(*plan) for plan in plans]
    made.insert(1, Block("etcd", "disk", _etcds_calls(few=few), through=True))
    sized = functools.partial(msgspec.structs.replace, value_bytes=settings.value_bytes)
    return [
        msgspec.structs.replace(block, loads=list(map(sized, block.loads)))
        for block in made
        if block.peer in peers
    ]


def _etcds_calls(*, few: bool) -> list[Workload]:
    """The calls of etcd's own clients, from so many connections, and a watch of many watchers."""
    counts = (1, 64) if few else (1, 16, 64)
    named = [(n, "1 connection" if n == 1 else f"{n} connections") for n in counts]
    return [
        *(Workload(name=f"etcd's Put, {text}", outstanding=n) for n, text in named),
        *(Workload(name=f"etcd's Range, {text}", kind="get", outstanding=n) for n, text in named),
        Workload(name="etcd's Watch, 1,000 watchers", kind="watch", watches=1000),
    ]


def start_peers(peer: Peer, programs: Programs, settings: PeersSettings) -> list[System]:
    """The systems that a peer stands for. Raises `BenchError`."""
    starts: list[Callable[[], System]] = [functools.partial(Redis, programs)]
    if peer == "etcd":
        etcd = functools.partial(Etcd, programs, settings.servers)
        one, each = (functools.partial(open_etcd_load, way) for way in get_args(Connections))
        starts = [
            functools.partial(etcd, one, ", one connection"),
            functools.partial(etcd, each, ", a connection each"),
        ]
    elif peer == "pysyncobj":
        starts = [
            functools.partial(PySyncObj, programs, settings.servers, batching=batching)
            for batching in (True, False)
        ]
    with ExitStack() as stack:
        systems = []
        for start in starts:
            systems.append(started(start))
            stack.callback(systems[-1].close)
        stack.pop_all()
    return systems


def started(start: Callable[[], System]) -> System:
    """Start a system. Raises `BenchError` if that fails again and again."""
    for _ in range(_START_ATTEMPTS - 1):
        # Ports are drawn before the servers bind them: somebody else may have been quicker.
        with suppress(BenchError):
            return start()
    return start()


_PEERS: dict[Peer, tuple[str, str, str]] = {
    "etcd": (
        "etcd",
        "{servers} members; gRPC straight to the leader from one client process, on one "
        "connection or on one for each outstanding operation",
        "synced to disk before it answers, as Paxon",
    ),
    "redis": (
        "Redis",
        "one node that replicates nothing; redis-benchmark with a connection for each "
        f"outstanding operation, pipelined with -P {PIPELINE}",
        "appendfsync always: synced to disk before it answers, on one disk instead of a majority's",
    ),
    "pysyncobj": (
        "PySyncObj",
        "{servers} processes; the load is made inside the leader's by callbacks, so that its "
        "cost is among the servers'; log compaction off, which is faster",
        "journal in a memory-mapped file that is never synced: less than Paxon's",
    ),
}
"""Its name, where its load comes from, and what it has on disk when it answers."""


def look_around(settings: PeersSettings, programs: Programs) -> list[tuple[Peer, PeerNote]]:
    """Each peer that is asked for, with its version, or a sentence on why it is skipped."""
    found = []
    for peer in settings.only:
        name, driven, durability = _PEERS[peer]
        note = PeerNote(
            peer=name, driven=driven.format(servers=settings.servers), durability=durability
        )
        try:
            note = msgspec.structs.replace(note, version=_version(peer, programs))
        except BenchError as error:
            note = PeerNote(peer=name, skipped=f"{name} was left out: {error}")
        found.append((peer, note))
    return found


def _version(peer: Peer, programs: Programs) -> str:
    """Of what is installed. Raises `BenchError` if it is not there."""
    if peer == "pysyncobj":
        version = programs.python_version("pysyncobj")
        if version is not None:
            return version
    elif peer == "etcd":
        path = programs.find("etcd")
        if path is not None:
            list(map(library, ("google.protobuf", "hpack", "hyperframe")))
            return programs.output([path, "--version"]).partition("\n")[0].rpartition(" ")[2]
    else:
        path = programs.find("redis-server")
        if path is not None and programs.find("redis-benchmark") is not None:
            words = programs.output([path, "--version"]).split()
            return next((word[2:] for word in words if word.startswith("v=")), "unknown")
    raise BenchError("it is not installed; `paxon bench peers --install` gets it")


# --- a run ---------------------------------------------------------------------------------------


def run_peers(
    settings: PeersSettings, progress: Progress, programs: Programs | None = None
) -> PeersReport:
    """Measure all peers that are installed. Raises `PaxonError` if none is, or Paxon fails."""
    programs = programs or Programs(default_directory())
    notes = dict(look_around(settings, programs))
    there = [peer for peer, note in notes.items() if not note.skipped]
    if not there:
        reasons = "; ".join(note.skipped for note in notes.values())
        raise BenchError(f"nothing to compare with: {reasons}")
    rows: list[PeerNote | PeerRow | GapRow] = list(notes.values())
    for block in blocks_of(settings, there):
        rows += _run_block(block, programs, settings, notes[block.peer].problems, progress)
    if "etcd" in there and settings.kills:
        rows.append(_run_gaps(programs, settings, progress))
    return PeersReport(bench="peers", settings=settings, rows=rows)


def _run_block(
    block: Block, programs: Programs, settings: PeersSettings, problems: list[str],
    progress: Progress,
) -> list[PeerRow]:  # fmt: skip
    """Measure all loads of a block; what fails is added to `problems`."""
    with ExitStack() as stack:
        paxon: System
        if block.through:
            paxon = Gateway(programs, settings.servers, settings.options)
            etcd = functools.partial(Etcd, programs, settings.servers, open_etcds_calls)
            others = [started(etcd)]
        else:
            paxon = Paxon(settings.servers, block.durability, settings.options)
            others = start_peers(block.peer, programs, settings)
        stack.callback(paxon.close)
        for other in others:
            stack.callback(other.close)
        taken = take_turns((paxon, *others), block.loads, settings, problems, progress)
    return [
        peer_row(load, (paxon.name, other.name), ours, taken[load.name, other.name])
        for load in block.loads
        for other in others
        if (ours := taken[load.name, paxon.name])
    ]


def take_turns(
    systems: Sequence[System], loads: Sequence[Workload], settings: RepeatedSettings,
    problems: list[str], progress: Progress,
) -> dict[tuple[str, str], Turns]:  # fmt: skip
    """Put each load on one system after the other, again and again; failures go to `problems`.

    Returns what was measured, by load and system.
    """
    taken: dict[tuple[str, str], Turns] = {(ld.name, sy.name): {} for ld in loads for sy in systems}
    for repeat in range(settings.repeat):
        for load in loads:
            for system in systems:
                progress(f"{system.name}: {load.name}")
                idle = [other for other in systems if other is not system]
                try:
                    measured = _take(system, idle, load, settings, repeat)
                    taken[load.name, system.name][repeat] = measured
                except PaxonError as error:
                    problems.append(f"{system.name}, {load.name}, repeat {repeat + 1}: {error}")
    return taken


def _take(
    system: System, idle: Sequence[System], load: Workload, settings: RepeatedSettings, repeat: int
) -> Taken:
    """Measure one system while the others idle. Raises `PaxonError`."""

    def used() -> float:
        return sum(sum(other.counts().cpu.values()) for other in idle)

    before, begin = used(), time.monotonic()
    measured = system.measure(
        load, seconds=load.seconds or settings.seconds, warmup=settings.warmup,
        seed=settings.seed + repeat,
    )  # fmt: skip
    return Taken(measured, (used() - before) / (time.monotonic() - begin))


def _run_gaps(programs: Programs, settings: PeersSettings, progress: Progress) -> GapRow:
    """Kill leaders of Paxon and of etcd in turn, each time on fresh clusters."""
    ours: list[float] = []
    theirs: list[float] = []
    for repeat in range(settings.repeat):
        failover = FailoverSettings(
            servers=settings.servers, runs=settings.kills, value_bytes=settings.value_bytes,
            seed=settings.seed + repeat, options=settings.options,
        )  # fmt: skip
        ours += paxon_kills(failover, lambda what: progress(f"Paxon: {what}"))
        theirs += etcd_kills(programs, failover, lambda what: progress(f"etcd: {what}"))
    return GapRow(other_name="etcd", paxon=spread_of(ours), other=spread_of(theirs))


def install_peers(settings: PeersSettings) -> bool:
    """Fetch the peers, if that is wanted. Raises `BenchError` if it fails."""
    if settings.install:
        Programs(default_directory()).install()
    return settings.install


PEERS = Bench(
    "peers", "Paxon beside etcd, Redis and PySyncObj in one run, taking turns: ratios.",
    PeersSettings, PeersReport, run_peers, peers_sections,
    plots=lambda report: {"peers": plot_peers(report)}, instead=install_peers, notes=peers_notes,
)  # fmt: skip
