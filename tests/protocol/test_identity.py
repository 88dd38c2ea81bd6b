"""Rule 11, identity: a server is known by its disk, and a replaced disk must rejoin to vote."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import pytest

from paxon.actors import Ballot, StorageError
from paxon.actors.environment import ServerBurst
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    CatchUp,
    CatchUpRequest,
    HeartbeatReply,
    NotLeader,
    PreVote,
    PreVoteReply,
    Query,
    QueryReply,
)
from paxon.actors.records.candidacy import Candidacy
from paxon.transport import Burst
from tests.harness import Cluster, value_of
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
    assert [reply.granted for reply in cluster.sent(PreVoteReply)] == [False]


def test_an_emptied_server_comes_back_by_rejoin() -> None:
    cluster = acquainted()
    cluster.rejoining(2)
    assert cluster.servers[2].voting is False
    cluster.pass_time(3.0)
    assert cluster.servers[2].voting is True
    assert cluster.applied(2) == [b"a"]
    leader = next(s for s in cluster.ids if cluster.servers[s].role == "leader")
    cluster.command(leader, cluster.told_session(), 2, b"b")
    cluster.pass_time(0.3)
    assert all(cluster.applied(server) == [b"a", b"b"] for server in cluster.ids)
    # Its vote counts again, also after a restart without the flag.
    assert cluster.restart(2).voting is True


def test_a_rejoining_server_needs_all_of_the_others() -> None:
    """With three servers both: either alone may lack what the lost disk helped to choose."""
    cluster = acquainted()
    cluster.crash(3)
    cluster.rejoining(2)
    cluster.pass_time(3.0, 0.05)
    assert cluster.servers[2].voting is False
    server = cluster.servers[2]
    server._candidacy = None
    assert server.describe().rejoining.startswith("waits for its turn")
    server._candidacy = Candidacy(server.promised, 1)
    server._candidacy.promised.add(1)
    assert server.describe().rejoining == (
        "waits for the promise of server 3, for all others have to give theirs"
    )
    server._candidacy = None
    server._catching_up.known_commit = 7
    assert server.describe().rejoining == "is catching up, at slot 2 of 7"
    server._catching_up.known_commit = 2
    cluster.start(3)
    cluster.pass_time(3.0, 0.05)
    assert cluster.servers[2].voting is True
    assert cluster.servers[2].describe().rejoining == ""


def test_with_five_servers_too_a_majority_of_the_others_is_not_enough() -> None:
    """The one left out may be a candidate that counts a promise of the lost disk."""
    cluster = acquainted(5)
    cluster.crash(5)
    cluster.rejoining(2)
    cluster.pass_time(3.0, 0.05)
    assert cluster.servers[2].voting is False
    cluster.start(5)
    cluster.pass_time(3.0, 0.05)
    assert cluster.servers[2].voting is True
    assert all(
        cluster.servers[server].disks.incarnations[2] == cluster.storages[2].incarnation
        for server in (1, 3, 4, 5)
    )


def served(cluster: Cluster, steps: int) -> int:
    """In how many of so many steps of 50 ms there is a leader that serves."""
    count = 0
    for _ in range(steps):
        cluster.pass_time(0.05, 0.05)
        count += any(server._serves() is not None for server in cluster.servers.values())
    return count


def test_whoever_rejoins_deposes_no_leader_while_somebody_is_down() -> None:
    """The promise of all cannot be had. It asked all the same, and the rest hardly ever served."""
    cluster = acquainted(5, policy="stable")
    cluster.crash(5)
    cluster.pass_time(1.0, 0.05)
    cluster.rejoining(2)
    cluster.pass_time(2.0, 0.05)
    assert served(cluster, 100) == 100
    assert (
        cluster.servers[2].describe().rejoining.startswith("waits until the leader hears server 5")
    )
    cluster.start(5)
    cluster.pass_time(3.0, 0.05)
    assert cluster.servers[2].voting


def test_two_that_rejoin_at_once_say_so_and_the_rest_serve_on() -> None:
    """Each needs the promise of all others, and has none to give."""
    cluster = acquainted(5, policy="stable")
    cluster.rejoining(2, 4)
    cluster.pass_time(4.0, 0.05)
    assert served(cluster, 100) == 100
    for server, other in ((2, 4), (4, 2)):
        standing = cluster.servers[server].describe().rejoining
        assert standing.startswith(f"waits until the leader hears server {other} too")
        assert "one that rejoins as well has none to give" in standing


def test_a_rejoining_server_hears_of_a_higher_ballot_and_goes_above_it() -> None:
    cluster = acquainted()
    cluster.replace_disk(2)
    cluster.hand(3, 1, P1A(Ballot(30, 1), 1))
    cluster.drop()
    promised = cluster.servers[3].promised
    cluster.hand(3, 2, P1A(Ballot(1, 2), 1, True))
    assert [p.ballot for p in cluster.sent(P1B, target=2)] == [promised]


def test_a_restart_in_the_middle_of_rejoining_gives_no_vote() -> None:
    cluster = acquainted()
    cluster.crash(3)
    cluster.rejoining(2)
    cluster.pass_time(2.0, 0.05)
    assert cluster.servers[2].describe().counters["elections"] > 0  # it has tried
    assert cluster.restart(2).voting is False
    assert cluster.restart(2, rejoin=True).voting is False


def test_what_only_the_lost_disk_and_one_other_held_is_kept() -> None:
    cluster = acquainted()
    cluster.isolate(3)
    cluster.command(1, cluster.told_session(), 2, b"precious")
    cluster.stabilize()
    cluster.heal()
    cluster.rejoining(2)
    cluster.pass_time(3.0)
    assert cluster.servers[2].voting is True
    cluster.crash(1)
    cluster.pass_time(2.0)
    assert cluster.applied(3) == [b"a", b"precious"]


def test_all_that_it_takes_over_is_on_its_disk_before_it_votes_again() -> None:
    """More than the window holds, and the next candidate asks at once: it must hear of all.

    Slots 1 to 5 were accepted by server 1 and by the lost disk of server 2: chosen, perhaps.
    """
    cluster = Cluster(3, options={"policy": "random", "window": 2})
    values = {f"slot_{slot}": b"%d" % slot for slot in range(1, 6)}
    cluster.accepted(1, Ballot(1, 1), **values)
    cluster.start(1, 3)
    cluster.rejoining(2)
    cluster.servers[2].campaign(forced=True)
    cluster.step(2)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    server = cluster.servers[2]
    assert server.role == "leader"
    assert server.voting is True
    assert len(cluster.sent(P2A, target=3)) == 2
    cluster.drop()
    cluster.hand(2, 3, P1A(Ballot(99, 3), 1))
    (p1b,) = cluster.sent(P1B, target=3)
    assert [a.slot for a in p1b.accepted] == [1, 2, 3, 4, 5]
    assert list(cluster.restart(2).log._slots) == [1, 2, 3, 4, 5]


def test_a_forced_p1a_of_the_new_disk_replaces_the_old_one() -> None:
    cluster = acquainted()
    old = cluster.storages[2].incarnation
    cluster.replace_disk(2)
    cluster.hand(1, 2, P1A(HIGH, 1, True))
    assert cluster.servers[1].disks.incarnations[2] == cluster.storages[2].incarnation
    cluster.drop()
    cluster.step(1, Burst(peers=[(2, old, [P1A(Ballot(10, 2), 1)])]))
    assert cluster.servers[1].promised == HIGH
    assert cluster.packets == []


def test_a_late_copy_of_an_earlier_rejoining_brings_no_old_disk_back() -> None:
    cluster = acquainted()
    first = cluster.storages[2].incarnation
    cluster.replace_disk(2)
    cluster.hand(1, 2, P1A(Ballot(20, 2), 1, True))
    cluster.step(1, Burst(peers=[(2, first, [P1A(Ballot(15, 2), 1, True)])]))
    assert cluster.servers[1].disks.incarnations[2] == cluster.storages[2].incarnation


def test_a_ballot_that_the_lost_disk_used_is_not_used_again() -> None:
    """Who has promised it to the old disk refuses the new one: it has to go higher."""
    cluster = acquainted()
    used = Ballot(2, 2)
    cluster.hand(3, 2, P1A(used, 1))
    cluster.replace_disk(2)
    cluster.drop()
    cluster.hand(3, 2, P1A(used, 1, True))
    assert cluster.sent(P1B) == []
    cluster.hand(3, 2, P1A(Ballot(3, 2), 1, True))
    assert [p.ballot for p in cluster.sent(P1B)] == [Ballot(3, 2)]


def test_a_promise_to_the_lost_disk_is_none_to_the_new_one() -> None:
    """Counted, it would bring the vote back though server 2 knows the lost disk alone.

    And server 2 would count what that one promised: both could lead, and choose two values.
    """
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.campaign(1)
    cluster.deliver(P1A, target=2)
    [late] = cluster.drop(P1B, source=2, target=1)
    cluster.drop()
    cluster.rejoining(1)
    cluster.servers[1].campaign(forced=True)
    cluster.step(1)
    assert cluster.servers[1].promised == cluster.servers[2].promised  # the same number again
    cluster.deliver(P1A, target=3)
    cluster.deliver(P1B, source=3)
    cluster.hand(1, 2, late.message)
    assert cluster.servers[1].role == "candidate"
    assert not cluster.servers[1].voting
    cluster.pass_time(5.0)
    assert cluster.servers[1].voting
    assert cluster.servers[2].disks.incarnations[1] == cluster.storages[1].incarnation


def test_a_second_process_with_a_live_servers_id_never_stops_the_real_one() -> None:
    """Started with --rejoin on an empty directory it once took the place of the one that ran."""
    cluster = acquainted()
    real = cluster.storages[2].incarnation
    for round_ in range(5, 8):
        forced = P1A(Ballot(round_, 2), 1, True)
        for target in (1, 3):
            cluster.step(target, Burst(peers=[(2, real + 1, [forced])]))
        cluster.pass_time(0.3)
    assert cluster.servers[1].disks.incarnations[2] == real
    assert cluster.servers[1].describe().counters["refused_rejoins"] >= 3
    assert cluster.servers[2].voting
    cluster.pass_time(1.0)


def test_a_follower_that_never_hears_a_member_takes_no_second_process_for_it() -> None:
    """It would refuse the true one for good; the leader tells which directory it hears."""
    cluster = acquainted()
    follower, real = cluster.servers[3], cluster.storages[2].incarnation
    follower.disks.heard_at[2] = float("-inf")
    cluster.pass_time(0.3)  # heartbeats
    follower.disks.heard_at[2] = float("-inf")
    before = follower.promised
    cluster.step(3, Burst(peers=[(2, real + 1, [P1A(HIGH, 1, True)])]))
    assert follower.disks.incarnations[2] == real
    assert follower.promised == before
    assert follower.describe().counters["refused_rejoins"] == 1


def test_a_second_process_once_taken_for_a_member_deposes_no_leader() -> None:
    cluster = acquainted()
    follower, real = cluster.servers[3], cluster.storages[2].incarnation
    cluster.pass_time(0.3)
    # As after a partition, on the other side of which it was.
    follower.disks.incarnations[2] = real + 1
    before = follower.promised
    cluster.step(3, Burst(peers=[(2, real + 1, [P1A(HIGH, 1, True)])]))
    assert follower.promised == before


def test_whoever_has_just_started_lets_nobody_rejoin_before_it_could_hear_who_lives() -> None:
    cluster = acquainted()
    real = cluster.storages[2].incarnation
    follower = cluster.restart(3)
    forced: ServerBurst = Burst(peers=[(2, real + 1, [P1A(HIGH, 1, True)])])
    cluster.step(3, forced)
    assert follower.disks.incarnations[2] == real


def test_a_member_that_is_really_gone_rejoins_once_it_has_been_silent() -> None:
    cluster = acquainted()
    cluster.pass_time(0.3)
    cluster.servers.pop(2)
    storage = cluster.storages[2] = cluster.new_disk(2)
    cluster.pass_time(2 * cluster.servers[3].settings.election_timeout_max + 0.3)
    high = Ballot(cluster.servers[3].promised.round + 1, 2)
    for target in (1, 3):
        cluster.step(target, Burst(peers=[(2, storage.incarnation, [P1A(high, 1, True)])]))
        assert cluster.servers[target].disks.incarnations[2] == storage.incarnation
        assert cluster.servers[target].promised == high


def test_a_leader_deposed_by_a_rejoining_makes_way_for_it() -> None:
    """It would be back before all had promised, again and again, and nobody ever rejoined."""
    cluster = acquainted()
    cluster.replace_disk(2)
    leader = cluster.servers[1]
    leader._policy.retry_delay = lambda random: 0.0  # type: ignore[method-assign]
    cluster.hand(1, 2, P1A(HIGH, 1, True))
    least = leader._now + leader.settings.election_timeout_min
    assert leader._following.election_at >= least
    assert leader._following.retry_at >= least


def test_a_forced_p1a_is_answered_at_once_where_no_lease_was_granted() -> None:
    cluster = acquainted(policy="stable")
    cluster.replace_disk(2)
    cluster.drop()
    cluster.hand(3, 2, P1A(HIGH, 1, True))
    assert [p.ballot for p in cluster.sent(P1B)] == [HIGH]


def test_a_server_without_its_vote_answers_no_stale_reads() -> None:
    """Its directory is empty yet, or far behind: it would show a state that its id never had."""
    cluster = acquainted()
    cluster.rejoining(3)
    cluster.request(3, Query(5, "stale", b""))
    cluster.step(3)
    assert not cluster.told(QueryReply)
    assert [reply.leader for reply in cluster.told(NotLeader)] == [cluster.servers[3].leader]
