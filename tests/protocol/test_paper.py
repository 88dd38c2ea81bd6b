"""One test per claim of the paper that Paxon follows.

Robbert van Renesse and Deniz Altinbuken, "Paxos Made Moderately Complex" (ACM Computing Surveys,
2015), here PMMC. Its invariants keep their names: R for replicas, A for acceptors, C for
commanders. Paxon's servers are replica, acceptor and leader at once (PMMC §4, colocation).
"""

from __future__ import annotations

import random

import pytest

from paxon.actors import Ballot
from paxon.actors.invariants import InvariantViolation
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    CommandReply,
    OpenSession,
    ReplyStatus,
)
from tests.harness import Cluster, value_of
from tests.messages import beat, promise
from tests.protocol.watched import WatchedCluster

A, B = value_of(b"A"), value_of(b"B")


def classic(size: int = 3, **options: object) -> Cluster:
    """Servers that go back to phase 1 as in the paper, and no courtesies."""
    return Cluster(size, options={"policy": "immediate", **options})


def led() -> tuple[Cluster, int]:
    cluster = classic().start()
    cluster.lead(1)
    return cluster, cluster.open_session(1)


# --- §2.1 replicas -------------------------------------------------------------------------------


def test_r1_no_two_different_commands_are_decided_for_a_slot() -> None:
    """Three servers, each trying to lead, in a hundred orders of delivery."""
    for seed in range(100):
        source = random.Random(seed)
        cluster = WatchedCluster(3, policy="random")
        cluster.start()
        for _ in range(60):
            if source.random() < 0.08 or not cluster.packets:
                cluster.campaign(source.choice(cluster.ids))
            packet = cluster.packets.pop(source.randrange(len(cluster.packets)))
            cluster.hand(packet.target, packet.source, packet.message)
            for server in cluster.ids:
                if cluster.servers[server].role == "leader":
                    cluster.request(server, OpenSession(seed))


def test_r2_all_slots_below_the_next_to_execute_are_decided() -> None:
    cluster, session = led()
    for seq in (1, 2):
        cluster.command(1, session, seq, b"%d" % seq)
    cluster.hand(1, 2, P2B(cluster.servers[1].promised, 3, 3))
    assert cluster.servers[1].status(3) == "CHOSEN"
    assert cluster.servers[1].application.executed == 1
    cluster.hand(1, 2, P2B(cluster.servers[1].promised, 2, 2))
    assert cluster.servers[1].application.executed == 3


def test_r3_the_state_is_that_of_the_decided_commands_in_order() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"a", b"b", b"c")
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.stabilize()
    assert all(cluster.applied(server) == [b"a", b"b", b"c"] for server in cluster.ids)


def test_r4_a_replica_never_executes_backwards() -> None:
    cluster, session = led()
    executed = 0
    for seq in range(1, 8):
        cluster.command(1, session, seq, b"x")
        while cluster.packets:
            packet = cluster.packets.pop(-1)  # the latest message arrives first
            cluster.hand(packet.target, packet.source, packet.message)
            assert cluster.servers[1].application.executed >= executed
            executed = cluster.servers[1].application.executed


def test_r5_no_more_than_a_window_of_slots_is_under_way() -> None:
    cluster = classic(window=3).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 10):
        cluster.command(1, session, seq, b"x")
    server = cluster.servers[1]
    assert server.log.last - server.application.executed == 3


def test_a_command_decided_in_two_slots_is_performed_once() -> None:
    """§2.1: a replica skips a command that it has performed in an earlier slot."""
    cluster, session = led()
    cluster.command(1, session, 1, b"x")
    value = cluster.servers[1].command(2)
    assert value is not None
    cluster.stabilize()
    ballot = cluster.servers[1].promised
    cluster.hand(2, 1, P2A(ballot, 3, value, 3))
    assert cluster.servers[2].application.executed == 3
    assert cluster.applied(2) == [b"x"]


def test_clients_may_resend_and_get_the_same_response() -> None:
    """§2.1: the client's command identifier makes resending harmless."""
    cluster, session = led()
    cluster.execute(1, session, b"x")
    cluster.execute(1, session, b"x")
    assert cluster.told(CommandReply) == [CommandReply(session, 1, ReplyStatus.OK, b"x")] * 2


# --- §2.2 ballots and acceptors ------------------------------------------------------------------


