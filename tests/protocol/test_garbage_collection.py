"""Rule 7, garbage collection: what all have executed goes; past a limit a snapshot stands in."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest

from paxon.actors import Ballot
from paxon.actors.limits.bounds import MAX_SNAPSHOT_BYTES
from paxon.actors.messages import (
    P2A,
    CatchUpRequest,
    Heartbeat,
    HeartbeatReply,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
)
from paxon.actors.records.reign import Progress
from tests.harness import Cluster, Register, reign_of, value_of
from tests.messages import beat


def ran(commands: int, size: int = 3, **options: object) -> Cluster:
    """Server 1 leads and has executed `commands` commands after opening a session in slot 1."""
    cluster = Cluster(size, options={"policy": "random", **options}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, *[b"%d" % seq for seq in range(1, commands + 1)])
    return cluster


def cut_off(commands: int, **options: object) -> Cluster:
    """Like `ran`, but server 3 was cut off all the while."""
    cluster = Cluster(3, options={"policy": "random", **options}).start()
    cluster.lead(1)
    cluster.pass_time(0.1)
    cluster.isolate(3)
    session = cluster.open_session(1)
    cluster.execute(1, session, *[b"%d" % seq for seq in range(1, commands + 1)])
    cluster.pass_time(0.3)
    return cluster


def replied(cluster: Cluster, **executed: int) -> int:
    """Followers report how far they have executed; what the next heartbeat lets all discard."""
    leader = cluster.servers[1]
    for name, slot in executed.items():
        server = int(name.removeprefix("server_"))
        cluster.hand(1, server, HeartbeatReply(leader.promised, reign_of(leader).rounds.last, slot))
    cluster.drop()
    cluster.clock.now += 0.06
    cluster.step(1)
    return cluster.sent(Heartbeat)[0].discard_to


@pytest.mark.parametrize(
    ("executed", "goes"),
    [((4, 4, 3), 3), ((4, 4, 4), 4), ((4, 4, 0), 0), ((4, 2, 3), 2)],
)
def test_the_minimum_over_all_servers_goes(executed: tuple[int, int, int], goes: int) -> None:
    cluster = ran(3)
    cluster.pass_time(1.2)
    reign = reign_of(cluster.servers[1])
    reign.followers = {server: Progress() for server in reign.followers}
    assert replied(cluster, server_2=executed[1], server_3=executed[2]) == goes


def test_a_server_that_was_never_heard_counts_as_having_executed_nothing() -> None:
    cluster = ran(3, size=5)
    cluster.pass_time(1.2)
    reign = reign_of(cluster.servers[1])
    reign.followers = {server: Progress() for server in reign.followers}
    assert replied(cluster, server_2=4, server_3=4, server_4=4) == 0
    assert replied(cluster, server_5=2) == 2


def test_a_majority_is_not_enough() -> None:
    cluster = ran(3, size=5)
    cluster.pass_time(1.2)
    reign = reign_of(cluster.servers[1])
    reign.followers = {server: Progress() for server in reign.followers}
    assert replied(cluster, server_2=4, server_3=4, server_4=1, server_5=1) == 1


def test_what_goes_is_gone_everywhere_and_the_probes_say_so() -> None:
    cluster = ran(3)
    cluster.pass_time(2.0)
    for server in cluster.servers.values():
        assert server.first_non_cleared() == 5
        assert [server.status(slot) for slot in (1, 4, 5)] == ["CLEARED", "CLEARED", "EMPTY"]
        assert server.command(4) is None
        assert server.last_non_empty() == 4
        assert server.describe().counters["log_bytes"] == 0


def test_a_follower_discards_nothing_that_it_has_not_executed() -> None:
    cluster = ran(3)
    cluster.hand(3, 1, beat(cluster.servers[1].promised, 50, commit=4, discard_to=99))
    assert cluster.servers[3].application.executed == 4
    assert cluster.servers[3].first_non_cleared() <= 5
    cluster.servers[3].log.accept(6, Ballot(1, 1), b"")
    assert cluster.servers[3].status(6) == "ACCEPTED"


def test_an_old_leaders_word_discards_nothing() -> None:
    cluster = ran(3)
    cluster.hand(3, 2, beat(Ballot(9, 2), commit=4))
    before = cluster.servers[3].first_non_cleared()
    cluster.hand(3, 1, beat(Ballot(1, 1), 50, commit=4, discard_to=4))
    assert cluster.servers[3].first_non_cleared() == before


def test_what_only_memory_knows_as_executed_does_not_count() -> None:
    """A follower that falls would need those slots again from the others."""
    cluster = ran(3)
    cluster.pass_time(1.5)
    cluster.execute(1, cluster.told_session(), b"slot 5", first=4)
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.deliver(Heartbeat)  # tells that slot 5 is chosen: executed, but nothing is synced
    assert cluster.servers[2].application.executed == 5
    executed = [reply.executed for reply in cluster.sent(HeartbeatReply, source=2)]
    assert executed == [4]
    cluster.stabilize()
    assert cluster.restart(2).application.executed == 4
    cluster.pass_time(1.5)
    assert cluster.restart(2).application.executed == 5


def test_a_server_that_is_down_keeps_everything_for_itself_up_to_the_limit() -> None:
    cluster = cut_off(8, retain_slots=20)
    assert cluster.servers[1].first_non_cleared() == 1
    cluster.heal()
    cluster.pass_time(0.5)
    assert cluster.applied(3) == [b"%d" % n for n in range(1, 9)]
    assert cluster.servers[3].describe().counters["snapshots_received"] == 0


def test_past_the_limit_in_slots_the_log_is_cut_at_a_durable_snapshot() -> None:
    cluster = cut_off(12, retain_slots=5, snapshot_slots=4)
    server = cluster.servers[1]
    snapshot = cluster.storages[1].durable.snapshot
    assert snapshot is not None
    assert 1 < server.first_non_cleared() <= snapshot.slot + 1
    assert len(server.log) <= 5 + 4


def test_past_the_limit_in_bytes_too() -> None:
    cluster = cut_off(12, retain_bytes=150, snapshot_bytes=100)
    assert cluster.servers[1].first_non_cleared() > 1
    assert cluster.servers[1].log.value_bytes <= 150 + 100


def test_without_a_snapshot_nothing_is_cut() -> None:
    cluster = cut_off(12, retain_slots=5, snapshot_slots=1000)
    assert cluster.servers[1].first_non_cleared() == 1


def test_a_late_server_gets_the_snapshot_and_the_slots_after_it() -> None:
    cluster = cut_off(12, retain_slots=3, snapshot_slots=4)
    cluster.heal()
    cluster.pass_time(1.0)
    assert cluster.servers[3].describe().counters["snapshots_received"] == 1
    assert cluster.applied(3) == [b"%d" % n for n in range(1, 13)]
    assert cluster.servers[3].application.digest() == cluster.servers[1].application.digest()
    # It keeps the snapshot: after a restart it stands where it stood.
    assert cluster.restart(3).application.executed >= cluster.servers[1].first_non_cleared() - 1


def test_a_snapshot_travels_in_bounded_pieces_and_goes_on_where_it_stopped() -> None:
    cluster = cut_off(12, retain_slots=3, snapshot_slots=4, transfer_bytes=16)
    cluster.heal()
    pieces: list[int] = []
    for _ in range(400):
        for chunk in cluster.sent(SnapshotChunk, target=3):
            assert len(chunk.data) <= 16
            pieces.append(chunk.offset)
            if len(pieces) == 3:
                cluster.drop(SnapshotChunk)  # one is lost: asked for again, not all from the start
                cluster.servers[3].snapshotting.take()  # it is far behind its own
                assert not cluster.storages[3].taking_snapshot, "the disk need not hold both"
        cluster.deliver()
        cluster.clock.now += 0.01
        for server in cluster.ids:
            cluster.step(server)
    assert cluster.servers[3].describe().counters["snapshots_received"] == 1
    assert pieces.count(0) == 1
    assert pieces == sorted(pieces)
    assert cluster.applied(3)[:11] == [b"%d" % n for n in range(1, 12)]


def test_a_damaged_snapshot_is_thrown_away_and_fetched_again() -> None:
    cluster = cut_off(12, retain_slots=3, snapshot_slots=4)
    cluster.heal()
    damaged = 0
    for _ in range(300):
        for packet in cluster.packets:
            if isinstance(packet.message, SnapshotChunk) and damaged == 0:
                chunk = packet.message
                data = bytes([chunk.data[0] ^ 1]) + chunk.data[1:]
                packet.message = SnapshotChunk(chunk.slot, chunk.offset, data)
                damaged += 1
        cluster.deliver()
        assert cluster.servers[3].application.executed in (0, *range(9, 14))
        cluster.clock.now += 0.01
        for server in cluster.ids:
            cluster.step(server)
    assert damaged == 1
    assert cluster.servers[3].describe().counters["snapshots_received"] == 1
    assert cluster.applied(3) == [b"%d" % n for n in range(1, 13)]


def test_a_snapshot_behind_what_was_executed_is_not_taken_over() -> None:
    cluster = ran(5)
    executed = cluster.servers[2].application.executed
    for slot in (1, executed):
        cluster.hand(2, 1, SnapshotOffer(slot, 10, 0))
        assert cluster.sent(SnapshotRequest) == []
    assert cluster.servers[2].application.executed == executed


@pytest.mark.parametrize(
    "offer", [(5, 0, 0), (5, MAX_SNAPSHOT_BYTES + 1, 0), (1 << 62, 9, 0), (5, 9, 1 << 32)]
)
def test_an_offer_that_cannot_be_is_malformed(offer: tuple[int, int, int]) -> None:
    cluster = ran(2)
    cluster.hand(3, 1, SnapshotOffer(*offer))
    assert cluster.sent(SnapshotRequest) == []
    assert cluster.servers[3].describe().counters["malformed_messages"] == 1


@pytest.mark.parametrize(("room", "longest"), [(1 << 40, 60.0), (0, 4.0)])
def test_one_that_could_not_be_kept_is_taken_up_later(
    monkeypatch: pytest.MonkeyPatch, room: int, longest: float
) -> None:
    """Later each time it fails; sooner where nothing else makes room for the log."""
    cluster = ran(2)
    cluster.storages[3].room = room
    offer, asked = SnapshotOffer(5, 9, 0), [SnapshotRequest(5, 0)]
    with monkeypatch.context() as full:
        full.setattr(cluster.storages[3], "receive_snapshot", lambda *_arguments: -1)
        for _ in range(8):
            cluster.clock.now += 3600.0
            cluster.hand(3, 1, offer)
    for seconds, expected in ((longest - 0.1, []), (0.2, asked)):
        cluster.clock.now += seconds
        cluster.drop()
        cluster.hand(3, 1, offer)
        assert cluster.sent(SnapshotRequest) == expected


def test_a_snapshot_that_fails_is_tried_again_later_each_time() -> None:
    class Failing(Register):
        def snapshot(self) -> bytes:
            tries.append(cluster.clock.now)
            raise RuntimeError("a bug")

    tries: list[float] = []
    cluster = Cluster(1, options={"snapshot_slots": 1}, machine=Failing).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 60):
        cluster.execute(1, session, b"a", first=seq)
        cluster.pass_time(0.25, 0.25)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert [int(pause) for pause in pauses] == [1, 2, 4]


def test_a_server_looks_now_and_then_whether_its_snapshot_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = ran(2, 1)
    server, storage = cluster.servers[1], cluster.storages[1]
    looks = 0

    def writes_still() -> None:
        nonlocal looks
        looks += 1

    with monkeypatch.context() as slow:
        slow.setattr(storage, "poll_snapshot", writes_still)
        server.snapshotting.take()
        for _ in range(5):
            cluster.step(1)
            assert looks == 1 and server.next_deadline() > cluster.clock.now
        cluster.pass_time(1.0)
        assert looks == 1 + 20, "once in a heartbeat's interval"
    assert server.describe().counters["snapshots_taken"] == 0
    cluster.pass_time(0.1)
    assert server.describe().counters["snapshots_taken"] == 1
    assert storage.durable.snapshot is not None


def test_pieces_that_arrive_after_the_slots_did_change_nothing() -> None:
    cluster = ran(2)
    late = cluster.servers[3]
    assert late.application.executed == 2
    image = b"".join(cluster.servers[1].application.image())
    cluster.hand(3, 1, SnapshotOffer(3, len(image), zlib.crc32(image)))
    cluster.hand(3, 2, SnapshotOffer(4, 9, 0))  # it stays with the one that it has begun
    assert cluster.sent(SnapshotRequest) == [SnapshotRequest(3, 0)]
    cluster.drop()
    cluster.execute(1, cluster.told_session(), b"3", first=3)
    cluster.pass_time(0.2)
    assert late.application.executed == 4
    cluster.hand(3, 1, SnapshotChunk(3, 0, image))
    assert late.application.executed == 4
    assert cluster.applied(3) == [b"1", b"2", b"3"]


def test_an_offer_overtaken_within_its_own_burst_is_not_taken_up() -> None:
    """The slots are chosen then, though they are executed only at the burst's end."""
    cluster = ran(2)
    late, ballot, value = cluster.servers[3], cluster.servers[1].promised, value_of(b"x")
    cluster.hand(3, 1, P2A(ballot, 4, value, 3), P2A(ballot, 5, value, 3))
    cluster.drop()
    cluster.hand(3, 1, P2A(ballot, 6, value, 5), SnapshotOffer(5, 1000, 1))
    assert late.application.executed == 5
    assert cluster.sent(SnapshotRequest) == []


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.7])
def test_a_transfer_ends_however_long_a_piece_takes(seconds: float) -> None:
    """Servers 1 and 2 hold snapshots of different slots: going from one to the other, a late server
    begins anew each time, and would for ever if it never waited for longer.
    """
    options = {"policy": "random", "retain_slots": 3, "transfer_bytes": 40}
    cluster = Cluster(3, options=options)
    cluster.start(1, snapshot_slots=4).start(2, snapshot_slots=5).start(3, snapshot_slots=4)
    cluster.lead(1)
    cluster.pass_time(0.1)
    cluster.isolate(3)
    session = cluster.open_session(1)
    cluster.execute(1, session, *[b"%d" % seq for seq in range(1, 13)])
    cluster.pass_time(0.3)
    cluster.heal()
    late, under_way = cluster.servers[3], []
    end = cluster.clock.now + 20.0
    while late.application.executed < 9 and cluster.clock.now < end:
        for packet in cluster.drop():
            slow = isinstance(packet.message, SnapshotChunk)
            under_way.append((cluster.clock.now + (seconds if slow else 0.005), packet))
        cluster.clock.now += 0.01
        cluster.packets = [packet for at, packet in under_way if at <= cluster.clock.now]
        under_way = [(at, packet) for at, packet in under_way if at > cluster.clock.now]
        cluster.deliver()
        for server in cluster.ids:
            if cluster.clock.now >= cluster.servers[server].next_deadline():
                cluster.step(server)
    assert late.application.executed >= 9


