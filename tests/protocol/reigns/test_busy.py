"""Servers that are busy for long, such as with storing megabytes: nobody takes another for dead."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from paxon.actors import Ballot
from paxon.actors.limits.allowances import EXECUTE_SECONDS
from paxon.actors.messages import P1A, P1B, P2A, P2B, CatchUp, Command, PreVote
from tests.disks import MemoryDisk
from tests.harness import Clock, Cluster, Register, reign_of

MIB = 1 << 20


class SlowDisk(MemoryDisk):
    """Its commits take time."""

    seconds = 0.0
    clock: Any = None

    def commit(self) -> None:
        super().commit()
        if self.clock is not None:
            self.clock.now += self.seconds


class SlowDisks(Cluster):
    def new_disk(self, server: int) -> MemoryDisk:
        disk = SlowDisk(cluster="test", server=server)
        disk.clock = self.clock
        return disk

    def slow(self, seconds: float, *servers: int) -> None:
        for server in servers:
            disk = self.storages[server]
            assert isinstance(disk, SlowDisk)
            disk.seconds = seconds


@pytest.fixture
def led() -> SlowDisks:
    cluster = SlowDisks(3, options={"max_pending_bytes": 64 * MIB})
    cluster.start()
    cluster.lead(1)
    return cluster


def put(cluster: Cluster, session: int, seq: int, size: int) -> None:
    cluster.command(1, session, seq, bytes(size))


def test_a_follower_whose_commit_took_long_listens_before_it_calls_the_leader_dead(
    led: SlowDisks,
) -> None:
    session = led.open_session(1)
    led.slow(0.9, 2)
    put(led, session, 1, 100)
    led.deliver(P2A, target=2)  # it was busy for 0.9 s, and no word of the leader is there yet
    led.slow(0.0, 2)
    led.step(2)
    assert not led.sent(PreVote)
    led.clock.now += 0.6  # but now it is silent for longer than the timeout
    led.step(2)
    assert led.sent(PreVote, source=2)


def test_a_leader_whose_commit_took_long_does_not_hold_the_silence_against_its_followers(
    led: SlowDisks,
) -> None:
    session = led.open_session(1)
    led.pass_time(0.2)
    led.slow(0.9, 1)
    put(led, session, 1, 100)
    led.slow(0.0, 1)
    led.step(1)
    assert led.servers[1].role == "leader"
    led.packets.clear()
    led.isolate(1)
    led.pass_time(0.6)  # now nobody answers, and it does nothing but listen
    assert led.servers[1].role == "follower"


def test_a_busy_server_still_finds_out_that_its_leader_is_dead(led: SlowDisks) -> None:
    """Kept busy by its clients, it has no long time to itself, and yet the leader's is over."""
    led.isolate(1)
    led.drop()
    began = led.clock.now
    follower = led.servers[2]
    while not led.sent(PreVote, source=2):
        led.step(2)
        led.clock.now += 0.06
        follower._following.was_busy(0.06)
        assert led.clock.now < began + 4.0


def test_a_lone_server_that_stood_still_leads_on() -> None:
    """Nobody else's answers could be missing."""
    cluster = Cluster(1).start()
    cluster.lead(1)
    cluster.clock.now += 60.0
    cluster.step(1)
    assert cluster.servers[1].role == "leader"


def test_one_large_value_at_a_time_is_being_chosen(led: SlowDisks) -> None:
    """What is stored in one go, and what a successor proposes again, is bounded by bytes."""
    session = led.open_session(1)
    for seq in (1, 2, 3):
        put(led, session, seq, 5 * MIB)
    assert len({p2a.slot for p2a in led.sent(P2A)}) == 1
    led.stabilize()
    assert len({reply.seq for _, _, reply in led.replies if hasattr(reply, "seq")}) == 3