def test_ballots_are_ordered_by_round_and_then_by_leader() -> None:
    assert Ballot(1, 3) < Ballot(2, 1) < Ballot(2, 2)
    assert Ballot(1, 2).next_for(3) == Ballot(1, 3)
    assert Ballot(1, 3).next_for(2) == Ballot(2, 2)
    assert Ballot(1, 3).next_for(3) == Ballot(2, 3)


def test_a1_an_acceptor_never_lowers_its_ballot() -> None:
    cluster = classic().start()
    high, low = Ballot(5, 2), Ballot(4, 3)
    cluster.hand(1, 2, P1A(high, 1))
    for message in (P1A(low, 1), P2A(low, 1, A, 0), beat(low)):
        cluster.hand(1, 3, message)
        assert cluster.servers[1].promised == high
    assert cluster.restart(1).promised == high


def test_a2_an_acceptor_accepts_only_in_its_current_ballot() -> None:
    cluster = classic().start()
    cluster.hand(1, 2, P1A(Ballot(5, 2), 1))
    cluster.hand(1, 3, P2A(Ballot(4, 3), 1, A, 0))
    assert cluster.contents(1) == {}
    cluster.hand(1, 2, P2A(Ballot(5, 2), 1, B, 0))
    assert cluster.contents(1) == {1: "B"}


def test_a3_an_acceptor_forgets_nothing_that_it_accepted() -> None:
    """… but for what all have executed (§4.2)."""
    cluster = classic().start()
    cluster.hand(1, 2, P2A(Ballot(5, 2), 1, A, 0))
    cluster.hand(1, 3, P1A(Ballot(6, 3), 1))
    cluster.restart(1)
    cluster.hand(1, 3, P1A(Ballot(7, 3), 1))
    (p1b,) = [p for p in cluster.sent(P1B) if p.ballot == Ballot(7, 3)]
    assert [(a.slot, a.ballot, a.value) for a in p1b.accepted] == [(1, Ballot(5, 2), A)]


def test_a4_one_ballot_has_one_command_for_a_slot() -> None:
    cluster = classic().start()
    cluster.hand(1, 2, P2A(Ballot(5, 2), 1, A, 0))
    with pytest.raises(InvariantViolation, match="two values in ballot 5\\.2"):
        cluster.hand(1, 2, P2A(Ballot(5, 2), 1, B, 0))


def test_a5_what_a_majority_accepted_every_higher_ballot_proposes() -> None:
    """Whichever majority answers the next leader, one of it knows."""
    for answering in ((1, 2), (1, 3), (2, 3)):
        cluster = classic()
        cluster.accepted(1, Ballot(1, 1), slot_1=b"A")
        cluster.accepted(2, Ballot(1, 1), slot_1=b"A")
        cluster.start(*answering)
        cluster.campaign(answering[1])
        cluster.stabilize()
        assert cluster.contents(answering[1]) == {1: "A*"}


# --- §2.3 commanders -----------------------------------------------------------------------------


def test_a_decision_needs_a_majority_of_acceptors_in_the_commanders_ballot() -> None:
    cluster, session = led()
    cluster.command(1, session, 1, b"x")
    ballot = cluster.servers[1].promised
    cluster.hand(1, 2, P2B(Ballot(ballot.round, 3), 2, 2))  # an answer to somebody else's ballot
    assert cluster.servers[1].status(2) == "ACCEPTED"
    cluster.hand(1, 2, P2B(ballot, 2, 2))
    assert cluster.servers[1].status(2) == "CHOSEN"


def test_a_commander_that_hears_of_a_higher_ballot_gives_up() -> None:
    """The paper's "preempted"."""
    cluster, session = led()
    cluster.command(1, session, 1, b"x")
    ballot = cluster.servers[1].promised
    cluster.hand(1, 2, P2B(ballot, 2, 2, Ballot(9, 2)))
    cluster.hand(1, 3, P2B(ballot, 2, 2))
    assert cluster.servers[1].role != "leader"
    assert cluster.servers[1].status(2) == "ACCEPTED"


# --- §2.4 scouts, §2.5 leaders -------------------------------------------------------------------


