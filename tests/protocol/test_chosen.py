"""Rule 4, chosen: a majority of votes, any order of slots, executed in order, told by an index."""

from __future__ import annotations

import pytest

from paxon.actors import Ballot
from paxon.actors.log import SlotLog
from paxon.actors.messages import P2A, P2B, Accepted, CatchUp, CatchUpRequest, Heartbeat, Query
from paxon.actors.records.reads import ReadQueue
from tests.harness import Cluster, value_of
from tests.messages import beat

OLD, NEW = Ballot(1, 1), Ballot(2, 2)
A, B, C = value_of(b"A"), value_of(b"B"), value_of(b"C")


def plain(size: int = 3, **options: object) -> Cluster:
    return Cluster(size, options={"policy": "random", **options}).start()


@pytest.mark.parametrize(("size", "needed"), [(3, 2), (4, 3), (5, 3), (7, 4)])
def test_a_majority_of_votes_chooses_and_no_fewer_do(size: int, needed: int) -> None:
    cluster = plain(size)
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"x")
    slot, ballot = cluster.servers[1].log.last, cluster.servers[1].promised
    for voter in range(2, needed + 1):
        assert cluster.servers[1].status(slot) == "ACCEPTED"
        assert cluster.reply_to(1) is None
        cluster.hand(1, voter, P2B(ballot, slot, slot))
    assert cluster.servers[1].status(slot) == "CHOSEN"
    assert cluster.reply_to(1) is not None


def test_slots_are_chosen_out_of_order_and_executed_in_order() -> None:
    cluster = plain()
    leader = cluster.lead(1)
    session = cluster.open_session(1)
    for seq, text in enumerate([b"one", b"two", b"three"], 1):
        cluster.command(1, session, seq, text)
    assert [p.slot for p in cluster.sent(P2A, target=2)] == [2, 3, 4]
    for slot in (4, 3):
        cluster.hand(1, 2, P2B(leader.promised, slot, slot))
        assert leader.status(slot) == "CHOSEN"
        assert leader.log.chosen_to == 1
        assert cluster.applied(1) == []
    cluster.hand(1, 2, P2B(leader.promised, 2, 2))
    assert leader.log.chosen_to == 4
    assert cluster.applied(1) == [b"one", b"two", b"three"]


def test_the_commit_index_travels_on_p2as_and_heartbeats() -> None:
    cluster = plain()
    leader = cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a")
    cluster.command(1, session, 2, b"b")
    assert {p.commit for p in cluster.sent(P2A)} == {2}
    cluster.stabilize()
    assert leader.log.chosen_to == 3
    assert cluster.servers[2].log.chosen_to == 2  # it knows what the P2A told, not more
    cluster.clock.now += 0.06
    cluster.step(1)
    assert {h.commit for h in cluster.sent(Heartbeat)} == {3}
    cluster.stabilize()
    assert cluster.servers[2].log.chosen_to == cluster.servers[3].log.chosen_to == 3
    assert cluster.applied(2) == cluster.applied(3) == [b"a", b"b"]


def test_a_follower_takes_nothing_for_chosen_that_it_accepted_in_an_older_ballot() -> None:
    """Server 3 accepted A in 1.1; B was chosen in 2.2 without it. The index alone says not what."""
    cluster = plain()
    cluster.hand(3, 1, P2A(OLD, 1, A, 0))
    cluster.drop()
    cluster.hand(3, 2, beat(NEW, commit=1))
    assert cluster.contents(3) == {1: "A"}
    assert cluster.applied(3) == []
    # It asks for what was chosen, from the one who told it, and takes that.
    assert cluster.sent(CatchUpRequest, target=2) == [CatchUpRequest(1)]
    cluster.hand(3, 2, CatchUp([Accepted(1, NEW, B)], 1))
    assert cluster.contents(3) == {1: "B*"}
    assert cluster.applied(3) == [b"B"]


def test_a_slot_accepted_in_the_ballot_of_the_index_is_chosen() -> None:
    cluster = plain()
    cluster.hand(3, 2, P2A(NEW, 1, A, 0))
    cluster.hand(3, 2, beat(NEW, commit=1))
    assert cluster.contents(3) == {1: "A*"}


def test_a_p2a_that_comes_after_the_index_is_chosen_at_once() -> None:
    cluster = plain()
    cluster.hand(3, 2, beat(NEW, commit=2))
    cluster.hand(3, 2, P2A(NEW, 2, B, 2))
    assert cluster.applied(3) == []
    cluster.hand(3, 2, P2A(NEW, 1, A, 2))
    assert cluster.applied(3) == [b"A", b"B"]


