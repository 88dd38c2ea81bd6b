"""Rule 11: a cluster is made once, by all its servers, and serves once all have stored that."""

from __future__ import annotations

import random

import msgspec
import pytest

from paxon.actors import Ballot, InvariantViolation, StorageError
from paxon.actors.messages import (
    P1A,
    P2A,
    Introduction,
    NotLeader,
    OpenSession,
    OtherCluster,
    PreVote,
    Query,
    QueryReply,
    Stranger,
)
from paxon.actors.records.making import FRESH_FOR, Making
from paxon.transport import Burst
from tests.books.making import MakingBooks
from tests.harness import IDENTITY, Cluster, value_of
from tests.messages import beat


def fresh(size: int = 3, **options: object) -> Cluster:
    """Servers with empty directories."""
    return Cluster(size, options={"policy": "random", **options}, made=False)


def waits(cluster: Cluster, server: int) -> str:
    return cluster.servers[server].describe().waits_for


def until_stored(cluster: Cluster, *servers: int) -> None:
    """Let messages pass until these have stored a making; what was sent since stays under way."""
    for _ in range(100):
        if all(cluster.servers[s].making.made is not None for s in servers):
            return
        cluster.clock.now += 0.02
        for server in cluster.servers:
            cluster.step(server)
        cluster.deliver()
    raise AssertionError("never")


def test_all_servers_make_it_and_then_it_serves() -> None:
    cluster = fresh().start()
    cluster.pass_time(1.0)
    made = [server.making.made for server in cluster.servers.values()]
    assert made[0] is not None
    assert made.count(made[0]) == 3
    assert made[0].members == tuple((s, cluster.storages[s].incarnation) for s in cluster.ids)
    assert made[0].identity > 0
    leader = next(s for s in cluster.ids if cluster.servers[s].role == "leader")
    session = cluster.open_session(leader)
    cluster.execute(leader, session, b"a")
    assert {server.describe().identity for server in cluster.servers.values()} == {made[0].identity}
    assert [waits(cluster, s) for s in cluster.ids] == ["", "", ""]
    for server in cluster.ids:
        cluster.crash(server)
    cluster.confirms = False
    cluster.start(1)
    assert waits(cluster, 1).startswith("waits for confirmation by servers 2 and 3")


def test_a_server_alone_makes_a_cluster_at_once() -> None:
    cluster = fresh(1).start()
    assert cluster.servers[1].describe().members == (1,)
    assert waits(cluster, 1) == ""
    cluster.pass_time(1.0)
    assert cluster.servers[1].role == "leader"


def told_fresh(making: Making, server: int, incarnation: int) -> None:
    """`server` answers that its directory is fresh."""
    said = Introduction(incarnation, making.incarnation, False, making.name, making.listed)
    assert making.hear(said, server) is None


def test_an_answer_of_a_while_ago_counts_no_more() -> None:
    """Server 2 answered and was emptied; made with the old directory, the cluster never served."""
    cluster = fresh().start(1)
    making = cluster.servers[1].making
    told_fresh(making, 2, 20)
    for _ in range(FRESH_FOR + 1):
        making.ask_again()
    told_fresh(making, 3, 30)
    assert not making.ready()
    told_fresh(making, 2, 21)
    assert making.ready()
    assert (2, 21) in making.make(7, b"").members


def test_servers_that_run_for_a_moment_each_second_make_it() -> None:
    """While one goes on asking, each of the others answers when the last one's word is too old."""
    cluster = fresh().start()
    for step in range(50 * 60):
        cluster.clock.now += 0.02
        for server, at in ((1, step), (2, 17), (3, 34)):
            if step % 50 == at % 50:
                cluster.deliver(target=server)
                cluster.step(server)
        if all(server.making.in_force for server in cluster.servers.values()):
            return
    raise AssertionError([waits(cluster, server) for server in cluster.ids])


def test_whose_connection_has_ended_has_to_answer_again() -> None:
    cluster = fresh().start(1)
    making = cluster.servers[1].making
    told_fresh(making, 2, 20)
    cluster.servers[1].step(Burst(lost=[2]))
    told_fresh(making, 3, 30)
    assert not making.ready()


def test_who_says_another_name_is_made_no_member() -> None:
    making = fresh().start(1).servers[1].making
    told_fresh(making, 2, 20)
    told_fresh(making, 3, 30)
    assert making.ready()
    making.hear(Introduction(30, making.incarnation, False, "other", making.listed), 3)
    assert not making.ready()


def test_a_majority_makes_no_cluster() -> None:
    cluster = fresh().start(1, 2)
    cluster.pass_time(5.0)
    assert [s.making.made for s in cluster.servers.values()] == [None, None]
    assert "waits for server 3 to make the cluster" in waits(cluster, 1)
    cluster.start(3)
    cluster.pass_time(1.0)
    assert all(not waits(cluster, s) for s in cluster.ids)


