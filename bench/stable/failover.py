"""`paxon bench failover`: from kill -9 of the leader to the next acknowledged write."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import msgspec
from rich.table import Table

from paxon.actors import ServerId
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.measure import ClusterWatch
from paxon.bench.harness.report import Report, new_report, plain_table
from paxon.bench.harness.summary import Spread, spread_of
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.local_cluster import LocalCluster, Transport
from paxon.kvstore.options import Durability

__all__ = [
    "FailoverSettings",
    "FailoverRow",
    "FailoverReport",
    "Killable",
    "Puts",
    "Kill",
    "kill_leaders",
    "run_failover",
    "failover_table",
]

_PATIENCE_SECONDS = 30.0
"""A cluster that has not gone on by then counts as broken."""
_STEADY_WRITES = 50
"""Acknowledged before the leader is killed."""


class FailoverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    servers: int = 3
    runs: int = 10
    durability: Durability = "disk"
    transport: Transport = "tcp"
    value_bytes: int = 64
    seed: int = 1
    options: dict[str, Any] = {}


class FailoverRow(msgspec.Struct, frozen=True):
    """All kills of a run."""

    gap: Spread
    """Seconds from the kill to the next acknowledgement; each value is one kill."""
    killed: list[ServerId]
    leaders: list[ServerId]
    """Who led after each kill."""


FailoverReport: TypeAlias = Report[FailoverSettings, FailoverRow]

Progress: TypeAlias = Callable[[str], None]


class Killable(Protocol):
    """A cluster, Paxon's or another's, that can lose its leader. All raise `PaxonError`."""

    def leader(self) -> ServerId:
        """The server that leads, once one does."""

    def kill(self, server: ServerId) -> None:
        """kill -9, and wait until it is gone."""

    def bring_back(self, server: ServerId) -> None:
        """Start it again and wait until it has what was chosen meanwhile."""


class Puts(Protocol):
    """A client, Paxon's or another's."""

    def put(self, key: str, value: bytes) -> object:
        """Write, over and over if need be; returns once acknowledged. Raises `PaxonError`."""


class Kill(msgspec.Struct, frozen=True):
    """What came of one kill."""

    gap: float
    """Seconds from the kill to the next acknowledgement."""
    killed: ServerId
    leader: ServerId
    """Who led after it."""


class _Writer(threading.Thread):
    """Writes one value after the other and notes when each was acknowledged."""

    def __init__(self, client: Puts, value: bytes) -> None:
        super().__init__(name="failover-writer", daemon=True)
        self._client = client
        self._value = value
        self._ending = False
        self._moved = threading.Condition()
        self._error: PaxonError | None = None
        self.acknowledged: list[float] = []
        """Times of the monotonic clock."""

    def run(self) -> None:
        try:
            while not self._ending:
                self._client.put("failover", self._value)
                with self._moved:
                    self.acknowledged.append(time.monotonic())
                    self._moved.notify_all()
        except PaxonError as error:
            with self._moved:
                self._error = error
                self._moved.notify_all()

    def wait_for(self, writes: int) -> None:
        """Wait until so many writes more are acknowledged. Raises `BenchError`."""
        with self._moved:
            goal = len(self.acknowledged) + writes
            self._moved.wait_for(
                lambda: self._error is not None or len(self.acknowledged) >= goal,
                _PATIENCE_SECONDS,
            )
            if self._error is not None:
                raise BenchError(f"a write failed: {self._error}")
            if len(self.acknowledged) < goal:
                raise BenchError(f"no write was acknowledged for {_PATIENCE_SECONDS:g} s")

    def first_after(self, moment: float) -> float:
        """When the first write after a moment was acknowledged."""
        with self._moved:
            return next(time for time in self.acknowledged if time > moment)

    def end(self) -> None:
        """Finish the write under way."""
        self._ending = True
        self.join()


def run_failover(settings: FailoverSettings, progress: Progress) -> FailoverReport:
    """Kill the leader again and again, each time with all servers up and level before.

    Raises `PaxonError` if the cluster does not go on.
    """
    started = datetime.datetime.now(datetime.UTC)
    chance = random.Random(settings.seed)
    with (
        LocalCluster(
            settings.servers,
            durability=settings.durability,
            transport=settings.transport,
            log_level="WARNING",
            **settings.options,
        ) as cluster,
        cluster.client(timeout=_PATIENCE_SECONDS) as client,
    ):
        value = chance.randbytes(settings.value_bytes)
        kills = kill_leaders(
            _Killable(cluster), client,
            kills=settings.runs, value=value, chance=chance, progress=progress,
        )  # fmt: skip
    gap = spread_of([kill.gap for kill in kills])
    row = FailoverRow(gap, [kill.killed for kill in kills], [kill.leader for kill in kills])
    return new_report("failover", settings, [row], started)


def kill_leaders(
    cluster: Killable,
    client: Puts,
    *,
    kills: int,
    value: bytes,
    chance: random.Random,
    progress: Progress,
) -> list[Kill]:
    """Kill the leader so many times while a client writes. Raises `PaxonError`."""
    found: list[Kill] = []
    cluster.leader()
    writer = _Writer(client, value)
    writer.start()
    try:
        for _ in range(kills):
            progress("kill -9 of the leader")
            writer.wait_for(_STEADY_WRITES)
            # Anywhere between two heartbeats.
            time.sleep(chance.uniform(0.0, 0.1))
            leader = cluster.leader()
            gap = _kill(cluster, leader, writer)
            found.append(Kill(gap, leader, cluster.leader()))
            cluster.bring_back(leader)
    finally:
        writer.end()
    return found


def _kill(cluster: Killable, leader: ServerId, writer: _Writer) -> float:
    """Kill the leader; seconds until the next acknowledgement."""
    moment = time.monotonic()
    cluster.kill(leader)
    # The process is gone: what is acknowledged from here on, another server has done.
    gone = time.monotonic()
    writer.wait_for(1)
    return writer.first_after(gone) - moment


class _Killable:
    """Paxon's."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    def leader(self) -> ServerId:
        return self._cluster.leader()

    def kill(self, server: ServerId) -> None:
        self._cluster.kill(server)

    def bring_back(self, server: ServerId) -> None:
        """Wait until it has executed what was chosen when it came back."""
        self._cluster.restart(server)
        with ClusterWatch(self._cluster) as watch:
            goal = max(reply.chosen for reply in watch.counts().replies.values())
            give_up = time.monotonic() + _PATIENCE_SECONDS
            while time.monotonic() < give_up:
                reply = watch.glance(1.0).get(server)
                if reply is not None and reply.executed >= goal:
                    return
                time.sleep(0.02)
        raise BenchError(f"server {server} has not caught up within {_PATIENCE_SECONDS:g} s")


def failover_table(report: FailoverReport) -> Table:
    """The row for people."""
    settings = report.settings
    table = plain_table(
        f"failover: {settings.servers} servers, durability {settings.durability}; kill -9 of the "
        "leader to the next acknowledged write",
        ["kills", "median ms", "least ms", "most ms", "each ms"],
    )
    for row in report.rows:
        gap = row.gap
        table.add_row(
            str(len(gap.values)), f"{gap.median * 1e3:.0f}", f"{gap.low * 1e3:.0f}",
            f"{gap.high * 1e3:.0f}", " ".join(f"{value * 1e3:.0f}" for value in gap.values),
        )  # fmt: skip
    return table
