"""A replicated class on real processes: killed leaders, restarts, equal states."""

from __future__ import annotations

import pytest

import paxon
from paxon import LocalCluster, Replicated, calls, command
from tests.cluster.helpers import wait_until, wait_until_equal
from tests.objects.classes import Job, Jobs

pytestmark = pytest.mark.process

PATIENCE = 30.0
"""Seconds."""


class Tags(Replicated):
    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    @command
    def note(self, tags: list[str]) -> None:
        for tag in set(tags):  # in another order in each process
            self.seen[tag] = self.seen.get(tag, 0) + 1


def test_the_order_of_a_set_in_the_state_is_found_though_nothing_is_returned() -> None:
    with LocalCluster(3, machine=Tags) as cluster, cluster.proxy(Tags, timeout=PATIENCE) as tags:
        tags.note([f"tag {number}" for number in range(20)])
        wait_until(
            lambda: any(row.reply is not None and row.reply.alarm for row in cluster.status()),
            "a server says that the states differ",
        )


def test_commands_chance_and_timers_through_a_failover_and_a_restart() -> None:
    with (
        LocalCluster(3, machine=Jobs, snapshot_slots=20) as cluster,
        cluster.proxy(Jobs, timeout=PATIENCE) as jobs,
    ):
        jobs.put(Job("a", 1.5))
        with calls(jobs).pipeline() as pipeline:
            drawn = [pipeline.add(jobs.draw) for _ in range(100)]
        assert len({future.result() for future in drawn}) > 90
        jobs.take(1.0)
        killed = cluster.leader()
        cluster.kill(killed)
        jobs.draw()
        wait_until(lambda: jobs.names() == ["a"], "the new leader's log goes on: a timer runs")
        cluster.restart(killed)
        jobs.draw()
        wait_until_equal(cluster)
        assert not any(row.reply.alarm for row in cluster.status() if row.reply is not None)
        with pytest.raises(paxon.InvalidRequest, match="argument 'job'"):
            jobs.put("b")  # type: ignore[arg-type]
