"""The client core: batches, bounds, order in pipelines, raw commands."""

from __future__ import annotations

import math
import random

import pytest

from paxon.actors import messages as msgs
from paxon.actors.messages import (
    ClientMessage,
    Command,
    CommandReply,
    OpenSession,
    Query,
    ReplyStatus,
    SessionOpened,
)
from paxon.kvstore.client.core import CoreOptions, KVTicket, RawCore
from paxon.kvstore.errors import (
    InvalidRequest,
    OperationFailed,
    OutcomeUnknown,
    Overloaded,
    RequestTimeout,
    TooLarge,
)
from paxon.kvstore.store.operations import (
    MAX_VALUE_BYTES,
    Append,
    Get,
    Put,
    decode_operations,
)
from tests.kvstore.client.core_world import A, B, World, chain, commands, open_session, separate

# --- the plain course of things -------------------------------------------------------------------


def test_a_write_opens_a_session_and_is_answered() -> None:
    world = World()
    ticket = world.submit(Put(b"k", b"v"), Append(b"k", b"w"))
    assert world.core.next_deadline() <= world.now + 10
    world.exchange()
    assert ticket.value() == [2, 2]
    kinds = [type(message) for _, message in world.cluster.received]
    assert kinds == [OpenSession, Command]
    assert world.core.idle
    assert world.core.next_deadline() == math.inf


def test_reads_need_no_session_and_no_command() -> None:
    world = World()
    world.submit(Get(b"k"))
    world.exchange()
    assert [type(message) for _, message in world.cluster.received] == [Query]


def test_reads_with_writes_go_as_one_command() -> None:
    world = World()
    ticket = world.submit(Put(b"k", b"v"), Get(b"k"))
    world.exchange()
    assert ticket.value() == [2, b"v"]
    assert len(commands(world)) == 1


def test_what_is_submitted_meanwhile_is_gathered() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    for i in range(4):
        world.submit(Put(b"early%d" % i, b""))
        assert len(world.sends()) == 1, "with few in flight each goes at once"
    tickets = [world.submit(Put(b"k%d" % i, b"")) for i in range(50)]
    assert world.sends() == [], "with some in flight the rest is gathered"
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.OK, b"\x91\xc0"))
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    assert len(decode_operations(message.command)) == 50
    assert not any(ticket.done for ticket in tickets)


def test_two_halves_of_a_batch_become_one() -> None:
    """A request costs the servers the same whatever is in it; halves that alternate cost double."""
    world = World()
    open_session(world)
    halves = [20, 30]
    for half in halves:
        for i in range(half):
            world.submit(Put(b"k%d" % i, b""))
    sent = [len(decode_operations(m.command)) for _, m in world.sends() if isinstance(m, Command)]
    assert sent == [50]
    for i in range(30):
        world.submit(Put(b"k%d" % i, b""))
        assert world.sends() == [], "one as large is under way"
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.OK, b"\xdc\x00\x32" + b"\xc0" * 50))
    assert world.core.holds_back(world.now), "the caller sees the answers"
    for i in range(50):
        assert world.core.gathering, "and submits as many again, which go together with the rest"
        world.submit(Put(b"k%d" % i, b""))
    assert not world.core.holds_back(world.now), "until it waits"
    assert not world.core.gathering
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    assert len(decode_operations(message.command)) == 80


def test_who_looks_again_waits() -> None:
    """A caller that only polls its futures has the rest sent."""
    world = World()
    open_session(world)
    for i in range(20):
        world.submit(Put(b"k%d" % i, b""))
    world.sends()
    world.submit(Put(b"k", b""))
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.OK, b"\xdc\x00\x14" + b"\xc0" * 20))
    assert [world.core.holds_back(world.now) for _ in range(3)] == [True, False, False]


def test_a_caller_that_has_gone_is_not_waited_for() -> None:
    """What is submitted long after a batch's answers goes at once, like the first of all."""
    world = World()
    open_session(world)
    for i in range(20):
        world.submit(Put(b"k%d" % i, b""))
    world.sends()
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.OK, b"\xdc\x00\x14" + b"\xc0" * 20))
    world.now += 60.0
    assert not world.core.holds_back(world.now)
    world.submit(Put(b"k", b""))
    assert not world.core.gathering