def test_a_new_leader_proposes_again_a_few_megabytes_at_a_time() -> None:
    cluster = Cluster(3)
    for server in (2, 3):
        cluster.accepted(server, Ballot(1, 1), slot_1=bytes(5 * MIB), slot_2=bytes(5 * MIB))
    cluster.start()
    cluster.campaign(2)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    assert cluster.servers[2].role == "leader"
    assert {p2a.slot for p2a in cluster.sent(P2A)} == {1}
    cluster.stabilize()
    assert cluster.servers[2].log.chosen_to == 2


def test_large_values_are_not_sent_again_while_they_are_being_stored(led: SlowDisks) -> None:
    session = led.open_session(1)
    put(led, session, 1, 7 * MIB)
    led.deliver(P2A)
    held_back = led.drop()
    led.pass_time(0.45)
    assert not led.sent(P2A)
    assert led.servers[1]._counters["retransmissions"] == 0
    assert held_back


@pytest.mark.parametrize("size", [8 * MIB, 100])
def test_a_follower_that_was_sent_much_excuses_a_leader_that_now_stores_it(
    led: SlowDisks, size: int
) -> None:
    """Its own disk may be the faster one: then nothing but the size tells it."""
    session = led.open_session(1)
    put(led, session, 1, size)
    led.deliver(P2A, target=2)
    led.packets.clear()
    led.isolate(1)
    began = led.clock.now
    while not led.sent(PreVote, source=2):
        led.clock.now += 0.01
        led.step(2)
    silent = led.clock.now - began
    assert (silent > 1.0) == (size > MIB)
    assert silent < 2.5


class Slow(Register):
    """Each command takes 20 ms."""

    clock: ClassVar[Clock]

    def apply(self, command: bytes) -> bytes:
        self.clock.now += 0.02
        return super().apply(command)


A_STEP = round(EXECUTE_SECONDS / 0.02 + 0.5) + 1
"""So many commands of 20 ms may be executed in a step, and one slot more."""


def slow_cluster() -> Cluster:
    """A leader with twenty slots in flight, of a command each."""
    cluster = Cluster(3, machine=Slow, options={"window": 64})
    Slow.clock = cluster.clock
    cluster.start().lead(1)
    session = cluster.open_session(1)
    for seq in range(1, 21):
        cluster.request(1, Command(session, seq, 1, 0, b"%d" % seq))
    cluster.drop()
    assert len(reign_of(cluster.servers[1]).votes) == 20
    return cluster


def executed_until_done(cluster: Cluster, server: int) -> list[int]:
    """How many of twenty commands each further step executed, with nothing more to receive."""
    steps = []
    before = len(cluster.applied(server))
    while before < 20:
        assert cluster.servers[server].next_deadline() <= cluster.clock.now, "it would sleep"
        cluster.step(server)
        steps.append(len(cluster.applied(server)) - before)
        before += steps[-1]
        assert steps[-1]
    return steps


def test_a_leader_executes_for_a_moment_and_then_listens() -> None:
    cluster = slow_cluster()
    leader = cluster.servers[1]
    first, *_, last = sorted(reign_of(leader).votes)
    cluster.hand(1, 2, P2B(leader.promised, first, last, None, 0))  # all are chosen in one burst
    assert leader.log.chosen_to == last
    assert 1 <= len(cluster.applied(1)) <= A_STEP
    assert max(executed_until_done(cluster, 1)) <= A_STEP


def test_a_follower_that_catches_up_executes_for_a_moment_and_then_listens() -> None:
    cluster = slow_cluster()
    log = cluster.servers[1].log
    chosen = list(log.accepted_from(cluster.servers[3].log.chosen_to + 1))
    cluster.hand(3, 1, CatchUp(chosen, chosen[-1].slot))
    assert cluster.servers[3].log.chosen_to == chosen[-1].slot
    assert 1 <= len(cluster.applied(3)) <= A_STEP
    assert max(executed_until_done(cluster, 3)) <= A_STEP