def test_nobody_takes_part_or_serves_before_it_is_in_force() -> None:
    cluster = fresh().start(1, 2)
    cluster.pass_time(0.3)
    ballot = Ballot(1, 2)
    for message in (
        P1A(ballot, 1), P2A(ballot, 1, value_of(b"x"), 0), PreVote(1, 1),
        beat(ballot),
    ):  # fmt: skip
        cluster.hand(1, 2, message)
    assert cluster.packets == []
    cluster.request(1, OpenSession(1), Query(7, "stale", b""))
    assert cluster.told(QueryReply) == []  # an empty store would be read as one that lost all
    assert [(told.leader, told.address) for told in cluster.told(NotLeader)] == [(0, "")]
    with pytest.raises(InvariantViolation, match="before the cluster is in force"):
        cluster.servers[1].campaign()


def test_in_force_once_all_are_known_to_have_stored_it() -> None:
    cluster = fresh().start()
    until_stored(cluster, 1)
    cluster.deliver(target=2)
    cluster.drop(target=3)
    for _ in range(50):
        cluster.clock.now += 0.06
        for server in (1, 2):
            cluster.step(server)
        cluster.drop(target=3)
        cluster.drop(source=3)
        cluster.deliver()
    assert cluster.servers[2].making.made is not None
    assert [cluster.servers[s].making.in_force for s in cluster.ids] == [False, False, False]
    assert "waits for server 3 to store the making" in waits(cluster, 1)
    cluster.pass_time(1.0)
    assert all(cluster.servers[s].making.in_force for s in cluster.ids)