def test_an_index_told_in_an_older_ballot_says_nothing_about_a_newer_acceptance() -> None:
    """Ballots 1.1 (index 1, for A) and 2.2 (B accepted, not chosen there yet) must not be mixed.

    Here the chosen value would be the same by Paxos; what server 3 must not do is conclude it.
    """
    cluster = plain()
    cluster.hand(3, 1, beat(OLD, commit=1))
    cluster.hand(3, 2, P2A(NEW, 1, B, 0))
    assert cluster.contents(3) == {1: "B"}
    cluster.hand(3, 2, beat(NEW, commit=1))
    assert cluster.contents(3) == {1: "B*"}


def test_an_index_told_by_one_who_does_not_lead_chooses_nothing() -> None:
    """How far another server could bring us up is no leader's word for what we accepted."""
    cluster = plain()
    cluster.hand(3, 2, P2A(NEW, 1, B, 0))
    cluster.hand(3, 1, CatchUp([], 1))
    assert cluster.contents(3) == {1: "B"}


def test_a_heartbeat_of_a_deposed_leader_chooses_nothing() -> None:
    cluster = plain()
    cluster.hand(3, 1, P2A(OLD, 1, A, 0))
    cluster.hand(3, 2, P2A(NEW, 2, C, 0))
    cluster.hand(3, 1, beat(OLD, 5, commit=1))
    assert cluster.contents(3) == {1: "A", 2: "C"}


def test_a_value_learned_as_chosen_replaces_one_accepted_below_it() -> None:
    cluster = plain()
    cluster.hand(3, 1, P2A(OLD, 1, A, 0))
    cluster.hand(3, 2, CatchUp([Accepted(1, NEW, B)], 1))
    assert cluster.contents(3) == {1: "B*"}
    # What it learned was accepted in 2.2: it may not promise less from now on, nor forget it.
    assert cluster.servers[3].promised == NEW
    restarted = cluster.restart(3)
    assert restarted.promised == NEW
    assert restarted.command(1) == B


def test_the_log_counts_the_bytes_that_it_holds() -> None:
    log = SlotLog()
    log.accept(1, Ballot(1, 1), b"four")
    log.accept(2, Ballot(1, 1), b"ten bytes.")
    log.accept(1, Ballot(2, 2), b"eleven b...")
    assert log.value_bytes == 21
    log.choose(1)
    log.discard_to(1)
    assert log.value_bytes == 10
    log.restart_at(2)
    assert log.value_bytes == 0


def test_what_is_known_as_chosen_is_not_learned_again() -> None:
    log = SlotLog()
    assert log.learn(1, Ballot(2, 2), b"x")
    assert not log.learn(1, Ballot(3, 3), b"x")
    held = log.get(1)
    assert held is not None
    assert held.ballot == Ballot(2, 2)
    log.discard_to(1)
    assert not log.learn(1, Ballot(3, 3), b"x")
    assert log.get(1) is None


def test_a_snapshot_joins_what_is_chosen_after_it_and_takes_nothing_back() -> None:
    log = SlotLog()
    for slot in (3, 4):
        log.learn(slot, Ballot(1, 1), b"x")
    assert log.chosen_to == 0
    log.restart_at(2)
    assert log.chosen_to == 4
    log.restart_at(3)
    assert (log.chosen_to, log.discarded, len(log)) == (4, 3, 1)
    log.restart_at(1)
    assert (log.chosen_to, log.discarded) == (4, 3)


def test_reads_that_wait_are_counted_with_their_bytes() -> None:
    reads = ReadQueue()
    for number in (1, 2):
        reads.add(number, 0, b"c", Query(number, "linearizable", b"four"))
    assert reads.bytes == 8
    assert [query.id for _, query in reads.ready(1, 0)] == [1]
    assert (len(reads.waiting), reads.bytes) == (1, 4)
    assert [query.id for _, query in reads.clear()] == [2]
    assert (len(reads.waiting), reads.bytes, reads.clear()) == (0, 0, [])


def test_there_is_no_slot_below_the_first() -> None:
    cluster = plain()
    cluster.hand(1, 2, P2A(Ballot(5, 2), 0, A, 0))
    assert cluster.sent(P2B) == []
    assert cluster.servers[1].promised != Ballot(5, 2)
    assert cluster.servers[1].describe().counters["malformed_messages"] == 1
