"""`paxon bench pause`: how long a server stands still while it takes a snapshot of a big store."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
from rich.table import Table

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.report import Report, new_report, plain_table
from paxon.bench.harness.summary import Latency, latency_of
from paxon.kvstore.client import Client
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.local_cluster import LocalCluster

__all__ = ["PauseSettings", "PauseRow", "PauseReport", "run_pause", "pause_table"]

Phase: TypeAlias = Literal["before", "snapshot"]
PHASES: tuple[Phase, ...] = ("before", "snapshot")

_PATIENCE_SECONDS = 120.0
_PING_SECONDS = 0.001
"""Between two pings."""
_WRITE_SECONDS = 0.002
"""Between two writes."""
_AFTER_SECONDS = 2.0
"""The server is watched for so long after its snapshot counts."""
_SLOTS = 6000
"""A snapshot is due after so many slots. Filling takes fewer, for its slots are large, and so do
the writes of the time before."""
_UNLIMITED = 1 << 40


class PauseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    servers: int = 1
    store_bytes: int = 1 << 30
    value_bytes: int = 4096
    seconds: float = 5.0
    """Watched before the snapshot, for comparison."""
    seed: int = 1
    options: dict[str, Any] = {}


class PauseRow(msgspec.Struct, frozen=True):
    """What was seen in one phase."""

    phase: Phase
    seconds: float
    pings: Latency
    """A `stale` read each millisecond: the longest is as long as the server ever stood still."""
    writes: Latency
    """One after another, at most 500 a second."""


PauseReport: TypeAlias = Report[PauseSettings, PauseRow]

Progress: TypeAlias = Callable[[str], None]


class _Repeater(threading.Thread):
    """Calls a function over and over and notes how long each call took."""

    def __init__(self, call: Callable[[], object], interval: float) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._interval = interval
        self._ending = False
        self._error: PaxonError | None = None
        self._taken: list[float] = []

    def run(self) -> None:
        try:
            while not self._ending:
                begun = time.perf_counter()
                self._call()
                self._taken.append(time.perf_counter() - begun)
                time.sleep(self._interval)
        except PaxonError as error:
            self._error = error

    def take(self) -> list[float]:
        """Seconds of each call since the last time. Raises `BenchError` if one failed."""
        if self._error is not None:
            raise BenchError(f"an operation failed: {self._error}")
        taken, self._taken = self._taken, []
        return taken

    def end(self) -> None:
        self._ending = True
        self.join()


def run_pause(settings: PauseSettings, progress: Progress) -> PauseReport:
    """Fill a store, then watch it before and during a snapshot. Raises `PaxonError`."""
    started = datetime.datetime.now(datetime.UTC)
    options = {"snapshot_bytes": _UNLIMITED, "snapshot_slots": _SLOTS, **settings.options}
    with (
        LocalCluster(settings.servers, log_level="WARNING", **options) as cluster,
        cluster.client(timeout=_PATIENCE_SECONDS) as client,
        cluster.client(timeout=_PATIENCE_SECONDS) as other,
    ):
        progress("filling the store")
        _fill(client, settings)
        rows = _watch(cluster, client, other, settings, progress)
    return new_report("pause", settings, rows, started)


def _fill(client: Client, settings: PauseSettings) -> None:
    """Different bytes in each value, as a real store has."""
    chance = random.Random(settings.seed)
    noise = chance.randbytes(settings.value_bytes + 65536)
    count = max(1, settings.store_bytes // settings.value_bytes)
    with client.pipeline(max_in_flight=4096) as pipeline:
        for number in range(count):
            start = number % 65536
            pipeline.put(f"fill-{number}", noise[start : start + settings.value_bytes])


def _watch(
    cluster: LocalCluster,
    client: Client,
    other: Client,
    settings: PauseSettings,
    progress: Progress,
) -> list[PauseRow]:
    value = bytes(64)
    pinger = _Repeater(lambda: other.get("fill-0", mode="stale"), _PING_SECONDS)
    writer = _Repeater(lambda: client.put("write", value), _WRITE_SECONDS)
    rows: list[PauseRow] = []
    phases = (_until(settings.seconds), _until_snapshot(cluster))
    pinger.start()
    writer.start()
    try:
        for phase, wait in zip(PHASES, phases, strict=True):
            progress(f"watching ({phase})")
            begun = time.perf_counter()
            wait()
            seconds = time.perf_counter() - begun
            pings, writes = latency_of(pinger.take()), latency_of(writer.take())
            rows.append(PauseRow(phase, seconds, pings, writes))
            if phase == "before" and _snapshots(cluster):
                raise BenchError("a snapshot came too early: use larger values or fewer seconds")
    finally:
        pinger.end()
        writer.end()
    return rows


def _until(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def _until_snapshot(cluster: LocalCluster) -> Callable[[], None]:
    def wait() -> None:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while not _snapshots(cluster):
            if time.monotonic() > give_up:
                raise BenchError(f"no snapshot was taken within {_PATIENCE_SECONDS:g} s")
            time.sleep(0.25)
        time.sleep(_AFTER_SECONDS)

    return wait


def _snapshots(cluster: LocalCluster) -> int:
    """How many snapshots the server that has taken the fewest has taken."""
    replies = [server.reply for server in cluster.status()]
    return min(0 if reply is None else reply.counters["snapshots_taken"] for reply in replies)


def pause_table(report: PauseReport) -> Table:
    """The rows for people."""
    settings = report.settings
    table = plain_table(
        f"pauses: {settings.servers} server(s), a store of {settings.store_bytes >> 20} MiB in "
        f"values of {settings.value_bytes} bytes; a ping is a stale read, milliseconds",
        ["phase", "seconds", "pings", "p99", "p99.9", "longest", "writes", "p99", "longest"],
    )
    for row in report.rows:
        pings, writes = row.pings, row.writes
        table.add_row(
            row.phase, f"{row.seconds:.1f}", str(pings.count), _ms(pings.p99), _ms(pings.p999),
            _ms(pings.worst), str(writes.count), _ms(writes.p99), _ms(writes.worst),
        )  # fmt: skip
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"
