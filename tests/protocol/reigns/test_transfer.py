"""A leader lets another lead: its reign is over for good, and stands in nobody's way (M21).

The same as a story is tests/scenarios/a_leader_hands_over.txt.
"""

from __future__ import annotations

from typing import Any

import pytest

from paxon.actors import Ballot
from paxon.actors.embedding import HandOver
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    Handover,
    Heartbeat,
    NotLeader,
    PreVoteReply,
    QueryReply,
    ReplyStatus,
    TransferLeader,
)
from paxon.actors.records.reads import Grants
from paxon.actors.records.reign import MOST_BEHIND
from tests.harness import Cluster, reign_of
from tests.protocol.watched import WatchedCluster

UNHEARD = "FAILED server 3 was not heard of late: see in `paxon status` whether it runs"


def leading(size: int = 3, **options: Any) -> Cluster:
    """Server 1 leads, all have answered a heartbeat, and its clients read by lease."""
    cluster = WatchedCluster(size, **{"policy": "stable", **options})
    cluster.start()
    cluster.lead(1)
    cluster.execute(1, cluster.open_session(1), b"a")
    cluster.query(1, 1, "lease")
    cluster.stabilize()
    cluster.pass_time(0.1)
    return cluster


def transfer(cluster: Cluster, to: int = 0, server: int = 1, ballot: Ballot | None = None) -> str:
    """Ask `server` to let `to` lead, or whom it likes; returns its answer."""
    over = cluster.servers[server].promised if ballot is None else ballot
    cluster.request(server, TransferLeader(9, over, to))
    answers = [r for r in cluster.told(QueryReply) if r.id == 9]
    return f"{ReplyStatus(answers[-1].status).name} {answers[-1].payload.decode()}"


def test_the_named_server_leads_at_once_though_all_hear_a_leader_and_granted_it_leases() -> None:
    cluster = leading(5)
    assert cluster.servers[1]._lease_holds()
    assert all(cluster.servers[s]._lease_may_hold() for s in (2, 3, 4, 5))
    before = cluster.clock.now
    assert transfer(cluster, 4) == "OK 4"
    cluster.stabilize()
    assert cluster.clock.now == before
    assert cluster.servers[4].role == "leader"
    assert {server.leader for server in cluster.servers.values()} == {4}
    cluster.execute(4, cluster.told_session(), b"b", first=2)
    reply = cluster.reply_to(2)
    assert reply is not None
    assert reply.payload == b"a b"


def test_whoever_handed_over_proposes_answers_and_beats_no_more() -> None:
    cluster = leading()
    session = cluster.told_session()
    transfer(cluster, 2)
    cluster.drop()  # and the other never hears of it
    told = len(cluster.replies)
    cluster.query(1, 5, "lease")
    cluster.query(1, 6)
    cluster.command(1, session, 2, b"b")
    cluster.clock.now += 0.06
    cluster.step(1)
    assert [type(reply) for _, _, reply in cluster.replies[told:]] == [NotLeader] * 3
    assert {r.leader for _, _, r in cluster.replies[told:] if isinstance(r, NotLeader)} == {2}
    assert cluster.sent(P2A) == []
    assert cluster.sent(Heartbeat) == []
    cluster.pass_time(2.0)  # somebody leads, in another ballot
    leaders = [s for s in cluster.servers.values() if s.role == "leader"]
    assert len(leaders) == 1
    assert leaders[0].promised > Ballot(1, 1)


def test_commands_in_flight_are_finished_by_the_next_leader_and_answered_once() -> None:
    cluster = leading()
    session = cluster.told_session()
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A, target=3)
    cluster.drop()
    transfer(cluster, 2)
    cluster.command(2, session, 2, b"b")  # it is only a candidate, or not even that: it comes late
    cluster.stabilize()
    cluster.command(2, session, 2, b"b")
    cluster.stabilize()
    assert cluster.applied(2) == [b"a", b"b"]


def test_the_heir_keeps_what_clients_ask_while_it_gathers_promises() -> None:
    cluster = leading()
    transfer(cluster, 3)
    cluster.deliver(Handover)
    told = len(cluster.replies)
    cluster.command(3, cluster.told_session(), 2, b"b")
    assert len(cluster.replies) == told
    cluster.stabilize()
    reply = cluster.reply_to(2)
    assert reply is not None
    assert reply.payload == b"a b"


def late_transfer() -> Cluster:
    """Server 1 hands over to 3, whose P1A is under way; 2 leads meanwhile, by a lease that 1 gave.

    (3's ballot is above 2's.)
    """
    cluster = leading()
    transfer(cluster, 3)
    cluster.deliver(Handover)
    late = cluster.drop(P1A)
    cluster.clock.now += 0.4
    for server in (1, 2):
        cluster.servers[server]._following.election_at = float("inf")
    cluster.step(2)
    cluster.servers[2].campaign()
    cluster.step(2)
    cluster.drop(target=3)
    cluster.deliver(P1A, target=1)
    cluster.deliver(P1B, target=2)
    assert cluster.servers[2].role == "leader"
    cluster.query(2, 3, "lease")
    for _ in range(3):
        cluster.drop(target=3)
        cluster.deliver()
    cluster.clock.now += 0.06
    cluster.step(2)
    for _ in range(3):
        cluster.drop(target=3)
        cluster.deliver()
    assert cluster.servers[2]._lease_holds()
    cluster.packets = [p for p in late if p.target == 1]
    return cluster