def test_whoever_submits_more_than_was_answered_owes_nothing_to_the_next_answers() -> None:
    world = World()
    open_session(world)
    world.submit(Put(b"k", b""))
    world.sends()
    world.submit(Put(b"l", b""), Put(b"m", b""))
    assert len(world.sends()) == 1
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.OK, b"\x91\xc0"))
    world.submit(*[Put(b"k%d" % i, b"") for i in range(3)])
    world.answer(A, CommandReply(world.session, 3, ReplyStatus.OK, b"\x92\xc0\xc0"))
    assert world.core.gathering, "the two that were answered just now will be followed by others"


def test_a_pipelines_last_piece_does_not_wait_for_the_one_before() -> None:
    world = World()
    open_session(world)
    first = world.submit(*[Put(b"k%d" % i, b"") for i in range(256)])
    assert len(world.sends()) == 1
    world.submit(*[Put(b"l%d" % i, b"") for i in range(44)], after=first)
    assert len(world.sends()) == 1


def test_a_full_batch_does_not_wait() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    for i in range(4):
        world.submit(Put(b"early%d" % i, b""))
        world.sends()
    for i in range(256):
        world.submit(Put(b"k%d" % i, b""))
    assert len(world.sends()) == 1


def test_batches_are_bounded_in_number_and_bytes() -> None:
    world = World()
    open_session(world)
    for i in range(600):
        world.submit(Put(b"k%d" % i, b""))
    for i in range(3):
        world.submit(Put(b"big%d" % i, b"v" * (700 << 10)))
    world.submit(Put(b"huge", b"v" * MAX_VALUE_BYTES))
    world.exchange()
    sizes = [len(decode_operations(command.command)) for command in commands(world)]
    assert sizes == [512, 89, 1, 1, 1]
    assert world.executed("huge") is not None
    queue = world.core._writes
    assert (len(queue), queue.weight, queue.size) == (0, 0, 0)


def test_frames_are_bounded() -> None:
    world = World()
    open_session(world)
    for i in range(12):
        world.submit(Put(b"big%d" % i, b"v" * (1 << 20)))
    frames = world.core.poll(world.now)
    assert len(frames) >= 2
    for _, messages in frames:
        assert sum(len(m.command) for m in messages if isinstance(m, Command)) <= 4 << 20


def test_the_window_bounds_what_is_unanswered() -> None:
    world = World(options=CoreOptions(window=8, eager=100))
    open_session(world)
    tickets = []
    for i in range(20):
        tickets.append(world.submit(Put(b"k%d" % i, b"")))
        world.core.poll(world.now)
    outstanding = world.core._sessions[world.session].outstanding
    assert len(outstanding) == 8
    first = next(iter(outstanding))
    world.answer(A, CommandReply(world.session, first + 1, ReplyStatus.OK, b"\x91\xc0"))
    assert world.sends() == [], "the lowest number is still unanswered"
    world.answer(A, CommandReply(world.session, first, ReplyStatus.OK, b"\x91\xc0"))
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    assert (message.seq, message.acked) == (first + 8, first + 2)


def test_the_bytes_that_are_unanswered_are_bounded() -> None:
    world = World(options=CoreOptions(window_bytes=3 << 20, eager=100))
    open_session(world)
    tickets = [world.submit(Put(b"k%d" % i, b"v" * (1 << 20))) for i in range(6)]
    tickets.append(world.submit(Put(b"huge", b"v" * MAX_VALUE_BYTES)))
    assert len(world.sends()) == 2
    world.core.receive(A, [CommandReply(world.session, 2, ReplyStatus.OK, b"\x91\xc0")], world.now)
    assert len(world.sends()) == 1
    world.pass_time(5.0)
    assert all(ticket.done for ticket in tickets)


def test_big_reads_that_shared_a_request_are_asked_again() -> None:
    world = World()
    world.submit(*(Put(b"k%d" % i, b"v" * MAX_VALUE_BYTES) for i in range(1)))
    world.exchange()
    tickets = [world.submit(Get(b"k0")) for _ in range(5)]
    together = world.submit(*(Get(b"k0") for _ in range(5)))
    world.exchange()
    assert all(len(ticket.value()[0]) == MAX_VALUE_BYTES for ticket in tickets)
    assert [len(value) for value in together.value()] == [MAX_VALUE_BYTES] * 5


