"""The log's time (rule 13, docs/design/time.md): who moves it, hears of it, is woken by it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from loguru import logger

from paxon.actors import PaxosServer, StateMachine
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.execution.application import Application, decode_batch, encode_batch
from paxon.actors.log_time import MAX_TIME_JUMP, NANOSECONDS, LogTime
from paxon.actors.messages import (
    P2A,
    RENEWAL,
    Batch,
    CatchUpRequest,
    Entry,
    Heartbeat,
    HeartbeatReply,
    OpenSession,
    Query,
    QueryReply,
    Renew,
    ReplyStatus,
)
from paxon.transport import Burst
from tests.harness import CLIENT, Cluster, reign_of
from tests.messages import beat

SECOND = NANOSECONDS
SLOW: dict[str, object] = {
    "heartbeat_interval": 0.5, "election_timeout_min": 2.0, "election_timeout_max": 3.0,
}  # fmt: skip
"""For tests in which minutes pass."""


class Alarms(StateMachine):
    """Wakes up where it was told to, and writes down when it did what."""

    def __init__(self) -> None:
        self.due: int | None = None
        self.story: list[str] = []
        self.lazy = False
        """It does not take its timer off."""

    def apply(self, command: bytes) -> bytes:
        verb, _, argument = command.decode().partition(" ")
        self.story.append(verb)
        if verb in ("in", "renew"):
            self.due = self.now + int(argument)
        elif verb == "lazy":
            self.lazy = True
        return str(self.now).encode()

    def renews(self, command: bytes) -> bool:
        return command.startswith(b"renew")

    def query(self, query: bytes) -> bytes:
        return str(self.now).encode()

    def next_wakeup(self) -> int | None:
        return self.due

    def wake(self, time: int) -> bool:
        assert time == self.now
        self.story.append("wake")
        if self.story.count("more") > self.story.count("wake"):
            return True
        if not self.lazy:
            self.due = None
        if "raise" in self.story:
            raise ValueError("it was told to")
        return False

    def snapshot(self) -> bytes:
        return repr((self.due, self.story, self.lazy)).encode()

    def restore(self, snapshot: bytes) -> None:
        self.due, self.story, self.lazy = eval(snapshot)  # (its own words)


def led(**options: object) -> tuple[Cluster, int]:
    cluster = Cluster(options=options, machine=Alarms).start()
    cluster.lead(1)
    return cluster, cluster.open_session(1)


def alarms(cluster: Cluster, server: int) -> Alarms:
    machine = cluster.servers[server].application.machine
    assert isinstance(machine, Alarms)
    return machine


def time_at(server: PaxosServer) -> int:
    """The log's time as a server says it to whoever asks for its status."""
    return server.describe().time


def asked(cluster: Cluster, server: int, number: int) -> int:
    """What a linearizable query is told."""
    cluster.query(server, number)
    cluster.stabilize()
    return int(next(a.payload for a in cluster.answers() if a.id == number))


# --- rule 1: the leader's clock ------------------------------------------------------------------


def test_time_stands_still_from_the_proposal_of_a_change_to_the_next_epoch() -> None:
    """Nothing is renewed meanwhile: no lease may end because a change takes long."""
    cluster, session = led()
    cluster.execute(1, session, b"a")
    cluster.pass_time(1.0)
    cluster.change(1, 1, 2)
    before = time_at(cluster.servers[1])
    for _ in range(200):
        cluster.clock.now += 0.05
        for server in cluster.ids:
            cluster.step(server)
        cluster.drop(P2A)
        cluster.deliver()
    assert cluster.epochs() == [0, 0, 0] and cluster.servers[1].role == "leader"
    assert {time_at(server) for server in cluster.servers.values()} == {before}
    cluster.pass_time(0.5)
    assert cluster.epochs(1, 2) == [1, 1]
    assert before <= asked(cluster, 1, 7) <= before + SECOND


