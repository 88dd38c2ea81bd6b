"""`paxon bench failover`: from kill -9 of the leader to the next acknowledged write."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from rich.table import Table

from paxon.actors import ServerId
from paxon.bench.errors import BenchError
from paxon.bench.measure import ClusterWatch
from paxon.bench.report import Report, new_report, plain_table
from paxon.bench.summary import Spread, spread_of
from paxon.kvstore.client import Client
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.local_cluster import LocalCluster, Transport
from paxon.kvstore.options import Durability

__all__ = ["FailoverSettings", "FailoverRow", "FailoverReport", "run_failover", "failover_table"]

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


class _Writer(threading.Thread):
    """Writes one value after the other and notes when each was acknowledged."""

    def __init__(self, client: Client, value: bytes) -> None:
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
    gaps: list[float] = []
    killed: list[ServerId] = []
    leaders: list[ServerId] = []
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
        cluster.leader()
        writer = _Writer(client, chance.randbytes(settings.value_bytes))
        writer.start()
        try:
            for _ in range(settings.runs):
                progress("kill -9 of the leader")
                writer.wait_for(_STEADY_WRITES)
                # Anywhere between two heartbeats.
                time.sleep(chance.uniform(0.0, 0.1))
                leader = cluster.leader()
                gaps.append(_kill(cluster, leader, writer))
                killed.append(leader)
                leaders.append(cluster.leader())
                cluster.restart(leader)
                _wait_until_level(cluster, leader)
        finally:
            writer.end()
    rows = [FailoverRow(spread_of(gaps), killed, leaders)]
    return new_report("failover", settings, rows, started)


def _kill(cluster: LocalCluster, leader: ServerId, writer: _Writer) -> float:
    """Kill the leader; seconds until the next acknowledgement."""
    moment = time.monotonic()
    cluster.kill(leader)
    # The process is gone: what is acknowledged from here on, another server has done.
    gone = time.monotonic()
    writer.wait_for(1)
    return writer.first_after(gone) - moment


def _wait_until_level(cluster: LocalCluster, server: ServerId) -> None:
    """Wait until a restarted server has executed what was chosen when it came back."""
    with ClusterWatch(cluster) as watch:
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
