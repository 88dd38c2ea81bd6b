"""Rule 2, accept: only in the promised ballot, always answered, and counted for that alone."""

from __future__ import annotations

import pytest

from paxon.actors import Ballot, ServerId
from paxon.actors.environment import ServerBurst
from paxon.actors.invariants import InvariantViolation
from paxon.actors.messages import P1A, P2A, P2B, HeartbeatReply
from paxon.transport import Burst
from tests.harness import Cluster, value_of

LOW, MIDDLE, HIGH = Ballot(1, 2), Ballot(2, 2), Ballot(3, 3)
A, B = value_of(b"A"), value_of(b"B")


def plain(size: int = 3) -> Cluster:
    return Cluster(size, options={"policy": "random"}).start()


def proposed(cluster: Cluster, text: bytes = b"x") -> tuple[int, Ballot]:
    """Server 1 leads and has proposed a command that nobody else has heard of yet."""
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, text)
    return cluster.servers[1].log.last, cluster.servers[1].promised


def vote(cluster: Cluster, server: ServerId, p2b: P2B) -> None:
    cluster.hand(1, server, p2b)


def test_a_p2a_in_the_promised_ballot_is_accepted_kept_and_answered() -> None:
    cluster = plain()
    cluster.hand(1, 2, P1A(MIDDLE, 1))
    cluster.hand(1, 2, P2A(MIDDLE, 1, A, 0))
    assert cluster.contents(1) == {1: "A"}
    assert cluster.sent(P2B) == [P2B(MIDDLE, 1, 1)]
    assert cluster.restart(1).command(1) == A


def test_a_p2a_above_the_promise_raises_it_and_is_accepted() -> None:
    cluster = plain()
    cluster.hand(1, 2, P2A(MIDDLE, 1, A, 0))
    assert cluster.servers[1].promised == MIDDLE
    assert cluster.sent(P2B) == [P2B(MIDDLE, 1, 1)]


def test_a_p2a_below_the_promise_is_rejected_and_changes_nothing() -> None:
    cluster = plain()
    cluster.hand(1, 3, P1A(HIGH, 1))
    cluster.drop()
    cluster.hand(1, 2, P2A(MIDDLE, 1, A, 0))
    assert cluster.contents(1) == {}
    assert cluster.servers[1].promised == HIGH
    # The answer names the ballot that it answers, and the one promised.
    assert cluster.sent(P2B) == [P2B(MIDDLE, 1, 1, HIGH)]


def test_a_later_ballot_replaces_what_was_accepted_and_an_earlier_one_does_not() -> None:
    cluster = plain()
    cluster.hand(1, 2, P2A(LOW, 1, A, 0))
    cluster.hand(1, 3, P2A(HIGH, 1, B, 0))
    cluster.hand(1, 2, P2A(MIDDLE, 1, A, 0))
    assert cluster.contents(1) == {1: "B"}
    assert cluster.sent(P2B) == [P2B(LOW, 1, 1), P2B(HIGH, 1, 1), P2B(MIDDLE, 1, 1, HIGH)]


def test_a_burst_of_p2as_is_answered_by_ranges_that_never_span_ballots_or_gaps() -> None:
    cluster = plain()
    peers = cluster.storages
    low = [P2A(LOW, slot, A, 0) for slot in (1, 2, 3, 5)]
    again = [P2A(MIDDLE, slot, A, 0) for slot in (6, 7)]
    cluster.step(1, Burst(peers=[(2, peers[2].incarnation, [*low, *again])]))
    assert cluster.sent(P2B) == [P2B(LOW, 1, 3), P2B(LOW, 5, 5), P2B(MIDDLE, 6, 7)]


def test_a_rejection_within_a_range_is_told_apart() -> None:
    cluster = plain()
    incarnations = {s: cluster.storages[s].incarnation for s in cluster.ids}
    burst: ServerBurst = Burst(
        peers=[
            (2, incarnations[2], [P2A(MIDDLE, 1, A, 0)]),
            (3, incarnations[3], [P1A(HIGH, 1)]),
            (2, incarnations[2], [P2A(MIDDLE, 2, A, 0)]),
        ]
    )
    cluster.step(1, burst)
    assert cluster.sent(P2B) == [P2B(MIDDLE, 1, 1), P2B(MIDDLE, 2, 2, HIGH)]