def test_it_runs_with_the_leaders_clock_in_whole_nanoseconds() -> None:
    cluster, session = led()
    before = time_at(cluster.servers[1])
    cluster.pass_time(3.0)
    cluster.execute(1, session, b"note")
    after = cluster.servers[1].application.time
    assert type(after) is int
    assert 3 * SECOND - SECOND // 10 <= after - before <= 3 * SECOND + SECOND // 10
    assert cluster.servers[1].application.machine.now == after


def test_a_leader_that_was_paused_stamps_nothing_of_the_pause_before_a_fresh_round() -> None:
    """Nor does it make up for the pause later: what is granted by that stamp would end too soon."""
    cluster, session = led()
    cluster.pass_time(1.0)
    before = time_at(cluster.servers[1])
    leader = cluster.servers[1]
    leader._following.busy += 3.0  # it is excused: it has not lost its majority by this silence
    cluster.clock.now += 2.0
    cluster.command(1, session, 1, b"note")
    (p2a,) = [p for p in cluster.sent(P2A, target=2) if p.value]
    assert before <= decode_batch(p2a.value).time < before + SECOND // 2
    cluster.stabilize()
    assert leader.role == "leader"
    cluster.pass_time(0.2)  # rounds have confirmed it
    assert before + SECOND // 10 <= time_at(leader) < before + SECOND


def test_a_pause_in_which_nothing_is_stamped_counts() -> None:
    cluster, _ = led()
    cluster.pass_time(1.0)
    before = time_at(cluster.servers[1])
    cluster.servers[1]._following.busy += 3.0
    cluster.clock.now += 2.0
    cluster.pass_time(0.2)
    assert cluster.servers[1].role == "leader"
    assert time_at(cluster.servers[1]) >= before + 2 * SECOND


def test_where_every_round_comes_late_time_goes_on_and_what_is_stamped_lasts() -> None:
    """It stays behind by as much as the latest round of all, and by no more, however many come."""
    time = LogTime()
    time.run(0, 0)
    stamped = []
    for tick in range(1, 101):  # each round is confirmed 0.4 s after it was sent, and counts 0.3 s
        clock = tick * SECOND // 10
        time.confirmed(clock, 0.4, 0.3)
        stamped.append((clock, time.stamp(clock)))
    assert stamped[-1][1] >= 9 * SECOND
    for (earlier, first), (later, second) in pairwise(stamped):
        assert second - first <= later - earlier


