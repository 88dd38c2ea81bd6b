"""The faults, one function each: they break things while clients work, and say what was survived.

A scenario takes a started cluster of three, whole and healed, and leaves it so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from paxon.actors import ServerId
from paxon.kvstore import Client
from paxon.kvstore.client.client import Future
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import wait_until
from tests.faults.flooding.floods import floods
from tests.faults.networks.network import MAIN, RelayedCluster
from tests.faults.trial import Faulty, Outcome, Trial, at_once
from tests.waiting import stall_meter

__all__ = ["SCENARIOS", "Scenario"]

Scenario = Callable[[RelayedCluster, Path, bool], Outcome]
"""Takes the cluster, a directory for histories, and whether to run the long form."""

PATIENT = CoreOptions(retry_first=1.0, eager=8)
"""A client that sends each command at once, and does not soon look for another leader."""

INSIDE, OUTSIDE = "inside", "outside"
"""Clients on the side of a leader that is cut off, and those on the other."""

LEAST = 0.3
"""Seconds for which a leader is waited for at least (`election_timeout_min`)."""


def kill_nine(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """SIGKILL of leader and follower in turn."""
    with Trial("kill-9", cluster, directory, long=long) as trial:
        for turn in range(trial.sized(3, 40)):
            victim = cluster.leader() if turn % 2 == 0 else trial.draw.choice(trial.followers())
            cluster.kill(victim)
            trial.fault()
            trial.load.wait_for_more(100)
            cluster.restart(victim)
            trial.load.wait_for_more(100)
    return trial.verify()


def stop_and_continue(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """SIGSTOP of the leader for longer than the election timeout, or of a follower; SIGCONT."""
    with Trial("sigstop", cluster, directory, long=long) as trial:
        for turn in range(trial.sized(3, 40)):
            leader = cluster.leader()
            victim = leader if turn % 2 == 0 else trial.draw.choice(trial.followers())
            cluster.pause(victim)
            trial.fault()
            trial.load.wait_for_more(100)
            if victim == leader:
                wait_for_another(cluster, leader)
            cluster.resume(victim)
            trial.load.wait_for_more(100)
    return trial.verify()


def leader_cut_off(cluster: Faulty, directory: Path, long: bool) -> Outcome:
    """The leader alone with some of the clients; the others with the majority."""
    with Trial(
        "leader-cut-off", cluster, directory, long=long,
        groups=(INSIDE, OUTSIDE), clients=8, readers=(4, 6), timeout=2.0, pause=0.001,
    ) as trial:  # fmt: skip
        for turn in range(trial.sized(2, 20)):
            leader = cluster.leader()
            others = trial.followers()
            inside, outside = trial.members[INSIDE], trial.members[OUTSIDE]
            # Cut once so that all in between is lost, and once so that it arrives late.
            cluster.network.partition([leader, INSIDE], [*others, OUTSIDE], stall=turn % 2 == 1)
            trial.fault()
            trial.load.wait_for_more(150, clients=outside)
            answered = [trial.load.answered[number] for number in inside]
            trial.load.wait_for_more(150, clients=outside)
            assert answered == [trial.load.answered[number] for number in inside], (
                "a leader without a majority answered its clients"
            )
            cluster.network.heal()
            trial.load.wait_for_more(50, clients=inside)
    return trial.verify()


def stale_slots(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """Commands left over in a cut-off leader's log come up again after they were executed.

    They stay in slots of their own there, while the next leader gets all of them at once, again,
    and executes them in a single slot. When that one dies, the others' promises bring the left-over
    slots up once more, and only the session table knows better.
    """
    key = "stale-slots/all"
    with Trial("stale-slots", cluster, directory, long=long, clients=0) as trial:
        recorder = trial.load.recorder
        trial.load.add_key(key)

        def read(client: Client) -> None:
            operation = recorder.call(0, "get", key)
            recorder.ok(operation, client.get(key))

        for turn in range(trial.sized(1, 10)):
            with cluster.client(INSIDE, timeout=20, options=PATIENT) as client:
                operation = recorder.call(0, "append", key, f"{turn}.0;".encode())
                recorder.ok(operation, client.append(key, f"{turn}.0;"))
                leader = cluster.leader()
                cluster.network.partition([leader, INSIDE], trial.followers())
                appends = []
                for number in range(1, 5):
                    entry = f"{turn}.{number};"
                    operation = recorder.call(number, "append", key, entry.encode())
                    appends.append((operation, client.submit_append(key, entry)))
                    wait_for_slot(cluster, leader, appends[-1][1], number)
                wait_for_another(cluster, leader)
                cluster.network.heal()
                for operation, append in appends:
                    recorder.ok(operation, append.result())
                successor = cluster.leader()
                cluster.kill(successor)
                trial.fault(2)
                read(client)
                cluster.restart(successor)
    return trial.verify()


def wait_for_slot(
    cluster: LocalCluster, leader: ServerId, append: Future[int], number: int
) -> None:
    """Wait until a leader in a minority holds so many slots that nobody else has accepted."""

    def accepted() -> bool:
        assert not append.done(), "a leader without a majority answered its client"
        reply = cluster.status()[leader - 1].reply
        return reply is not None and reply.accepted - reply.chosen >= number

    wait_until(accepted, f"server {leader} has accepted {number} slots in vain")


def wait_for_another(cluster: Faulty, leader: ServerId) -> None:
    """Wait until another server leads."""
    wait_until(lambda: cluster.leader() != leader, f"another than server {leader} leads")


def partial_partition(cluster: Faulty, directory: Path, long: bool) -> Outcome:
    """A and B cannot reach each other, C sees both: a majority remains, and no unrest."""

    def calm(trial: Trial[Faulty], what: str, cut: Cut) -> bool:
        """Cut, wait longer than any election timeout, join; whether nothing came of it.

        On a machine that stands still meanwhile a leader may be deposed, and on no other.
        """
        leader, stood = cluster.leader(), stall_meter()
        first, second = trial.followers()
        a, b, one_way = cut(leader, first, second)
        began = time.monotonic()
        cluster.network.cut(a, b, one_way=one_way)
        trial.fault()
        trial.load.wait_for_more(150)
        trial.load.run_for(0.6)
        stayed = cluster.leader() == leader
        cluster.network.join()
        trial.load.wait_for_more(20)
        is_calm = stayed and trial.load.longest_wait(began) < 1.0
        assert is_calm or stood() > LEAST / 2, f"unrest: {what}"
        return is_calm

    with Trial("partial-partition", cluster, directory, long=long) as trial:
        for _ in range(trial.sized(1, 8)):
            for what, cut in PARTIAL_CUTS.items():
                if cluster.network.one_way or "one way" not in what:
                    assert any(calm(trial, what, cut) for _ in range(5)), f"never calm: {what}"
    return trial.verify()


Cut = Callable[[ServerId, ServerId, ServerId], tuple[ServerId, ServerId, bool]]
"""From the leader and two followers to two that do not meet, and whether one way only."""

PARTIAL_CUTS: dict[str, Cut] = {
    "leader and follower": lambda leader, first, _: (leader, first, False),
    "two followers": lambda _, first, second: (first, second, False),
    "leader to follower, one way": lambda leader, _, second: (leader, second, True),
    "follower to leader, one way": lambda leader, _, second: (second, leader, True),
}


def flapping_links(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """Links between servers go and come back many times a second, some with a reset."""
    with Trial("flapping-links", cluster, directory, long=long) as trial:
        end = time.monotonic() + trial.sized(3, 60)
        down: set[tuple[int, int]] = set()
        while time.monotonic() < end:
            a, b = sorted(trial.draw.sample(cluster.servers, 2))
            if (a, b) in down:
                cluster.network.mend(a, b)
                down.discard((a, b))
            elif trial.draw.random() < 0.3:
                cluster.network.reset(a, b)
                trial.fault()
            else:
                cluster.network.cut(a, b)
                down.add((a, b))
                trial.fault()
            trial.load.run_for(trial.draw.uniform(0.03, 0.2))
        cluster.network.join()
        trial.load.wait_for_more(100)
    return trial.verify()


def bad_weather(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """10 % of all messages lost, 50 ms of jitter, on all links of servers and clients."""
    with Trial("loss-and-jitter", cluster, directory, long=long, clients=8, lossy=True) as trial:
        cluster.network.weather(loss=0.1, jitter=0.05)
        trial.fault()
        trial.load.wait_for_more(trial.sized(100, 2000), seconds=trial.sized(60, 600))
    outcome = trial.verify()
    assert outcome.messages_lost > 0, "the relay lost nothing"
    return outcome


def all_killed(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """SIGKILL to all servers at once, again and again."""
    with Trial("all-killed", cluster, directory, long=long) as trial:
        for _ in range(trial.sized(2, 100)):
            at_once(cluster.kill, cluster.servers)
            trial.fault()
            at_once(cluster.restart, cluster.servers)
            for client in trial.members[MAIN]:  # nobody may be left behind
                trial.load.wait_for_more(10, clients=[client])
    return trial.verify()


def storm(cluster: RelayedCluster, directory: Path, long: bool) -> Outcome:
    """All of these at random, several at a time."""
    with Trial("storm", cluster, directory, long=long, lossy=True, timeout=5.0) as trial:
        end = time.monotonic() + trial.sized(4, 120)
        while time.monotonic() < end:
            victim = trial.draw.choice(cluster.servers)
            what = trial.draw.choice(("kill", "pause", "isolate", "stall", "cut", "weather"))
            trial.fault()
            if what == "kill":
                cluster.kill(victim)
                trial.load.run_for(trial.draw.uniform(0.1, 0.6))
                cluster.restart(victim)
            elif what == "pause":
                cluster.pause(victim)
                trial.load.run_for(trial.draw.uniform(0.1, 1.0))
                cluster.resume(victim)
            elif what in ("isolate", "stall"):
                cluster.network.isolate(victim, stall=what == "stall")
            elif what == "cut":
                cluster.network.cut(victim, 1 + victim % 3, one_way=trial.draw.random() < 0.5)
            else:
                loss, jitter = trial.draw.uniform(0.0, 0.2), trial.draw.uniform(0.0, 0.03)
                cluster.network.weather(loss=loss, jitter=jitter)
            trial.load.run_for(trial.draw.uniform(0.05, 0.6))
            if trial.draw.random() < 0.3:
                cluster.network.join()
        cluster.network.heal()
        trial.load.wait_for_more(100)
    return trial.verify()


SCENARIOS: dict[str, Scenario] = {
    "kill-9": kill_nine,
    "sigstop": stop_and_continue,
    "leader-cut-off": leader_cut_off,
    "stale-slots": stale_slots,
    "partial-partition": partial_partition,
    "flapping-links": flapping_links,
    "loss-and-jitter": bad_weather,
    "all-killed": all_killed,
    "storm": storm,
    "floods": floods,
}
