"""Rule 1, promise: a higher ballot is adopted, kept, and ends whatever was led below it."""

from __future__ import annotations

import pytest

from paxon.actors import Ballot
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    HeartbeatReply,
    NotLeader,
    PeerMessage,
)
from tests.harness import ADDRESSES, Cluster, value_of
from tests.messages import beat, promise

HIGH = Ballot(9, 2)
A = value_of(b"A")


def plain(size: int = 3, **options: object) -> Cluster:
    """A cluster whose policy has no courtesies: promises are given at once."""
    return Cluster(size, options={"policy": "random", **options}).start()


@pytest.mark.parametrize(
    "message",
    [P1A(HIGH, 1), P2A(HIGH, 1, A, 0), beat(HIGH)],
    ids=["P1A", "P2A", "heartbeat"],
)
def test_a_higher_ballot_is_adopted_and_survives_a_restart(message: PeerMessage) -> None:
    cluster = plain()
    cluster.hand(1, 2, message)
    assert cluster.servers[1].promised == HIGH
    assert cluster.servers[1].leader == 2
    assert cluster.restart(1).promised == HIGH


@pytest.mark.parametrize(
    "message",
    [
        P1A(HIGH, 1),
        P2A(HIGH, 9, A, 0),
        beat(HIGH),
        promise(HIGH),
        P2B(Ballot(1, 1), 1, 1, HIGH),
        HeartbeatReply(HIGH, 1, 0),
    ],
    ids=["P1A", "P2A", "heartbeat", "refused P1A", "rejected P2A", "heartbeat reply"],
)
def test_who_leads_stops_when_it_hears_of_a_higher_ballot(message: PeerMessage) -> None:
    cluster = plain()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"waits")
    cluster.hand(1, 2, message)
    assert cluster.servers[1].promised == HIGH
    assert cluster.servers[1].role == "follower"
    # The client that waits is told where to go: nothing is dropped in silence.
    assert cluster.told(NotLeader)[-1] == NotLeader(2, "tcp://server-2", 3, ADDRESSES)


@pytest.mark.parametrize("message", [P1A(HIGH, 1), promise(HIGH)])
def test_who_tries_to_lead_stops_when_it_hears_of_a_higher_ballot(message: PeerMessage) -> None:
    cluster = plain()
    cluster.campaign(1)
    own = cluster.servers[1].promised
    cluster.hand(1, 2, message)
    assert cluster.servers[1].role == "follower"
    cluster.hand(1, 3, promise(own))  # a promise for the ballot that was given up
    assert cluster.servers[1].role == "follower"


def test_a_lower_p1a_is_refused_and_named_the_promised_ballot() -> None:
    cluster = plain()
    cluster.hand(1, 2, P1A(HIGH, 1))
    cluster.drop()
    cluster.hand(1, 3, P1A(Ballot(8, 3), 1))
    assert cluster.servers[1].promised == HIGH
    assert [p1b.ballot for p1b in cluster.sent(P1B, target=3)] == [HIGH]


def test_an_equal_p1a_is_answered_again() -> None:
    """The first answer may have been lost."""
    cluster = plain()
    cluster.hand(1, 2, P1A(HIGH, 1))
    cluster.hand(1, 2, P1A(HIGH, 1))
    assert [p1b.ballot for p1b in cluster.sent(P1B, target=2)] == [HIGH, HIGH]


def test_p1b_reports_what_was_accepted_from_the_slot_asked_for_on() -> None:
    cluster = Cluster(3, options={"policy": "random"})
    cluster.accepted(1, Ballot(1, 2), slot_1=b"A", slot_3=b"C")
    cluster.accepted(1, Ballot(2, 2), slot_2=b"B")
    cluster.start()
    cluster.hand(1, 2, P1A(HIGH, 2))
    (p1b,) = cluster.sent(P1B, target=2)
    assert [(a.slot, a.ballot) for a in p1b.accepted] == [(2, Ballot(2, 2)), (3, Ballot(1, 2))]
    assert (p1b.first_slot, p1b.next_slot) == (2, 0)
    assert (p1b.chosen_to, p1b.discarded) == (0, 0)