def test_it_stands_still_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    time = LogTime()
    time.run(0, 1000)
    time.confirmed(1000, 0.0, 1.0)
    assert time.now(1000 + SECOND // 2) == SECOND // 2
    # A lost second between the sending of the round and its answer was slept through.
    time.confirmed(1000 + SECOND // 2, 1.2, 1.0)
    assert time.now(1000 + 5 * SECOND) == SECOND


def test_a_new_leader_goes_on_from_what_it_heard_and_not_before_it_serves() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"note")
    cluster.pass_time(20.0)
    told = time_at(cluster.servers[1])
    logged = cluster.servers[2].application.time
    assert told >= logged + 19 * SECOND
    cluster.isolate(1)
    cluster.pass_time(5.0)  # another one is elected
    leader = cluster.servers[2] if cluster.servers[2].role == "leader" else cluster.servers[3]
    assert leader.role == "leader"
    assert told <= time_at(leader) <= told + 5 * SECOND


@pytest.mark.parametrize("heard_of", [True, False])
def test_what_a_leader_has_stamped_counts_more_than_what_was_heard_before(heard_of: bool) -> None:
    """Server 2 heard the first leader's time, the second one did not, and granted leases by its
    own: when server 2 leads, these must not find themselves 20 s older."""
    cluster, session = led(policy="immediate")
    cluster.execute(1, session, b"note")
    cluster.isolate(3)
    cluster.pass_time(20.0)
    assert time_at(cluster.servers[2]) > 19 * SECOND
    cluster.crash(1)
    cluster.heal()
    if not heard_of:
        cluster.isolate(2)
        cluster.restart(1)
    second = cluster.lead(3)
    cluster.execute(3, session, b"in %d" % (10 * SECOND), first=2)
    begun = time_at(second)
    assert begun < 2 * SECOND
    cluster.crash(3)
    cluster.heal()
    if heard_of:
        cluster.restart(1)
    third = cluster.lead(2)
    cluster.pass_time(1.0)
    assert third.application.time < begun + 3 * SECOND
    assert alarms(cluster, 2).due == alarms(cluster, 1).due is not None, "it is not due yet"


def test_a_leader_that_knows_less_than_a_snapshot_has_no_time_to_tell() -> None:
    """What came by a snapshot may be stamped later, in a reign of which it does not tell."""
    cluster, session = led()
    for number in range(1, 4):
        cluster.execute(1, session, b"note", first=number)
    cluster.pass_time(1.0)
    third = cluster.servers[3]
    assert third.log.discarded > 1
    known = time_at(third)
    late = beat(third.promised, commit=third.log.discarded - 1, time=known + SECOND)
    cluster.hand(3, 1, late)
    assert time_at(third) == known


def test_what_was_heard_counts_no_more_once_a_snapshot_has_come() -> None:
    """It does not tell who has led since, and may have begun at an earlier time."""
    options = {**SLOW, "policy": "random", "retain_slots": 3, "snapshot_slots": 4}
    cluster = Cluster(5, options=options, machine=Alarms)
    cluster.start(1, 2, 3, 4, election_timeout_min=20.0, election_timeout_max=30.0).start(5)
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.isolate(2, 3)
    cluster.pass_time(3.0, 0.1)  # servers 4 and 5 hear of it, and 5 of nothing that follows
    cluster.crash(1)
    cluster.heal()
    cluster.isolate(5)
    cluster.lead(2)
    cluster.command(2, session, 1, b"in %d" % (10 * SECOND))
    for seq in range(2, 8):
        cluster.command(2, session, seq, b"note", acked=seq)
        cluster.stabilize()
    cluster.pass_time(0.6)
    cluster.crash(2)
    cluster.heal()
    cluster.hand(3, 5, CatchUpRequest(2))
    cluster.pass_time(2.1, 0.1)  # it waits for those who might object
    late = cluster.lead(5)
    assert late.describe().counters["snapshots_received"] == 1
    assert late.application.executed == cluster.servers[3].log.discarded
    assert alarms(cluster, 5).due == 10 * SECOND
    assert time_at(late) < SECOND, "it has begun where another reign would have been by now"


def test_what_comes_back_of_an_older_reign_counts_more_than_what_was_heard_since() -> None:
    """Server 3 hears the time of one that stamps nothing. Server 1, cut off meanwhile, grants a
    lease at a time that stands still. If server 3 takes that over, the lease must not be older."""
    cluster, session = led(policy="random", **SLOW)
    cluster.execute(1, session, b"note")
    cluster.isolate(1)
    cluster.lead(2)
    for _ in range(58):  # and not long enough for server 1 to give up
        cluster.clock.now += 0.05
        cluster.step(2)
        cluster.drop(P2A, source=2)
        cluster.stabilize()
    cluster.crash(2)
    cluster.command(1, session, 2, b"in %d" % (10 * SECOND))
    begun = reign_of(cluster.servers[1]).chores.stamped
    heard = time_at(cluster.servers[3])
    assert begun + SECOND // 2 < heard, "server 1 had no round that came back"
    cluster.heal()
    third = cluster.lead(3)
    assert alarms(cluster, 3).due == begun + 10 * SECOND
    assert time_at(third) == begun


def test_it_stands_still_while_nobody_leads() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"note")
    cluster.pass_time(1.0)
    told = time_at(cluster.servers[1])
    cluster.isolate(1)
    cluster.isolate(2)
    cluster.pass_time(60.0, step=0.1)
    assert all(s.role != "leader" for s in cluster.servers.values())
    cluster.heal()
    cluster.lead(3)
    assert time_at(cluster.servers[3]) < told + 2 * SECOND


