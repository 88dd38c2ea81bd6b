"""Rule 10, persist before send: what a message relies on is on the disk when it leaves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from paxon.actors import Ballot, StorageError
from paxon.actors.disk.storage import SnapshotInfo
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    ClientMessage,
    Command,
    CommandReply,
    Heartbeat,
    OpenSession,
    ReplyStatus,
    SessionOpened,
)
from paxon.actors.records.reign import Reign
from tests.disks import MemoryDisk
from tests.harness import Cluster
from tests.protocol.watched import Died, WatchedCluster


def story(cluster: Cluster) -> None:
    """Two leaders, some commands, a lost vote, a snapshot: a bit of everything."""
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    cluster.pass_time(0.2)
    cluster.command(1, session, 3, b"c")
    cluster.drop(P2B)
    cluster.campaign(2)
    cluster.stabilize()
    cluster.execute(2, session, b"c", b"d", b"e", first=3)
    cluster.pass_time(1.2)


def test_nothing_leaves_before_what_it_relies_on_is_durable() -> None:
    cluster = WatchedCluster(3, policy="random", snapshot_slots=3)
    cluster.start()
    story(cluster)
    assert cluster.watch.acknowledged == 6
    assert cluster.applied(3) == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("seed", range(12))
def test_nor_under_loss_reordering_duplicates_and_crashes(seed: int) -> None:
    source = random.Random(seed)
    cluster = WatchedCluster(3, policy="random", snapshot_slots=5, retain_slots=8)
    cluster.start()
    for step in range(400):
        chance = source.random()
        server = source.choice(cluster.ids)
        if chance < 0.03 and server in cluster.servers:
            cluster.crash(server)
        elif chance < 0.10 and server not in cluster.servers:
            cluster.start(server)
        elif chance < 0.20 and server in cluster.servers:
            cluster.command(server, 1 << 20, step, b"%d" % step)
        elif chance < 0.23 and server in cluster.servers:
            cluster.request(server, OpenSession(step))
        elif chance < 0.40 or not cluster.packets:
            cluster.clock.now += source.choice((0.01, 0.1))
            if server in cluster.servers:
                cluster.step(server)
        else:
            packet = cluster.packets.pop(source.randrange(min(len(cluster.packets), 6)))
            if chance < 0.45:
                continue
            if chance < 0.50:
                cluster.packets.append(packet)
            if packet.target in cluster.servers:
                cluster.hand(packet.target, packet.source, packet.message)
    assert cluster.watch.chosen


def test_a_leaders_p2a_leaves_while_its_own_acceptance_is_still_to_be_synced() -> None:
    cluster = WatchedCluster(3, policy="random")
    cluster.start()
    cluster.lead(1)
    session = cluster.open_session(1)
    at_commit: list[int] = []
    cluster.disk(1).before_commit = lambda: at_commit.append(len(cluster.sent(P2A)))
    cluster.command(1, session, 1, b"x")
    assert at_commit == [2]


def test_but_no_p2a_leaves_before_its_ballot_is_durable() -> None:
    """One server alone leads in the very step in which it promised: sync first, then propose."""
    cluster = WatchedCluster(1, policy="random")
    cluster.accepted(1, Ballot(1, 1), slot_1=b"a", slot_3=b"c")
    cluster.start()
    cluster.campaign(1)
    assert cluster.applied(1) == [b"a", b"c"]


def test_a_leader_counts_its_own_acceptance_only_after_the_sync() -> None:
    cluster = WatchedCluster(1, policy="random", window=2)
    cluster.accepted(1, Ballot(1, 1), **{f"slot_{n}": b"%d" % n for n in range(1, 6)})
    cluster.start()
    server, disk = cluster.servers[1], cluster.disk(1)
    counted: list[int] = []
    count = server._count_vote

    def checked(reign: Reign, slot: int, sender: int) -> bool:
        assert disk._accepted[slot].ballot == server.promised, f"slot {slot} is not synced yet"
        counted.append(slot)
        return count(reign, slot, sender)

    server._count_vote = checked  # type: ignore[method-assign]
    cluster.campaign(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"x", b"y")
    assert counted == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_commit_that_fails_sends_nothing_that_relies_on_it() -> None:
    cluster = WatchedCluster(3, policy="random")
    cluster.start()
    cluster.lead(1)
    session = cluster.open_session(1)

    def fail() -> None:
        raise StorageError("the disk is full: make room and start the server again")

    for server in (1, 2):
        cluster.disk(server).before_commit = fail
    with pytest.raises(StorageError, match="disk is full"):
        cluster.command(1, session, 1, b"x")
    assert len(cluster.sent(P2A)) == 2  # the one thing that may leave early
    assert cluster.reply_to(1) is None
    (packet, _) = cluster.drop(P2A)
    with pytest.raises(StorageError):
        cluster.hand(2, 1, packet.message)
    assert cluster.sent(P2B) == []
    with pytest.raises(StorageError):
        cluster.hand(2, 3, P1A(Ballot(9, 3), 1))
    assert cluster.sent(P1B) == []


def test_one_sync_serves_a_whole_burst() -> None:
    cluster = WatchedCluster(3, policy="random")
    cluster.start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 11):
        cluster.command(1, session, seq, b"x")
    before = cluster.servers[2].describe().counters["syncs"]
    cluster.hand(2, 1, *cluster.sent(P2A, target=2))
    assert cluster.servers[2].describe().counters["syncs"] == before + 1
    assert [(p.first, p.last) for p in cluster.sent(P2B, source=2)] == [(2, 11)]


def test_an_idle_burst_syncs_nothing() -> None:
    cluster = WatchedCluster(3, policy="random")
    cluster.start()
    cluster.lead(1)
    cluster.pass_time(1.5)
    before = [cluster.servers[s].describe().counters["syncs"] for s in cluster.ids]
    cluster.pass_time(2.0)
    assert [cluster.servers[s].describe().counters["syncs"] for s in cluster.ids] == before


def test_the_log_is_not_cut_before_the_snapshot_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = True
    poll = MemoryDisk.poll_snapshot

    def poll_snapshot(storage: MemoryDisk) -> SnapshotInfo | None:
        return None if slow else poll(storage)

    monkeypatch.setattr(MemoryDisk, "poll_snapshot", poll_snapshot)
    cluster = WatchedCluster(3, policy="random", snapshot_slots=3, retain_slots=2)
    cluster.start()
    cluster.lead(1)
    cluster.isolate(3)
    session = cluster.open_session(1)
    cluster.execute(1, session, *[b"x"] * 10)
    cluster.pass_time(0.5)
    assert cluster.servers[1].first_non_cleared() == 1
    slow = False
    cluster.pass_time(0.5)
    assert cluster.servers[1].first_non_cleared() > 1


# --- crash at any point --------------------------------------------------------------------------


class Fate:
    """Lets server `victim` die in its `fatal`th sync: before it takes, or after."""

    def __init__(self, cluster: WatchedCluster, victim: int, fatal: int, *, after: bool) -> None:
        self.cluster = cluster
        self.victim = victim
        self.left = fatal
        self.died = False
        self.after = after
        self.arm()

    def arm(self) -> None:
        disk = self.cluster.disk(self.victim)
        if self.after:
            disk.after_commit = self.count
        else:
            disk.before_commit = self.count

    def count(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.died:
            self.died = True
            raise Died

    def endure(self, action: Callable[[], object]) -> None:
        """Do something; if the victim dies of it, start it again on what its disk kept."""
        try:
            action()
        except Died:
            self.cluster.crash(self.victim)
            disk = self.cluster.disk(self.victim)
            disk.before_commit = disk.after_commit = lambda: None
            self.cluster.start(self.victim)


@pytest.mark.parametrize("victim", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_whatever_sync_a_server_dies_in_nothing_acknowledged_is_lost(
    victim: int, *, after: bool
) -> None:
    """Clients try again wherever a leader is found, until all is acknowledged."""
    fatal = 0
    while True:
        fatal += 1
        cluster = WatchedCluster(3, policy="random", snapshot_slots=4)
        cluster.start()
        fate = Fate(cluster, victim, fatal, after=after)
        written = _write_all(cluster, fate)
        for server in cluster.ids:
            assert Counter(cluster.applied(server)) == Counter(written), f"sync {fatal}"
        if not fate.died:
            break
    assert fatal > 5  # there were that many syncs to die in


def _write_all(cluster: WatchedCluster, fate: Fate) -> list[bytes]:
    """A client's work: a session, then eight commands, each tried until it is acknowledged."""
    texts = {seq: b"%d" % seq for seq in range(1, 9)}
    for attempt in range(1, 200):
        done = {r.seq for r in cluster.told(CommandReply) if r.status == ReplyStatus.OK}
        waiting = [seq for seq in texts if seq not in done]
        if not waiting:
            break
        opened = cluster.told(SessionOpened)
        request: ClientMessage = OpenSession(attempt)
        if opened:
            seq = waiting[0]
            request = Command(opened[0].session, seq, 1, 0, texts[seq])
        leader = max(
            cluster.ids,
            key=lambda s: (cluster.servers[s].role == "leader", cluster.servers[s].promised),
        )
        fate.endure(partial(cluster.request, leader, request))
        fate.endure(partial(cluster.pass_time, 0.1))
    for _ in range(2):
        fate.endure(partial(cluster.pass_time, 1.0))
    return list(texts.values())


def test_heartbeats_of_a_new_leader_rely_on_nothing_unsynced() -> None:
    """A single server's first heartbeat round leaves in the step in which it took over."""
    cluster = WatchedCluster(2, policy="random")
    cluster.start()
    cluster.lead(1)
    assert cluster.watch.disks[1].promised == cluster.servers[1].promised
    assert cluster.sent(Heartbeat) == []
