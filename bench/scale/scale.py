"""`paxon bench scale`: what an operation costs as sessions, keys, log and values grow.

Parts that can be cut into independent measurements have a fresh cluster for each, in random order,
as in `compare`. Keys and log grow on one cluster, and everything is measured at each size.
"""

from __future__ import annotations

import functools
import operator
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import typer

from paxon.actors.messages import ReadMode
from paxon.bench.harness import report as col
from paxon.bench.harness.child import Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.flags import Outstanding, Repeat, RepeatedSettings, Several
from paxon.bench.harness.lab import SERVER, LabCluster
from paxon.bench.harness.machine import children_of, memory_bytes
from paxon.bench.harness.measure import Figures, Lab, Measurement, counts_of, figures_of
from paxon.bench.harness.repeater import PATIENCE_SECONDS, Repeater, wait_until
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section
from paxon.bench.harness.summary import Latency, Spread, latency_of, spread_of
from paxon.bench.harness.workloads import Workload
from paxon.bench.scale.load import open_sessions
from paxon.bench.scale.plots import plot_scale
from paxon.kvstore.client.client import Client

__all__ = ["CostRow", "MemoryRow", "PartName", "ReplayRow", "SCALE", "ScaleReport"]

PartName: TypeAlias = Literal["sessions", "keys", "log", "value", "reads", "replay", "pause"]
PARTS: tuple[PartName, ...] = get_args(PartName)

