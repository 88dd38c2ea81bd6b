"""`paxon bench failover`: from kill -9 of the leader to the next acknowledged write."""

from __future__ import annotations

import datetime
import functools
import random
import time
from collections.abc import Callable
from typing import Annotated, ClassVar, Protocol, TypeAlias

import msgspec
import typer

from paxon.actors import ServerId
from paxon.bench.harness.flags import BenchSettings, Several
from paxon.bench.harness.measure import counts_of
from paxon.bench.harness.repeater import PATIENCE_SECONDS, Repeater, wait_until
from paxon.bench.harness.report import Bench, Progress, Report, Section, new_report
from paxon.bench.harness.summary import Spread, spread_of
from paxon.kvstore.cluster.local_cluster import LocalCluster

__all__ = [
    "FAILOVER", "FailoverReport", "FailoverRow", "FailoverSettings", "kill_leaders", "paxon_kills",
]  # fmt: skip

_STEADY_WRITES = 50
"""Acknowledged before the leader is killed."""


class FailoverSettings(BenchSettings, frozen=True, kw_only=True):
    """What is measured. Without a disk a restarted server rejoins empty."""

    QUICK: ClassVar[dict[str, float]] = {"runs": 3}

    servers: Several = 3
    runs: Annotated[int, typer.Option(min=1, help="How often the leader is killed.")] = 10


class FailoverRow(msgspec.Struct, frozen=True):
    """All kills of a run."""

    gap: Spread
    """Seconds from the kill to the next acknowledgement; each value is one kill."""


FailoverReport: TypeAlias = Report[FailoverSettings, FailoverRow]


class Killable(Protocol):
    """A cluster, Paxon's or another's, that can lose its leader. All raise `PaxonError`."""

    def leader(self) -> ServerId:
        """The server that leads, once one does."""

    def kill(self, server: ServerId) -> None:
        """kill -9, and wait until it is gone."""

    def bring_back(self, server: ServerId) -> None:
        """Start it again and wait until it has what was chosen meanwhile."""


def run_failover(settings: FailoverSettings, progress: Progress) -> FailoverReport:
    """Kill the leader again and again, each time with all servers up and level before.

    Raises `PaxonError` if the cluster does not go on.
    """
    started = datetime.datetime.now(datetime.UTC)
    row = FailoverRow(spread_of(paxon_kills(settings, progress)))
    return new_report(FailoverReport, "failover", settings, [row], started)


def paxon_kills(settings: FailoverSettings, progress: Progress) -> list[float]:
    """Kill leaders of a Paxon cluster. Raises `PaxonError`."""
    chance = random.Random(settings.seed)
    value = chance.randbytes(settings.value_bytes)
    with settings.cluster() as cluster, cluster.client(timeout=PATIENCE_SECONDS) as client:
        write = functools.partial(client.put, "failover", value)
        return kill_leaders(_Killable(cluster), write, settings.runs, chance, progress)


def kill_leaders(
    cluster: Killable, write: Callable[[], object], kills: int, chance: random.Random,
    progress: Progress,
) -> list[float]:  # fmt: skip
    """Kill the leader so many times while a client writes.

    Returns the gaps: seconds from each kill to the next acknowledgement. Raises `PaxonError`.
    """
    gaps = []
    cluster.leader()
    writer = Repeater(write)
    writer.start()
    try:
        for _ in range(kills):
            progress("kill -9 of the leader")
            writer.wait_for(_STEADY_WRITES)
            # Anywhere between two heartbeats.
            time.sleep(chance.uniform(0.0, 0.1))
            leader = cluster.leader()
            moment = time.monotonic()
            cluster.kill(leader)
            # The process is gone: what is acknowledged from here on, another server has done.
            gone = time.monotonic()
            writer.wait_for(1)
            gaps.append(writer.first_end_after(gone) - moment)
            cluster.leader()
            cluster.bring_back(leader)
    finally:
        writer.end()
    return gaps


class _Killable:
    """Paxon's."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.leader = cluster.leader
        self.kill = cluster.kill

    def bring_back(self, server: ServerId) -> None:
        """Wait until it has executed what was chosen when it came back."""
        self._cluster.restart(server)
        goal = max(reply.chosen for reply in counts_of(self._cluster).replies.values())

        def level() -> bool:
            rows = self._cluster.status(state=False)
            return any(r.server == server and r.reply and r.reply.executed >= goal for r in rows)

        wait_until(level, f"server {server} has not caught up")


def failover_sections(report: FailoverReport) -> list[Section]:
    """The row for people."""
    settings = report.settings
    title = (
        f"failover: {settings.servers} servers, durability {settings.durability}; kill -9 of the "
        "leader to the next acknowledged write"
    )
    columns = ["kills", "median ms", "least ms", "most ms", "each ms"]
    cells = [
        [
            str(len(gap.values)), f"{gap.median * 1e3:.0f}", f"{gap.low * 1e3:.0f}",
            f"{gap.high * 1e3:.0f}", " ".join(f"{value * 1e3:.0f}" for value in gap.values),
        ]
        for gap in (row.gap for row in report.rows)
    ]  # fmt: skip
    return [Section(title, columns, cells)]


FAILOVER = Bench(
    name="failover",
    help="From kill -9 of the leader to the next acknowledged write.",
    settings=FailoverSettings,
    report=FailoverReport,
    run=run_failover,
    sections=failover_sections,
)