def test_a_lease_granted_to_another_ballot_stands_though_a_transfer_s_p1a_comes_late() -> None:
    """Above all that server 1 promised, it would let 3 lead while 2 answers by its lease."""
    cluster = late_transfer()
    p1a = cluster.sent(P1A)[0]
    assert cluster.servers[1].promised < p1a.ballot
    assert p1a.after == Ballot(1, 1)
    cluster.deliver(P1A)
    assert cluster.sent(P1B) == []
    assert cluster.servers[1].promised.leader == 2
    assert cluster.servers[2]._lease_holds()


def test_courtesy_towards_another_ballot_stands_too() -> None:
    cluster = late_transfer()
    cluster.servers[1]._grants = Grants()  # no lease: server 1 still hears 2
    cluster.deliver(P1A)
    assert cluster.sent(P1B) == []


def test_a_lease_of_an_earlier_life_is_waited_for_by_the_heir_and_by_acceptors() -> None:
    """A restarted server does not know to whom it granted that."""
    cluster = leading()
    for server in (2, 3):
        cluster.restart(server)
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.stabilize()
    until = cluster.servers[3]._grants.until
    assert cluster.servers[3]._lease_may_hold()
    assert transfer(cluster, 3) == "OK 3"
    cluster.stabilize()
    assert cluster.servers[3].role == "follower"
    cluster.pass_time(until - cluster.clock.now + 0.02)
    cluster.pass_time(0.5)
    assert any(server.role == "leader" for server in cluster.servers.values())


def test_a_handover_that_comes_late_or_from_a_stranger_to_that_ballot_is_not_obeyed() -> None:
    cluster = leading()
    server = cluster.servers[3]
    for ballot, sender in ((Ballot(1, 1), 2), (Ballot(1, 2), 2), (Ballot(0, 1), 1)):
        cluster.hand(3, sender, Handover(ballot))
        assert (server.role, server.promised) == ("follower", Ballot(1, 1))
    transfer(cluster, 2)
    cluster.stabilize()
    cluster.hand(3, 1, Handover(Ballot(1, 1)))
    assert (server.role, server.promised) == ("follower", cluster.servers[2].promised)


def test_a_p1a_after_a_ballot_that_is_not_below_its_own_is_malformed() -> None:
    cluster = leading()
    before = cluster.servers[2]._counters["malformed_messages"]
    cluster.hand(2, 3, P1A(Ballot(1, 3), 1, Ballot(1, 3)))
    assert cluster.servers[2].promised == Ballot(1, 1)
    assert cluster.servers[2]._counters["malformed_messages"] == before + 1


def test_the_heir_tells_of_the_transfer_each_time_that_it_asks() -> None:
    """Else whoever did not get the first P1A would be courteous to the reign that is over."""
    cluster = leading()
    transfer(cluster, 3)
    cluster.deliver(Handover)
    cluster.drop(P1A)
    cluster.clock.now += 0.1
    cluster.step(3)
    assert {p1a.after for p1a in cluster.sent(P1A)} == {Ballot(1, 1)}
    cluster.stabilize()
    assert cluster.servers[3].role == "leader"


def test_the_heir_tells_of_the_transfer_with_each_chunk_that_it_asks_for() -> None:
    cluster = leading(transfer_bytes=1)
    cluster.isolate(3)
    cluster.execute(1, cluster.told_session(), b"b", b"c", first=2)
    cluster.heal()
    transfer(cluster, 3)
    cluster.stabilize()
    assert cluster.servers[3].role == "leader"
    assert cluster.applied(3) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("to", "answer"),
    [
        (7, "FAILED server 7 is no member of the cluster: see `paxon member list`"),
        (3, UNHEARD),
        (1, "OK 1"),
        (0, "OK 2"),
    ],
)
def test_whom_a_leader_hands_over_to(to: int, answer: str) -> None:
    cluster = leading()
    cluster.isolate(3)
    for _ in range(12):  # server 3 falls silent
        cluster.clock.now += 0.05
        cluster.step(1)
        cluster.stabilize()
    assert transfer(cluster, to) == answer
    assert (cluster.servers[1].role == "leader") == (not answer.endswith("2"))


def test_a_server_whose_connection_has_ended_is_no_heir_until_it_replies_again() -> None:
    cluster = leading()
    cluster.servers[1].on_connection_lost(3)
    answer = transfer(cluster, 3)
    assert answer == UNHEARD
    cluster.pass_time(0.06)
    assert transfer(cluster, 3) == "OK 3"


