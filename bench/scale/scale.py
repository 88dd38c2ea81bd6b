"""`paxon bench scale`: what an operation costs as sessions, keys, log and values grow.

Parts that can be cut into independent measurements have a fresh cluster for each, in random order,
as in `compare`. Keys and log grow on one cluster, and everything is measured at each size.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from paxon.actors.messages import ReadMode
from paxon.bench.harness.lab import LabCluster, ServerHosts
from paxon.bench.harness.load_process import LoadProcesses
from paxon.bench.harness.machine import describe_machine
from paxon.bench.harness.measure import Measurement
from paxon.bench.harness.report import Report, spread_or_none
from paxon.bench.harness.summary import Spread, spread_of
from paxon.kvstore.client import Client
from paxon.kvstore.local_cluster import Transport
from paxon.kvstore.options import Durability

__all__ = [
    "PartName",
    "PARTS",
    "ScaleSettings",
    "CostRow",
    "MemoryRow",
    "ReplayRow",
    "ScaleReport",
    "Lab",
    "Sizes",
    "sizes_of",
    "cost_row",
    "new_scale_report",
]

PartName: TypeAlias = Literal["sessions", "keys", "log", "value", "reads", "replay"]
PARTS: tuple[PartName, ...] = get_args(PartName)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_FILL_AT_ONCE = 50_000
READ_MODES: tuple[ReadMode, ...] = ("linearizable", "lease", "stale")


class ScaleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    parts: tuple[PartName, ...] = PARTS
    servers: int = 3
    outstanding: int = 64
    """Operations under way for each client."""
    value_bytes: int = 64
    durability: Durability = "disk"
    transport: Transport = "tcp"
    seconds: float = 1.0
    warmup: float = 0.3
    repeat: int = 2
    seed: int = 1
    quick: bool = False
    full: bool = False
    """10⁷ keys and a data directory of 1 GiB too."""
    options: dict[str, Any] = {}
    """Of the servers, beside their defaults."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How far each part goes."""

    sessions: tuple[int, ...]
    keys: tuple[int, ...]
    log: tuple[int, ...]
    """Slots kept in the log."""
    value: tuple[int, ...]
    readers: tuple[int, ...]
    """Client processes."""
    replay_bytes: int
    """About what each server's directory holds."""


def sizes_of(settings: ScaleSettings) -> Sizes:
    """The sizes of a quick, an ordinary or a full run."""
    if settings.quick:
        return Sizes(
            sessions=(1, 1_000), keys=(1_000, 10_000), log=(1_000, 3_000), value=(16, 65_536),
            readers=(1, 2), replay_bytes=2 * MIB,
        )  # fmt: skip
    keys = (1_000, 10_000, 100_000, 1_000_000)
    return Sizes(
        sessions=(1, 10, 100, 1_000, 10_000),
        keys=(*keys, 10_000_000) if settings.full else keys,
        log=(1_000, 10_000, 100_000),
        value=(16, 256, 4 * KIB, 64 * KIB, MIB),
        readers=(1, 2, 4),
        replay_bytes=GIB if settings.full else 64 * MIB,
    )


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """One size over all repeats. Latencies are seconds."""

    part: PartName
    line: str
    """What was done."""
    x: int
    """How many sessions, keys, slots, bytes or client processes."""
    rate: Spread
    p50: Spread | None
    p99: Spread | None
    p999: Spread | None
    server_cpu: Spread | None
    """CPU seconds for each operation, of all servers together."""
    client_cpu: Spread | None
    failed: int
    snapshots: int
    """Taken by all servers while it was measured."""
    repeats: list[Measurement]


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

    kind: Literal["empty", "log", "snapshot"]
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


class ScaleReport(Report[ScaleSettings, CostRow], frozen=True, kw_only=True):
    """A whole run."""

    memory: list[MemoryRow]
    replay: list[ReplayRow]


Progress: TypeAlias = Callable[[str], None]


class Lab:
    """What all parts of a run share."""

    def __init__(
        self,
        settings: ScaleSettings,
        hosts: ServerHosts,
        processes: LoadProcesses,
        progress: Progress,
    ) -> None:
        self.settings = settings
        self.sizes = sizes_of(settings)
        self.hosts = hosts
        self.processes = processes
        self.progress = progress
        self.order = random.Random(settings.seed)

    def cluster(
        self,
        hosts: ServerHosts | None = None,
        *,
        directory: Path | None = None,
        **options: Any,
    ) -> LabCluster:
        """A cluster as the settings say, with some of them changed."""
        return LabCluster(
            hosts if hosts is not None else self.hosts,
            self.settings.servers,
            durability=self.settings.durability,
            transport=self.settings.transport,
            directory=directory,
            **{**self.settings.options, **options},
        )

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

    def each(figure: Callable[[Measurement], float]) -> Spread | None:
        return spread_or_none(
            [figure(m) / m.operations if m.operations else None for m in measured]
        )

    return CostRow(
        part=part,
        line=line,
        x=x,
        rate=spread_of([m.rate for m in measured]),
        p50=spread_or_none([m.latency.p50 for m in measured]),
        p99=spread_or_none([m.latency.p99 for m in measured]),
        p999=spread_or_none([m.latency.p999 for m in measured]),
        server_cpu=each(lambda m: m.server_cpu),
        client_cpu=each(lambda m: m.client_cpu),
        failed=sum(m.failed for m in measured),
        snapshots=sum(m.counters.get("snapshots_taken", 0) for m in measured),
        repeats=[m.slim() for m in measured],
    )


def new_scale_report(
    settings: ScaleSettings,
    started: datetime.datetime,
    rows: list[CostRow],
    memory: list[MemoryRow],
    replay: list[ReplayRow],
) -> ScaleReport:
    """The report of a run on this machine."""
    return ScaleReport(
        bench="scale",
        started=started.isoformat(timespec="seconds"),
        machine=describe_machine(),
        settings=settings,
        rows=rows,
        memory=memory,
        replay=replay,
    )
