"""Members change at random under load: grown, shrunk, replaced, a leader moved or killed."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from paxon.actors.members import MemberChange
from paxon.kvstore.cluster.local_cluster import ClusterError
from paxon.kvstore.errors import PaxonError
from tests.cluster.helpers import vote_instead, wait_until
from tests.faults.pauses import PlainCluster
from tests.faults.trial import Outcome, Trial

__all__ = ["changes", "kills"]

FEWEST, MOST = 3, 7
"""So many servers: one may die beside a change, and clients need not wait for it."""
EVERY = 5.0
"""Seconds between the beginnings of two changes (asked for: ten minutes of this)."""
SOON = 60.0


class Changer:
    """What happens to the members, one after the other."""

    def __init__(self, trial: Trial[PlainCluster]) -> None:
        self.trial = trial
        self.cluster = trial.cluster
        self.did: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.kinds: dict[str, Callable[[], None]] = {
            "grow": self.grow,
            "shrink": self.shrink,
            "replace": self.replace,
            "all others": self.all_others,
            "transfer": self.transfer,
            "kill -9": self.kill,
            "kill -9 amid a change": self.kill_amid_a_change,
        }

    def step(self) -> None:
        """Something that is possible now, drawn at random."""
        size = len(self.cluster.servers)
        impossible = {"grow"} if size >= MOST else {"shrink"} if size <= FEWEST else set()
        impossible |= {"all others"} if size > FEWEST else set()
        kind = self.trial.draw.choice([each for each in self.kinds if each not in impossible])
        try:
            self.kinds[kind]()
            self.did[kind] += 1
        except (ClusterError, PaxonError) as error:
            self.refused[str(error)[:160]] += 1
        self.trial.fault()
        wait_until(self.all_take_part, "every member is up to date", SOON)

    def all_take_part(self) -> bool:
        """Whether every server answers, follows one leader, and has what is chosen, nearly."""
        replies = [row.reply for row in self.cluster.status(0.5, state=False)]
        known = [reply for reply in replies if reply is not None]
        return (
            len(known) == len(replies)
            and len({reply.ballot for reply in known}) == 1
            and all(not reply.waits_for and reply.part in ("voter", "learner") for reply in known)
            and max(r.chosen for r in known) - min(r.executed for r in known) < 500
        )

    def anybody(self) -> int:
        return self.trial.draw.choice(self.cluster.servers)

    def grow(self) -> None:
        self.cluster.add_server(timeout=SOON)

    def shrink(self) -> None:
        self.cluster.remove_server(self.anybody(), timeout=SOON)

    def replace(self) -> None:
        self.cluster.replace_server(self.anybody(), timeout=SOON)

    def all_others(self) -> None:
        """All who vote change in one command: no server of the old majority is in the new one."""
        old = list(self.cluster.servers)
        new = [self.cluster.add_server(learner=True, timeout=SOON) for _ in old]
        vote_instead(self.cluster, new, old)
        for server in old:
            self.cluster.remove_server(server, timeout=SOON)

    def transfer(self) -> None:
        with self.cluster.client(timeout=SOON) as kv:
            kv.transfer_leader()

    def kill(self) -> None:
        victim = self.anybody()
        self.cluster.kill(victim)
        self.cluster.restart(victim)

    def kill_amid_a_change(self) -> None:
        """The leader dies somewhere between proposing the change and the opening of the next epoch.

        Whoever asked for the change is told how it ended, and that is what the members are then.
        """
        before = list(self.cluster.servers)
        grows = len(before) < MOST
        victim = self.cluster.leader(SOON)
        other = next(server for server in before if server != victim)
        failure: list[BaseException] = []

        def change() -> None:
            try:
                if grows:
                    self.cluster.add_server(timeout=SOON)
                else:
                    self.cluster.remove_server(other, timeout=SOON)
            except ClusterError as error:
                failure.append(error)

        changing = threading.Thread(target=change)
        changing.start()
        with self.cluster.client(timeout=SOON) as kv, contextlib.suppress(PaxonError):
            epoch = kv.cluster_members().epoch
            end = time.monotonic() + SOON
            # (A joiner is level after a while: kill at some moment about the first new epoch.)
            while changing.is_alive() and time.monotonic() < end:
                if self.trial.draw.random() < 0.05 or kv.cluster_members().epoch > epoch:
                    break
        self.cluster.kill(victim)
        changing.join()
        if victim in self.cluster.servers:
            self.cluster.restart(victim)
        if failure:
            raise failure[0]


def kills(directory: Path, count: int) -> Outcome:
    """The leader dies, so often, between proposing a change and the opening of the next epoch.

    A voter becomes a learner, and back: such a change takes some milliseconds. What whoever asked
    was told of it is what the members are then.
    """
    ended: Counter[str] = Counter()
    with (
        PlainCluster(5, directory / "kills") as cluster,
        Trial("member-kills", cluster, directory, clients=2, pause=0.01) as trial,
    ):
        changer = Changer(trial)
        for _ in range(count):
            leader = cluster.leader(SOON)
            ended[_kill_amid(trial, leader)] += 1
            cluster.restart(leader)
            trial.fault()
            wait_until(changer.all_take_part, "every member is up to date", SOON)
        outcome = trial.verify()
        with cluster.client() as kv:
            epochs = kv.cluster_members().epoch
    told = ", ".join(f"{how} {times}" for how, times in sorted(ended.items()))
    return dataclasses.replace(outcome, note=f"{told}; {epochs} epochs")


def _kill_amid(trial: Trial[PlainCluster], leader: int) -> str:
    """Ask for a change, kill the leader some milliseconds later, and look how that ended."""
    cluster, answered = trial.cluster, threading.Event()
    failure: list[BaseException] = []
    with cluster.client(timeout=SOON) as kv, cluster.client(timeout=SOON) as second:
        held = {m.server: m.voter for m in second.cluster_members().members if m.server != leader}
        learners = [server for server, voter in held.items() if not voter]
        other = trial.draw.choice(learners or list(held))
        voter = held[other]

        def change() -> None:
            try:
                kv.change_members(MemberChange("demote" if voter else "promote", other))
            except BaseException as error:
                failure.append(error)
            answered.set()

        changing = threading.Thread(target=change)
        changing.start()
        answered.wait(trial.draw.uniform(0.0, 0.02))
        how = "answered before" if answered.is_set() else "killed amid it"
        cluster.kill(leader)
        changing.join()
        if failure:
            if not isinstance(failure[0], PaxonError):
                raise failure[0]
            how += ", refused"
        now = {m.server: m.voter for m in second.cluster_members().members}[other]
    assert (now != voter) == (not failure), f"told as {failure or 'done'}, and {other} votes: {now}"
    return how


def changes(directory: Path, seconds: float) -> Outcome:
    """A random change every five seconds; the history is linearizable, and nothing is lost."""
    waits: list[float] = []
    with (
        PlainCluster(FEWEST, directory / "members") as cluster,
        Trial("members", cluster, directory, clients=3, pause=0.01) as trial,
    ):
        changer = Changer(trial)
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            changer.step()
            waits.append(trial.load.longest_wait(since=began))
            trial.load.run_for(max(0.0, began + EVERY - time.monotonic()))
        outcome = trial.verify()
        with cluster.client() as kv:
            epochs = kv.cluster_members().epoch
    did = ", ".join(f"{kind} {count}" for kind, count in sorted(changer.did.items()))
    refused = "; ".join(f"{count}: {text}" for text, count in changer.refused.items())
    note = (
        f"{did}; {epochs} epochs; longest wait {max(waits):.2f} s, median of the changes' longest "
        f"{sorted(waits)[len(waits) // 2]:.2f} s" + (f"; not done: {refused}" if refused else "")
    )
    return dataclasses.replace(outcome, note=note)
