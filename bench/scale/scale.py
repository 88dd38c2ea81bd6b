"""`paxon bench scale`: what an operation costs as sessions, keys, log and values grow.

Parts that can be cut into independent measurements have a fresh cluster for each, in random order,
as in `compare`. Keys and log grow on one cluster, and everything is measured at each size.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import msgspec
import typer

from paxon.actors.messages import ReadMode
from paxon.bench.harness import report as col
from paxon.bench.harness.child import Children
from paxon.bench.harness.flags import Names, Outstanding, Repeat, RepeatedSettings, Several
from paxon.bench.harness.lab import LabCluster
from paxon.bench.harness.load_process import OpenLoad, open_client_load
from paxon.bench.harness.measure import (
    Figures,
    Measurement,
    counts_of,
    figures_of,
    jobs_for,
    measure,
)
from paxon.bench.harness.report import Column, Progress, Report, Section
from paxon.bench.harness.summary import Latency, Spread
from paxon.bench.harness.workloads import Workload
from paxon.kvstore.client.client import Client

__all__ = [
    "READ_MODES", "TITLES", "CostRow", "Lab", "MemoryRow", "PartName", "PauseRow", "ReplayKind",
    "ReplayRow",     "ScaleReport", "ScaleSettings", "cost_row", "scale_sections",
]  # fmt: skip

PartName: TypeAlias = Literal["sessions", "keys", "log", "value", "reads", "replay", "pause"]
PARTS: tuple[PartName, ...] = get_args(PartName)

ReplayKind: TypeAlias = Literal["empty", "log", "snapshot"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_FILL_AT_ONCE = 50_000
READ_MODES: tuple[ReadMode, ...] = ("linearizable", "lease", "stale")


class ScaleSettings(RepeatedSettings, frozen=True, kw_only=True):
    """What is measured."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 0.5, "warmup": 0.2, "repeat": 1}

    part: Annotated[
        tuple[PartName, ...],
        Names(PARTS),
        typer.Option(
            help="What to let grow; separated by commas or given several times. All by default."
        ),
    ] = ()
    servers: Several = 3
    outstanding: Outstanding = 64
    repeat: Repeat = 2
    full: Annotated[
        bool,
        typer.Option("--full", help="10,000,000 keys; directories and a snapshot of 1 GiB too."),
    ] = False

    def __post_init__(self) -> None:
        if self.quick and self.full:
            raise ValueError("a run is either quick or full")

    @property
    def parts(self) -> tuple[PartName, ...]:
        """Those asked for, or all; in memory there is nothing to start from or to snapshot."""
        parts = self.part or PARTS
        if self.durability == "memory":
            return tuple(part for part in parts if part not in ("replay", "pause"))
        return parts


class Sizes(NamedTuple):
    """How far each part of an ordinary run goes."""

    sessions: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    keys: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    log: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Slots kept in the log."""
    value: tuple[int, ...] = (16, 256, 4 * KIB, 64 * KIB, MIB)
    readers: tuple[int, ...] = (1, 2, 4)
    """Client processes."""
    replay_bytes: int = 64 * MIB
    """About what each server's directory holds."""
    pause_bytes: int = 64 * MIB
    """Of the store whose snapshot is watched."""


QUICK = Sizes(
    sessions=(1, 300), keys=(1_000, 10_000), log=(1_000, 3_000), value=(16, 64 * KIB),
    readers=(1, 2), replay_bytes=2 * MIB, pause_bytes=12 * MIB,
)  # fmt: skip
FULL = Sizes(keys=(*Sizes().keys, 10_000_000), replay_bytes=GIB, pause_bytes=GIB)


class CostRow(Figures, frozen=True, kw_only=True):
    """One size over all repeats."""

    part: PartName
    line: str
    """What was done."""
    x: int
    """How many sessions, keys, slots, bytes or client processes."""


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """What keys take in memory. Bytes, beyond what the process took before there were any."""

    keys: int
    value_bytes: int
    server: int
    """Resident, of the server that takes most."""
    server_peak: int
    """The most that it ever took, snapshots and all."""
    bare: int
    """Resident, of a process that holds the same keys and values in a dict and nothing else."""


