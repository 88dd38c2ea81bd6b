"""Rule 11, identity: a server is known by its disk, and a replaced disk must rejoin to vote."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import pytest

from paxon.actors import Ballot, StorageError
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    CatchUp,
    CatchUpRequest,
    Heartbeat,
    HeartbeatReply,
    Introduction,
    NotLeader,
    PreVote,
    PreVoteReply,
    Query,
    QueryReply,
)
from paxon.transport import Burst
from tests.harness import Cluster, reign_of, value_of
from tests.messages import beat

HIGH = Ballot(9, 2)


def acquainted(size: int = 3, **options: object) -> Cluster:
    """Server 1 leads, has executed one command, and all have heard each other's disks."""
    cluster = Cluster(size, options={"policy": "random", **options}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a")
    cluster.pass_time(1.5)
    return cluster


def test_members_are_known_by_their_disks_before_they_are_heard() -> None:
    cluster = Cluster(3, options={"policy": "random"}).start(1)
    assert cluster.servers[1].disks.incarnations == {
        s: cluster.storages[s].incarnation for s in (2, 3)
    }


def test_messages_from_another_disk_are_refused_and_counted() -> None:
    cluster = acquainted()
    cluster.replace_disk(2)
    promised = cluster.servers[1].promised
    for message in (P1A(HIGH, 1), P2A(HIGH, 9, value_of(b"x"), 0), beat(HIGH)):
        cluster.hand(1, 2, message)
    assert cluster.servers[1].promised == promised
    assert cluster.packets == []
    assert cluster.servers[1].describe().counters["refused_incarnations"] == 3


def test_votes_from_another_disk_do_not_count() -> None:
    cluster = acquainted(retain_slots=1000)
    cluster.command(1, cluster.told_session(), 2, b"b")
    cluster.replace_disk(2)
    slot, ballot = cluster.servers[1].log.last, cluster.servers[1].promised
    cluster.hand(1, 2, P2B(ballot, slot, slot))
    assert cluster.servers[1].status(slot) == "ACCEPTED"


def test_another_disk_may_ask_for_missing_slots_which_changes_nothing() -> None:
    cluster = Cluster(3, options={"policy": "random"}).start(1, 2)
    cluster.lead(1)
    cluster.open_session(1)
    cluster.replace_disk(2)
    cluster.hand(1, 2, CatchUpRequest(1))
    assert [len(c.accepted) for c in cluster.sent(CatchUp)] == [1]


def test_a_stranger_is_ignored() -> None:
    cluster = acquainted()
    for stranger in (0, 1, 9):
        cluster.step(1, Burst(peers=[(stranger, 5, [P1A(Ballot(9, stranger), 1)])]))
    assert cluster.servers[1].role == "leader"
    assert cluster.packets == []


def test_a_disk_that_was_replaced_is_refused_by_whoever_knows_the_cluster() -> None:
    """Server 2 helped to choose what 3 has not heard of. Were 2's new disk taken for its old one, 2
    and 3 would be a majority that has lost it.
    """
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.lead(1)
    cluster.isolate(3)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"precious")
    cluster.heal()
    cluster.crash(1)
    cluster.replace_disk(2)
    cluster.start(2)
    with pytest.raises(StorageError, match=r"server 2 is not the one that cluster .*--rejoin"):
        cluster.pass_time(3.0, 0.05)
    assert cluster.servers[3].role != "leader"


def test_a_server_that_the_cluster_knows_by_another_disk_stops_and_says_what_to_do() -> None:
    """Its place was taken: its old directory is put back after another one has rejoined."""
    cluster = acquainted()
    promised = cluster.servers[1].promised
    mine = cluster.storages[1].incarnation
    for other in (1, 3):
        cluster.servers[other].disks.incarnations[2] = 5
    cluster.hand(2, 1, beat(promised, 99, commit=2, incarnations=[(1, mine, 0), (2, 5, 0)]))
    with pytest.raises(StorageError, match="--rejoin"):
        cluster.stabilize()  # it asks the others, and both know it by that disk


def test_a_server_without_a_vote_answers_no_candidate_and_accepts_nothing() -> None:
    cluster = Cluster(3, options={"policy": "random"}).start(1)
    cluster.rejoining(2)
    cluster.hand(2, 1, P1A(Ballot(9, 1), 1))
    cluster.hand(2, 1, P2A(Ballot(9, 1), 1, value_of(b"x"), 0))
    cluster.hand(2, 1, PreVote(1, 1))
    cluster.hand(2, 1, beat(Ballot(9, 1)))
    assert cluster.contents(2) == {}
    assert cluster.sent(P1B) == cluster.sent(P2B) == cluster.sent(HeartbeatReply) == []
    assert cluster.sent(PreVoteReply) == []


def test_an_emptied_server_comes_back_by_rejoin() -> None:
    """The leader gives its place to the new directory: a change of members like any other (M19)."""
    cluster = acquainted()
    cluster.rejoining(2)
    assert not cluster.servers[2].is_member
    said = cluster.servers[2].describe()
    assert "waits for the place of the directory" in said.waits_for and said.part == "none"
    cluster.pass_time(3.0)
    assert (
        cluster.servers[2].describe().part == "voter"
        and cluster.servers[2].is_voter
        and cluster.epochs() == [1, 1, 1]
    )
    assert cluster.applied(2) == [b"a"]
    leader = next(s for s in cluster.ids if cluster.servers[s].role == "leader")
    cluster.command(leader, cluster.told_session(), 2, b"b")
    cluster.pass_time(0.3)
    assert all(cluster.applied(server) == [b"a", b"b"] for server in cluster.ids)
    # Its vote counts again, also after a restart without the flag.
    assert cluster.restart(2).is_voter


