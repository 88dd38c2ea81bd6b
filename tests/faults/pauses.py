"""Followers that stand still for seconds and go on, as under a hypervisor, a debugger, a load.

All of them must live. With ZeroMQ's own heartbeats about one in ten did not: while it stood still
its queue had filled and the others had given the connection up, and libzmq aborts when a heartbeat
falls due on such a connection (transport/vanished.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paxon.actors import ServerId
from paxon.kvstore import Client
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import wait_until
from tests.faults.networks.network import MAIN, Node
from tests.faults.trial import Outcome, Trial

__all__ = ["WholeNetwork", "PlainCluster", "pauses"]

SERVERS = 9
"""So many that four can stand still at once, for a pause takes seconds, whoever takes part."""
AT_ONCE = 4
PAUSE_SECONDS = 3.0
"""Longer than it takes the others to give up a connection on which nothing is acknowledged."""


class WholeNetwork:
    """A network that nobody breaks."""

    one_way = False

    def partition(self, *parts: Iterable[Node], stall: bool = False) -> None:
        raise NotImplementedError

    def cut(self, a: Node, b: Node, *, one_way: bool = False) -> None:
        raise NotImplementedError

    def join(self) -> None:
        pass

    def heal(self) -> None:
        pass

    def lost(self) -> int:
        return 0


class PlainCluster(LocalCluster):
    """A local cluster without a relay, as a `Trial` wants one."""

    network = WholeNetwork()

    def client(self, group: str = MAIN, **options: Any) -> Client:
        assert group == MAIN
        return super().client(**options)


def pauses(directory: Path, long: bool) -> Outcome:
    """SIGSTOP for three seconds, SIGCONT; nobody may have died of it."""
    with (
        PlainCluster(SERVERS, directory / "pauses") as cluster,
        Trial("pauses", cluster, directory, long=long, pause=0.002) as trial,
    ):
        for _ in range(trial.sized(5, 25)):
            victims = trial.draw.sample(trial.followers(), AT_ONCE)
            for victim in victims:
                cluster.pause(victim)
            trial.fault(len(victims))
            trial.load.run_for(PAUSE_SECONDS)
            for victim in victims:
                cluster.resume(victim)
            went_on(cluster, victims)
        return trial.verify()


def went_on(cluster: LocalCluster, victims: list[ServerId]) -> None:
    """Wait until the victims have executed what the others had when they went on."""
    others = [row.reply for row in cluster.status(60.0) if row.server not in victims and row.reply]
    goal = max(reply.executed for reply in others)

    def level() -> bool:
        rows = cluster.status()
        dead = [row for row in rows if row.state == "failed"]
        assert not dead, f"server {dead[0].server} has died: {dead[0].reason}"
        return all(
            row.reply and row.reply.executed >= goal for row in rows if row.server in victims
        )

    wait_until(level, f"servers {victims} are level", 60.0)
