"""Asking a majority first and the others a moment later (docs/thrift.md).

In each test server 1 leads three or five servers and has found out that the low ids answer soonest.
"""

from __future__ import annotations

from paxon.actors.messages import P2A, P2B, CatchUpRequest, Heartbeat, HeartbeatReply
from paxon.actors.thrift import FIRST_TRIAL, MOST_BYTES, RECONSIDER
from paxon.transport import Burst
from tests.harness import Cluster

DELAY = 1 / 128
"""Exact in binary, so that times add up."""


def thrifty(size: int = 3, **options: object) -> tuple[Cluster, int]:
    """A cluster that is thrifty already, nothing under way, and a client's session."""
    chosen = {"thrifty_delay": DELAY, "heartbeat_interval": 1.0, "election_timeout_min": 3.0}
    chosen |= {"election_timeout_max": 5.0, "retransmit_interval": 2.0}
    cluster = Cluster(size, options={**chosen, **options}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, FIRST_TRIAL + 1):
        cluster.command(1, session, seq, b"early %d" % seq, acked=seq)
        cluster.stabilize()
    pass_delay(cluster)
    assert all(s.application.executed >= FIRST_TRIAL for s in cluster.servers.values())
    return cluster, session


def pass_delay(cluster: Cluster) -> None:
    """The time comes for what was put off, and everything is delivered."""
    cluster.clock.now += DELAY
    cluster.step(1)
    cluster.stabilize()


def put(cluster: Cluster, session: int, number: int, text: bytes = b"x") -> int:
    """The `number`-th command after the trial; its sequence number."""
    seq = FIRST_TRIAL + number
    cluster.command(1, session, seq, text, acked=seq)
    return seq


def test_a_new_leader_asks_everyone_until_it_knows_who_answers_soonest() -> None:
    cluster = Cluster(3, options={"thrifty_delay": DELAY}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"a")
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}


def test_a_command_is_chosen_by_the_prompt_servers_alone() -> None:
    cluster, session = thrifty(5)
    seq = put(cluster, session, 1)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}
    cluster.stabilize()
    assert cluster.reply_to(seq) is not None
    assert cluster.servers[4].log.last < cluster.servers[1].log.last


def test_whoever_answers_soonest_is_prompt() -> None:
    cluster = Cluster(3, options={"thrifty_delay": DELAY}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, FIRST_TRIAL + 2):
        cluster.command(1, session, seq, b"a", acked=seq)
        cluster.deliver(P2A, target=3)  # server 3 is always first …
        cluster.deliver(P2B, source=3)
        cluster.stabilize()
    cluster.command(1, session, FIRST_TRIAL + 2, b"a", acked=FIRST_TRIAL + 2)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {
        3
    }  # … and server 2 not


def test_the_spare_servers_get_several_slots_at_once_a_moment_later() -> None:
    cluster, session = thrifty()
    for number in (1, 2, 3):
        put(cluster, session, number)
        cluster.stabilize()
    syncs = cluster.servers[3].describe().counters["syncs"]
    assert not cluster.sent(P2A)
    cluster.clock.now += DELAY
    cluster.step(1)
    last = cluster.servers[1].log.last
    assert [p2a.slot for p2a in cluster.sent(P2A, target=3)] == [last - 2, last - 1, last]
    burst = [p.message for p in cluster.drop(P2A, target=3)]
    cluster.hand(3, 1, *burst)
    assert cluster.servers[3].describe().counters["syncs"] == syncs + 1
    assert cluster.servers[3].log.last == cluster.servers[1].log.last


def test_a_late_prompt_server_holds_up_a_command_no_longer_than_the_delay() -> None:
    cluster, session = thrifty()
    seq = put(cluster, session, 1)
    cluster.drop(P2A, target=2)
    pass_delay(cluster)
    assert cluster.reply_to(seq) is not None  # 1 and 3 chose it
    put(cluster, session, 2)  # … and from now on server 2 is not counted upon
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}


def test_after_being_late_it_takes_twice_as_long_to_be_counted_upon_again() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1)
    cluster.drop(P2A, target=2)
    pass_delay(cluster)
    for number in range(2, FIRST_TRIAL + 2):
        put(cluster, session, number)
        cluster.stabilize()
    put(cluster, session, FIRST_TRIAL + 2)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}
    cluster.stabilize()
    for number in range(FIRST_TRIAL + 3, 2 * FIRST_TRIAL + 3):
        put(cluster, session, number)
        cluster.stabilize()
    put(cluster, session, 2 * FIRST_TRIAL + 3)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2}