def test_no_time_is_stamped_before_what_was_taken_over_is_executed() -> None:
    cluster, session = led(policy="immediate")
    cluster.pass_time(5.0)
    cluster.command(1, session, 1, b"note")
    cluster.deliver(P2A, target=2)  # accepted there, and chosen nowhere
    stamped = reign_of(cluster.servers[1]).chores.stamped
    cluster.drop()
    cluster.crash(1)
    cluster.campaign(2)
    cluster.deliver()
    cluster.deliver()
    leader = cluster.servers[2]
    assert leader.role == "leader" and not leader.log_time.runs
    cluster.stabilize()
    cluster.pass_time(0.1)
    assert leader.log_time.runs
    assert leader.application.time == stamped <= time_at(leader)


def test_one_heartbeat_moves_it_by_no_more_than_a_second() -> None:
    cluster, _ = led()
    ballot = cluster.servers[1].promised
    known = time_at(cluster.servers[2])
    for time in (1 << 62, -5, 1 << 63):
        far = beat(ballot, commit=cluster.servers[1].log.chosen_to, time=time)
        cluster.hand(2, 1, far)
    assert time_at(cluster.servers[2]) <= known + 2 * MAX_TIME_JUMP


# --- rule 2: into the log, and to whoever asks ---------------------------------------------------


def batches(server: PaxosServer, after: int) -> list[Batch]:
    return [decode_batch(a.value) for a in server.log.accepted_from(after + 1) if a.value]


def test_the_log_is_told_once_a_second_while_a_timer_runs() -> None:
    cluster, session = led(retain_slots=1000)
    cluster.isolate(3)  # so that nothing is discarded
    cluster.execute(1, session, b"in %d" % (3600 * SECOND))
    last = cluster.servers[1].log.last
    cluster.pass_time(10.0)
    times = [batch.time for batch in batches(cluster.servers[1], last)]
    assert 9 <= len(times) <= 10
    assert all(a + SECOND <= b <= a + 1.1 * SECOND for a, b in pairwise(times))


def test_the_log_is_told_once_a_minute_for_sessions_and_never_for_nobody() -> None:
    cluster, _ = led(**SLOW)
    last = cluster.servers[1].log.last
    cluster.pass_time(190.0, step=0.5)
    assert cluster.servers[1].log.last == last + 3
    empty = Cluster(options=SLOW, machine=Alarms).start()
    empty.lead(1)
    empty.pass_time(190.0, step=0.5)
    assert empty.servers[1].log.last == 1  # the new leader's own (docs/membership.md, M8)


def test_a_cluster_that_restarts_all_the_time_still_comes_to_the_end_of_a_lease() -> None:
    """A lease of 60 s, nobody who writes, and all servers start anew every ten seconds."""
    cluster, session = led(**SLOW)
    cluster.execute(1, session, b"in %d" % (60 * SECOND))
    for _ in range(8):
        cluster.pass_time(10.0, step=0.25)
        for server in cluster.ids:
            cluster.restart(server)
        cluster.lead(2)
    assert alarms(cluster, 2).story == ["in", "wake"]


def test_a_query_is_answered_with_the_leaders_time_of_that_moment() -> None:
    cluster, session = led(**SLOW)
    cluster.execute(1, session, b"note")
    logged = cluster.servers[1].application.time
    cluster.pass_time(30.0, step=0.5)
    assert asked(cluster, 1, 77) >= logged + 29 * SECOND
    assert cluster.servers[1].application.time == logged  # and it changes nothing


# --- rule 3: waking ------------------------------------------------------------------------------


@pytest.mark.parametrize("nanoseconds", [1, 7, 333_333_333, SECOND, SECOND + 1, 1_234_567_891])
def test_a_machine_is_woken_at_its_time_on_every_server_in_the_same_slot(nanoseconds: int) -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % nanoseconds)
    due = alarms(cluster, 1).due
    assert due is not None
    cluster.pass_time(nanoseconds / SECOND + 0.2)
    for server in cluster.ids:
        assert alarms(cluster, server).story == ["in", "wake"]
        assert cluster.servers[server].application.time >= due
        assert cluster.servers[server].describe().counters["wake_ups"] == 1
    heads = {cluster.servers[s].application.chain.head for s in cluster.ids}
    assert len(heads) == 1


