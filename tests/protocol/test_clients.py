"""Rule 5, clients: sessions, at most once with many outstanding, order, expiry, error replies."""

from __future__ import annotations

import pytest

from paxon.actors.execution.application import encode_batch
from paxon.actors.messages import (
    P1A,
    P2A,
    P2B,
    Batch,
    Command,
    CommandReply,
    Entry,
    NotLeader,
    OpenSession,
    ReplyStatus,
    SessionOpened,
)
from paxon.transport import Burst
from tests.harness import ADDRESSES, Cluster

OTHER = b"other client"


def led(size: int = 3, **options: object) -> tuple[Cluster, int]:
    """Server 1 leads, and a session is open."""
    cluster = Cluster(size, options={"policy": "random", **options}).start()
    cluster.lead(1)
    return cluster, cluster.open_session(1)


def statuses(cluster: Cluster, seq: int) -> list[ReplyStatus]:
    return [r.status for r in cluster.told(CommandReply) if r.seq == seq]


def change_leader(cluster: Cluster, server: int) -> None:
    cluster.campaign(server)
    cluster.stabilize()
    assert cluster.servers[server].role == "leader"


# --- who answers ---------------------------------------------------------------------------------


def test_only_the_leader_proposes_and_others_say_who_leads() -> None:
    cluster, session = led()
    cluster.command(2, session, 1, b"x")
    cluster.request(3, OpenSession(77))
    assert cluster.sent(P2A) == []
    assert cluster.told(NotLeader) == [NotLeader(1, "tcp://server-1", 3, ADDRESSES)] * 2


def test_who_knows_no_leader_says_so() -> None:
    cluster = Cluster(3).start()
    cluster.request(2, OpenSession(1))
    assert cluster.told(NotLeader) == [NotLeader(0, "", 3, ADDRESSES)]


def test_a_burst_of_refused_commands_is_one_answer_to_each_client() -> None:
    cluster, session = led()
    commands = [Command(session, seq, 1, 0, b"x") for seq in range(1, 5)]
    cluster.step(2, Burst(clients=[(b"c1", list(commands)), (b"c2", list(commands))]))
    assert len(cluster.told(NotLeader, b"c1")) == len(cluster.told(NotLeader, b"c2")) == 1


def test_all_who_wait_are_told_when_the_leader_steps_down() -> None:
    cluster, session = led()
    second = cluster.open_session(1, OTHER)
    cluster.command(1, session, 1, b"x")
    cluster.command(1, second, 1, b"y", client=OTHER)
    cluster.query(1)
    cluster.drop()
    cluster.campaign(2)
    cluster.deliver(P1A, target=1)
    assert cluster.told(NotLeader)[-1] == NotLeader(2, "tcp://server-2", 3, ADDRESSES)
    assert cluster.told(NotLeader, OTHER)[-1] == NotLeader(2, "tcp://server-2", 3, ADDRESSES)


# --- at most once --------------------------------------------------------------------------------


def test_a_command_asked_twice_is_executed_once_and_answered_alike() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"x")
    cluster.execute(1, session, b"x")
    assert cluster.applied(1) == [b"x"]
    first, second = cluster.told(CommandReply)
    assert first == second == CommandReply(session, 1, ReplyStatus.OK, b"x")


def test_a_command_asked_again_while_in_flight_is_proposed_once() -> None:
    cluster, session = led()
    cluster.command(1, session, 1, b"x")
    cluster.command(1, session, 1, b"x", client=OTHER)
    assert len(cluster.sent(P2A, target=2)) == 1
    cluster.stabilize()
    assert cluster.told(CommandReply) == []
    assert len(cluster.told(CommandReply, OTHER)) == 1  # it goes where it was asked for last


def test_a_command_tried_again_at_the_next_leader_is_executed_once() -> None:
    cluster, session = led()
    cluster.command(1, session, 1, b"x")
    cluster.deliver(P2A)
    cluster.drop()  # the votes never arrive: the outcome is unknown to the client
    change_leader(cluster, 2)
    cluster.execute(2, session, b"x")
    cluster.pass_time(0.2)
    assert cluster.applied(1) == cluster.applied(2) == cluster.applied(3) == [b"x"]
    assert statuses(cluster, 1) == [ReplyStatus.OK]


def test_a_command_that_got_into_two_slots_is_executed_once() -> None:
    """Two leaders proposed it, and both slots were chosen."""
    cluster, session = led()
    value = encode_batch(Batch(0, [Entry(session, 1, 1, 0, b"x")]))
    ballot = cluster.servers[1].promised
    for slot in (2, 3):
        cluster.hand(2, 1, P2A(ballot, slot, value, slot))
    assert cluster.servers[2].application.executed == 3
    assert cluster.applied(2) == [b"x"]