def served(cluster: Cluster, steps: int) -> int:
    """In how many of so many steps of 50 ms there is a leader that serves."""
    count = 0
    for _ in range(steps):
        cluster.pass_time(0.05, 0.05)
        count += any(server._serves() is not None for server in cluster.servers.values())
    return count


def test_two_of_five_come_back_at_once_though_a_third_is_down_for_a_while() -> None:
    """And nobody who rejoins deposes a leader."""
    cluster = acquainted(5, policy="stable")
    cluster.pass_time(1.0, 0.05)
    cluster.rejoining(2, 4)
    assert served(cluster, 80) == 80
    assert all(cluster.servers[server].is_voter for server in cluster.ids)
    cluster.crash(5)
    cluster.pass_time(1.0, 0.05)
    cluster.rejoining(2)
    assert served(cluster, 80) == 80
    assert cluster.servers[2].is_voter
    cluster.start(5)
    cluster.pass_time(1.0, 0.05)
    assert len(set(cluster.epochs())) == 1


def test_a_leader_that_lost_its_disk_comes_back_as_well() -> None:
    cluster = acquainted()
    cluster.rejoining(1)
    cluster.pass_time(3.0)
    assert cluster.servers[1].is_voter and cluster.applied(1) == [b"a"]


def test_nobody_takes_a_place_while_no_majority_is_left_to_give_it() -> None:
    """Of two servers that lost one disk the other cannot go on (docs/membership.md)."""
    cluster = acquainted(2)
    cluster.rejoining(2)
    cluster.pass_time(4.0, 0.05)
    assert not cluster.servers[2].is_member
    assert not any(server._serves() for server in cluster.servers.values())


def test_a_restart_in_the_middle_of_rejoining_gives_no_vote() -> None:
    cluster = acquainted()
    cluster.crash(3)
    cluster.rejoining(2)
    cluster.pass_time(2.0, 0.05)
    assert not cluster.restart(2).is_member
    assert not cluster.restart(2, rejoin=True).is_member
    cluster.start(3)
    cluster.pass_time(4.0, 0.05)
    assert cluster.servers[2].is_voter


def test_what_only_the_lost_disk_and_one_other_held_is_kept() -> None:
    cluster = acquainted()
    cluster.isolate(3)
    cluster.command(1, cluster.told_session(), 2, b"precious")
    cluster.stabilize()
    cluster.heal()
    cluster.rejoining(2)
    cluster.pass_time(3.0)
    assert cluster.servers[2].is_voter
    cluster.crash(1)
    cluster.pass_time(2.0)
    assert cluster.applied(3) == [b"a", b"precious"]


def test_a_second_process_with_a_live_servers_id_never_takes_its_place() -> None:
    """Started with --rejoin on an empty directory it once took the place of the one that ran."""
    cluster = acquainted()
    real, other = cluster.storages[2].incarnation, cluster.new_disk(2)
    made = cluster.servers[1].making.made
    said = Introduction(
        other.incarnation, 0, False, "test", (1, 2, 3), made, True, joins=True, rejoins=True,
        chosen_to=9,
    )  # fmt: skip
    for _ in range(3):
        for target in (1, 3):
            cluster.step(target, Burst(peers=[(2, other.incarnation, [said])]))
        cluster.pass_time(0.3)
    assert cluster.epochs() == [0, 0, 0]
    assert cluster.servers[1].disks.incarnations[2] == real
    assert cluster.servers[1].describe().counters["refused_rejoins"] >= 3
    assert cluster.servers[2].is_voter


def test_a_directory_that_was_taken_out_is_not_named_as_one_that_waits_to_join() -> None:
    """It does not know yet, and says that it waits; it never comes back."""
    cluster = acquainted()
    old = cluster.storages[2].incarnation
    cluster.rejoining(2)
    cluster.pass_time(3.0)
    leader = cluster.servers[1]
    assert leader.configuration.removed == (old,)
    for incarnation, named in ((old, []), (cluster.new_disk(2).incarnation, [2])):
        said = Introduction(
            incarnation, 0, False, "test", (1, 2, 3), leader.making.made, True, joins=True
        )
        cluster.step(1, Burst(peers=[(2, incarnation, [said])]))
        assert [member.server for member in leader.membership.wait_to_join()] == named


def test_an_old_answer_does_not_say_that_a_removed_server_knows_who_leads() -> None:  # M22
    """It would never have been told, and gone on waiting."""
    cluster = Cluster(4, members=(1, 2, 3)).start()
    cluster.lead(1)
    cluster.pass_time(0.2)
    before = cluster.servers[1].promised
    cluster.change(1, 1, 2, 4)
    for _ in range(8):
        cluster.drop(Heartbeat, target=3)
        cluster.deliver()
    reign = reign_of(cluster.servers[1])
    assert reign.leaving == {3} and not cluster.retired
    cluster.hand(1, 3, HeartbeatReply(before, 1, 1))
    assert reign.leaving == {3}
    cluster.pass_time(0.5)
    assert list(cluster.retired) == [3]


def test_a_server_without_its_vote_answers_no_stale_reads() -> None:
    """Its directory is empty yet, or far behind: it would show a state that its id never had."""
    cluster = acquainted()
    cluster.rejoining(3)
    cluster.request(3, Query(5, "stale", b""))
    cluster.step(3)
    assert not cluster.told(QueryReply)
    assert [reply.leader for reply in cluster.told(NotLeader)] == [cluster.servers[3].leader]