def test_a_wake_up_is_not_lost_on_failover() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    cluster.isolate(1)
    cluster.pass_time(8.0)
    assert [alarms(cluster, s).story for s in (2, 3)] == [["in", "wake"]] * 2


def test_at_most_one_wake_up_is_in_flight() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    cluster.pass_time(0.5)
    proposed = cluster.servers[1].log.last
    for _ in range(30):  # the others hear, and their votes do not come back
        cluster.clock.now += 0.04
        cluster.step(1)
        cluster.deliver(Heartbeat)
        cluster.deliver(HeartbeatReply)
        cluster.drop()
    assert cluster.servers[1].log.last == proposed + 1
    cluster.pass_time(1.0)
    assert alarms(cluster, 1).story == ["in", "wake"]


def test_any_batch_that_is_late_enough_wakes_it() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % (SECOND // 5))
    cluster.pass_time(0.15)
    slots = cluster.servers[1].log.last
    cluster.clock.now += 0.1
    cluster.command(1, session, 2, b"note")
    cluster.stabilize()
    assert alarms(cluster, 1).story == ["in", "wake", "note"]
    assert cluster.servers[1].log.last == slots + 1


def test_a_machine_that_raises_in_its_sleep_is_counted_and_lives_on() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"raise", b"in 5")
    cluster.pass_time(0.5)
    cluster.execute(1, session, b"note", first=3)
    cluster.pass_time(0.2)
    for server in cluster.ids:
        assert alarms(cluster, server).story == ["raise", "in", "wake", "note"]
        assert cluster.servers[server].describe().counters["failed_wake_ups"] == 1


def test_a_machine_that_stays_due_is_woken_once_and_again_after_its_next_command() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"lazy", b"in 5")
    cluster.pass_time(5.0)
    assert alarms(cluster, 1).story == ["lazy", "in", "wake"]
    cluster.execute(1, session, b"note", first=3)
    cluster.pass_time(5.0)
    assert alarms(cluster, 1).story == ["lazy", "in", "wake", "note", "wake"]