def test_many_commands_are_outstanding_and_each_is_executed_once() -> None:
    """Sequence numbers come in any order; one that is late blocks no other."""
    cluster, session = led()
    for seq in (5, 2, 9, 1):
        cluster.command(1, session, seq, b"%d" % seq)
        cluster.command(1, session, seq, b"%d" % seq)
    cluster.stabilize()
    change_leader(cluster, 2)
    for seq in range(1, 10):
        cluster.command(2, session, seq, b"%d" % seq)
    cluster.stabilize()
    cluster.pass_time(0.2)
    expected = [b"5", b"2", b"9", b"1", b"3", b"4", b"6", b"7", b"8"]
    assert all(cluster.applied(server) == expected for server in cluster.ids)


def test_replies_are_kept_until_the_client_has_acknowledged_them() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"1", b"2", b"3")
    cluster.command(1, session, 4, b"4", acked=3)
    cluster.stabilize()
    for server in (1, 2, 3):
        cluster.pass_time(0.1)
        table = cluster.servers[server].application.sessions.get(session)
        assert table is not None
        assert (table.floor, sorted(table.replies)) == (3, [3, 4])
    cluster.command(1, session, 3, b"3")
    cluster.command(1, session, 2, b"2")
    cluster.stabilize()
    assert statuses(cluster, 3) == [ReplyStatus.OK, ReplyStatus.OK]
    assert statuses(cluster, 2) == [ReplyStatus.OK, ReplyStatus.FORGOTTEN]
    assert cluster.applied(1) == [b"1", b"2", b"3", b"4"]


def test_an_acknowledged_command_in_a_later_slot_is_not_executed_again() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"1")
    cluster.command(1, session, 2, b"2", acked=2)
    cluster.stabilize()
    last = cluster.servers[1].log.last
    value = encode_batch(Batch(0, [Entry(session, 1, 1, 0, b"1")]))
    ballot = cluster.servers[1].promised
    cluster.hand(3, 1, P2A(ballot, last + 1, value, last + 1))
    assert cluster.applied(3) == [b"1", b"2"]


def test_sessions_survive_in_the_snapshot() -> None:
    """A server that was brought up by a snapshot knows what was executed before it."""
    options = {"policy": "random", "snapshot_slots": 3, "retain_slots": 1}
    cluster = Cluster(3, options=options).start()
    cluster.lead(1)
    cluster.isolate(3)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"1", b"2", b"3", b"4", b"5")
    cluster.pass_time(0.3)
    assert cluster.servers[1].first_non_cleared() > 1
    cluster.heal()
    cluster.pass_time(0.5)
    assert cluster.servers[3].describe().counters["snapshots_received"] == 1
    change_leader(cluster, 3)
    cluster.execute(3, session, b"5", first=5)
    assert cluster.applied(3) == [b"1", b"2", b"3", b"4", b"5"]
    assert statuses(cluster, 5) == [ReplyStatus.OK, ReplyStatus.OK]


# --- sessions ------------------------------------------------------------------------------------


def test_each_request_for_a_session_gets_one_of_its_own() -> None:
    cluster, first = led()
    second = cluster.open_session(1)
    requests = [OpenSession(101), OpenSession(102)]
    cluster.step(1, Burst(clients=[(OTHER, list(requests))]))
    cluster.stabilize()
    opened = cluster.told(SessionOpened, OTHER)
    assert [o.nonce for o in opened] == [101, 102]
    numbers = {first, second, *(o.session for o in opened)}
    assert len(numbers) == 4
    cluster.pass_time(0.2)
    for server in cluster.ids:  # the same on every server
        sessions = cluster.servers[server].application.sessions
        assert all(sessions.get(number) is not None for number in numbers)


def test_opening_asked_for_twice_in_flight_is_proposed_once() -> None:
    cluster, _ = led()
    cluster.request(1, OpenSession(5))
    cluster.request(1, OpenSession(5))
    assert len(cluster.sent(P2A, target=2)) == 1
    cluster.stabilize()
    assert [o.nonce for o in cluster.told(SessionOpened)].count(5) == 1


def test_an_unknown_session_is_refused_and_nothing_is_executed() -> None:
    cluster, session = led()
    cluster.execute(1, session + 1, b"x")
    cluster.execute(1, 0, b"x")
    assert cluster.applied(1) == []
    assert statuses(cluster, 1) == [ReplyStatus.EXPIRED, ReplyStatus.EXPIRED]