# --- order in pipelines ---------------------------------------------------------------------------


def test_followers_name_the_command_before() -> None:
    world = World(options=separate())
    open_session(world)
    tickets = chain(world, 4)
    world.exchange()
    assert [(c.seq, c.after) for c in commands(world)] == [(2, 0), (3, 2), (4, 3), (5, 4)]
    assert all(ticket.done for ticket in tickets)


def test_queued_followers_travel_with_the_command_before() -> None:
    world = World()
    tickets = chain(world, 4)
    world.exchange()
    assert len(commands(world)) == 1
    assert world.executed("k") == b"0123"
    assert [ticket.value() for ticket in tickets] == [[1], [2], [3], [4]]


def test_a_follower_does_not_bind_strangers_to_its_fate() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    first = world.submit(Append(b"k", b"0"))
    world.core.poll(world.now)
    follower = world.submit(Append(b"k", b"1"), after=first)
    stranger = world.submit(Append(b"other", b""))
    second_follower = world.submit(Append(b"k", b"2"), after=follower)
    messages = [m for _, m in world.sends()]
    sizes = [len(decode_operations(m.command)) for m in messages if isinstance(m, Command)]
    assert sizes == [1, 1, 1]
    assert [m.after for m in messages if isinstance(m, Command)] == [2, 0, 3]
    assert not stranger.done
    assert not second_follower.done


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_a_lost_chunk_keeps_its_place(dropped: int) -> None:
    world = World(options=separate())
    open_session(world)
    lose = {2 + dropped}

    def lost(_address: str, message: ClientMessage) -> bool:
        if isinstance(message, Command) and message.seq in lose:
            lose.discard(message.seq)
            return True
        return False

    world.lost = lost
    tickets = chain(world, 5)
    world.pass_time(3.0)
    assert [ticket.value() for ticket in tickets] == [[1], [2], [3], [4], [5]]
    assert world.executed("k") == b"01234"
    assert len(commands(world)) <= 14


def test_a_leader_change_in_a_pipeline_keeps_the_order() -> None:
    world = World(options=separate())
    open_session(world)
    calls = 0

    def lost(address: str, message: ClientMessage) -> bool:
        nonlocal calls
        if isinstance(message, Command):
            calls += 1
            if calls == 3:
                world.cluster.leader = B
            return address == A and calls >= 3 and calls % 2 == 1
        return False

    world.lost = lost
    tickets = chain(world, 8)
    world.pass_time(5.0)
    assert all(ticket.error is None and ticket.done for ticket in tickets)
    assert world.executed("k") == b"01234567"


def test_busy_in_a_pipeline_keeps_the_order() -> None:
    world = World(options=separate())
    open_session(world)
    world.cluster.busy = 3
    chain(world, 6)
    world.pass_time(2.0)
    assert world.executed("k") == b"012345"


@pytest.mark.parametrize("backwards", [False, True])
def test_an_expired_session_in_a_pipeline_keeps_the_order(backwards: bool) -> None:
    world = World(options=separate())
    open_session(world)
    world.cluster.expire_sessions()
    tickets = chain(world, 4)
    replies = []
    for address, messages in world.core.poll(world.now):
        replies += [(address, reply) for reply in world.cluster.serve(address, messages)]
    for address, reply in reversed(replies) if backwards else replies:
        world.answer(address, reply)
        world.exchange()
    world.pass_time(2.0)
    assert [ticket.error for ticket in tickets] == [None] * 4
    assert world.executed("k") == b"0123"


def test_a_pipeline_whose_middle_is_unknown_stops_there() -> None:
    world = World(options=separate())
    open_session(world)
    tickets = chain(world, 2)
    world.unheard = lambda _address, reply: isinstance(reply, CommandReply)
    world.exchange()
    world.cluster.expire_sessions()
    world.unheard = lambda _address, _reply: False
    third = world.submit(Append(b"k", b"2"), after=tickets[-1])
    world.pass_time(5.0)
    assert all(isinstance(ticket.error, OutcomeUnknown) for ticket in tickets)
    assert isinstance(third.error, OperationFailed | OutcomeUnknown)
    assert world.executed("k") == b"01"