def test_a_p2b_counts_for_its_own_slot_only() -> None:
    cluster = plain()
    slot, ballot = proposed(cluster)
    vote(cluster, 2, P2B(ballot, slot + 1, slot + 1))
    vote(cluster, 2, P2B(ballot, slot - 1, slot - 1))
    assert cluster.servers[1].status(slot) == "ACCEPTED"
    vote(cluster, 2, P2B(ballot, slot, slot))
    assert cluster.servers[1].status(slot) == "CHOSEN"


def test_a_p2b_for_an_earlier_ballot_of_ours_does_not_count() -> None:
    """Server 1 led 1.1, was preempted and leads again: votes for 1.1 are for other values."""
    cluster = plain()
    _, old = proposed(cluster)
    cluster.drop()
    cluster.campaign(2)
    cluster.stabilize()
    slot, ballot = proposed(cluster, b"y")
    assert ballot > old
    vote(cluster, 2, P2B(old, slot, slot))
    vote(cluster, 3, P2B(old, 1, slot))
    assert cluster.servers[1].status(slot) == "ACCEPTED"


def test_a_rejected_p2b_is_no_acceptance_even_if_its_promise_is_not_above_ours() -> None:
    """A rejection that is late: the ballot that it names was ours and has been led since."""
    cluster = plain(5)
    slot, ballot = proposed(cluster)
    for server in (2, 3, 4):
        vote(cluster, server, P2B(ballot, slot, slot, ballot))
        vote(cluster, server, P2B(Ballot(0, 1), slot, slot, ballot))
    assert cluster.servers[1].status(slot) == "ACCEPTED"
    assert cluster.servers[1].role == "leader"


def test_a_server_votes_once_for_a_slot() -> None:
    cluster = plain(5)
    slot, ballot = proposed(cluster)
    for _ in range(3):
        vote(cluster, 2, P2B(ballot, slot, slot))
    assert cluster.servers[1].status(slot) == "ACCEPTED"
    vote(cluster, 3, P2B(ballot, slot, slot))
    assert cluster.servers[1].status(slot) == "CHOSEN"


def test_a_p2b_for_a_range_counts_for_each_slot_in_it() -> None:
    cluster = plain()
    slot, ballot = proposed(cluster)
    session = cluster.told_session()
    cluster.command(1, session, 2, b"y")
    cluster.command(1, session, 3, b"z")
    vote(cluster, 2, P2B(ballot, slot, slot + 1))
    statuses = [cluster.servers[1].status(s) for s in (slot, slot + 1, slot + 2)]
    assert statuses == ["CHOSEN", "CHOSEN", "ACCEPTED"]


def test_a_discarded_slot_is_answered_with_yes_and_stays_discarded() -> None:
    """Its value is chosen, so any later ballot can only propose that very value."""
    cluster = plain()
    cluster.lead(1)
    session = cluster.open_session(1)
    value = cluster.servers[1].command(1)
    cluster.execute(1, session, b"a")
    cluster.pass_time(2.0)
    assert cluster.servers[2].status(1) == "CLEARED"
    assert value is not None
    cluster.hand(2, 3, P2A(Ballot(9, 3), 1, value, 0))
    assert cluster.sent(P2B, target=3) == [P2B(Ballot(9, 3), 1, 1)]
    assert cluster.servers[2].status(1) == "CLEARED"


def test_two_values_in_one_ballot_stop_the_server() -> None:
    cluster = plain()
    cluster.hand(1, 2, P2A(MIDDLE, 1, A, 0))
    with pytest.raises(InvariantViolation, match="two values in ballot"):
        cluster.hand(1, 2, P2A(MIDDLE, 1, B, 0))


def test_another_value_for_a_chosen_slot_stops_the_server() -> None:
    cluster = plain()
    cluster.hand(1, 2, P2A(MIDDLE, 1, A, 1))
    with pytest.raises(InvariantViolation, match="slot 1 chosen twice"):
        cluster.hand(1, 3, P2A(HIGH, 1, B, 0))


def test_answers_to_a_heartbeat_name_the_promise() -> None:
    """… so that a deposed leader hears of it even when it proposes nothing."""
    cluster = plain()
    cluster.lead(1)
    cluster.hand(3, 2, P1A(Ballot(9, 2), 1))
    cluster.drop()
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.stabilize()
    assert cluster.servers[1].role == "follower"
    assert cluster.servers[1].promised == Ballot(9, 2)
    assert cluster.sent(HeartbeatReply) == []
