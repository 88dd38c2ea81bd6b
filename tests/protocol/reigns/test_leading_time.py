"""The time that each server led, which the benches add up."""

from __future__ import annotations

import pytest

from paxon.actors import Ballot
from tests.harness import Cluster
from tests.messages import beat


def led_seconds(cluster: Cluster, server: int) -> float:
    """As `paxon status --json` says now."""
    cluster.step(server)
    return cluster.servers[server].describe().counters["leading_us"] / 1e6


def test_time_as_leader_is_counted_over_all_reigns() -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    assert led_seconds(cluster, 1) == 0
    cluster.pass_time(1.5)
    assert led_seconds(cluster, 1) == pytest.approx(1.5, abs=0.02)
    assert led_seconds(cluster, 2) == 0

    first = led_seconds(cluster, 1)
    cluster.hand(1, 2, beat(Ballot(50, 2)))
    assert cluster.servers[1].role == "follower"
    cluster.clock.now += 0.25  # a follower's time is not the leader's
    assert led_seconds(cluster, 1) == pytest.approx(first)

    cluster.lead(1)
    cluster.pass_time(0.5)
    assert led_seconds(cluster, 1) == pytest.approx(first + 0.5, abs=0.03)