def test_a_scout_needs_a_majority_in_its_own_ballot() -> None:
    cluster = classic(5).start()
    cluster.campaign(1)
    ballot = cluster.servers[1].promised
    for server in (2, 2, 2):
        cluster.hand(1, server, promise(ballot))
        assert cluster.servers[1].role == "candidate"
    cluster.hand(1, 3, promise(ballot))
    assert cluster.servers[1].role == "leader"


def test_pmax_a_leader_proposes_the_value_of_the_highest_ballot_it_hears_of() -> None:
    cluster = classic()
    cluster.accepted(2, Ballot(1, 2), slot_1=b"A", slot_2=b"C")
    cluster.accepted(3, Ballot(1, 3), slot_1=b"B")
    cluster.start(2, 3)
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"
    assert cluster.contents(2) == {1: "B*", 2: "C*"}


def test_a_leader_is_passive_until_its_scout_has_succeeded() -> None:
    cluster = classic(contend=True).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(2, session, 1, b"x")
    assert cluster.servers[2].role == "candidate"
    assert cluster.sent(P2A, source=2) == []


def test_a_preempted_leader_scouts_again_above_the_ballot_that_preempted_it() -> None:
    cluster, _ = led()
    cluster.hand(1, 3, P1A(Ballot(7, 3), 1))
    assert {p.ballot for p in cluster.sent(P1A)} == {Ballot(8, 1)}


# --- §3 when Paxos works -------------------------------------------------------------------------


def test_leaders_that_preempt_each_other_at_once_may_go_on_for_ever() -> None:
    """The paper's own example of no progress: each scout preempts the other's commander."""
    cluster = classic().start()
    cluster.campaign(1)
    for _ in range(200):
        if not cluster.packets:
            break
        cluster.deliver()
        if cluster.servers[1].role == "leader":
            cluster.campaign(2)  # just before the commander's messages arrive
        elif cluster.servers[2].role == "leader":
            cluster.campaign(1)
    assert max(s.promised.round for s in cluster.servers.values()) > 20
    assert all(s.log.chosen_to == 0 for s in cluster.servers.values())


def test_waiting_a_growing_random_time_lets_one_of_them_get_through() -> None:
    cluster = Cluster(3, options={"policy": "backoff", "contend": True}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 7):
        cluster.command(1 + seq % 3, session, seq, b"%d" % seq)
    cluster.pass_time(3.0)
    assert sorted(cluster.applied(1)) == [b"%d" % seq for seq in range(1, 7)]


# --- §4 Paxos made pragmatic ---------------------------------------------------------------------


def test_state_reduction_an_acceptor_keeps_and_reports_one_value_a_slot() -> None:
    """§4.1: only the value accepted in the highest ballot matters."""
    cluster = classic().start()
    for round_number in range(1, 6):
        cluster.hand(1, 2, P2A(Ballot(round_number, 2), 1, value_of(b"%d" % round_number), 0))
    cluster.hand(1, 3, P1A(Ballot(9, 3), 1))
    (p1b,) = cluster.sent(P1B)
    assert [(a.slot, a.ballot) for a in p1b.accepted] == [(1, Ballot(5, 2))]


def test_garbage_collection_needs_all_not_a_majority() -> None:
    """§4.2: a state that f + 1 replicas have is not enough for one that has not."""
    cluster, session = led()
    cluster.isolate(3)
    for seq in range(1, 10):
        cluster.command(1, session, seq, b"x")
        cluster.stabilize()
    for _ in range(30):
        cluster.clock.now += 0.06
        cluster.step(1)
        cluster.step(2)
        cluster.deliver()
        cluster.deliver()
    assert cluster.servers[1].first_non_cleared() <= 2


def test_disk_state_survives_a_power_failure_of_all() -> None:
    """§4.3: the acceptor's ballot and accepted values are on disk before it answers."""
    cluster, session = led()
    cluster.execute(1, session, b"a", b"b")
    for server in cluster.ids:
        cluster.crash(server)
    cluster.start()
    cluster.clock.now += 0.2
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.applied(2) == [b"a", b"b"]


def test_read_only_commands_need_no_slot() -> None:
    """§4.5."""
    cluster, session = led()
    cluster.execute(1, session, b"a")
    last = cluster.servers[1].log.last
    cluster.query(1)
    cluster.stabilize()
    assert [answer.payload for answer in cluster.answers()] == [b"a"]
    assert cluster.servers[1].log.last == last
