"""Rule 3, lead: a majority of promises, the highest ballot's values, no-ops into the holes."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import pytest

from paxon.actors import Ballot
from paxon.actors.ballot import NO_BALLOT
from paxon.actors.execution.application import encode_batch
from paxon.actors.messages import (
    NO_OP,
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    Batch,
    CatchUp,
    CatchUpRequest,
    Heartbeat,
    HeartbeatReply,
    SnapshotOffer,
)
from paxon.actors.records.candidacy import Candidacy
from tests.harness import Cluster, value_of
from tests.messages import beat, promise


def plain(size: int = 3, **options: object) -> Cluster:
    return Cluster(size, options={"policy": "random", **options})


def test_no_server_leads_without_a_majority_of_promises() -> None:
    cluster = plain(5).start()
    cluster.campaign(1)
    cluster.deliver(P1A, target=2)
    cluster.deliver(P1B)
    assert cluster.servers[1].role == "candidate"  # its own promise and one other: 2 of 5
    cluster.hand(1, 2, promise(cluster.servers[1].promised))
    assert cluster.servers[1].role == "candidate"  # the same promise twice
    cluster.deliver(P1A, target=3)
    cluster.deliver(P1B)
    assert cluster.servers[1].role == "leader"


def test_a_promise_for_another_ballot_does_not_count() -> None:
    cluster = plain().start()
    cluster.campaign(1)
    first = cluster.servers[1].promised
    cluster.drop()
    cluster.campaign(1)
    cluster.hand(1, 2, promise(first))
    assert cluster.servers[1].role == "candidate"


def test_a_promise_that_tells_of_a_higher_ballot_ends_the_candidacy() -> None:
    """No acceptor in its right mind reports a value above its own promise; a damaged frame may."""
    cluster = plain().start()
    cluster.campaign(1)
    mine = cluster.servers[1].promised
    above = Ballot(mine.round + 1, 3)
    cluster.hand(1, 2, promise(mine, [Accepted(1, above, value_of(b"x"))], chosen_to=1))
    assert cluster.servers[1].promised == above
    assert cluster.servers[1].role == "follower"


def test_a_candidate_counts_its_own_promise_only_once_it_is_synced() -> None:
    """One server alone is a majority, yet it leads only after the sync (rule 10)."""
    cluster = plain(1).start()
    server = cluster.servers[1]
    server.campaign()
    assert server.role == "candidate"
    cluster.step(1)
    assert server.role == "leader"


def test_one_server_alone_decides() -> None:
    cluster = Cluster(1).start()
    cluster.pass_time(1.0)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    assert cluster.applied(1) == [b"a", b"b"]
    cluster.query(1)
    assert [a.payload for a in cluster.answers()] == [b"a b"]
    cluster.restart(1)
    cluster.pass_time(1.0)
    assert cluster.applied(1) == [b"a", b"b"]


def test_the_value_accepted_in_the_highest_ballot_is_proposed() -> None:
    """Not the lowest, not the own, not the most frequent."""
    cluster = plain(5)
    cluster.accepted(1, Ballot(1, 1), slot_1=b"first")
    cluster.accepted(2, Ballot(1, 1), slot_1=b"first")
    cluster.accepted(3, Ballot(2, 5), slot_1=b"second")
    cluster.start(1, 2, 3)
    cluster.campaign(1)
    cluster.stabilize()  # refused: server 3 has promised 2.5
    cluster.lead(1)
    assert cluster.contents(1) == {1: "second*"}
    assert cluster.contents(2)[1].startswith("second")


def test_each_slot_has_its_own_highest_ballot() -> None:
    cluster = plain()
    cluster.accepted(1, Ballot(1, 1), slot_1=b"a", slot_2=b"b")
    cluster.accepted(2, Ballot(1, 1), slot_1=b"a", slot_2=b"b")
    cluster.accepted(2, Ballot(2, 3), slot_2=b"c")
    cluster.start(1, 2)
    cluster.campaign(1)
    cluster.stabilize()  # refused: server 2 has promised 2.3
    cluster.lead(1)
    assert cluster.contents(1) == {1: "a*", 2: "c*"}


def test_the_second_batch_of_a_reign_waits_until_the_first_is_chosen() -> None:
    """Else what an older reign packed late could be chosen in the first one's place, with a later
    time above it: the time would leap, and end what was granted there too soon
    (docs/design/time.md)."""
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.lead(2)
    cluster.command(2, session, 1, b"a")
    cluster.command(2, session, 2, b"b")
    assert {p2a.slot for p2a in cluster.sent(P2A)} == {2}
    cluster.deliver(P2A, target=3)
    cluster.deliver(P2B)
    cluster.command(2, session, 3, b"c")
    assert {p2a.slot for p2a in cluster.sent(P2A, target=3)} == {3, 4}
    cluster.stabilize()
    assert cluster.applied(2) == [b"a", b"b", b"c"]


def test_what_an_older_reign_packed_is_not_taken_over_above_what_a_later_one_did() -> None:
    """It was not chosen, for the later leader would have taken it over; and it is of another clock.

    (Found by the simulator, seed 41804 of runs about members: the log's time leapt, and a lease
    that the later leader had granted would have ended so much too soon.)
    """
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.isolate(1)
    for seq in (1, 2, 3):
        cluster.command(1, session, seq, b"old %d" % seq)
        cluster.pass_time(0.01)
    assert cluster.contents(1).keys() == {1, 2, 3, 4}, "server 1 accepted these alone"
    cluster.pass_time(2.0)
    second, third = sorted((2, 3), key=lambda server: cluster.servers[server].role != "leader")
    cluster.execute(second, session, b"new")
    stamped = cluster.servers[second].application.time
    cluster.pass_time(0.2)
    cluster.crash(second)
    cluster.heal()
    cluster.pass_time(2.0)
    for server in (1, third):
        assert cluster.contents(server) == {
            1: "open-session*", 2: "new*", 3: "no-op*", 4: "no-op*",
        }  # fmt: skip
        assert cluster.servers[server].application.time == stamped
        assert cluster.servers[server].application.reign.leader == second


def reported(*rows: tuple[int, int, int]) -> Candidacy:
    """A candidate in ballot 9.1 was told of rows: slot, round of the ballot, of the reign."""
    candidacy = Candidacy(Ballot(9, 1), 1)
    for slot, accepted, packed in rows:
        value = encode_batch(Batch(0, [], Ballot(packed, 1) if packed else NO_BALLOT))
        candidacy.report(Accepted(slot, Ballot(accepted, 1), value))
    return candidacy


@pytest.mark.parametrize(
    ("rows", "reign", "passed"),
    [
        ([(1, 2, 2), (2, 1, 1)], 0, {2}),  # the older one was not chosen before ballot 2
        ([(1, 2, 2), (2, 3, 1)], 0, {1}),  # nor the later one before ballot 3, which knew of none
        ([(1, 4, 2), (2, 3, 1)], 0, {2}),  # whoever led in 4 took over the first, not the second
        ([(1, 1, 1), (2, 3, 2), (3, 3, 2)], 0, set()),
        ([(1, 1, 1), (3, 1, 1)], 2, {1, 3}),  # what is executed is chosen
        ([(1, 3, 3), (2, 2, 2), (3, 4, 1)], 0, {1, 2}),
        ([(1, 3, 3), (2, 2, 2), (3, 2, 1)], 0, {2, 3}),
        ([(1, 2, 2), (2, 3, 0)], 0, set()),  # nobody says who packed it
        ([(1, 2, 3), (2, 2, 2)], 0, set()),  # nor can it be a leader to come
        ([(1, 12, 1)], 2, set()),  # nobody has accepted that, and it stops no server
    ],
)
def test_of_two_batches_against_the_order_of_reigns_the_one_of_the_lower_ballot_is_passed_over(
    rows: list[tuple[int, int, int]], reign: int, passed: set[int]
) -> None:
    values, _ = reported(*rows).takeover(1, Ballot(reign, 1) if reign else NO_BALLOT, 0)
    no_ops = {slot for slot, value in values if value == NO_OP}
    assert no_ops & {slot for slot, _, _ in rows} == passed


def test_what_is_known_to_be_chosen_is_never_passed_over() -> None:
    values, _ = reported((1, 2, 2), (2, 3, 1)).takeover(1, NO_BALLOT, 1)
    assert [slot for slot, value in values if value == NO_OP] == [2]
    values, _ = reported((1, 2, 2), (2, 3, 1)).takeover(2, NO_BALLOT, 1)
    assert NO_OP not in dict(values).values(), "another value was chosen below, as is known by now"


def test_who_has_executed_a_later_reign_meanwhile_does_not_lead_in_an_earlier_ballot() -> None:
    """A snapshot may come amid a candidacy; and whoever packed what it holds was promised more."""
    cluster = plain().start()
    cluster.campaign(1)
    server = cluster.servers[1]
    server.application.reign = Ballot(9, 3)
    cluster.stabilize()
    assert server.role == "follower"
    assert cluster.sent(P2A) == []
    server.application.reign = NO_BALLOT
    cluster.lead(1)
    assert server.role == "leader"


def test_holes_are_filled_with_no_ops_and_nothing_goes_beyond() -> None:
    cluster = plain()
    cluster.accepted(2, Ballot(1, 1), slot_2=b"b", slot_5=b"e")
    cluster.start()
    cluster.campaign(1)
    cluster.stabilize()
    assert cluster.contents(1) == {1: "no-op*", 2: "b*", 3: "no-op*", 4: "no-op*", 5: "e*"}
    assert cluster.applied(1) == [b"b", b"e"]
    cluster.open_session(1)
    assert cluster.contents(1)[6] == "open-session*"  # the next slot after what was taken over


def test_what_is_chosen_already_is_not_proposed_again() -> None:
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    cluster.pass_time(0.2)
    cluster.campaign(2)
    assert {p.first_slot for p in cluster.sent(P1A, source=2)} == {4}
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"
    assert cluster.servers[2].describe().counters["slots_proposed"] == 0


def test_while_it_stays_leader_there_is_no_phase_1() -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    before = cluster.servers[1].describe().counters
    for seq in range(1, 21):
        cluster.command(1, session, seq, b"x")
        assert cluster.sent(P1A) == cluster.sent(P1B) == []
        cluster.stabilize()
    cluster.pass_time(2.0)
    after = cluster.servers[1].describe().counters
    assert after["phase1_rounds"] == before["phase1_rounds"] == 1
    assert after["p2a_sent"] - before["p2a_sent"] == 20 * 2  # one round to both others a slot


def test_commands_that_wait_together_share_a_slot() -> None:
    cluster = plain(window=1).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 6):
        cluster.command(1, session, seq, b"%d" % seq)
    assert [p.slot for p in cluster.sent(P2A, target=2)] == [2]  # the window is full
    cluster.stabilize()
    assert cluster.servers[1].log.last == 3  # the other four went together
    assert cluster.applied(1) == [b"1", b"2", b"3", b"4", b"5"]


def test_no_more_slots_are_in_flight_than_the_window_allows() -> None:
    cluster = plain(window=4).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 11):
        cluster.command(1, session, seq, b"%d" % seq)
        assert len(cluster.sent(P2A, target=2)) == min(seq, 4)
    cluster.stabilize()
    assert len(cluster.applied(1)) == 10


def test_more_is_taken_over_than_the_window_holds() -> None:
    cluster = plain(window=2)
    cluster.accepted(2, Ballot(1, 1), **{f"slot_{slot}": b"%d" % slot for slot in range(1, 10)})
    cluster.start(1, 2)
    cluster.campaign(1)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    assert [p.slot for p in cluster.sent(P2A, target=2)] == [1, 2]
    cluster.stabilize()
    assert len(cluster.applied(1)) == 9


def test_clients_wait_until_all_that_was_taken_over_is_executed() -> None:
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"a")
    cluster.deliver(P2A)
    cluster.drop()
    cluster.campaign(2)
    cluster.deliver(P1A, target=3)
    cluster.deliver(P1B)
    assert cluster.servers[2].role == "leader"
    cluster.replies.clear()
    cluster.command(2, session, 2, b"b")
    assert [p.slot for p in cluster.sent(P2A, target=3)] == [2]  # what was taken over, no more
    assert cluster.replies == []
    cluster.stabilize()
    assert cluster.applied(2) == [b"a", b"b"]
    assert cluster.reply_to(2) is not None


def test_a_candidate_that_lacks_discarded_slots_does_not_lead() -> None:
    """No no-ops into slots that an acceptor has discarded: it catches up first."""
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    cluster.campaign(3)
    ballot = cluster.servers[3].promised
    cluster.drop()
    behind = cluster.servers[3].log.chosen_to
    cluster.hand(
        3, 2, promise(ballot, first_slot=behind + 1, chosen_to=behind + 5, discarded=behind + 5)
    )
    assert cluster.servers[3].role == "follower"
    assert cluster.sent(P2A, source=3) == []
    cluster.clock.now += 0.01
    cluster.step(3)
    assert cluster.sent(CatchUpRequest, source=3, target=2) == [CatchUpRequest(behind + 1)]


def test_promises_bring_a_candidate_the_chosen_values_that_it_lacks() -> None:
    cluster = plain().start()
    cluster.lead(1)
    cluster.isolate(3)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    cluster.pass_time(0.1)
    cluster.heal()
    cluster.isolate(1)
    cluster.campaign(3)
    cluster.deliver(P1A, target=2)
    cluster.deliver(P1B, target=3)
    assert cluster.servers[3].role == "leader"
    assert cluster.applied(3) == [b"a", b"b"]  # learned, not proposed again
    assert cluster.servers[3].describe().counters["slots_proposed"] == 0


def test_lost_p1as_and_p2as_are_sent_again() -> None:
    cluster = Cluster(3, options={"policy": "random"}).start()
    cluster.campaign(1)
    cluster.drop()
    cluster.clock.now += 0.11
    cluster.step(1)
    assert len(cluster.sent(P1A)) == 2
    cluster.stabilize()
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"x")
    cluster.drop(P2A)
    cluster.pass_time(0.3)
    assert cluster.applied(1) == [b"x"]


def test_p2as_are_sent_again_only_to_those_who_have_not_voted() -> None:
    cluster = plain(5).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"x")
    cluster.deliver(P2A, target=2)
    cluster.deliver(P2B)
    cluster.drop()
    for _ in range(3):
        cluster.clock.now += 0.11
        cluster.step(1)
        cluster.drop(Heartbeat)
    assert cluster.sent(P2A, target=2) == []
    assert len(cluster.sent(P2A, target=3)) >= 1


def test_two_leaders_at_once_choose_one_value() -> None:
    """Server 1 still thinks that it leads; its P2As are rejected wherever 2 was promised."""
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.isolate(1)
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.servers[1].role == cluster.servers[2].role == "leader"
    cluster.command(1, session, 1, b"old")
    cluster.command(2, session, 2, b"new")
    cluster.stabilize()
    assert cluster.applied(1) == []
    assert cluster.applied(2) == [b"new"]
    cluster.heal()
    cluster.pass_time(0.3)
    assert cluster.servers[1].role == "follower"
    assert cluster.applied(1) == cluster.applied(2) == cluster.applied(3) == [b"new"]


def test_a_restarted_leader_proposes_in_a_new_ballot() -> None:
    """It cannot know which of its P2As left before it fell (rule 10)."""
    cluster = plain().start()
    cluster.lead(1)
    old = cluster.servers[1].promised
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"x")
    server = cluster.restart(1)
    assert server.role == "follower"
    assert server.promised == old
    cluster.campaign(1)
    assert server.promised > old
    cluster.stabilize()
    assert cluster.applied(1) == [b"x"]


def test_a_leader_that_learns_from_others_stops_gathering_votes_for_it() -> None:
    """Server 2 took over slots that server 3 knows as chosen; it may learn them by catching up.

    Once all have executed them they are discarded, and a late vote must find nothing to choose.
    """
    cluster = plain().start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.isolate(3)
    cluster.command(1, session, 1, b"a")
    cluster.deliver(P2A, target=2)
    cluster.deliver(P2B)
    value = cluster.servers[1].command(2)
    assert value is not None
    cluster.drop()
    cluster.campaign(2)
    ballot = cluster.servers[2].promised
    cluster.drop()
    cluster.hand(2, 3, promise(ballot, first_slot=2, chosen_to=1))
    leader = cluster.servers[2]
    assert leader.role == "leader"
    assert leader.status(2) == "ACCEPTED"
    cluster.drop()
    cluster.hand(2, 1, CatchUp([Accepted(2, Ballot(1, 1), value)], 2))
    assert cluster.applied(2) == [b"a"]
    for server in (1, 3):
        cluster.hand(2, server, HeartbeatReply(ballot, 1, 2))
    cluster.pass_time(1.2)  # its own watermark is synced; the round that discards has begun
    cluster.hand(2, 3, HeartbeatReply(ballot, 2, 2))
    cluster.hand(2, 1, P2B(ballot, 2, 2))
    assert leader.role == "leader"
    cluster.command(2, session, 2, b"b")
    assert [p.slot for p in cluster.sent(P2A, target=1)] == [3]


def test_a_leader_takes_no_snapshot_under_the_slots_that_it_proposes() -> None:
    """A late offer from when it was behind: it gathers votes for those slots itself by now."""
    cluster = plain()
    cluster.accepted(1, Ballot(1, 2), slot_1=b"a", slot_2=b"b")
    cluster.start()
    cluster.isolate(3)
    cluster.campaign(1)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    assert cluster.servers[1].role == "leader"
    cluster.drop()
    cluster.hand(1, 3, SnapshotOffer(2, 10, 0))
    assert cluster.packets == []
    cluster.hand(1, 2, P2B(cluster.servers[1].promised, 1, 2))
    assert cluster.applied(1) == [b"a", b"b"]


def test_votes_are_counted_although_a_handler_has_synced_in_between() -> None:
    """Taking a snapshot commits at once; what that made durable is counted like any other sync."""
    cluster = Cluster(3, options={"policy": "random", "snapshot_slots": 1}).start()
    server = cluster.servers[1]
    cluster.lead(1)
    server.snapshotting.poll = lambda: False  # type: ignore[method-assign]
    cluster.open_session(1)  # executing it begins a snapshot, which is polled as soon as may be
    cluster.hand(1, 2, beat(Ballot(9, 2)))
    cluster.drop()
    server.campaign()
    server.snapshots.poll_at = 0.0
    del server.snapshotting.poll
    cluster.step(1)
    assert server.describe().counters["snapshots_taken"] == 1
    cluster.deliver(P1A, target=3)
    cluster.deliver(P1B)
    assert server.role == "leader"


def test_the_no_op_is_executed_as_nothing() -> None:
    cluster = plain()
    cluster.accepted(2, Ballot(1, 1), slot_2=b"b")
    cluster.start()
    cluster.campaign(1)
    cluster.stabilize()
    before = cluster.servers[1].describe()
    assert before.executed == 2
    assert cluster.applied(1) == [b"b"]
    assert before.counters["commands_executed"] == 1


def test_values_are_compared_as_the_bytes_that_were_accepted() -> None:
    """A taken-over value is passed on untouched: decoded only when it is executed."""
    cluster = plain()
    cluster.accepted(2, Ballot(1, 1), slot_1=b"b")
    cluster.start()
    cluster.campaign(1)
    cluster.stabilize()
    assert cluster.servers[1].command(1) == value_of(b"b")
