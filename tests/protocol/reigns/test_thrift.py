"""Asking a majority first and the others a moment later (docs/thrift.md).

In each test server 1 leads three or five servers and has found out that the low ids answer soonest.
"""

from __future__ import annotations

import pytest

from paxon.actors import Execute
from paxon.actors.messages import (
    P2A,
    P2B,
    CatchUpRequest,
    Command,
    Heartbeat,
    HeartbeatReply,
    Query,
)
from paxon.actors.records.thrift import (
    FIRST_TRIAL,
    LONGEST_TRIAL,
    MOST_BYTES,
    RECONSIDER_BEATS,
    Thrift,
)
from paxon.actors.settings import Settings
from paxon.transport import Burst
from tests.harness import Cluster, reign_of

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


def asked(cluster: Cluster, kind: type) -> set[int]:
    """Whom messages of that kind are under way to."""
    return {p.target for p in cluster.packets if type(p.message) is kind}


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
    assert asked(cluster, P2A) == {2, 3}


def test_a_command_is_chosen_by_the_prompt_servers_alone() -> None:
    cluster, session = thrifty(5)
    seq = put(cluster, session, 1)
    assert asked(cluster, P2A) == {2, 3}
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
    assert asked(cluster, P2A) == {3}  # … and server 2 not


@pytest.mark.parametrize(("often", "prompt"), [(3, 3), (4, 2)])
def test_who_holds_watches_is_prompt_unless_it_is_much_slower(
    often: int, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears of each slot at once in any case: then its vote may as well count."""
    cluster, session = thrifty()
    assert reign_of(cluster.servers[1]).thrift.spare == (3,)
    monkeypatch.setattr(cluster.servers[3].watches, "held_of_late", lambda: True)
    cluster.pass_time(1.1)  # a heartbeat's reply says so: all are asked, to choose anew
    assert reign_of(cluster.servers[1]).thrift.choosing
    for number in range(1, FIRST_TRIAL + 1):
        put(cluster, session, number)
        if number % often == 0:  # it is the first to answer, but seldom
            cluster.deliver(P2A, target=3)
            cluster.deliver(P2B, source=3)
        cluster.stabilize()
    assert reign_of(cluster.servers[1]).thrift.prompt == (prompt,)
    cluster.pass_time(1.1)  # it says so with each heartbeat, and that changes nothing more
    assert reign_of(cluster.servers[1]).thrift.prompt == (prompt,)


def test_who_holds_watches_is_not_preferred_once_it_was_late() -> None:
    settings = Settings(cluster="test", server=1, servers=(1, 2, 3), thrifty_delay=DELAY)
    thrift = Thrift(settings, (2, 3), voters=(2, 3))
    for late in (False, True):
        thrift.holds_watches(3, True)
        for number in range(FIRST_TRIAL << late):
            thrift.count_useful(2 if number % 3 else 3)
        assert thrift.prompt == ((2,) if late else (3,))
        thrift.were_late()
        thrift.ask_everyone()


def test_a_learner_that_holds_watches_changes_no_choice() -> None:
    settings = Settings(cluster="test", server=1, servers=(1, 2, 3), thrifty_delay=DELAY)
    thrift = Thrift(settings, (2, 3, 4), voters=(2, 3))
    thrift.rely_on([2])
    assert not thrift.holds_watches(4, True)
    assert thrift.holds_watches(3, True)


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
    assert asked(cluster, P2A) == {2, 3}


def test_after_being_late_it_takes_twice_as_long_to_be_counted_upon_again() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1)
    cluster.drop(P2A, target=2)
    pass_delay(cluster)
    for number in range(2, FIRST_TRIAL + 2):
        put(cluster, session, number)
        cluster.stabilize()
    put(cluster, session, FIRST_TRIAL + 2)
    assert asked(cluster, P2A) == {2, 3}
    cluster.stabilize()
    for number in range(FIRST_TRIAL + 3, 2 * FIRST_TRIAL + 3):
        put(cluster, session, number)
        cluster.stabilize()
    put(cluster, session, 2 * FIRST_TRIAL + 3)
    assert asked(cluster, P2A) == {2}


def test_a_lost_connection_is_not_waited_for() -> None:
    cluster, session = thrifty()
    seq = put(cluster, session, 1)
    cluster.crash(2)
    cluster.step(1, Burst(lost=[2]))
    cluster.stabilize()
    assert cluster.reply_to(seq) is not None


def test_a_read_does_not_wait_for_a_lost_connection_either() -> None:
    cluster, _ = thrifty()
    cluster.query(1)
    cluster.drop(Heartbeat)
    cluster.crash(2)
    cluster.step(1, Burst(lost=[2]))
    cluster.stabilize()
    assert len(cluster.answers()) == 1


def test_one_that_is_lost_while_prompt_servers_are_chosen_is_none_of_them() -> None:
    cluster = Cluster(3, options={"thrifty_delay": DELAY}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, FIRST_TRIAL - 3):
        cluster.command(1, session, seq, b"a", acked=seq)
        cluster.stabilize()
    cluster.crash(2)
    cluster.step(1, Burst(lost=[2]))
    for seq in range(FIRST_TRIAL - 3, 2 * FIRST_TRIAL):
        cluster.command(1, session, seq, b"a", acked=seq)
        cluster.stabilize()
    cluster.command(1, session, 2 * FIRST_TRIAL, b"a", acked=2 * FIRST_TRIAL)
    assert asked(cluster, P2A) == {3}


def test_losing_a_spare_server_changes_nothing() -> None:
    cluster, session = thrifty()
    cluster.step(1, Burst(lost=[3]))
    put(cluster, session, 1)
    assert asked(cluster, P2A) == {2}


def test_a_heartbeat_never_overtakes_the_slots_that_it_speaks_of() -> None:
    cluster, session = thrifty()
    leader = cluster.servers[1]
    cluster.clock.now = reign_of(leader).heartbeat_at - DELAY / 2
    put(cluster, session, 1)
    cluster.stabilize()
    cluster.clock.now = reign_of(leader).heartbeat_at
    cluster.step(1)  # a heartbeat to all is due, and what was put off not yet
    to_3 = [type(p.message) for p in cluster.packets if p.target == 3]
    assert to_3 == [P2A, Heartbeat]
    cluster.deliver(target=3)
    assert not cluster.sent(CatchUpRequest)
    assert cluster.servers[3].application.executed == cluster.servers[1].application.executed


def test_much_data_is_not_put_off() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1, bytes(MOST_BYTES))
    assert asked(cluster, P2A) == {2, 3}


def test_after_a_large_value_small_ones_are_put_off_again() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1, bytes(MOST_BYTES))
    cluster.stabilize()
    put(cluster, session, 2)
    assert asked(cluster, P2A) == {2}


def test_a_slot_begun_just_before_the_time_comes_is_not_held_against_anyone() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1)
    cluster.stabilize()
    cluster.clock.now += DELAY * 3 / 4
    put(cluster, session, 2)
    cluster.clock.now += DELAY / 4
    cluster.step(1)  # what was put off leaves, and the second slot is under way
    cluster.stabilize()
    put(cluster, session, 3)
    assert asked(cluster, P2A) == {2}


def test_the_delay_is_at_most_half_a_heartbeat_interval() -> None:
    """Else heartbeats would take what was put off before anybody could be late."""
    cluster, session = thrifty(thrifty_delay=1.0, heartbeat_interval=2 * DELAY)
    seq = put(cluster, session, 1)
    cluster.drop(P2A, target=2)
    pass_delay(cluster)
    assert cluster.reply_to(seq) is not None
    put(cluster, session, 2)
    assert asked(cluster, P2A) == {2, 3}


def test_a_step_that_takes_long_does_not_make_others_late() -> None:
    """The delay counts from when they were asked."""
    cluster, session = thrifty()
    machine = cluster.servers[1].application.machine
    ordinary = machine.query

    def slow(query: bytes) -> bytes:
        cluster.clock.now += 2 * DELAY
        return ordinary(query)

    machine.query = slow  # type: ignore[method-assign]
    seq = FIRST_TRIAL + 1
    stale, read = Query(1, "stale", b""), Query(2, "linearizable", b"")
    cluster.request(1, stale, read, Command(session, seq, seq, 0, b"x"))
    machine.query = ordinary  # type: ignore[method-assign]
    cluster.step(1)
    assert asked(cluster, P2A) == asked(cluster, Heartbeat) == {2}
    cluster.stabilize()
    put(cluster, session, 2)
    assert asked(cluster, P2A) == {2}


def test_copies_of_an_answer_count_once() -> None:
    cluster = Cluster(5, options={"thrifty_delay": DELAY}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    thrift = reign_of(cluster.servers[1]).thrift
    cluster.command(1, session, 1, b"a")
    p2a = cluster.sent(P2A, target=5)[-1]
    before = dict(thrift._useful)
    for _ in range(FIRST_TRIAL):
        cluster.hand(1, 5, P2B(p2a.ballot, p2a.slot, p2a.slot))
    assert thrift._useful[5] == before[5] + 1


def test_what_was_put_off_is_dropped_with_the_leadership() -> None:
    """It is in a ballot that counts no more; whoever leads next proposes what may be chosen."""
    cluster, session = thrifty(policy="random")
    put(cluster, session, 1)
    put_off = reign_of(cluster.servers[1]).thrift.put_off
    assert put_off
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.servers[2].role == "leader"
    contents = cluster.contents(2)
    assert contents[max(contents)] == "x*"  # server 2 had accepted it from server 1
    cluster.lead(1)  # … and again: nothing is left of its first time
    assert not reign_of(cluster.servers[1]).thrift.put_off
    cluster.clock.now += DELAY
    cluster.step(1)
    assert all(p2a.ballot == cluster.servers[1].promised for p2a in cluster.sent(P2A))


def test_a_read_asks_the_prompt_servers_alone() -> None:
    cluster, _ = thrifty(5)
    cluster.query(1)
    assert asked(cluster, Heartbeat) == {2, 3}
    cluster.stabilize()
    assert len(cluster.answers()) == 1


def test_a_read_that_the_prompt_servers_leave_unconfirmed_asks_all() -> None:
    cluster, session = thrifty()
    cluster.query(1)
    cluster.drop(Heartbeat)
    cluster.clock.now += DELAY
    cluster.step(1)
    assert asked(cluster, Heartbeat) == {2, 3}
    assert cluster.servers[1].next_deadline() > cluster.clock.now  # it asks once, and waits
    cluster.step(1)
    assert len(cluster.sent(Heartbeat)) == 2
    cluster.drop(Heartbeat, target=2)
    cluster.deliver(Heartbeat, target=3)
    cluster.deliver(HeartbeatReply, source=3)
    assert len(cluster.answers()) == 1
    put(cluster, session, 1)
    assert asked(cluster, P2A) == {2, 3}


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


def test_each_round_has_a_time_of_its_own() -> None:
    cluster, _ = thrifty()
    cluster.query(1)
    cluster.stabilize()
    cluster.clock.now += DELAY / 2
    cluster.query(1, 2)
    cluster.drop(Heartbeat)
    cluster.clock.now += DELAY / 2
    cluster.step(1)
    assert not cluster.sent(Heartbeat)
    cluster.clock.now += DELAY / 2
    cluster.step(1)
    assert asked(cluster, Heartbeat) == {2, 3}


def test_an_application_in_the_same_process_is_served_by_the_prompt_servers() -> None:
    cluster, _ = thrifty()
    future = cluster.servers[1].on_local(Execute(b"x"))
    assert asked(cluster, P2A) == {2}
    cluster.stabilize()
    assert future.get(timeout=0) is not None


def test_a_restarted_spare_server_catches_up_among_slots_that_are_put_off() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1)
    cluster.stabilize()
    cluster.crash(3)
    for number in range(2, 6):
        put(cluster, session, number)
        cluster.stabilize()
        pass_delay(cluster)
    cluster.restart(3)
    for number in range(6, 10):
        put(cluster, session, number)
        cluster.stabilize()
    cluster.pass_time(5.0)
    assert cluster.applied(3) == cluster.applied(1)


def test_a_server_that_never_answered_is_not_relied_upon() -> None:
    """Until enough servers have answered at all, everybody is asked."""
    thrift = reign_of(thrifty(5)[0].servers[1]).thrift
    thrift.ask_everyone()
    thrift.forget(2)
    for _ in range(2 * FIRST_TRIAL):
        thrift.count_useful(5)
    assert thrift.choosing
    thrift.count_useful(4)
    assert thrift.prompt == (4, 5)


def test_one_answer_for_many_slots_counts_once() -> None:
    cluster = Cluster(5, options={"thrifty_delay": DELAY, "window": 16}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    thrift = reign_of(cluster.servers[1]).thrift
    for seq in range(1, 9):
        cluster.command(1, session, seq, b"a")
    p2as = cluster.sent(P2A, target=5)
    before = thrift._useful[5]
    cluster.hand(1, 5, P2B(p2as[0].ballot, p2as[0].slot, p2as[-1].slot))
    assert thrift._useful[5] == before + 1


def test_a_large_value_may_take_longer_than_the_delay() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1, bytes(MOST_BYTES))
    cluster.clock.now += 2 * DELAY
    cluster.step(1)
    cluster.stabilize()
    put(cluster, session, 2)
    assert asked(cluster, P2A) == {2}


def test_a_slot_lost_before_the_choice_is_not_held_against_the_chosen() -> None:
    cluster, session = thrifty()
    thrift = reign_of(cluster.servers[1]).thrift
    thrift.ask_everyone()
    put(cluster, session, 1)
    cluster.drop(P2A)  # nobody gets this one, until it is sent again
    thrift.rely_on((2,))
    put(cluster, session, 2)
    cluster.stabilize()
    pass_delay(cluster)
    put(cluster, session, 3)
    assert asked(cluster, P2A) == {2}


def test_a_new_choice_is_judged_by_its_own_slots() -> None:
    cluster, session = thrifty()
    put(cluster, session, 1)
    cluster.step(1, Burst(lost=[2]))
    assert reign_of(cluster.servers[1]).thrift.p2as_due_at > cluster.clock.now + 10 * DELAY


def test_an_idle_leader_forgets_no_lateness() -> None:
    cluster, _ = thrifty()
    thrift = reign_of(cluster.servers[1]).thrift
    thrift.were_late()
    thrift.rely_on((2,))
    thrift._in_time = False
    for _ in range(RECONSIDER_BEATS):
        thrift.count_beat()
    thrift.ask_everyone()
    for _ in range(2 * FIRST_TRIAL - 1):
        thrift.count_useful(2)
    assert thrift.choosing


@pytest.mark.parametrize(("size", "prompt"), [(4, {2, 3}), (7, {2, 3, 4})])
def test_as_many_are_prompt_as_a_majority_takes(size: int, prompt: set[int]) -> None:
    cluster, session = thrifty(size)
    seq = put(cluster, session, 1)
    assert asked(cluster, P2A) == prompt
    cluster.stabilize()
    assert cluster.reply_to(seq) is not None
    pass_delay(cluster)
    assert len({server.log.last for server in cluster.servers.values()}) == 1


def test_a_confirmed_round_lets_the_leader_sleep() -> None:
    cluster, _ = thrifty()
    cluster.query(1)
    cluster.stabilize()
    cluster.clock.now += DELAY
    cluster.step(1)
    assert cluster.servers[1].next_deadline() > cluster.clock.now


def test_reads_alone_find_out_who_is_prompt() -> None:
    cluster = Cluster(3, options={"thrifty_delay": DELAY, "heartbeat_interval": 1.0,
        "election_timeout_min": 3.0, "election_timeout_max": 5.0}).start()  # fmt: skip
    cluster.lead(1)
    for number in range(1, FIRST_TRIAL + 1):
        cluster.query(1, number)
        cluster.stabilize()
    cluster.query(1, FIRST_TRIAL + 1)
    assert asked(cluster, Heartbeat) == {2}


def test_now_and_then_the_prompt_servers_are_chosen_anew() -> None:
    cluster, session = thrifty()
    for _ in range(RECONSIDER_BEATS):
        cluster.clock.now += 1.0
        cluster.step(1)
        cluster.stabilize()
    put(cluster, session, 1)
    assert asked(cluster, P2A) == {2, 3}
    cluster.stabilize()
    for number in range(2, FIRST_TRIAL + 2):
        put(cluster, session, number)
        cluster.stabilize()
    put(cluster, session, FIRST_TRIAL + 2)
    assert asked(cluster, P2A) == {2}


def test_a_server_that_was_never_late_for_long_has_its_lateness_forgotten() -> None:
    cluster, session = thrifty()
    thrift = reign_of(cluster.servers[1]).thrift
    for _ in range(3):
        thrift.were_late()
    for _ in range(RECONSIDER_BEATS):
        cluster.clock.now += 1.0
        cluster.step(1)
        cluster.stabilize()
    for number in range(1, FIRST_TRIAL + 1):
        put(cluster, session, number)
        cluster.stabilize()
    put(cluster, session, FIRST_TRIAL + 1)
    assert asked(cluster, P2A) == {2}


def test_lateness_never_ends_thrift_for_good() -> None:
    cluster, _ = thrifty()
    thrift = reign_of(cluster.servers[1]).thrift
    for _ in range(100):
        thrift.were_late()
    thrift.ask_everyone()
    for _ in range(LONGEST_TRIAL):
        assert thrift.choosing
        thrift.count_useful(2)
    assert thrift.prompt == (2,)


def test_two_servers_are_all_needed() -> None:
    cluster = Cluster(2, options={"thrifty_delay": DELAY}).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    for seq in range(1, FIRST_TRIAL + 2):
        cluster.command(1, session, seq, b"a", acked=seq)
        cluster.stabilize()
        assert cluster.reply_to(seq) is not None