def test_a_machine_with_more_to_do_goes_on_in_the_next_slots() -> None:
    cluster, session = led()
    cluster.execute(1, session, *[b"more"] * 20, b"in %d" % (SECOND // 10))
    before = cluster.servers[1].log.last
    cluster.pass_time(0.5)
    assert alarms(cluster, 2).story == ["more"] * 20 + ["in"] + ["wake"] * 20
    assert cluster.servers[1].log.last == before + 20


class Ticking(Alarms):
    """Wants to be woken again, so much later, whenever it was."""

    step: Any = 10

    def wake(self, time: int) -> bool:
        self.story.append("wake")
        self.due = time + self.step
        return False


@pytest.mark.parametrize(("step", "woken", "due"), [(10, 3, 45), (0, 1, None)])
def test_a_machine_sets_its_next_timer_while_nobody_asks_for_anything(
    step: int, woken: int, due: int | None
) -> None:
    """But not for the very moment: there is no time between two slots of that."""
    machine = Ticking()
    machine.step = step
    application = Application(machine, first_agreed({}, {}))
    for slot, time in enumerate((0, 5, 25, 35), 1):
        entries = [Entry(0, 1, 0, 0, b"in 5")] if slot == 1 else []
        application.execute(slot, encode_batch(Batch(time, entries)))
    assert (machine.story.count("wake"), application.timer.due) == (woken, due)


@pytest.mark.parametrize("due", ["soon", 1.5, True])
def test_what_is_no_time_wakes_nobody(due: Any) -> None:
    machine = Alarms()
    machine.due = due
    application, lines = Application(machine, first_agreed({}, {})), list[str]()
    sink = logger.add(lines.append, format="{message}")
    application.execute(1, encode_batch(Batch(5, [Entry(0, 1, 0, 0, b"note")])))
    logger.remove(sink)
    assert application.timer.due is None and machine.story == ["note"]
    assert f"it returned {due!r}, not a whole number of nanoseconds" in lines[0]


@pytest.mark.parametrize("method", ["advance", "wake", "next_wakeup"])
def test_an_error_that_cannot_be_shown_stops_no_server_when_the_time_has_come(method: str) -> None:
    """It would stop all of them, again at each start: they execute this slot alike."""

    class Unseen(Exception):
        def __repr__(self) -> str:
            raise SystemExit

    def fail(*_: object) -> Any:
        raise Unseen("as told")

    machine: Any = type("Odd", (Alarms,), {method: fail})
    application, lines = Application(machine(), first_agreed({}, {})), list[str]()
    sink = logger.add(lines.append, format="{message}")
    for slot in (1, 2):
        batch = Batch(5 * slot, [Entry(0, 1, 0, 0, b"in 1")])
        application.execute(slot, encode_batch(batch))
    logger.remove(sink)
    assert f"Odd.{method}() raised in slot 2: Unseen: as told\n" in lines


def test_whether_it_was_woken_in_vain_is_in_the_snapshot() -> None:
    """A server that took over a snapshot must not wake what the others let sleep."""
    cluster, session = led()
    cluster.execute(1, session, b"lazy", b"in 5")
    cluster.pass_time(1.0)
    image = b"".join(cluster.servers[1].application.image())
    fresh = cluster.make(2).application
    fresh.restore(image)
    assert fresh.timer.tired and fresh.timer.due is None and fresh.timer.next is not None


def test_a_deadline_that_has_passed_is_no_reason_to_step_for_ever() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"lazy", b"in 5")
    leader = cluster.servers[1]
    for _ in range(200):
        due = leader.next_deadline()
        assert due > cluster.clock.now - 1.0
        if due <= cluster.clock.now:
            before = leader.log.last, leader.next_deadline()
            cluster.step(1)
            assert (leader.log.last, leader.next_deadline()) != before
        cluster.clock.now = max(cluster.clock.now, due)
        cluster.step(1)
        cluster.stabilize()


# --- rule 4: the order inside a slot -------------------------------------------------------------


def renew(cluster: Cluster, number: int, nanoseconds: int, client: bytes = CLIENT) -> None:
    cluster.request(1, Renew(number, b"renew %d" % nanoseconds), client=client)


def test_a_renewal_in_the_slot_in_which_it_would_be_due_comes_in_time() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % (SECOND // 5))
    cluster.clock.now += 0.21
    burst: Burst[Any, Any] = Burst(clients=[(CLIENT, [Renew(5, b"renew %d" % SECOND)])])
    cluster.step(1, burst)
    cluster.pass_time(0.3)
    assert alarms(cluster, 1).story == ["in", "renew"]
    assert [r.status for r in cluster.told(QueryReply)] == [ReplyStatus.OK]
    cluster.pass_time(1.0)
    assert alarms(cluster, 3).story == ["in", "renew", "wake"]


def test_nothing_else_goes_before_what_is_due() -> None:
    machine = Alarms()
    application = Application(machine, first_agreed({}, {}))
    opening = encode_batch(Batch(0, [Entry(0, 1, 0, 0, b"")]))
    ((_, opened),) = application.execute(1, opening)
    session = int.from_bytes(opened.payload, "big")
    for slot, command in enumerate((b"in 5", b"note"), 2):
        # (Of a session's command the number is of one that it acknowledges.)
        batch = Batch(10 * slot, [Entry(session, slot, RENEWAL, 0, command)])
        application.execute(slot, encode_batch(batch))
    assert machine.story == ["in", "wake", "note"]


def test_renewals_share_a_slot() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    before = cluster.servers[1].log.last
    for number in range(100):
        renew(cluster, number, 5 * SECOND, client=b"%d" % number)
    cluster.pass_time(0.1)
    assert alarms(cluster, 2).story == ["in"] + ["renew"] * 100
    assert cluster.servers[1].log.last == before + 1
    assert all(len(cluster.told(QueryReply, b"%d" % n)) == 1 for n in range(100))


def test_renewals_wait_for_nobodys_commands() -> None:
    """Somebody's commands fill all that may wait; a renewal goes into the next slot."""
    cluster, session = led(max_pending_bytes=1000, window=1, batch_bytes=1000)
    cluster.execute(1, session, b"in %d" % SECOND)
    for seq in range(2, 40):
        cluster.command(1, session, seq, b"note" + b"x" * 300)
    renew(cluster, 7, 5 * SECOND, client=b"other")
    cluster.stabilize()
    assert "renew" in alarms(cluster, 1).story[:8]
    assert [r.status for r in cluster.told(QueryReply, b"other")] == [ReplyStatus.OK]


def test_a_renewal_that_waits_its_turn_behind_its_clients_requests_does_not() -> None:
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    flood = [Query(n, "stale", b"") for n in range(3000)]
    burst: Burst[Any, Any] = Burst(
        clients=[(b"flood", [*flood, Renew(7, b"renew %d" % (5 * SECOND))])]
    )
    cluster.step(1, burst)
    assert len(reign_of(cluster.servers[1]).chores.renewals) == 1


def test_only_what_renews_goes_first() -> None:
    cluster, _ = led()
    cluster.request(1, Renew(7, b"note"))
    cluster.stabilize()
    assert [r.status for r in cluster.told(QueryReply)] == [ReplyStatus.INVALID]
    assert alarms(cluster, 1).story == []


def test_a_renewal_that_is_asked_again_is_answered_anew() -> None:
    """No session keeps its answer: that would tell of a time that has passed since."""
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    renew(cluster, 7, 5 * SECOND)
    cluster.pass_time(0.5)
    renew(cluster, 7, 5 * SECOND)
    cluster.pass_time(0.5)
    first, second = (int(r.payload) for r in cluster.told(QueryReply))
    assert second >= first + SECOND // 2


def test_renewals_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paxon.actors.log_time.MAX_RENEWALS", 40)  # and a client a quarter
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    for number in range(12):
        renew(cluster, number, SECOND)
    cluster.pass_time(0.2)
    statuses = [r.status for r in cluster.told(QueryReply)]
    assert statuses.count(ReplyStatus.OVERLOADED) == 2 and statuses.count(ReplyStatus.OK) == 10


def test_one_clients_renewals_keep_nobody_elses_from_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each gets its share of what may wait, and of a slot; commands have slots of their own."""
    monkeypatch.setattr("paxon.actors.log_time.MAX_RENEWALS", 40)
    monkeypatch.setattr("paxon.actors.log_time.SLOT_RENEWAL_BYTES", 100)  # four of them
    cluster, session = led()
    cluster.execute(1, session, b"in %d" % SECOND)
    flood = [Renew(number, b"renew %d" % SECOND) for number in range(100)]
    cluster.request(1, *flood, client=b"flood")
    refused = [reply.status for reply in cluster.told(QueryReply, b"flood")]
    assert refused == [ReplyStatus.OVERLOADED] * 90
    renew(cluster, 500, 5 * SECOND, client=b"other")
    cluster.command(1, session, 2, b"note")
    cluster.clock.now += 0.01  # for so long the slot is under way
    cluster.stabilize()
    assert [r.status for r in cluster.told(QueryReply, b"other")] == [ReplyStatus.OK]
    assert alarms(cluster, 1).story == ["in", *["renew"] * 4, "note"]
    cluster.command(1, session, 3, b"note")
    cluster.stabilize()
    assert alarms(cluster, 1).story[-2:] == ["note", "note"]
    cluster.clock.now += 0.031  # the followers had it to do as well
    cluster.command(1, session, 4, b"note")
    cluster.stabilize()
    assert alarms(cluster, 1).story[7:] == [*["renew"] * 4, "note", *["renew"] * 3]


def test_whoever_leads_next_is_told_the_renewals_that_were_held() -> None:
    cluster = Cluster(machine=Alarms).start()
    cluster.request(2, Renew(7, b"renew 5"), OpenSession(1))
    assert cluster.told(QueryReply) == []
    assert len(cluster.replies) == 1  # "ask the leader", once for both