ReplayKind: TypeAlias = Literal["empty", "log", "snapshot"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_FILL_AT_ONCE = 50_000
READ_MODES: tuple[ReadMode, ...] = ("linearizable", "lease", "stale")


class ScaleSettings(RepeatedSettings, frozen=True, kw_only=True):
    """The settings of a run."""

    QUICK: ClassVar[dict[str, float]] = {"seconds": 0.5, "warmup": 0.2, "repeat": 1}

    part: Annotated[
        tuple[PartName, ...],
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
    """Memory for keys, in bytes beyond those that the process took before there were any."""

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


class ScaleLab(Lab[ScaleSettings]):
    """The lab of all parts of a run, with the findings of some of them besides costs."""

    def __init__(self, settings: ScaleSettings, progress: Progress) -> None:
        super().__init__(settings, progress)
        self.sizes = QUICK if settings.quick else FULL if settings.full else Sizes()
        self.memory: list[MemoryRow] = []
        self.replay: list[ReplayRow] = []
        self.pause: list[PauseRow] = []

    def load(self, name: str, **changes: Any) -> Workload:
        """A workload as the settings say, with some of it changed."""
        settings = self.settings
        usual = {"outstanding": settings.outstanding, "value_bytes": settings.value_bytes}
        return Workload(name=name, **{**usual, **changes})

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


def _number(head: str, field: str, form: str = "{:,}", scale: float = 1) -> Column:
    """A field, such as `pings.p99`, in a form; None as a dash."""

    def cell(row: Any) -> str:
        number = operator.attrgetter(field)(row)
        return "-" if number is None else form.format(number * scale)

    return Column(head, cell)


_mib = functools.partial(_number, form="{:,.1f}", scale=1 / MIB)
_ms = functools.partial(_number, form="{:,.1f}", scale=1e3)


_MEMORY = [
    _number("keys", "keys"), _number("value bytes", "value_bytes"), _mib("server\nMiB", "server"),
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
    _number("keys of 1 KiB", "keys"), _number("slots", "slots"),
    _ms("start ms", "seconds.median"),
    Column(
        "MiB/s",
        lambda row: f"{row.disk_bytes / MIB / row.seconds.median:,.0f}" if row.keys else "-",
    ),
]  # fmt: skip
_PAUSE = [
    Column("phase", lambda row: row.phase), _mib("store MiB", "store_bytes"),
    _number("seconds", "seconds", "{:.1f}"), _number("pings", "pings.count"),
    _ms("p99 ms", "pings.p99"), _ms("p99.9 ms", "pings.p999"), _ms("longest ms", "pings.worst"),
    _number("writes", "writes.count"), _ms("p99 ms", "writes.p99"),
    _ms("longest ms", "writes.worst"),
]  # fmt: skip


def scale_sections(report: ScaleReport) -> list[Section]:
    """A table for each part that was measured."""
    found = [_costs(report, part) for part in report.settings.parts if part in TITLES]
    others: list[tuple[str, list[Column], Sequence[Any]]] = [
        ("Memory of a server for its keys, beyond that of an empty one", _MEMORY, report.memory),
        ("Starting a server from its directory (without starting Python)", _REPLAY, report.replay),
        (
            "How long one server stands still for a snapshot; a ping is a stale read", _PAUSE,
            report.pause,
        ),
    ]  # fmt: skip
    found += [col.table_of(title, columns, rows) for title, columns, rows in others if rows]
    settings = report.settings
    load = f"{settings.outstanding} operations under way for each client"
    conditions = f"{settings.conditions(load)}, unless said otherwise; {settings.times}"
    return [s._replace(title=f"{conditions}\n\n{s.title}") for s in found[:1]] + found[1:]


# --- a run ---------------------------------------------------------------------------------------

_MOST_KEYS_USED = 100_000
"""A client goes round so many keys, spread over all that there are."""
_DICT_SECONDS = 120.0
_SNAPSHOT_SECONDS = 300.0
_GROW_SECONDS = 1.0
_GROW_STRETCHES = 120
"""A log that has not grown to its length after so many stretches never will."""
_UNLIMITED = 1 << 40


def run_scale(settings: ScaleSettings, progress: Progress) -> ScaleReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    parts: dict[PartName, Callable[[ScaleLab], list[CostRow]]] = {
        "sessions": _sessions, "keys": _keys, "log": _log, "value": _value, "reads": _reads,
        "replay": _replay, "pause": watch_pauses,
    }  # fmt: skip
    with ScaleLab(settings, progress) as lab:
        rows = [row for part in settings.parts for row in parts[part](lab)]
    return ScaleReport(
        bench="scale", settings=settings, rows=rows, memory=lab.memory, replay=lab.replay,
        pause=lab.pause,
    )  # fmt: skip


def _sessions(lab: ScaleLab) -> list[CostRow]:
    """The same load from ever more sessions."""

    def one(sessions: int, repeat: int) -> Measurement:
        opened = functools.partial(open_sessions, sessions=sessions)
        with lab.cluster() as cluster:
            cluster.leader()
            return lab.measure(cluster, lab.load("sessions"), repeat, open_load=opened)

    measured = lab.interleaved(lab.sizes.sessions, "{} sessions".format, one)
    return [cost_row("sessions", "writes", count, taken) for count, taken in measured.items()]


def _keys(lab: ScaleLab) -> list[CostRow]:
    """A store that grows: writes and reads of keys all over it, and what it takes in memory."""
    rows: list[CostRow] = []
    settings = lab.settings
    held = 0
    # Fresh processes: what earlier clusters left in their memory is not the keys'.
    with Children(SERVER) as hosts, lab.cluster(hosts=hosts) as cluster:
        cluster.leader()
        before = {pid: memory_bytes(pid) for pid in cluster.pids.values()}
        for keys in lab.sizes.keys:
            lab.progress(f"filling in {keys:,} keys")
            lab.fill(cluster.addresses, held, keys, settings.value_bytes)
            held = keys
            lab.progress(f"{keys:,} keys")
            # Snapshots that the filling asked for are not the load's.
            wait_until(
                lambda: not any(map(children_of, before)), "a snapshot was not written",
                _SNAPSHOT_SECONDS,
            )  # fmt: skip
            rows += _with_keys(lab, cluster, keys)
            lab.memory.append(
                MemoryRow(
                    keys=keys, value_bytes=settings.value_bytes,
                    server=max(memory_bytes(pid) - start for pid, start in before.items()),
                    server_peak=max(memory_bytes(p, "VmHWM") - was for p, was in before.items()),
                    bare=bare_dict_bytes(keys, settings.value_bytes),
                )
            )  # fmt: skip
    return rows


def _with_keys(lab: ScaleLab, cluster: LabCluster, keys: int) -> list[CostRow]:
    used = min(keys, _MOST_KEYS_USED)
    loads = [
        lab.load(name, kind=kind, fill=False, keys=used, stride=keys // used)
        for name, kind in (("writes", "put"), ("linearizable reads", "get"))
    ]
    one = functools.partial(lab.measure, cluster)
    measured = lab.interleaved(loads, f"{keys:,} keys: {{.name}}".format, one)
    return [cost_row("keys", load.name, keys, measured[load]) for load in loads]


def bare_dict_bytes(keys: int, value_bytes: int) -> int:
    """Resident bytes of a dict with so many keys, in a process that has nothing else."""
    with Children("the process that fills a dict") as children:
        (child,) = children.take(1)
        child.tell(dict_bytes, keys, value_bytes)
        return int(child.answer(_DICT_SECONDS))


def dict_bytes(keys: int, value_bytes: int) -> int:
    """In the process with the dict."""
    chance = random.Random(1)
    before = memory_bytes()
    held = {f"key-{number:07}": chance.randbytes(value_bytes) for number in range(keys)}
    taken = memory_bytes() - before
    assert len(held) == keys  # and so it is still there
    return taken


def _log(lab: ScaleLab) -> list[CostRow]:
    """A log that cannot be discarded, because one server is down: a slot for each write."""
    rows = []
    load = lab.load("log", packing=1)
    with lab.cluster(batch_bytes=1, retain_slots=_UNLIMITED, retain_bytes=_UNLIMITED) as cluster:
        leader = cluster.leader()
        cluster.stop_server(next(server for server in cluster.servers if server != leader))
        for length in lab.sizes.log:
            lab.progress(f"a log of {length:,} slots")
            _grow(lab, cluster, load, length)
            measured = [lab.measure(cluster, load, n) for n in range(lab.settings.repeat)]
            rows.append(cost_row("log", "writes, a slot each", length, measured))
    return rows


def _grow(lab: ScaleLab, cluster: LabCluster, workload: Workload, slots: int) -> None:
    """Write until the log holds so many slots. Raises `BenchError` if it does not come so far."""
    for stretch in range(_GROW_STRETCHES):
        replies = counts_of(cluster).replies.values()
        if min(reply.counters["log_slots"] for reply in replies) >= slots:
            return
        lab.measure(cluster, workload, stretch, seconds=_GROW_SECONDS, warmup=0.0)
    raise BenchError(f"the log has not grown to {slots:,} slots")


def _value(lab: ScaleLab) -> list[CostRow]:
    def one(size: int, repeat: int) -> Measurement:
        # As many keys as make 16 MiB at most: what is measured is the way, not the store.
        keys = max(16, min(10_000, (16 << 20) // size))
        with lab.cluster() as cluster:
            cluster.leader()
            load = lab.load("value", outstanding=16, value_bytes=size, keys=keys)
            return lab.measure(cluster, load, repeat)

    measured = lab.interleaved(lab.sizes.value, "values of {} bytes".format, one)
    return [cost_row("value", "writes", size, taken) for size, taken in measured.items()]


def _reads(lab: ScaleLab) -> list[CostRow]:
    """Reads of each mode from ever more client processes."""
    kinds = [(mode, clients) for mode in READ_MODES for clients in lab.sizes.readers]
    with lab.cluster() as cluster:
        cluster.leader()

        def one(kind: tuple[ReadMode, int], repeat: int) -> Measurement:
            load = lab.load(kind[0], kind="get", mode=kind[0], clients=kind[1])
            return lab.measure(cluster, load, repeat)

        measured = lab.interleaved(kinds, "reads: {}".format, one)
    return [
        cost_row("reads", f"{mode} reads", clients, taken)
        for (mode, clients), taken in measured.items()
    ]


def _replay(lab: ScaleLab) -> list[CostRow]:
    """Servers that start with nothing, with a long log, and with a snapshot."""
    long_log = {"snapshot_bytes": _UNLIMITED, "snapshot_slots": _UNLIMITED}
    size = lab.sizes.replay_bytes
    kinds: list[tuple[ReplayKind, int, dict[str, Any]]] = [
        ("empty", 0, {}), ("log", size, long_log),
        ("snapshot", size, {"snapshot_bytes": max(KIB, size // 8)}),
    ]  # fmt: skip
    for kind, wanted, options in kinds:
        lab.progress(f"starting with {kind}, {wanted >> 20} MiB")
        with tempfile.TemporaryDirectory(prefix="paxon-scale-") as directory:
            lab.replay.append(_restart(lab, kind, wanted, Path(directory), options))
    return []


def _restart(
    lab: ScaleLab, kind: ReplayKind, size: int, directory: Path, options: dict[str, Any]
) -> ReplayRow:
    """Fill a cluster's directories, stop it, and start one server after the other alone."""
    cluster = lab.cluster(directory=directory, **options)
    try:
        cluster.start().leader()
        lab.fill(cluster.addresses, 0, size // KIB, KIB)
        cluster.stop()
        held = [
            sum(path.stat().st_size for path in (directory / f"server-{server}").rglob("*"))
            for server in cluster.servers
        ]
        seconds, slots = [], 0
        for server in cluster.servers:
            seconds.append(cluster.start_server(server))
            slots = max(slots, counts_of(cluster).replies[server].executed)
            cluster.stop_server(server)
    finally:
        cluster.stop()
    return ReplayRow(
        kind=kind, disk_bytes=max(held), keys=size // KIB, slots=slots, seconds=spread_of(seconds)
    )


_VALUE_BYTES = 4096
_PING_SECONDS, _WRITE_SECONDS = 0.001, 0.002
"""Between two pings, between two writes."""


def watch_pauses(lab: ScaleLab) -> list[CostRow]:
    """Fill a store, then watch it before and during a snapshot. Raises `PaxonError`."""
    # A snapshot is due after so many slots. Filling takes fewer, for its slots are large, and so do
    # the writes of the seconds before it; it is watched for some more once it counts.
    slots, before, after = (400, 0.5, 0.5) if lab.settings.quick else (6000, 5.0, 2.0)
    with (
        lab.cluster(servers=1, snapshot_bytes=_UNLIMITED, snapshot_slots=slots) as cluster,
        Client(cluster.addresses, timeout=PATIENCE_SECONDS) as client,
        Client(cluster.addresses, timeout=PATIENCE_SECONDS) as other,
    ):
        lab.progress("filling the store")
        lab.fill(cluster.addresses, 0, lab.sizes.pause_bytes // _VALUE_BYTES, _VALUE_BYTES)
        pinger = Repeater(lambda: other.get("key-0000000", mode="stale"), _PING_SECONDS)
        writer = Repeater(lambda: client.put("write", bytes(64)), _WRITE_SECONDS)

        def snapshots() -> int:
            return min(r.counters["snapshots_taken"] for r in counts_of(cluster).replies.values())

        def until_after_it() -> None:
            wait_until(lambda: snapshots() > 0, "no snapshot was taken")
            time.sleep(after)

        phases: list[tuple[Literal["before", "snapshot"], Callable[[], None]]] = [
            ("before", lambda: time.sleep(before)), ("snapshot", until_after_it),
        ]  # fmt: skip
        pinger.start()
        writer.start()
        try:
            for phase, wait in phases:
                lab.progress(f"watching ({phase})")
                if snapshots():
                    raise BenchError("a snapshot came too early, while the store was filled")
                begun = time.perf_counter()
                wait()
                seconds = time.perf_counter() - begun
                pings, writes = latency_of(pinger.take()), latency_of(writer.take())
                lab.pause.append(PauseRow(phase, lab.sizes.pause_bytes, seconds, pings, writes))
        finally:
            pinger.end()
            writer.end()
    return []


SCALE = Bench(
    "scale",
    "Cost of an operation as sessions, keys, log and values grow; memory, start-up, pauses.",
    ScaleSettings, ScaleReport, run_scale, scale_sections,
    plots=lambda report: {"scale": plot_scale(report, TITLES)},
)  # fmt: skip
