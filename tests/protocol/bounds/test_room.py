"""Disks with little room: clients are held back, nobody stops (docs/design/full-disks.md)."""

from __future__ import annotations

import pytest

from paxon.actors import Execute
from paxon.actors.disk.storage import NO_ROOM, PLENTY, SMALL_VALUE
from paxon.actors.messages import (
    P2A,
    P2B,
    CatchUp,
    CommandReply,
    Handover,
    ReplyStatus,
    retry_after,
)
from tests.harness import Cluster, reign_of

LARGE = b"x" * (SMALL_VALUE + 1)
OTHER = b"other client"


def led() -> tuple[Cluster, int]:
    cluster = Cluster().start()
    cluster.lead(1)
    return cluster, cluster.open_session(1)


def reply(cluster: Cluster, seq: int) -> CommandReply:
    found = cluster.reply_to(seq)
    assert found is not None
    return found


def test_a_leader_without_room_says_when_to_come_again_and_proposes_nothing() -> None:
    cluster, session = led()
    before = cluster.servers[1].log.last
    cluster.storages[1].room = 100
    cluster.command(1, session, 1, LARGE)
    cluster.stabilize()
    refused = reply(cluster, 1)
    assert refused.status == ReplyStatus.OVERLOADED
    seconds, reason = retry_after(refused.payload)
    assert (seconds, reason) == (0.25, "the servers' disks have little room")
    assert cluster.servers[1].log.last == before
    cluster.storages[1].room = PLENTY
    cluster.command(1, session, 1, LARGE)
    cluster.stabilize()
    assert reply(cluster, 1).status == ReplyStatus.OK


def test_what_was_taken_in_waits_until_there_is_room() -> None:
    cluster, session = led()
    reign = reign_of(cluster.servers[1])
    cluster.storages[2].room = cluster.storages[3].room = NO_ROOM
    cluster.command(1, session, 1, LARGE)  # in flight, and not chosen
    cluster.stabilize()
    assert cluster.reply_to(1) is None and len(reign.votes) == 1
    assert cluster.servers[2].log.last < cluster.servers[1].log.last
    for other in (2, 3):
        cluster.storages[other].room = PLENTY
    cluster.pass_time(0.5)
    assert reply(cluster, 1).status == ReplyStatus.OK
    assert cluster.servers[1].leader == 1


def look_for_room(cluster: Cluster) -> None:
    """The leader does so now and then."""
    cluster.clock.now += 0.1
    cluster.step(1)
    cluster.step(1)


def test_what_waits_for_a_slot_when_room_ends_is_put_off() -> None:
    cluster, session = led()
    cluster.options["window"] = 1
    server = cluster.servers[1]
    cluster.command(1, session, 1, LARGE)
    for seq in range(2, 20):  # the window is full
        cluster.command(1, session, seq, LARGE)
    own = server.on_local(Execute(LARGE))  # and something of this process's own
    reign = reign_of(server)
    assert reign.pending.entries
    reign.pending.dear[session, 19] = reign.pending.cost = 5
    look_for_room(cluster)
    assert reign.pending.entries and cluster.reply_to(19) is None, "there is room for it"
    cluster.storages[1].room = 0
    cluster.drop(P2B)
    cluster.pass_time(0.02)
    look_for_room(cluster)
    assert not reign.pending.entries and reign.pending.work == 0
    with pytest.raises(RuntimeError, match="the servers' disks have little room"):
        own.get(timeout=0)
    assert reply(cluster, 19).status == ReplyStatus.OVERLOADED
    cluster.storages[1].room = PLENTY
    cluster.pass_time(0.5)
    assert reply(cluster, 1).status == ReplyStatus.OK, "what was proposed is chosen all the same"
    assert (session, 19) not in reign.waiting


def test_a_follower_without_room_accepts_what_is_small() -> None:
    cluster, session = led()
    cluster.storages[2].room = 0
    cluster.drop(P2B)
    cluster.command(1, session, 1, b"small")
    cluster.deliver(P2A, 1, 2)
    assert len(cluster.sent(P2B, 2, 1)) == 1
    cluster.stabilize()
    cluster.command(1, session, 2, LARGE)
    cluster.deliver(P2A, 1, 2)
    assert cluster.sent(P2B, 2, 1) == []
    assert cluster.servers[2].describe().counters["without_room"] == 1
    cluster.stabilize()  # the other two are a majority
    assert reply(cluster, 2).status == ReplyStatus.OK


def test_a_follower_without_any_room_accepts_nothing() -> None:
    cluster, session = led()
    cluster.storages[2].room = NO_ROOM
    cluster.command(1, session, 1, b"small")
    cluster.deliver(P2A, 1, 2)
    assert cluster.sent(P2B, 2, 1) == []


def test_a_majority_without_room_is_heard_of_and_clients_are_held_back() -> None:
    cluster, session = led()
    cluster.storages[2].room = 0
    cluster.pass_time(0.2)
    cluster.command(1, session, 1, b"two have room")
    cluster.stabilize()
    assert reply(cluster, 1).status == ReplyStatus.OK
    cluster.storages[3].room = 0
    cluster.pass_time(0.2)
    cluster.command(1, session, 2, b"one has")
    cluster.stabilize()
    assert reply(cluster, 2).status == ReplyStatus.OVERLOADED
    cluster.storages[2].room = PLENTY
    cluster.pass_time(0.2)
    cluster.command(1, session, 2, b"two have again")
    cluster.stabilize()
    assert reply(cluster, 2).status == ReplyStatus.OK