class ReplayRow(msgspec.Struct, frozen=True, kw_only=True):
    """Starting one server from its own directory."""

    kind: ReplayKind
    """What the directory holds: nothing, a log and no snapshot, or a snapshot and a short log."""
    disk_bytes: int
    """What the directory's files take."""
    keys: int
    """That were written, with values of 1 KiB."""
    slots: int
    """Executed once it serves."""
    seconds: Spread
    """From the order to start until it serves; each value is one server. Starting Python is not in
    it."""


class PauseRow(msgspec.Struct, frozen=True):
    """One server with a big store: what was seen before its snapshot, or until after it."""

    phase: Literal["before", "snapshot"]
    store_bytes: int
    seconds: float
    pings: Latency
    """A `stale` read each millisecond: the longest is as long as the server ever stood still."""
    writes: Latency
    """One after another, at most 500 a second."""


class ScaleReport(Report[ScaleSettings, CostRow], frozen=True, kw_only=True):
    """A whole run."""

    memory: list[MemoryRow]
    replay: list[ReplayRow]
    pause: list[PauseRow]


K = TypeVar("K")


class Lab:
    """What all parts of a run share, and what some of them find beside costs."""

    def __init__(
        self, settings: ScaleSettings, hosts: Children, processes: Children, progress: Progress
    ) -> None:
        self.settings = settings
        self.sizes = QUICK if settings.quick else FULL if settings.full else Sizes()
        self.hosts = hosts
        self.processes = processes
        self.progress = progress
        self.order = random.Random(settings.seed)
        self.memory: list[MemoryRow] = []
        self.replay: list[ReplayRow] = []
        self.pause: list[PauseRow] = []

    def load(self, name: str, **changes: Any) -> Workload:
        """A workload as the settings say, with some of it changed."""
        settings = self.settings
        usual = {"outstanding": settings.outstanding, "value_bytes": settings.value_bytes}
        return Workload(name=name, **{**usual, **changes})

    def measure(
        self, cluster: LabCluster, load: Workload, repeat: int, seconds: float | None = None,
        open_load: OpenLoad = open_client_load,
    ) -> Measurement:  # fmt: skip
        """A workload on a cluster that runs. Raises `PaxonError`."""
        warmup = self.settings.warmup if seconds is None else 0.0
        seed = self.settings.seed + 1000 * repeat
        jobs = jobs_for(load, cluster.addresses, warmup=warmup, seed=seed, open_load=open_load)
        clients = self.processes.take(load.clients)
        counts = functools.partial(counts_of, cluster)
        return measure(counts, clients, jobs, seconds or self.settings.seconds)

    def interleaved(
        self, kinds: Sequence[K], what: str, one: Callable[[K, int], Measurement]
    ) -> dict[K, list[Measurement]]:
        """Every kind once, in random order, then every kind again: `one` takes kind and repeat."""
        measured: dict[K, list[Measurement]] = {kind: [] for kind in kinds}
        for repeat in range(self.settings.repeat):
            for kind in self.order.sample(kinds, len(kinds)):
                self.progress(f"{what}: {kind}")
                measured[kind].append(one(kind, repeat))
        return measured

    def cluster(self, servers: int | None = None, **options: Any) -> LabCluster:
        """A cluster as the settings say, with some of them changed; see `LabCluster`."""
        settings = self.settings
        usual = {"durability": settings.durability, "transport": settings.transport}
        return LabCluster(
            options.pop("hosts", self.hosts), servers or settings.servers,
            **{**usual, **settings.options, **options},
        )  # fmt: skip

    def fill(self, addresses: Sequence[str], first: int, last: int, value_bytes: int) -> None:
        """Write the keys from number `first` to below `last`. Raises `PaxonError`."""
        chance = random.Random(self.settings.seed)
        with Client(addresses, timeout=60.0) as client:
            for begin in range(first, last, _FILL_AT_ONCE):
                with client.pipeline(timeout=60.0) as pipeline:
                    for number in range(begin, min(last, begin + _FILL_AT_ONCE)):
                        pipeline.put(f"key-{number:07}", chance.randbytes(value_bytes))


def cost_row(part: PartName, line: str, x: int, measured: Sequence[Measurement]) -> CostRow:
    """Medians over the repeats."""
    return CostRow(part=part, line=line, x=x, **figures_of(measured))


# --- tables --------------------------------------------------------------------------------------

TITLES: dict[PartName, tuple[str, str]] = {
    "sessions": ("Sessions", "sessions"),
    "keys": ("Keys in the store", "keys"),
    "log": ("Length of the log, one server being down", "slots kept"),
    "value": ("Size of values, 16 operations under way", "bytes"),
    "reads": ("Reads by client processes", "clients"),
}
"""Of each part that measures what an operation costs: its title, and what its x is."""


