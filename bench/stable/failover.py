"""`paxon bench failover`: from kill -9 of the leader to the next acknowledged write."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import Annotated, ClassVar, TypeAlias

import typer

from paxon.actors import ServerId
from paxon.bench.harness.flags import BenchSettings, Several
from paxon.bench.harness.measure import counts_of
from paxon.bench.harness.repeater import PATIENCE_SECONDS, Repeater, wait_until
from paxon.bench.harness.report import Bench, Progress, Report, Section
from paxon.bench.harness.summary import Spread, spread_of

__all__ = ["FAILOVER", "FailoverSettings", "kill_leaders", "paxon_kills"]

_STEADY_WRITES = 50
"""Acknowledged before the leader is killed."""


class FailoverSettings(BenchSettings, frozen=True, kw_only=True):
    """The settings of a run. Without a disk a restarted server rejoins empty."""

    QUICK: ClassVar[dict[str, float]] = {"runs": 3}

    servers: Several = 3
    runs: Annotated[int, typer.Option(min=1, help="How often the leader is killed.")] = 10


FailoverReport: TypeAlias = Report[FailoverSettings, Spread]
"""Seconds from the kill to the next acknowledgement; each value is one kill."""


def run_failover(settings: FailoverSettings, progress: Progress) -> FailoverReport:
    """Kill the leader again and again, each time with all servers up and level before.

    Raises `PaxonError` if the cluster does not go on.
    """
    rows = [spread_of(paxon_kills(settings, progress))]
    return FailoverReport(bench="failover", settings=settings, rows=rows)


def paxon_kills(settings: FailoverSettings, progress: Progress) -> list[float]:
    """Kill leaders of a Paxon cluster. Raises `PaxonError`."""
    chance = random.Random(settings.seed)
    value = chance.randbytes(settings.value_bytes)
    with settings.cluster() as cluster, cluster.client(timeout=PATIENCE_SECONDS) as client:
        write = functools.partial(client.put, "failover", value)

        def bring_back(server: ServerId) -> None:
            cluster.restart(server)
            goal = max(reply.chosen for reply in counts_of(cluster).replies.values())

            def level() -> bool:
                replies = {row.server: row.reply for row in cluster.status(state=False)}
                return (reply := replies[server]) is not None and reply.executed >= goal

            wait_until(level, f"server {server} has not caught up")

        return kill_leaders(
            cluster.leader, cluster.kill, bring_back, write, kills=settings.runs, chance=chance,
            progress=progress,
        )  # fmt: skip


def kill_leaders(
    leads: Callable[[], ServerId], kill: Callable[[ServerId], None],
    bring_back: Callable[[ServerId], None], write: Callable[[], object], *, kills: int,
    chance: random.Random, progress: Progress,
) -> list[float]:  # fmt: skip
    """Kill the leader so many times while a client writes.

    `leads` waits for a leader, `kill` until that process is gone, `bring_back` until it is started
    again and has what was chosen meanwhile. Returns the gaps: seconds from each kill to the next
    acknowledgement. Raises `PaxonError`.
    """
    gaps = []
    leads()
    writer = Repeater(write)
    writer.start()
    try:
        for _ in range(kills):
            progress("kill -9 of the leader")
            writer.wait_for(_STEADY_WRITES)
            time.sleep(chance.uniform(0.0, 0.1))  # anywhere between two heartbeats
            leader = leads()
            moment = time.monotonic()
            kill(leader)
            gone = time.monotonic()  # what is acknowledged from here on, another server has done
            writer.wait_for(1)
            gaps.append(writer.first_end_after(gone) - moment)
            leads()
            bring_back(leader)
    finally:
        writer.end()
    return gaps


def failover_sections(report: FailoverReport) -> list[Section]:
    """The row for people."""
    settings, gap = report.settings, report.rows[0]
    title = (
        f"failover: {settings.servers} servers, durability {settings.durability}; kill -9 of the "
        "leader to the next acknowledged write"
    )
    columns = ["kills", "median ms", "least ms", "most ms", "each ms"]
    each = " ".join(f"{value * 1e3:.0f}" for value in gap.values)
    few = [f"{seconds * 1e3:.0f}" for seconds in (gap.median, gap.low, gap.high)]
    return [Section(title, columns, [[str(len(gap.values)), *few, each]])]


FAILOVER = Bench(
    "failover", "From kill -9 of the leader to the next acknowledged write.",
    FailoverSettings, FailoverReport, run_failover, failover_sections,
)  # fmt: skip