@pytest.mark.parametrize("seed", range(30))
def test_crashes_and_losses_at_any_step(seed: int) -> None:
    """Whatever is lost, doubled or crashes, one cluster comes into force, and only when it may."""
    draw = random.Random(seed)
    cluster = fresh(draw.choice((2, 3, 5))).start()
    books = MakingBooks()
    for _ in range(150):
        cluster.clock.now += 0.02
        for server in cluster.ids:
            if draw.random() < 0.05:
                cluster.restart(server)
            elif draw.random() < 0.7:
                cluster.step(server)
        cluster.packets = [p for p in cluster.packets if draw.random() < 0.7]
        cluster.packets += [p for p in cluster.packets if draw.random() < 0.2]
        draw.shuffle(cluster.packets)
        kept = [cluster.packets.pop() for _ in range(len(cluster.packets) // 3)]
        cluster.deliver()
        cluster.packets += kept
        for force in (False, True):
            for server, storage in cluster.storages.items():
                made = storage.durable.made
                if made is not None and storage.durable.in_force >= force:
                    disk = (server, storage.incarnation)
                    assert not books.on_made(disk, made, in_force=force)
    cluster.pass_time(1.0)
    assert all(server.making.in_force for server in cluster.servers.values())


def test_a_disk_that_was_wiped_meanwhile_is_named_with_the_remedy() -> None:
    cluster = fresh().start()
    until_stored(cluster, 1)
    cluster.drop()
    cluster.replace_disk(3)
    cluster.start(3)
    cluster.pass_time(1.0)
    assert not any(server.making.in_force for server in cluster.servers.values())
    for server in (1, 3):
        assert "nothing was acknowledged yet, so empty the directories" in waits(cluster, server)
    for server in (1, 2):
        cluster.replace_disk(server)
        cluster.start(server)
    cluster.pass_time(1.0)
    assert all(server.making.in_force for server in cluster.servers.values())


def test_other_lists_and_names_are_named() -> None:
    cluster = fresh().start(1, 2)
    cluster.start(3, servers=(1, 2, 3, 4))
    cluster.pass_time(0.5)
    assert "the file of server 3 lists servers 1, 2, 3 and 4" in waits(cluster, 1)
    assert "the file of server 1 lists servers 1, 2 and 3" in waits(cluster, 3)
    cluster.restart(3, cluster="other")
    cluster.pass_time(0.5)
    assert "server 3 is to belong to cluster 'other', and this one" in waits(cluster, 1)
    assert "give both the same name" in waits(cluster, 1)
    cluster.restart(3)
    cluster.pass_time(1.0)
    assert all(server.making.in_force for server in cluster.servers.values())


def test_whoever_has_answered_may_ask_too() -> None:
    cluster = fresh().start(1, 2)
    for _ in range(20):
        cluster.clock.now += 0.06
        cluster.step(2)
        cluster.step(1)
        cluster.drop(source=1)  # no more answers: 2 goes on asking
        cluster.deliver()
        if "server 3 to make" in waits(cluster, 1):
            break
        cluster.hand(2, 1, cluster.servers[1].making.introduction(asks=True))
        cluster.deliver()
        assert "waits for server 3 to make the cluster" in waits(cluster, 1)
    for _ in range(20):
        cluster.clock.now += 0.06
        cluster.step(2)
        cluster.deliver(target=1)
        cluster.drop()
        assert "waits for server 3 to make the cluster" in waits(cluster, 1)


def test_rejoining_a_cluster_that_nobody_knows_is_named() -> None:
    cluster = fresh().start(1, 2)
    cluster.start(3, rejoin=True)
    cluster.pass_time(0.5)
    assert "start it without" in waits(cluster, 1)
    assert "none of which has answered" not in waits(cluster, 3)
    assert "to tell which cluster it joins" in waits(cluster, 3)


def test_who_is_in_force_knows_that_all_have_stored_it() -> None:
    """Server 3 has lost its directory since, and 2 would wait for it in vain."""
    cluster = fresh().start()
    until_stored(cluster, 1, 2)
    cluster.drop()
    cluster.replace_disk(3)
    assert cluster.servers[2].describe().members == (1, 2, 3)
    making = cluster.servers[2].making
    said = cluster.servers[1].making.introduction(to=making.incarnation)
    cluster.hand(2, 1, said)
    assert not making.in_force
    cluster.hand(2, 1, msgspec.structs.replace(said, in_force=True))
    assert making.in_force


def test_two_makings_are_named() -> None:
    """Two of one cluster and one of another, their directories mixed up."""
    cluster = fresh().start()
    until_stored(cluster, 1)
    cluster.drop()
    other = fresh().start()
    other.servers[1].membership._random = random.Random("of its own")
    until_stored(other, 1, 3)
    cluster.crash(3)
    mixed = other.storages[3].crash()
    cluster.storages[3] = mixed
    cluster.start(3)
    cluster.pass_time(0.5)
    assert "server 3 holds the making of cluster" in waits(cluster, 1)


def test_a_server_that_is_no_member_stops_and_says_so() -> None:
    """Three servers, the file edited to five: the new ones never vote."""
    cluster = Cluster(5, made=False, options={"policy": "random", "servers": (1, 2, 3)})
    cluster.start(1, 2, 3)
    cluster.pass_time(1.0)
    assert [s for s in (1, 2, 3) if cluster.servers[s].role == "leader"]
    cluster.start(4, servers=(1, 2, 3, 4, 5))
    with pytest.raises(StorageError, match=r"server 4 is not a member of .*servers 1, 2 and 3"):
        cluster.pass_time(0.5)


def test_who_belongs_to_no_cluster_believes_none_that_it_has_not_asked() -> None:
    """Members of another may look for one of theirs where it once was, and this one is now."""
    cluster = Cluster(4, made=False, options={"policy": "random", "servers": (1, 2, 3)})
    cluster.start(1, 2, 3)
    cluster.pass_time(1.0)
    cluster.start(4, servers=(1, 2, 4))
    known, member = cluster.servers[1].making, cluster.storages[1].incarnation
    said = Introduction(member, 0, True, "test", (1, 2, 3), made=known.made, in_force=True)
    cluster.step(4, Burst(peers=[(1, member, [said])]))
    assert cluster.servers[4].making.made is None
    answer = msgspec.structs.replace(said, to=cluster.storages[4].incarnation)
    with pytest.raises(StorageError, match="server 4 is not a member"):
        cluster.step(4, Burst(peers=[(1, member, [answer])]))


def test_whoever_is_in_force_in_another_cluster_is_counted_and_not_answered() -> None:
    cluster = Cluster(3).start()
    cluster.stabilize()
    made = cluster.servers[1].making.made
    assert made is not None
    others = msgspec.structs.replace(made, identity=made.identity + 1)
    said = Introduction(5, 0, True, "test", (1, 2, 3), made=others, in_force=True)
    cluster.packets.clear()
    cluster.step(1, Burst(peers=[(2, 5, [said])]))
    assert cluster.servers[1].describe().counters["foreign_introductions"] == 1
    assert not any(isinstance(packet.message, Introduction) for packet in cluster.packets)


def test_members_come_from_the_directory_whatever_the_file_says() -> None:
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.restart(1, servers=(1,))
    assert cluster.servers[1]._majority == 2
    assert cluster.servers[1]._others == (2, 3)
    cluster.isolate(1)
    cluster.pass_time(3.0, 0.05)
    assert cluster.servers[1].role != "leader"
    assert cluster.servers[1].describe().members == (1, 2, 3)
    cluster.heal()
    cluster.restart(3, servers=(1, 2, 3, 4, 5))
    assert cluster.servers[3]._majority == 2


def test_a_late_answer_of_an_earlier_life_makes_no_cluster_in_force() -> None:
    cluster = fresh().start(1, 2)
    old = cluster.storages[2].incarnation
    mine = cluster.storages[1].incarnation
    cluster.crash(2)
    cluster.replace_disk(2)
    cluster.start(2, 3)
    said = Introduction(old, mine, False, "test", (1, 2, 3))
    cluster.step(1, Burst(peers=[(2, old, [said])]))
    cluster.deliver(target=1, source=3)
    cluster.pass_time(1.0)
    if any(server.making.made for server in cluster.servers.values()):
        stored = [s for s in cluster.servers.values() if s.making.made]
        consistent = {s.making.made.members for s in stored if s.making.made}
        assert len(consistent) == 1
        knows_old = any(old == inc for members in consistent for _, inc in members)
        assert any(s.making.in_force for s in cluster.servers.values()) != knows_old


def test_a_client_of_another_cluster_is_told_so_and_nothing_is_taken_in() -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    cluster.request(1, Stranger(77))
    assert cluster.told(OtherCluster) == [OtherCluster("test", IDENTITY, 77)]