def test_p1b_says_how_far_the_acceptor_knows_slots_chosen_and_discarded() -> None:
    cluster = plain()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a", b"b")
    cluster.pass_time(2.0)  # executed by all: discarded by all
    cluster.hand(2, 3, P1A(Ballot(9, 3), 4))
    p1b = cluster.sent(P1B, source=2)[-1]
    assert (p1b.chosen_to, p1b.discarded) == (3, 3)


def test_p1bs_come_in_bounded_chunks_and_only_whole_ones_count() -> None:
    cluster = Cluster(3, options={"policy": "random", "transfer_bytes": 50})
    cluster.accepted(1, Ballot(1, 2), **{f"slot_{slot}": b"v" * 30 for slot in range(1, 6)})
    cluster.start()
    cluster.isolate(3)
    cluster.campaign(2)
    chunks = 0
    while cluster.servers[2].role == "candidate":
        cluster.deliver(P1A, target=1)
        (p1b,) = cluster.sent(P1B, source=1)
        assert len(p1b.accepted) <= 2
        cluster.deliver(P1B)
        chunks += 1
    assert chunks == 5
    assert list(cluster.contents(2)) == [1, 2, 3, 4, 5]


def test_a_chunk_out_of_turn_changes_nothing() -> None:
    """The last chunk does not make a promise whole while one before it is missing."""
    cluster = plain()
    cluster.campaign(1)
    ballot = cluster.servers[1].promised
    accepted = [Accepted(slot, Ballot(1, 2), A) for slot in (1, 2, 3)]
    first = promise(ballot, accepted[:1], next_slot=2)
    second = promise(ballot, accepted[1:2], first_slot=2, next_slot=3)
    last = promise(ballot, accepted[2:], first_slot=3)
    for chunk in (last, first, last, first):
        cluster.hand(1, 2, chunk)
        assert cluster.servers[1].role == "candidate"
    cluster.hand(1, 2, second)
    cluster.hand(1, 2, last)
    assert cluster.servers[1].role == "leader"
    assert cluster.contents(1) == {1: "A", 2: "A", 3: "A"}


def test_a_lost_chunk_is_asked_for_again_from_where_it_was() -> None:
    cluster = Cluster(3, options={"policy": "random", "transfer_bytes": 50})
    cluster.accepted(1, Ballot(1, 2), **{f"slot_{slot}": b"v" * 30 for slot in range(1, 6)})
    cluster.start()
    cluster.isolate(3)
    cluster.campaign(2)
    cluster.deliver(P1A, target=1)
    cluster.deliver(P1B)
    (lost,) = cluster.drop(P1A, target=1)
    assert isinstance(lost.message, P1A)
    assert lost.message.first_slot > 1
    cluster.clock.now += 0.11
    cluster.step(2)
    assert cluster.sent(P1A, target=1) == [lost.message]
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"


@pytest.mark.parametrize("message", [P1A(HIGH, 1), P2A(HIGH, 1, A, 0), beat(HIGH)])
def test_a_ballot_in_another_servers_name_is_ignored(message: PeerMessage) -> None:
    cluster = plain()
    cluster.hand(1, 3, message)  # 3 speaks in a ballot of 2
    assert cluster.servers[1].promised != HIGH
    assert cluster.packets == []
    assert cluster.servers[1].describe().counters["malformed_messages"] == 1


def test_a_stray_ballot_of_our_own_is_not_led_without_phase_1() -> None:
    """A disk that was lost may have had 9.1 promised: hearing of it ends our leading in 1.1.

    Going on in 9.1 would propose without having asked what was accepted in between.
    """
    cluster = plain()
    cluster.lead(1)
    session = cluster.open_session(1)
    stray = Ballot(9, 1)
    cluster.command(1, session, 1, b"x")
    cluster.drop()
    cluster.hand(1, 3, P2B(cluster.servers[1].promised, 2, 2, stray))
    assert cluster.servers[1].role == "follower"
    assert cluster.servers[1].promised == stray
    cluster.command(1, session, 2, b"y")
    assert cluster.sent(P2A) == []


def test_a_candidate_that_hears_of_a_stray_ballot_of_its_own_starts_over() -> None:
    cluster = plain()
    cluster.campaign(1)
    own = cluster.servers[1].promised
    cluster.hand(1, 3, promise(Ballot(9, 1)))
    cluster.hand(1, 2, promise(own))
    assert cluster.servers[1].role == "follower"
