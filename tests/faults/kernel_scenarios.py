"""Scenarios in which the kernel's network breaks, not a relay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.faults.networks.namespaces import NamespacedCluster, Switch, inside
from tests.faults.networks.network import MAIN
from tests.faults.scenarios import INSIDE, OUTSIDE, leader_cut_off, partial_partition
from tests.faults.trial import Outcome, Trial

__all__ = ["partitions_by_kernel", "weather_by_kernel"]

T = TypeVar("T")


def in_namespaces(directory: Path, work: Callable[[NamespacedCluster], T]) -> T:
    """Do something with three servers in namespaces, in the watcher's namespace."""
    with Switch([1, 2, 3, MAIN, INSIDE, OUTSIDE]) as switch:

        def run() -> T:
            with NamespacedCluster(switch, directory / "namespaces") as cluster:
                return work(cluster)

        return inside(switch.namespace(MAIN), run)


def partitions_by_kernel(directory: Path, long: bool) -> list[Outcome]:
    """The leader cut off with clients on both sides; partial partitions."""
    return in_namespaces(
        directory,
        lambda cluster: [
            leader_cut_off(cluster, directory, long),
            partial_partition(cluster, directory, long),
        ],
    )


def weather_by_kernel(directory: Path, long: bool) -> Outcome:
    """netem loses 10 % of all packets and delays the others by up to 50 ms."""

    def work(cluster: NamespacedCluster) -> Outcome:
        with Trial("netem", cluster, directory, long=long, clients=8) as trial:
            cluster.network.weather(loss=0.1, jitter=0.05)
            trial.fault()
            trial.load.wait_for_more(trial.sized(100, 2000), seconds=trial.sized(60, 600))
            cluster.network.weather()
        return trial.verify()

    return in_namespaces(directory, work)