def test_a_lost_connection_is_not_waited_for() -> None:
    cluster, session = thrifty()
    seq = put(cluster, session, 1)
    cluster.crash(2)
    cluster.step(1, Burst(lost=[2]))
    cluster.stabilize()
    assert cluster.reply_to(seq) is not None


def test_losing_a_spare_server_changes_nothing() -> None:
    cluster, session = thrifty()
    cluster.step(1, Burst(lost=[3]))
    put(cluster, session, 1)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2}


def test_a_heartbeat_never_overtakes_the_slots_that_it_speaks_of() -> None:
    cluster, session = thrifty(heartbeat_interval=DELAY / 2)
    put(cluster, session, 1)
    cluster.stabilize()
    cluster.clock.now += DELAY / 2
    cluster.step(1)  # a heartbeat to all is due
    to_3 = [type(p.message) for p in cluster.packets if p.target == 3]
    assert to_3 == [P2A, Heartbeat]
    cluster.deliver(target=3)
    assert not cluster.sent(CatchUpRequest)
    assert cluster.servers[3].application.executed == cluster.servers[1].application.executed


def test_much_data_is_not_put_off() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1, bytes(MOST_BYTES))
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}


def test_what_was_put_off_is_dropped_with_the_leadership() -> None:
    """It is in a ballot that counts no more; whoever leads next proposes what may be chosen."""
    cluster, session = thrifty(policy="random")
    put(cluster, session, 1)
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"
    ballot = cluster.servers[2].promised
    cluster.clock.now += DELAY
    cluster.step(1)
    assert all(p2a.ballot == ballot for p2a in cluster.sent(P2A))
    contents = cluster.contents(2)
    assert contents[max(contents)] == "x*"  # server 2 had accepted it from server 1


def test_a_read_asks_the_prompt_servers_alone() -> None:
    cluster, _ = thrifty(5)
    cluster.query(1)
    assert {p.target for p in cluster.packets if type(p.message) is Heartbeat} == {2, 3}
    cluster.stabilize()
    assert len(cluster.answers()) == 1


def test_a_read_that_the_prompt_servers_leave_unconfirmed_asks_all() -> None:
    cluster, session = thrifty()
    cluster.query(1)
    cluster.drop(Heartbeat)
    cluster.clock.now += DELAY
    cluster.step(1)
    assert {p.target for p in cluster.packets if type(p.message) is Heartbeat} == {2, 3}
    cluster.drop(Heartbeat, target=2)
    cluster.deliver(Heartbeat, target=3)
    cluster.deliver(HeartbeatReply, source=3)
    assert len(cluster.answers()) == 1
    put(cluster, session, 1)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}


def test_a_put_off_slot_does_not_hide_that_a_read_waits() -> None:
    """Both have a time of their own: the earlier one leaves the other's alone."""
    cluster, session = thrifty()
    put(cluster, session, 1)
    cluster.stabilize()
    cluster.clock.now += DELAY / 2
    cluster.query(1)
    cluster.drop(Heartbeat)
    cluster.clock.now += DELAY / 2
    cluster.step(1)  # what was put off leaves
    cluster.stabilize()
    assert not cluster.answers()
    cluster.clock.now += DELAY / 2
    cluster.step(1)
    cluster.drop(Heartbeat, target=2)
    cluster.stabilize()
    assert len(cluster.answers()) == 1


def test_reads_alone_find_out_who_is_prompt() -> None:
    cluster = Cluster(3, options={"thrifty_delay": DELAY, "heartbeat_interval": 1.0,
        "election_timeout_min": 3.0, "election_timeout_max": 5.0}).start()  # fmt: skip
    cluster.lead(1)
    for number in range(1, FIRST_TRIAL + 1):
        cluster.query(1, number)
        cluster.stabilize()
    cluster.query(1, FIRST_TRIAL + 1)
    assert {p.target for p in cluster.packets if type(p.message) is Heartbeat} == {2}


def test_now_and_then_the_prompt_servers_are_chosen_anew() -> None:
    cluster, session = thrifty(heartbeat_interval=2 * RECONSIDER, election_timeout_min=30.0,
        election_timeout_max=50.0, retransmit_interval=20.0)  # fmt: skip
    cluster.clock.now += RECONSIDER
    put(cluster, session, 1)
    cluster.stabilize()
    pass_delay(cluster)
    put(cluster, session, 2)
    assert {p.target for p in cluster.packets if type(p.message) is P2A} == {2, 3}


def test_two_servers_are_all_needed() -> None:
    cluster = Cluster(2, options={"thrifty_delay": DELAY}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, FIRST_TRIAL + 2):
        cluster.command(1, session, seq, b"a", acked=seq)
        cluster.stabilize()
        assert cluster.reply_to(seq) is not None