def saved() -> tuple[Cluster, int]:
    """A cluster whose servers have nothing to take a snapshot of; then disks have little room."""
    cluster, session = led()
    for room in (0, PLENTY, 0):
        for storage in cluster.storages.values():
            storage.room = room
        cluster.pass_time(0.5)
    cluster.storages[1].room = PLENTY
    reign_of(cluster.servers[1]).pending.most_are_short = False  # it has yet to hear of it
    return cluster, session


def test_what_is_to_be_executed_next_needs_no_room_where_no_snapshot_makes_any() -> None:
    """Else what is accepted behind a gap would keep the log from its room for good."""
    cluster, session = saved()
    cluster.command(1, session, 1, LARGE)
    cluster.deliver(P2A, 1, 2)
    assert len(cluster.sent(P2B, 2, 1)) == 1
    cluster.command(1, session, 2, LARGE)
    cluster.deliver(P2A, 1, 2)
    assert len(cluster.sent(P2B, 2, 1)) == 1, "that one comes later"
    cluster.pass_time(2.0)
    assert [reply(cluster, seq).status for seq in (1, 2)] == [ReplyStatus.OK] * 2


def test_who_misses_something_asks_for_it_without_room_too_where_no_snapshot_makes_any() -> None:
    cluster, session = saved()
    cluster.storages[2].room = PLENTY
    behind, disk = cluster.servers[3], cluster.storages[3]
    disk.largest = len(LARGE)  # less than what the log adds to it
    for seq in (1, 2, 3):
        cluster.command(1, session, seq, LARGE)
    cluster.pass_time(1.0)
    assert behind.describe().counters["catch_ups"] > 0 and behind.is_behind()
    disk.largest = PLENTY
    cluster.pass_time(3.0)
    assert behind.application.executed == cluster.servers[1].application.executed


def test_what_comes_together_is_kept_as_far_as_the_disk_itself_takes_it() -> None:
    cluster, session = saved()
    leader, behind, disk = cluster.servers[1], cluster.servers[3], cluster.storages[3]
    cluster.storages[2].room = PLENTY
    disk.largest, known = 0, behind.log.chosen_to
    cluster.execute(1, session, LARGE, LARGE)
    disk.largest = 2 * len(LARGE)  # (and some bytes more for each)
    missed = list(leader.log.accepted_from(known + 1))
    cluster.hand(3, 1, CatchUp(missed, leader.log.chosen_to))
    assert behind.log.chosen_to == known + 1


def test_who_missed_something_waits_for_the_snapshot_that_makes_room() -> None:
    cluster, session = led()
    disk, behind = cluster.storages[3], cluster.servers[3]
    disk.room = 0
    behind.snapshots.retry.failed(cluster.clock.now + 100)  # none can be taken for now
    cluster.execute(1, session, LARGE)
    cluster.pass_time(1.0)
    assert behind.describe().counters["catch_ups"] == 0
    assert behind.is_behind()
    cluster.hand(3, 1, CatchUp(list(cluster.servers[1].log.accepted_from(1)), 2))
    assert behind.is_behind()  # what comes unasked is not kept either
    disk.room = PLENTY
    cluster.pass_time(1.0)
    assert behind.application.executed == cluster.servers[1].application.executed


def test_a_snapshot_is_taken_early_and_lets_the_log_go() -> None:
    cluster, session = led()
    cluster.execute(1, session, LARGE)
    assert cluster.storages[1].durable.snapshot is None
    cluster.storages[1].room = 0
    cluster.pass_time(0.5)
    taken = cluster.storages[1].durable.snapshot
    assert taken is not None and taken.slot == cluster.servers[1].application.executed


def test_a_leader_for_which_no_snapshot_makes_room_hands_over_to_one_with_room() -> None:
    cluster, session = led()
    cluster.execute(1, session, LARGE)
    cluster.storages[1].room = cluster.storages[2].room = 0
    cluster.pass_time(1.0)
    assert reign_of(cluster.servers[3])
    assert cluster.servers[1].describe().counters["handovers"] == 1
    cluster.command(3, session, 2, LARGE, client=OTHER)
    cluster.pass_time(0.2)
    assert cluster.sent(Handover) == []
    assert cluster.servers[3].leader == 3
    assert reply(cluster, 2).status == ReplyStatus.OVERLOADED, "it alone is no majority"


def test_a_leader_waits_for_the_snapshot_that_may_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, session = led()
    cluster.execute(1, session, LARGE)
    leader, storage = cluster.servers[1], cluster.storages[1]
    with monkeypatch.context() as slow:
        slow.setattr(storage, "poll_snapshot", lambda: None)
        storage.room = 0
        cluster.pass_time(0.5)
        assert storage.taking_snapshot and leader.describe().counters["handovers"] == 0
    cluster.pass_time(0.5)  # it has made none
    assert leader.describe().counters["handovers"] == 1


def test_nobody_hands_over_where_all_disks_are_full() -> None:
    cluster, session = led()
    cluster.execute(1, session, LARGE)
    for server in cluster.ids:
        cluster.storages[server].room = 0
    cluster.pass_time(2.0)
    assert cluster.servers[1].describe().counters["handovers"] == 0
    assert reign_of(cluster.servers[1])


def test_a_new_leader_takes_over_once_it_has_room() -> None:
    cluster, session = led()
    cluster.drop(P2B)
    cluster.command(1, session, 1, LARGE)
    cluster.deliver(P2A, 1, 2)
    cluster.drop(P2A)
    cluster.crash(1)
    cluster.storages[3].room = 0
    cluster.clock.now += 0.4  # they have heard of no leader for long enough
    cluster.campaign(3)
    cluster.stabilize()
    reign = reign_of(cluster.servers[3])
    assert len(reign.takeover) == 1, "it holds the value back"
    cluster.storages[3].room = PLENTY
    cluster.pass_time(0.2)
    assert not reign.takeover and cluster.servers[3].application.executed >= reign.takeover_end
