"""Rule 9, reads: by a round begun after they arrived, by a lease, or stale, and what they show."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import pytest

from paxon.actors import Ballot
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Heartbeat,
    HeartbeatReply,
    NotLeader,
    Query,
    QueryReply,
    ReplyStatus,
)
from tests.harness import ADDRESSES, Cluster, Register, reign_of


def served(size: int = 3, **options: object) -> Cluster:
    """Server 1 leads and has executed one command; nothing is under way."""
    cluster = Cluster(size, options={"policy": "random", **options}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a")
    return cluster


def answers(cluster: Cluster) -> list[bytes]:
    return [answer.payload for answer in cluster.answers()]


def test_a_read_writes_nothing_to_the_log() -> None:
    cluster = served()
    before = cluster.servers[1].log.last
    cluster.query(1)
    cluster.stabilize()
    assert answers(cluster) == [b"a"]
    assert cluster.servers[1].log.last == before


def test_a_read_waits_for_a_majority_of_a_round_begun_after_it_arrived() -> None:
    cluster = served(5)
    cluster.clock.now += 0.06
    cluster.step(1)  # a round is on its way before the read arrives
    earlier = cluster.drop(Heartbeat)
    number = earlier[0].message
    assert isinstance(number, Heartbeat)
    cluster.query(1)
    ballot = cluster.servers[1].promised
    for server in (2, 3, 4, 5):
        cluster.hand(1, server, HeartbeatReply(ballot, number.round, 2))
    assert answers(cluster) == []  # all replied, but to the round before
    (begun,) = {h.round for h in cluster.sent(Heartbeat)}
    assert begun > number.round
    cluster.hand(1, 2, HeartbeatReply(ballot, begun, 2))
    cluster.hand(1, 2, HeartbeatReply(ballot, begun, 2))
    assert answers(cluster) == []  # one other, twice: 2 of 5
    cluster.hand(1, 3, HeartbeatReply(ballot, begun, 2))
    assert answers(cluster) == [b"a"]


def test_one_round_serves_all_reads_that_wait() -> None:
    cluster = served()
    rounds = cluster.servers[1].describe().counters["read_rounds"]
    cluster.query(1, 1)
    for number in range(2, 12):
        cluster.query(1, number)  # these come while the first round runs: they share the next
    cluster.stabilize()
    assert [a.id for a in cluster.answers()] == list(range(1, 12))
    assert cluster.servers[1].describe().counters["read_rounds"] - rounds == 2


@pytest.mark.parametrize(("bound", "most"), [("MAX_READS", 3), ("MAX_READ_BYTES", 1)])
def test_only_so_many_reads_wait(bound: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"paxon.actors.records.reads.{bound}", most)
    cluster = served()
    for number in range(1, 6):
        cluster.request(1, Query(number, "linearizable", b"q"))
    refused = [a.id for a in cluster.answers() if a.status == ReplyStatus.OVERLOADED]
    assert refused == list(range(1 + most, 6))


def test_a_reply_that_names_another_ballot_confirms_nothing() -> None:
    cluster = served()
    cluster.query(1)
    begun = cluster.sent(Heartbeat)[0].round
    cluster.hand(1, 2, HeartbeatReply(Ballot(0, 2), begun, 2))
    assert answers(cluster) == []
    assert cluster.servers[1].role == "leader"
    cluster.hand(1, 2, HeartbeatReply(Ballot(9, 2), begun, 2))
    assert answers(cluster) == []
    assert cluster.servers[1].role == "follower"
    assert cluster.told(NotLeader) != []


def test_a_reply_to_a_round_that_was_never_sent_confirms_only_what_was() -> None:
    cluster = served()
    cluster.query(1)
    begun = cluster.sent(Heartbeat)[0].round
    for server in (2, 3):
        cluster.hand(1, server, HeartbeatReply(cluster.servers[1].promised, begun + 50, 2))
    assert answers(cluster) == [b"a"]
    cluster.query(1, 2)
    assert len(answers(cluster)) == 1
    cluster.stabilize()
    assert len(answers(cluster)) == 2


def test_a_deposed_leader_answers_no_read() -> None:
    """It is cut off and does not know: its state is old, and it says nothing rather than that."""
    cluster = served()
    session = cluster.told_session()
    cluster.isolate(1)
    cluster.campaign(2)
    cluster.stabilize()
    cluster.execute(2, session, b"b", first=2)
    cluster.query(1)
    cluster.stabilize()
    assert answers(cluster) == []
    cluster.pass_time(0.6)
    assert answers(cluster) == []
    assert cluster.told(NotLeader) != []
    cluster.query(2)
    cluster.stabilize()
    assert answers(cluster) == [b"a b"]


def test_a_read_shows_every_write_acknowledged_before() -> None:
    cluster = served()
    session = cluster.told_session()
    for seq in range(2, 6):
        cluster.command(1, session, seq, b"%d" % seq)
        cluster.stabilize()
        assert cluster.reply_to(seq) is not None
        cluster.query(1, seq)
        cluster.stabilize()
        assert answers(cluster)[-1].endswith(b"%d" % seq)


def test_no_read_is_answered_before_every_taken_over_slot_is_executed() -> None:
    """Server 1 acknowledged b; server 2 holds it as accepted only, and leads."""
    cluster = served()
    session = cluster.told_session()
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A)
    cluster.deliver(P2B)
    assert cluster.reply_to(2) is not None
    cluster.drop()
    cluster.isolate(1)
    cluster.campaign(2)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    assert cluster.servers[2].role == "leader"
    cluster.query(2)
    cluster.deliver(Heartbeat)
    cluster.deliver(HeartbeatReply)
    cluster.query(2, 2)
    cluster.deliver(Heartbeat)
    cluster.deliver(HeartbeatReply)
    assert answers(cluster) == []
    cluster.stabilize()
    assert answers(cluster) == [b"a b", b"a b"]


def test_a_lease_read_too_waits_for_the_taken_over_slots() -> None:
    cluster = served(policy="stable")
    session = cluster.told_session()
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A)
    cluster.deliver(P2B)
    cluster.drop()
    cluster.isolate(1)
    cluster.clock.now += 1.0
    cluster.campaign(2)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    leader = cluster.servers[2]
    reign_of(leader).rounds.lease_wanted_until = float("inf")
    cluster.clock.now += 0.06
    cluster.step(2)
    cluster.deliver(Heartbeat)
    cluster.deliver(HeartbeatReply)
    assert leader._lease_holds()
    cluster.query(2, mode="lease")
    assert answers(cluster) == []
    cluster.stabilize()
    assert answers(cluster) == [b"a b"]


def with_lease() -> Cluster:
    """Server 1 leads under `stable` and has just had a round confirmed that asked for a lease."""
    cluster = served(policy="stable", max_clock_drift=0.1)
    cluster.query(1, 1, "lease")  # the first one asks for leases and takes a round
    cluster.stabilize()
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.stabilize()
    return cluster


def test_a_lease_read_takes_no_round_while_the_lease_holds() -> None:
    cluster = with_lease()
    rounds = cluster.servers[1].describe().counters["read_rounds"]
    cluster.query(1, 2, "lease")
    assert [a.id for a in cluster.answers()] == [1, 2]  # at once, nothing delivered
    assert cluster.servers[1].describe().counters["read_rounds"] == rounds
    assert cluster.servers[1].describe().counters["lease_reads"] == 1


def test_a_lease_ends_by_the_drift_bound_before_anyone_may_promise() -> None:
    """0.3 s shortened to 0.3 · 0.9 / 1.1 = 0.245 s, counted from when the round was *sent*."""
    cluster = with_lease()
    cluster.isolate(1)
    start = cluster.clock.now
    cluster.clock.now = start + 0.24
    cluster.query(1, 2, "lease")
    assert len(answers(cluster)) == 2
    cluster.clock.now = start + 0.25
    cluster.query(1, 3, "lease")
    assert len(answers(cluster)) == 2  # waits for a round instead
    assert cluster.sent(Heartbeat) != []
    cluster.heal()
    cluster.drop()
    high = Ballot(9, 3)
    cluster.clock.now = start + 0.29
    cluster.hand(2, 3, P1A(high, 3))
    assert cluster.sent(P1B) == []
    cluster.clock.now = start + 0.31
    cluster.hand(2, 3, P1A(high, 3))
    assert len(cluster.sent(P1B)) == 1


def test_a_lease_counts_from_the_sending_of_the_round_not_from_its_replies() -> None:
    cluster = with_lease()
    cluster.clock.now += 0.06
    start = cluster.clock.now
    cluster.step(1)
    cluster.deliver(Heartbeat)
    cluster.clock.now = start + 0.23  # the replies take long
    cluster.deliver(HeartbeatReply)
    cluster.clock.now = start + 0.25
    cluster.query(1, 2, "lease")
    assert len(answers(cluster)) == 1


def test_a_leaders_own_heartbeats_extend_no_lease() -> None:
    cluster = with_lease()
    cluster.isolate(1)
    for _ in range(6):
        cluster.clock.now += 0.05
        cluster.step(1)
        cluster.stabilize()
    cluster.query(1, 2, "lease")
    assert len(answers(cluster)) == 1


def test_a_lease_is_held_only_by_rounds_that_asked_for_it() -> None:
    """The round that asked was lost on its way, a later one that did not ask was answered."""
    cluster = with_lease()
    server = cluster.servers[1]
    cluster.clock.now += 0.3
    cluster.hand(1, 2, HeartbeatReply(server.promised, reign_of(server).rounds.last, 2))
    cluster.step(1)
    assert {h.lease for h in cluster.sent(Heartbeat)} == {0.3}
    cluster.drop(Heartbeat)
    # Nobody has read by lease for a while.
    reign_of(server).rounds.lease_wanted_until = cluster.clock.now
    cluster.clock.now += 0.05
    cluster.step(1)
    assert {h.lease for h in cluster.sent(Heartbeat)} == {0.0}
    cluster.stabilize()
    cluster.query(1, 2, "lease")
    assert len(answers(cluster)) == 1


def test_a_lease_needs_a_majority_that_was_asked_for_it() -> None:
    """Of five, server 2 heard the round that asked, server 3 only the next one, which did not."""
    cluster = served(5, policy="stable")
    server = cluster.servers[1]
    reign_of(server).rounds.lease_wanted_until = cluster.clock.now + 0.06
    cluster.clock.now += 0.055
    cluster.step(1)
    asking = cluster.sent(Heartbeat)[0]
    cluster.clock.now += 0.055
    cluster.step(1)
    later = cluster.sent(Heartbeat)[-1]
    assert (asking.lease, later.lease) == (0.3, 0.0)
    cluster.drop()
    cluster.hand(1, 2, HeartbeatReply(server.promised, asking.round, 2))
    cluster.hand(1, 3, HeartbeatReply(server.promised, later.round, 2))
    assert not server._lease_holds()


def test_no_leases_are_asked_for_while_nobody_uses_them() -> None:
    cluster = served(policy="stable")
    cluster.clock.now += 0.06
    cluster.step(1)
    assert {h.lease for h in cluster.sent(Heartbeat)} == {0.0}


def test_leases_need_the_courtesy_of_stable() -> None:
    """Under the other policies a follower promises at any time: a lease would protect nothing."""
    cluster = served(policy="immediate")
    cluster.query(1, 1, "lease")
    cluster.stabilize()
    cluster.query(1, 2, "lease")
    assert len(answers(cluster)) == 1
    cluster.stabilize()
    assert len(answers(cluster)) == 2


def test_any_server_answers_a_stale_read_at_once() -> None:
    cluster = served()
    session = cluster.told_session()
    cluster.isolate(3)
    cluster.execute(1, session, b"b", first=2)
    cluster.query(3, 7, "stale")
    assert cluster.answers() == [QueryReply(7, ReplyStatus.OK, b"")]
    cluster.query(1, 8, "stale")
    assert cluster.answers()[-1].payload == b"a b"


def test_who_does_not_lead_points_to_the_leader() -> None:
    cluster = served()
    cluster.query(3)
    cluster.query(3, 2, "lease")
    assert cluster.answers() == []
    assert cluster.told(NotLeader) == [NotLeader(1, "tcp://server-1", 3, ADDRESSES)] * 2


def test_a_server_without_a_vote_confirms_no_leader() -> None:
    """It lost what it had promised: another may lead already, with its promise."""
    cluster = Cluster(3, options={"policy": "random"}).start(1, 2)
    cluster.rejoining(3)
    cluster.campaign(1)
    cluster.deliver(P1A, target=2)
    cluster.deliver(P1B)
    cluster.drop()
    cluster.isolate(2)
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.deliver(Heartbeat, target=3)
    assert not cluster.servers[3].is_member
    assert cluster.sent(HeartbeatReply, source=3) == []


def test_a_query_that_fails_is_an_error_reply_and_stops_nothing() -> None:
    class Picky(Register):
        def query(self, query: bytes) -> bytes:
            raise KeyError("nothing here")

    cluster = Cluster(3, machine=Picky).start()
    cluster.lead(1)
    cluster.query(1, 1, "stale")
    assert cluster.answers() == [QueryReply(1, ReplyStatus.FAILED, b"KeyError: 'nothing here'")]
    assert cluster.servers[1].role == "leader"