def test_a_follower_refused_before_the_one_it_follows_fails_with_it() -> None:
    world = World(options=separate())
    open_session(world)
    world.unheard = lambda _address, reply: isinstance(reply, CommandReply)
    first = world.submit(Append(b"k", b"0"))
    world.exchange()
    world.pass_time(1.6)  # sent again: executed, but the client cannot know
    world.cluster.expire_sessions()
    second = world.submit(Append(b"k", b"1"), after=first)
    world.exchange()
    world.answer(A, CommandReply(world.session, 3, ReplyStatus.EXPIRED, b""))
    assert not second.done
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.EXPIRED, b""))
    assert isinstance(first.error, OutcomeUnknown)
    assert isinstance(second.error, OperationFailed)
    world.unheard = lambda _address, _reply: False
    other = world.submit(Put(b"other", b""))
    world.exchange()
    assert other.done
    assert world.core.idle


def test_a_chain_given_up_is_passed_by_acked_in_one_step() -> None:
    """Else a late follower would run without the command that it was to follow."""
    world = World(options=separate())
    open_session(world)
    caught: list[ClientMessage] = []

    def lost(_address: str, message: ClientMessage) -> bool:
        chained = isinstance(message, Command) and b"k" in message.command
        if chained:
            caught.append(message)
        return chained or (isinstance(message, Command) and b"stuck" in message.command)

    world.lost = lost
    first = world.submit(Append(b"k", b"0"), timeout=0.1)
    world.exchange()
    stuck = world.submit(Put(b"stuck", b""), timeout=2.0)
    world.exchange()
    second = world.submit(Append(b"k", b"1"), timeout=0.1, after=first)
    world.pass_time(0.3)
    assert isinstance(first.error, RequestTimeout)
    assert isinstance(second.error, RequestTimeout)
    assert not stuck.done
    other = world.submit(Put(b"other", b""))
    world.pass_time(1.0)
    assert other.done
    followers = [m for m in caught if isinstance(m, Command) and m.after]
    world.cluster.serve(A, followers)
    assert world.executed("k") is None, "the follower ran although the first never did"
    world.pass_time(3.0)
    assert isinstance(stuck.error, RequestTimeout)
    last = world.submit(Put(b"last", b""))
    world.pass_time(2.0)
    assert last.done
    assert commands(world)[-1].acked == commands(world)[-1].seq


def test_followers_of_an_invalid_command_are_not_executed() -> None:
    world = World(options=separate())
    open_session(world)
    tickets = chain(world, 2)
    world.core.poll(world.now)
    tickets.append(world.submit(Append(b"k", b"2"), after=tickets[-1]))
    world.answer(A, CommandReply(world.session, 2, ReplyStatus.INVALID, b"too large"))
    assert isinstance(tickets[0].error, InvalidRequest)
    assert isinstance(tickets[1].error, OutcomeUnknown)
    world.exchange()
    assert isinstance(tickets[2].error, OperationFailed)
    assert world.core.idle


# --- limits that the cluster has agreed on --------------------------------------------------------


def sizes(world: World) -> list[int]:
    return [len(message.command) for message in commands(world)]


def test_no_more_is_packed_together_than_the_cluster_takes() -> None:
    world = World()
    world.cluster.most = 100
    tickets = [world.submit(Put(b"k%d" % i, b"v" * 30)) for i in range(9)]
    world.exchange()
    assert [ticket.value() for ticket in tickets] == [[n] for n in range(2, 11)]
    assert len(sizes(world)) == 9 and max(sizes(world)) <= 100
    with pytest.raises(InvalidRequest, match="too large"):
        one = world.submit(Put(b"k", b"v" * 100))
        world.exchange()
        one.value()