def test_an_idle_session_expires_by_the_logs_time_on_every_server() -> None:
    cluster, idle = led(session_ttl=10.0)
    busy = cluster.open_session(1, OTHER)
    cluster.pass_time(9.0, 0.05)
    cluster.command(1, busy, 1, b"b", client=OTHER)
    cluster.stabilize()
    cluster.pass_time(2.0, 0.05)
    assert cluster.servers[1].application.sessions.get(idle) is not None  # no slot was executed
    cluster.command(1, busy, 2, b"b", client=OTHER)
    cluster.stabilize()
    cluster.pass_time(0.2)
    for server in cluster.ids:
        assert cluster.servers[server].application.sessions.get(idle) is None
        assert cluster.servers[server].application.sessions.get(busy) is not None
    cluster.execute(1, idle, b"late")
    assert statuses(cluster, 1) == [ReplyStatus.EXPIRED]
    digests = {cluster.servers[s].application.digest() for s in cluster.ids}
    assert len(digests) == 1


def test_expiry_is_the_same_when_followers_clocks_disagree_and_after_a_replay() -> None:
    """It depends on the executed prefix alone: a restarted server expires the same sessions."""
    cluster, idle = led(session_ttl=10.0)
    cluster.pass_time(6.0, 0.05)
    busy = cluster.open_session(1)
    cluster.pass_time(6.0, 0.05)
    cluster.execute(1, busy, b"b")
    cluster.pass_time(1.5)
    cluster.clock.now += 1000.0
    restarted = cluster.restart(3)
    assert restarted.application.sessions.get(idle) is None
    assert restarted.application.sessions.get(busy) is not None
    assert restarted.application.digest() == cluster.servers[1].application.digest()


def test_the_logs_time_stands_still_while_nobody_leads_and_never_goes_back() -> None:
    cluster, session = led(session_ttl=10.0)
    cluster.execute(1, session, b"a")
    before = cluster.servers[1].application.sessions.time
    cluster.isolate(1)
    cluster.isolate(2)
    cluster.clock.now += 1000.0
    cluster.heal()
    change_leader(cluster, 2)
    cluster.execute(2, session, b"b", first=2)
    after = cluster.servers[2].application.sessions.time
    assert before <= after < before + 10 * 10**9
    assert cluster.applied(2) == [b"a", b"b"]


def test_a_slot_with_an_earlier_time_does_not_turn_the_logs_time_back() -> None:
    cluster, _ = led()
    ballot = cluster.servers[1].promised
    for slot, time in ((2, 500), (3, 20)):
        value = encode_batch(Batch(time, [Entry(0, slot, 0, 0, b"")]))
        cluster.hand(2, 1, P2A(ballot, slot, value, slot))
        assert cluster.servers[2].application.sessions.time == 500


def test_beyond_the_maximum_the_longest_idle_session_goes_everywhere() -> None:
    cluster, first = led(max_sessions=2)
    second = cluster.open_session(1)
    cluster.execute(1, first, b"x")  # now the second is the longest idle one
    third = cluster.open_session(1)
    cluster.pass_time(0.2)
    for server in cluster.ids:
        sessions = cluster.servers[server].application.sessions
        assert [sessions.get(s) is not None for s in (first, second, third)] == [True, False, True]


def test_a_session_that_expires_between_proposal_and_execution_executes_nothing() -> None:
    cluster, session = led(max_sessions=1, window=1)
    cluster.command(1, session, 1, b"before")
    cluster.pass_time(11, step=0.05)  # idle for long enough to make room for another
    cluster.request(1, OpenSession(9))
    cluster.command(1, session, 2, b"after the session has gone")
    cluster.stabilize()
    assert cluster.applied(1) == [b"before"]
    assert statuses(cluster, 2) == [ReplyStatus.EXPIRED]


# --- order ---------------------------------------------------------------------------------------


def test_a_command_after_one_that_was_not_executed_is_refused() -> None:
    cluster, session = led()
    cluster.command(1, session, 2, b"2", after=1)
    assert statuses(cluster, 2) == [ReplyStatus.OUT_OF_ORDER]
    cluster.command(1, session, 1, b"1")
    cluster.command(1, session, 2, b"2", after=1)  # the first one is in flight: that is enough
    cluster.stabilize()
    assert cluster.applied(1) == [b"1", b"2"]
    assert statuses(cluster, 2) == [ReplyStatus.OUT_OF_ORDER, ReplyStatus.OK]