def test_nobody_leads_who_is_far_behind() -> None:
    cluster = leading()
    reign_of(cluster.servers[1]).followers[3].executed = -MOST_BEHIND
    assert transfer(cluster, 3) == (
        f"FAILED server 3 is {MOST_BEHIND + 2:,} slots behind: wait until it has caught up"
    )
    assert transfer(cluster) == "OK 2"


def test_a_server_alone_hands_over_to_nobody() -> None:
    cluster = Cluster(1).start()
    cluster.lead(1)
    assert transfer(cluster) == "FAILED there is no other server that could lead"
    assert cluster.servers[1].on_local(HandOver()) == 0
    assert cluster.servers[1].role == "leader"


def test_a_request_that_is_sent_again_moves_nothing_twice() -> None:
    """Its answer got lost; who leads by now says that it does."""
    cluster = leading()
    old = cluster.servers[1].promised
    transfer(cluster, 2)
    cluster.stabilize()
    assert transfer(cluster, 0, server=2, ballot=old) == "OK 2"
    assert cluster.servers[2].role == "leader"


def test_only_a_leader_that_serves_hands_over() -> None:
    cluster = leading()
    told = len(cluster.told(NotLeader))
    cluster.request(2, TransferLeader(9, Ballot(1, 1), 3))
    assert len(cluster.told(NotLeader)) == told + 1
    reign_of(cluster.servers[1]).takeover_end = 99  # it has taken over what it has not executed
    assert transfer(cluster).startswith("OVERLOADED")
    assert cluster.servers[1].role == "leader"


def test_before_it_stops_a_server_waits_until_another_leads_or_cannot() -> None:
    cluster = leading()
    server = cluster.servers[1]
    heir = server.on_local(HandOver())
    assert heir in (2, 3)
    assert server.on_local(HandOver(heir)) == heir
    cluster.stabilize()
    assert server.on_local(HandOver(heir)) == 0
    assert server.on_local(HandOver()) == 0  # it follows
    cluster.clock.now += 60.0  # it was asked nothing meanwhile, and heard nobody
    assert server.on_local(HandOver(3)) == 3
    cluster = leading()
    server = cluster.servers[1]
    heir = server.on_local(HandOver())
    server.on_connection_lost(heir)
    assert server.on_local(HandOver(heir)) == 0


def test_one_that_handed_over_to_a_server_that_dies_tries_to_lead_soon() -> None:
    cluster = leading()
    transfer(cluster, 3)
    cluster.crash(3)
    for server in (1, 2):
        cluster.servers[server].on_connection_lost(3)
    cluster.clock.now += 0.05
    cluster.step(1)
    assert not [r for r in cluster.sent(PreVoteReply) if r.granted]
    cluster.pass_time(1.0)
    assert {s.role for s in cluster.servers.values()} == {"leader", "follower"}


def test_grants_by_ballot() -> None:
    grants = Grants()
    grants.recover(2_000_000, 10.0)
    grants.grant(Ballot(1, 1), 5.0, 0.0, 10.0)
    grants.waive(Ballot(1, 2))
    assert grants.hold(14.9)
    grants.waive(Ballot(1, 1))
    assert grants.hold(11.9)
    assert not grants.hold(12.0)
    grants.grant(Ballot(2, 2), 1.0, 0.0, 12.0)
    grants.grant(Ballot(2, 3), 4.0, 0.0, 12.0)
    grants.grant(Ballot(2, 3), 1.0, 0.0, 12.5)
    assert grants.hold(15.9)
    grants.waive(Ballot(2, 3))
    assert grants.hold(12.9)
    assert not grants.hold(13.0)


def test_a_leader_whose_members_change_hands_over_to_nobody() -> None:
    """Its successor would take the CONFIG over, or void it; whoever asked waits for that."""
    cluster = leading()
    reign_of(cluster.servers[1]).holds_back = True
    assert str(cluster.servers[1].hand_over(2)).startswith("the members are changing")
    assert cluster.servers[1].role == "leader"


def test_a_learner_is_no_heir() -> None:
    cluster = leading()
    reign_of(cluster.servers[1]).followers[3].voter = False
    why = "server 3 has no vote: `paxon member promote 3` gives it one"
    assert transfer(cluster, 3) == f"FAILED {why}"
    assert transfer(cluster) == "OK 2"


def test_another_epoch_owes_nothing_to_anybody_of_the_one_before() -> None:
    grants = Grants()
    grants.grant(Ballot(1, 1), 5.0, 0.0, 10.0)
    grants.grant(Ballot(1, 2), 5.0, 0.0, 11.0)
    grants.forget_all()
    grants.grant(Ballot(1 << 40 | 1, 1), 1.0, 0.0, 12.0)
    grants.waive(Ballot(1 << 40 | 1, 1))
    assert not grants.hold(12.0)