def _costs(report: ScaleReport, part: PartName) -> Section:
    title, x_label = TITLES[part]

    def megabytes(row: CostRow) -> str:
        """Values moved in a second, in megabytes."""
        size = row.x if part == "value" else report.settings.value_bytes
        return f"{row.rate.median * size / 1e6:,.1f}"

    columns = [
        Column("", lambda row: row.line),
        Column(x_label, lambda row: f"{row.x:,}"),
        col.RATE, Column("MB/s", megabytes), col.P50, col.P99, col.P999,
        col.SERVER_CPU, col.CLIENT_CPU,
        Column("snapshots", lambda row: str(row.total("snapshots_taken"))), col.FAILED,
    ]  # fmt: skip
    return col.table_of(title, columns, [row for row in report.rows if row.part == part])


def _mib(head: str, field: str) -> Column:
    return Column(head, lambda row: f"{getattr(row, field) / 2**20:,.1f}")


def _whole(head: str, field: str) -> Column:
    return Column(head, lambda row: f"{getattr(row, field):,}")


def _ms(head: str, latency: str, figure: str) -> Column:
    """A figure of a `Latency`, seconds in milliseconds."""

    def cell(row: PauseRow) -> str:
        seconds = getattr(getattr(row, latency), figure)
        return "-" if seconds is None else f"{seconds * 1e3:.1f}"

    return Column(head, cell)


_MEMORY = [
    _whole("keys", "keys"), _whole("value bytes", "value_bytes"), _mib("server\nMiB", "server"),
    _mib("most\nMiB", "server_peak"), _mib("bare dict\nMiB", "bare"),
    Column("server\nbytes/key", lambda row: f"{row.server / row.keys:,.0f}"),
    Column("dict\nbytes/key", lambda row: f"{row.bare / row.keys:,.0f}"),
    Column("ratio", lambda row: f"{row.server / row.bare:.2f}x" if row.bare else "-"),
]  # fmt: skip
_HOLDS = {
    "empty": "nothing", "log": "a log, no snapshot", "snapshot": "a snapshot and a short log",
}  # fmt: skip
_REPLAY = [
    Column("directory holds", lambda row: _HOLDS[row.kind]), _mib("MiB on disk", "disk_bytes"),
    _whole("keys of 1 KiB", "keys"), _whole("slots", "slots"),
    Column("start ms", lambda row: f"{row.seconds.median * 1e3:,.1f}"),
    Column(
        "MiB/s",
        lambda row: f"{row.disk_bytes / 2**20 / row.seconds.median:,.0f}" if row.keys else "-",
    ),
]  # fmt: skip
_PAUSE = [
    Column("phase", lambda row: row.phase), _mib("store MiB", "store_bytes"),
    Column("seconds", lambda row: f"{row.seconds:.1f}"),
    Column("pings", lambda row: f"{row.pings.count:,}"), _ms("p99 ms", "pings", "p99"),
    _ms("p99.9 ms", "pings", "p999"), _ms("longest ms", "pings", "worst"),
    Column("writes", lambda row: f"{row.writes.count:,}"), _ms("p99 ms", "writes", "p99"),
    _ms("longest ms", "writes", "worst"),
]  # fmt: skip


def scale_sections(report: ScaleReport) -> list[Section]:
    """A table for each part that was measured."""
    found = [_costs(report, part) for part in report.settings.parts if part in TITLES]
    for title, columns, rows in (
        ("Memory of a server for its keys, beyond that of an empty one", _MEMORY, report.memory),
        ("Starting a server from its directory (without starting Python)", _REPLAY, report.replay),
        (
            "How long one server stands still for a snapshot; a ping is a stale read", _PAUSE,
            report.pause,
        ),
    ):  # fmt: skip
        if rows:
            found.append(col.table_of(title, columns, rows))
    if found:
        settings = report.settings
        conditions = (
            f"{settings.servers} servers, durability {settings.durability}, "
            f"{settings.outstanding} operations under way for each client, values of "
            f"{settings.value_bytes} bytes, unless said otherwise; median of {settings.repeat} x "
            f"{settings.seconds:g} s"
        )
        found[0] = found[0]._replace(title=f"{conditions}\n\n{found[0].title}")
    return found