def test_patience_ends_with_the_transfer_that_needed_it() -> None:
    """However often a sender fell silent, slots that others hold are asked for as soon as ever."""
    cluster = cut_off(12, retain_slots=3, snapshot_slots=4, transfer_bytes=40)
    cluster.heal()
    late = cluster.servers[3]
    for _ in range(400):
        cluster.clock.now += 0.05
        cluster.step(3)
        cluster.drop(SnapshotChunk)
        cluster.deliver()
    assert late.catching_up.patience > 2
    cluster.pass_time(60.0, step=0.05)
    assert late.application.executed == cluster.servers[1].application.executed
    assert late.catching_up.patience == 0


def test_slots_that_all_executed_are_offered_as_a_snapshot_to_one_who_lost_its_disk() -> None:
    cluster = ran(3)
    cluster.pass_time(2.0)
    assert cluster.storages[1].durable.snapshot is None
    cluster.hand(1, 3, CatchUpRequest(1))
    cluster.pass_time(0.2)
    cluster.hand(1, 3, CatchUpRequest(1))
    snapshot = cluster.storages[1].durable.snapshot
    assert snapshot is not None
    (offer,) = cluster.sent(SnapshotOffer)
    assert (offer.slot, offer.size, offer.checksum) == (4, snapshot.size, snapshot.checksum)