def test_order_is_kept_when_a_leader_change_loses_the_first_of_a_pipeline() -> None:
    """Slot 2 with command 1 is lost, slot 3 with command 2 is chosen: 2 must not be executed."""
    cluster, session = led()
    cluster.command(1, session, 1, b"1")
    cluster.drop()
    cluster.command(1, session, 2, b"2", after=1)
    cluster.deliver(P2A, target=3)  # only what is in slot 3 arrives
    cluster.drop()
    cluster.isolate(1)
    change_leader(cluster, 3)
    assert cluster.applied(3) == []
    session_state = cluster.servers[3].application.sessions.get(session)
    assert session_state is not None
    assert session_state.replies == {}  # refused, not executed: it may be tried again
    cluster.command(3, session, 1, b"1")
    cluster.command(3, session, 2, b"2", after=1)
    cluster.stabilize()
    assert cluster.applied(3) == [b"1", b"2"]


def test_after_holds_for_what_was_acknowledged_long_ago() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"1")
    cluster.command(1, session, 2, b"2", acked=2, after=1)
    cluster.stabilize()
    cluster.command(1, session, 3, b"3", acked=3, after=1)
    cluster.stabilize()
    assert statuses(cluster, 3) == [ReplyStatus.OK]


# --- bad and too many commands -------------------------------------------------------------------


def test_a_bad_command_gets_the_same_error_reply_on_every_server() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"good", b"bad")
    failed = CommandReply(session, 2, ReplyStatus.FAILED, b"ValueError: a bad command")
    assert cluster.told(CommandReply)[-1] == failed
    cluster.pass_time(0.2)
    for server in cluster.ids:
        table = cluster.servers[server].application.sessions.get(session)
        assert table is not None
        assert (table.replies[2].status, table.replies[2].payload) == (
            ReplyStatus.FAILED, failed.payload,
        )  # fmt: skip
        assert cluster.applied(server) == [b"good"]
    cluster.execute(1, session, b"bad", first=2)
    assert cluster.told(CommandReply)[-1] == failed
    cluster.execute(1, session, b"next", first=3)
    assert cluster.applied(1) == [b"good", b"next"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (Command(0, 1, 1, 0, b"x" * ((2 << 20) + 1)), ReplyStatus.TOO_LARGE),
        (Command(0, 5, 6, 0, b"x"), ReplyStatus.INVALID),
        (Command(0, 5, 1, 5, b"x"), ReplyStatus.INVALID),
        (Command(0, 5, 1, 7, b"x"), ReplyStatus.INVALID),
        (Command(0, 9, 1, 0, b"x"), ReplyStatus.OVERLOADED),
        (Command(0, 0, 0, 0, b"x"), ReplyStatus.FORGOTTEN),
        (Command(0, -3, 0, 0, b"x"), ReplyStatus.FORGOTTEN),
    ],
    ids=["too large", "acked", "after itself", "after later", "too many", "seq 0", "seq -3"],
)
def test_a_malformed_command_is_refused_and_stays_out_of_the_log(
    command: Command, status: ReplyStatus
) -> None:
    cluster, session = led(max_command_bytes=2 << 20, max_outstanding=8)
    before = cluster.servers[1].log.last
    cluster.request(1, Command(session, command.seq, command.acked, command.after, command.command))
    assert statuses(cluster, command.seq) == [status]
    assert cluster.servers[1].log.last == before


def test_too_much_waiting_is_answered_with_busy() -> None:
    cluster, session = led(window=1, max_pending_bytes=100)
    for seq in range(1, 6):
        cluster.command(1, session, seq, b"x" * 60)
    assert [statuses(cluster, seq) for seq in (4, 5)] == [[ReplyStatus.OVERLOADED]] * 2
    cluster.stabilize()
    assert [statuses(cluster, seq) for seq in (1, 2, 3)] == [[ReplyStatus.OK]] * 3
    cluster.command(1, session, 4, b"x" * 60)
    cluster.stabilize()
    assert statuses(cluster, 4) == [ReplyStatus.OVERLOADED, ReplyStatus.OK]


def test_a_reply_leaves_only_when_the_command_is_chosen_and_executed() -> None:
    cluster, session = led()
    cluster.command(1, session, 1, b"x")
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.deliver(P2A, target=2)
    assert cluster.reply_to(1) is None
    cluster.deliver(P2B)
    assert cluster.reply_to(1) == CommandReply(session, 1, ReplyStatus.OK, b"x")