def test_what_was_packed_for_larger_limits_goes_again_in_parts() -> None:
    world = World()
    open_session(world)
    first = world.session
    world.cluster.most = 100
    log: list[KVTicket] = []
    for i in range(9):
        log.append(world.submit(Append(b"k", b"%9d" % i), after=log[-1] if log else None))
    other = world.submit(Append(b"other", b"v" * 30))
    world.exchange()
    assert [ticket.value() for ticket in log] == [[9 * (i + 1)] for i in range(9)]
    assert other.value() == [30]
    assert max(sizes(world)[-4:]) <= 100 and world.session != first


def test_what_may_be_executed_yet_is_not_parted() -> None:
    """A copy of it is under way to another server, which may still take it in."""
    world = World(options=CoreOptions(retry_first=0.1))
    open_session(world)
    lost: list[ClientMessage] = []

    def is_lost(_address: str, message: ClientMessage) -> bool:
        if isinstance(message, Command):
            lost.append(message)
        return isinstance(message, Command)

    world.lost = is_lost
    tickets = [world.submit(Put(b"k%d" % i, b"v" * 60)) for i in range(4)]
    world.pass_time(0.3)
    assert lost
    world.lost = lambda _address, _message: False
    world.cluster.most = 100
    world.pass_time(3.0)
    assert all(isinstance(ticket.error, InvalidRequest) for ticket in tickets[1:])


# --- raw commands ---------------------------------------------------------------------------------


def test_raw_commands_are_requests_of_their_own() -> None:
    core = RawCore([A], random.Random(1))
    tickets = [core.submit(b"%d" % i, now=0.0, deadline=9.0) for i in range(3)]
    [(_, [opening, _])] = core.poll(0.0)
    assert isinstance(opening, OpenSession)
    core.receive(A, [SessionOpened(opening.nonce, 9)], 0.1)
    [(_, messages)] = core.poll(0.1)
    assert [m.command for m in messages if isinstance(m, Command)] == [b"0", b"1", b"2"]
    core.receive(A, [CommandReply(9, 2, ReplyStatus.OK, b"")], 0.2)
    assert [ticket.done for ticket in tickets] == [False, True, False]
    assert tickets[1].value() == b""


def test_the_same_seed_sends_the_same_messages() -> None:
    def history() -> list[tuple[str, ClientMessage]]:
        world = World()
        world.cluster.busy = 3
        drops = random.Random(3)
        world.lost = lambda _address, _message: drops.random() < 0.2
        for i in range(20):
            world.submit(Append(b"k", b"%d" % i))
            world.pass_time(0.1)
        world.pass_time(5.0)
        return world.cluster.received

    assert history() == history()


def test_what_is_refused_until_its_time_is_up_raises_overloaded() -> None:
    world = World()
    world.cluster.busy = 10**9
    ticket = world.submit(Put(b"k", b"v"))
    world.pass_time(15.0)
    assert isinstance(ticket.error, Overloaded)
    assert world.executed("k") is None


def test_what_waits_for_a_session_that_is_not_opened_says_why() -> None:
    world = World()
    ticket = world.submit(Put(b"k", b"v"))
    while not ticket.done:
        world.core.poll(world.now)  # gets lost at the server
        world.answer(A, msgs.Overloaded(50, "disks have little room"))
        world.now += 0.5
    assert isinstance(ticket.error, Overloaded)
    assert "disks have little room" in str(ticket.error)


def test_thrown_away_requests_are_sent_again_not_before_the_time_given() -> None:
    world = World()
    world.submit(Put(b"before", b"v"))
    world.exchange()
    ticket = world.submit(Put(b"k", b"v"))
    world.core.poll(world.now)  # gets lost at the server
    world.answer(A, msgs.Overloaded(2000, "too many requests are waiting"))
    world.pass_time(1.0)
    assert not ticket.done
    world.pass_time(2.0)
    assert ticket.value() == [3]


def test_what_fits_into_no_frame_is_refused_before_it_is_sent() -> None:
    """It raised the transport's error in the midst of sending, and stayed to raise it again."""
    world = World()
    open_session(world)
    large = world.submit(*[Put(b"k", bytes(MAX_VALUE_BYTES))] * 4)
    with pytest.raises(TooLarge, match="about 33554500 bytes, which is more than servers take"):
        large.value()
    assert world.exchange() == 0
    after = world.submit(Put(b"k", b""))
    world.exchange()
    assert after.value()