def test_a_snapshot_request_for_one_that_is_gone_is_answered_with_the_newest() -> None:
    cluster = cut_off(12, retain_slots=3, snapshot_slots=4)
    cluster.heal()
    cluster.drop()
    cluster.hand(1, 3, SnapshotRequest(2, 0))
    snapshot = cluster.storages[1].durable.snapshot
    assert snapshot is not None
    assert [offer.slot for offer in cluster.sent(SnapshotOffer)] == [snapshot.slot]


def test_disk_rows_stay_until_the_servers_own_snapshot_covers_them() -> None:
    """In memory the slots are gone; a restart still has to replay them from the disk."""
    cluster = ran(3)
    cluster.pass_time(2.0)
    assert cluster.servers[2].first_non_cleared() == 5
    restarted = cluster.restart(2)
    assert restarted.application.executed == 4
    assert cluster.applied(2) == [b"1", b"2", b"3"]


def test_disk_rows_go_once_a_snapshot_covers_them() -> None:
    cluster = ran(3, snapshot_slots=4)
    cluster.pass_time(3.0)
    cluster.execute(1, cluster.told_session(), b"slot 5", first=4)  # they go with a later commit
    found = cluster.storages[2].crash().load()
    assert found.snapshot is not None
    assert found.snapshot.slot == 4
    assert [row.slot for row in found.accepted] == [5]
    assert found.discarded == 4


def test_memory_of_an_idle_cluster_falls_back_after_a_long_absence() -> None:
    """The course's ClearsMemory, small: big values while one server is cut off, then heal."""
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.pass_time(0.2)
    cluster.isolate(3)
    for seq in range(1, 21):
        cluster.command(1, session, seq, b"x" * 10_000, acked=seq)
        cluster.stabilize()
    assert cluster.servers[1].log.value_bytes > 200_000
    cluster.heal()
    cluster.pass_time(1.5)
    cluster.command(1, session, 21, b"x", acked=21)
    cluster.pass_time(3.0)
    for server in cluster.servers.values():
        assert server.log.value_bytes < 1000
        assert len(server.log) <= 1
        replies = server.application.sessions.get(session)
        assert replies is not None
        assert list(replies.replies) == [21]
