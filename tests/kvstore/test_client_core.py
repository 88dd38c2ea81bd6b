"""The core by hand: every frame, answer and second of the clock is this file's doing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from paxon.actors.messages import (
    ClientMessage,
    Command,
    CommandReply,
    NotLeader,
    OpenSession,
    Query,
    ReplyStatus,
    ServerReply,
    SessionOpened,
    StatusReply,
)
from paxon.kvstore.client_core import ClientCore, CoreOptions, KVTicket, RawCore
from paxon.kvstore.errors import (
    ClientClosed,
    ClusterUnavailable,
    InvalidRequest,
    OperationFailed,
    OutcomeUnknown,
    RequestTimeout,
)
from paxon.kvstore.errors import NotLeader as NotLeaderError
from paxon.kvstore.operations import (
    MAX_VALUE_BYTES,
    Append,
    Get,
    Operation,
    Put,
    decode_operations,
)
from tests.kvstore.fake_cluster import FakeCluster

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"

Filter = Callable[[str, ClientMessage], bool]


class World:
    """A core, a fake cluster, and what is between them."""

    def __init__(
        self,
        known: tuple[str, ...] = (A, B, C),
        *,
        options: CoreOptions | None = None,
        redirect: bool = True,
    ) -> None:
        self.now = 100.0
        self.cluster = FakeCluster([A, B, C])
        self.core = ClientCore(known, random.Random(7), options=options, redirect=redirect)
        self.lost: Filter = lambda _address, _message: False
        """Requests that never arrive."""
        self.unheard: Callable[[str, ServerReply], bool] = lambda _address, _reply: False
        """Answers that never arrive."""

    def submit(
        self, *operations: Operation, timeout: float = 10.0, after: KVTicket | None = None
    ) -> KVTicket:
        return self.core.submit_operations(
            list(operations), now=self.now, deadline=self.now + timeout, ordered_after=after
        )

    def exchange(self) -> int:
        """Send and answer until nothing more moves; how many messages were sent."""
        sent = 0
        while frames := self.core.poll(self.now):
            for address, messages in frames:
                sent += len(messages)
                arrived = [m for m in messages if not self.lost(address, m)]
                replies = self.cluster.serve(address, arrived)
                heard = [r for r in replies if not self.unheard(address, r)]
                if heard:
                    self.core.receive(address, heard, self.now)
        return sent

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with all that is due in it."""
        end = self.now + seconds
        self.exchange()
        while (due := self.core.next_deadline()) <= end:
            assert due > self.now or not self.core.poll(self.now), "a deadline that is not acted on"
            self.now = max(self.now, due)
            self.exchange()
        self.now = end

    def answer(self, address: str, *replies: ServerReply) -> None:
        self.core.receive(address, replies, self.now)

    def sends(self) -> list[tuple[str, ClientMessage]]:
        return [(a, m) for a, messages in self.core.poll(self.now) for m in messages]

    def executed(self, key: str) -> bytes | None:
        """The key's value at the cluster, whatever the client knows."""
        from paxon.kvstore.operations import decode_results, encode_operations

        reply = self.cluster.application.machine.query(encode_operations([Get(key)]))
        value: bytes | None = decode_results(reply)[0]
        return value


def open_session(world: World) -> None:
    world.submit(Put("warm", b""))
    world.exchange()
    world.cluster.received.clear()


def commands(world: World) -> list[Command]:
    return [m for _, m in world.cluster.received if isinstance(m, Command)]


# --- the plain course of things -------------------------------------------------------------------


def test_a_write_opens_a_session_and_is_answered() -> None:
    world = World()
    ticket = world.submit(Put("k", b"v"), Append("k", b"w"))
    assert world.core.next_deadline() <= world.now + 10
    world.exchange()
    assert ticket.value() == [None, 2]
    kinds = [type(message) for _, message in world.cluster.received]
    assert kinds == [OpenSession, Command]
    assert world.core.idle
    assert world.core.next_deadline() == math.inf


def test_reads_need_no_session_and_no_command() -> None:
    world = World()
    world.submit(Get("k"))
    world.exchange()
    assert [type(message) for _, message in world.cluster.received] == [Query]


def test_reads_with_writes_go_as_one_command() -> None:
    world = World()
    ticket = world.submit(Put("k", b"v"), Get("k"))
    world.exchange()
    assert ticket.value() == [None, b"v"]
    assert len(commands(world)) == 1


def test_what_is_submitted_meanwhile_is_gathered() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    for i in range(4):
        world.submit(Put(f"early{i}", b""))
        assert len(world.sends()) == 1, "with few in flight each goes at once"
    tickets = [world.submit(Put(f"k{i}", b"")) for i in range(50)]
    assert world.sends() == [], "with some in flight the rest is gathered"
    world.answer(A, CommandReply(1 << 20, 2, ReplyStatus.OK, b"\x91\xc0"))
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    assert len(decode_operations(message.command)) == 50
    assert not any(ticket.done for ticket in tickets)


def test_a_full_batch_does_not_wait() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    for i in range(4):
        world.submit(Put(f"early{i}", b""))
        world.sends()
    for i in range(256):
        world.submit(Put(f"k{i}", b""))
    assert len(world.sends()) == 1


def test_batches_are_bounded_in_number_and_bytes() -> None:
    world = World()
    open_session(world)
    for i in range(600):
        world.submit(Put(f"k{i}", b""))
    for i in range(3):
        world.submit(Put(f"big{i}", b"v" * (700 << 10)))
    world.submit(Put("huge", b"v" * MAX_VALUE_BYTES))
    world.exchange()
    sizes = [len(decode_operations(command.command)) for command in commands(world)]
    assert sizes == [512, 89, 1, 1, 1]
    assert world.executed("huge") is not None


def test_frames_are_bounded() -> None:
    world = World()
    open_session(world)
    for i in range(12):
        world.submit(Put(f"big{i}", b"v" * (1 << 20)))
    frames = world.core.poll(world.now)
    assert len(frames) >= 2
    for _, messages in frames:
        assert sum(len(m.command) for m in messages if isinstance(m, Command)) <= 4 << 20


def test_the_window_bounds_what_is_unanswered() -> None:
    world = World(options=CoreOptions(window=8, eager=100))
    open_session(world)
    tickets = []
    for i in range(20):
        tickets.append(world.submit(Put(f"k{i}", b"")))
        world.core.poll(world.now)
    outstanding = world.core._sessions[1 << 20].outstanding
    assert len(outstanding) == 8
    first = next(iter(outstanding))
    world.answer(A, CommandReply(1 << 20, first + 1, ReplyStatus.OK, b"\x91\xc0"))
    assert world.sends() == [], "the lowest number is still unanswered"
    world.answer(A, CommandReply(1 << 20, first, ReplyStatus.OK, b"\x91\xc0"))
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    assert (message.seq, message.acked) == (first + 8, first + 2)


def test_big_reads_that_shared_a_request_are_asked_again() -> None:
    world = World()
    world.submit(*(Put(f"k{i}", b"v" * MAX_VALUE_BYTES) for i in range(1)))
    world.exchange()
    tickets = [world.submit(Get("k0")) for _ in range(5)]
    together = world.submit(*(Get("k0") for _ in range(5)))
    world.exchange()
    assert all(len(ticket.value()[0]) == MAX_VALUE_BYTES for ticket in tickets)
    assert [len(value) for value in together.value()] == [MAX_VALUE_BYTES] * 5


# --- finding the leader ---------------------------------------------------------------------------


def test_a_hint_is_followed_and_learnt() -> None:
    world = World(known=(B,))
    ticket = world.submit(Put("k", b"v"))
    world.exchange()
    assert ticket.value() == [None]
    assert world.core.target == A
    assert world.core.servers == [B, A]


def test_a_changed_leader_gets_everything_unanswered_with_the_same_numbers() -> None:
    world = World()
    open_session(world)
    world.unheard = lambda address, reply: address == A and isinstance(reply, CommandReply)
    tickets = [world.submit(Append("k", b"x"))]
    world.exchange()
    tickets.append(world.submit(Append("k", b"y")))
    world.exchange()
    world.cluster.leader = B
    world.answer(A, NotLeader(2, B))
    world.exchange()
    assert [ticket.value() for ticket in tickets] == [[1], [2]]
    assert world.executed("k") == b"xy", "both were executed twice on the wire, once in the store"
    first, second = commands(world)[:2]
    assert [(c.session, c.seq, c.command) for c in commands(world)[2:]] == [
        (c.session, c.seq, c.command) for c in (first, second)
    ]


def test_silence_makes_the_client_seek_the_leader() -> None:
    world = World()
    open_session(world)
    world.lost = lambda address, _message: address == A
    world.cluster.leader = C
    tickets = []
    for i in range(3):
        tickets.append(world.submit(Put(f"k{i}", b"v")))
        world.exchange()
    world.pass_time(0.12)
    assert not any(ticket.done for ticket in tickets)
    world.pass_time(0.1)
    assert all(ticket.done for ticket in tickets)
    assert world.core.target == C
    assert {a for a, m in world.cluster.received if isinstance(m, Command)} == {C}


def test_hints_back_to_a_dead_leader_do_not_delay_the_search() -> None:
    world = World()
    open_session(world)
    world.lost = lambda address, _message: address == A
    ticket = world.submit(Put("k", b"v" * 1000))
    world.pass_time(0.4)  # B and C go on pointing to A, which is dead
    assert not ticket.done
    asked = [message for address, message in world.cluster.received if address == B]
    assert all(isinstance(message, Query) for message in asked), "nothing big is sent in the search"
    assert 4 <= len(asked) <= 15, "they are asked again and again, not in a hot loop"
    world.cluster.leader = B
    world.pass_time(0.04)
    assert ticket.done


def test_a_long_search_calms_down() -> None:
    world = World()
    world.cluster.hint = ""
    world.cluster.leader = "nobody"
    ticket = world.submit(Put("k", b"v"), timeout=60)
    world.pass_time(10.0)
    before = len(world.cluster.received)
    world.pass_time(10.0)
    assert 3 * 30 <= len(world.cluster.received) - before <= 3 * 60
    world.cluster.leader = B
    world.pass_time(0.4)
    assert ticket.done


def test_two_servers_that_point_to_each_other_are_not_asked_in_a_hot_loop() -> None:
    world = World()
    world.cluster.leader = "nobody"
    ticket = world.submit(Get("k"), timeout=1.0)
    rounds = 0
    while not ticket.done and rounds < 1000:
        for address, messages in world.core.poll(world.now):
            rounds += len(messages)
            world.answer(address, NotLeader(1, A if address == B else B))
        world.now = max(world.now, min(world.core.next_deadline(), world.now + 0.01))
    assert rounds < 150
    with pytest.raises(RequestTimeout):
        ticket.value()


def test_a_late_answer_of_the_silent_leader_is_taken_and_it_is_trusted_again() -> None:
    world = World()
    open_session(world)
    kept: list[ServerReply] = []
    world.unheard = lambda address, reply: address == A and not kept.append(reply)  # type: ignore[func-returns-value]
    world.lost = lambda address, _message: address != A
    ticket = world.submit(Put("k", b"v"))
    world.pass_time(0.25)
    assert not ticket.done
    world.cluster.received.clear()
    world.answer(A, *[reply for reply in kept if isinstance(reply, CommandReply)])
    assert ticket.done
    world.pass_time(1.0)
    later = world.submit(Put("k", b"w"))
    world.unheard = lambda _address, _reply: False
    world.exchange()
    assert later.done
    assert len(commands(world)) == 1


def test_a_slow_leader_is_not_sent_everything_twice() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    kept: list[ServerReply] = []
    world.unheard = lambda _a, reply: isinstance(reply, CommandReply) and not kept.append(reply)  # type: ignore[func-returns-value]
    tickets = []
    for i in range(4):
        tickets.append(world.submit(Put(f"k{i}", b"v")))
        world.exchange()
    world.pass_time(0.8)
    assert len(commands(world)) == 4
    world.answer(A, *kept)
    assert all(ticket.done for ticket in tickets)


def test_a_single_lost_answer_is_asked_for_again_while_others_are_answered() -> None:
    world = World()
    open_session(world)
    lost = world.submit(Append("k", b"x"))
    world.unheard = lambda _address, reply: isinstance(reply, CommandReply) and reply.seq == 2
    world.exchange()
    for i in range(20):
        other = world.submit(Put(f"other{i}", b""))
        world.pass_time(0.1)
        assert other.done
        if i == 5:
            world.unheard = lambda _address, _reply: False
    assert lost.value() == [1]
    assert world.executed("k") == b"x"


def test_a_busy_leader_is_asked_again_after_a_pause() -> None:
    world = World()
    open_session(world)
    world.cluster.busy = 4
    tickets = []
    for i in range(3):
        tickets.append(world.submit(Append("k", b"%d" % i)))
        world.core.poll(world.now) if i else world.exchange()
    assert not any(ticket.done for ticket in tickets)
    world.pass_time(0.5)
    assert all(ticket.done for ticket in tickets)
    assert len(world.executed("k") or b"") == 3
    assert len(commands(world)) < 12


def test_no_redirect_fails_with_the_leaders_address() -> None:
    world = World(known=(B, A), redirect=False)
    write, read = world.submit(Put("k", b"v")), world.submit(Get("k"))
    world.exchange()
    for ticket in (write, read):
        with pytest.raises(NotLeaderError) as caught:
            ticket.value()
        assert (caught.value.leader, caught.value.address) == (1, A)
    assert {address for address, _ in world.cluster.received} == {B}
    assert world.core.idle


def test_stale_reads_go_to_any_server_and_move_on_when_it_is_silent() -> None:
    world = World()
    first = world.core.submit_operations(
        [Get("k")], now=world.now, deadline=world.now + 5, mode="stale"
    )
    world.exchange()
    assert first.done
    [(address, _)] = world.cluster.received
    world.lost = lambda to, _message: to == address
    second = world.core.submit_operations(
        [Get("k")], now=world.now, deadline=world.now + 5, mode="stale"
    )
    world.pass_time(0.4)
    assert second.done
    assert world.cluster.received[-1][0] != address


def test_a_status_is_asked_of_the_server_named() -> None:
    world = World()
    tickets = [world.core.ask(a, now=world.now, deadline=world.now + 1) for a in (B, "tcp://x:1")]
    world.lost = lambda address, _message: address == "tcp://x:1"
    world.pass_time(1.1)
    reply = tickets[0].value()
    assert isinstance(reply, StatusReply)
    assert reply.server == 2
    with pytest.raises(RequestTimeout):
        tickets[1].value()


# --- at most once ---------------------------------------------------------------------------------


def test_a_lost_reply_does_not_execute_twice() -> None:
    world = World()
    open_session(world)
    drops = iter([True, True, True])
    world.unheard = lambda _address, _reply: next(drops, False)
    ticket = world.submit(Append("k", b"x"))
    world.pass_time(5.0)
    assert ticket.value() == [1]
    assert world.executed("k") == b"x"


def test_acked_follows_the_lowest_unanswered() -> None:
    world = World()
    open_session(world)
    hold = True
    world.unheard = lambda _a, reply: hold and isinstance(reply, CommandReply) and reply.seq == 2
    slow = world.submit(Put("slow", b""))
    world.exchange()
    for i in range(3):
        world.submit(Put(f"k{i}", b""))
        world.exchange()
    assert [(c.seq, c.acked) for c in commands(world)] == [(2, 2), (3, 2), (4, 2), (5, 2)]
    hold = False
    world.pass_time(3.0)
    assert slow.done
    world.submit(Put("last", b""))
    world.exchange()
    assert (commands(world)[-1].seq, commands(world)[-1].acked) == (6, 6)


def test_a_timeout_says_that_the_outcome_is_unknown_and_nothing_is_sent_again() -> None:
    world = World()
    open_session(world)
    world.lost = lambda _address, message: isinstance(message, Command)
    world.cluster.hint = ""
    ticket = world.submit(Append("k", b"x"), timeout=0.5)
    world.pass_time(0.2)
    world.answer(B, NotLeader(0, ""))  # somebody is alive
    world.pass_time(0.4)
    with pytest.raises(RequestTimeout, match="outcome is unknown") as caught:
        ticket.value()
    assert caught.value.sent
    assert not isinstance(caught.value, ClusterUnavailable)
    world.lost = lambda _address, _message: False
    world.pass_time(5.0)
    assert world.executed("k") is None
    assert world.core.idle
    later = world.submit(Append("k", b"y"))
    world.exchange()
    assert later.done
    assert commands(world)[-1].acked == commands(world)[-1].seq == 3, "given up counts as acked"


def test_a_late_copy_of_a_command_given_up_is_refused() -> None:
    world = World()
    open_session(world)
    caught: list[ClientMessage] = []
    world.lost = lambda _address, message: not caught.append(message)  # type: ignore[func-returns-value]
    world.submit(Append("k", b"late"), timeout=0.1)
    world.pass_time(0.2)
    world.lost = lambda _address, _message: False
    world.submit(Append("k", b"new"))
    world.pass_time(1.0)
    world.cluster.serve(A, caught)
    assert world.executed("k") == b"new"


def test_a_timeout_before_anything_was_sent_says_so() -> None:
    world = World()
    world.lost = lambda _address, _message: True
    ticket = world.submit(Put("k", b"v"), timeout=0.4)
    world.pass_time(1.0)
    with pytest.raises(ClusterUnavailable, match="has no effect") as caught:
        ticket.value()
    assert not caught.value.sent
    assert A in str(caught.value)


def test_a_command_refused_at_its_only_try_by_an_expired_session_goes_into_a_new_one() -> None:
    world = World()
    open_session(world)
    world.cluster.expire_sessions()
    tickets = []
    for value in (b"x", b"y"):
        tickets.append(world.submit(Append("k", value)))
        world.core.poll(world.now) if value == b"" else None
    world.exchange()
    assert [ticket.value() for ticket in tickets] == [[1], [2]]
    assert len({command.session for command in commands(world)}) == 2


def test_a_command_tried_before_its_session_expired_has_an_unknown_outcome() -> None:
    world = World()
    open_session(world)
    world.unheard = lambda _address, reply: isinstance(reply, CommandReply)
    ticket = world.submit(Append("k", b"x"))
    world.exchange()  # executed; the reply is lost
    world.cluster.expire_sessions()
    world.unheard = lambda _address, _reply: False
    world.pass_time(3.0)
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        ticket.value()
    assert world.executed("k") == b"x", "once"
    again = world.submit(Append("k", b"y"))
    world.pass_time(1.0)
    assert again.value() == [2]


def test_a_busy_refusal_does_not_make_an_outcome_unknown() -> None:
    world = World()
    open_session(world)
    world.cluster.busy = 2
    ticket = world.submit(Append("k", b"x"))
    world.exchange()
    world.cluster.expire_sessions()
    world.pass_time(1.0)
    assert ticket.value() == [1]


def test_an_idle_session_is_replaced_before_it_can_have_expired() -> None:
    world = World()
    open_session(world)
    world.now += 901
    world.submit(Put("k", b"v"))
    world.exchange()
    assert [type(message) for _, message in world.cluster.received] == [OpenSession, Command]


def test_opening_a_session_is_repeated_with_the_same_nonce() -> None:
    world = World()
    drops = iter([True, True])
    world.unheard = lambda _address, reply: isinstance(reply, SessionOpened) and next(drops, False)
    ticket = world.submit(Put("k", b"v"))
    world.pass_time(3.0)
    assert ticket.done
    nonces = [m.nonce for _, m in world.cluster.received if isinstance(m, OpenSession)]
    assert len(nonces) >= 3
    assert len(set(nonces)) == 1


def test_answers_to_nobody_are_ignored() -> None:
    world = World()
    open_session(world)
    world.answer(
        A,
        CommandReply(1 << 20, 77, ReplyStatus.OK, b""),
        CommandReply(5, 1, ReplyStatus.EXPIRED, b""),
        SessionOpened(5, 6),
    )
    world.answer(B, NotLeader(3, C))
    assert world.core.target == A
    assert world.sends() == []


def test_a_malformed_reply_is_an_error_of_that_request_only() -> None:
    world = World()
    open_session(world)
    for payload in (b"\xc1", b"\x90", b"\x92\xc0\xc0"):
        ticket = world.submit(Put("k", b"v"))
        [(_, message)] = world.sends()
        assert isinstance(message, Command)
        world.answer(A, CommandReply(message.session, message.seq, ReplyStatus.OK, payload))
        with pytest.raises(OperationFailed, match="reply"):
            ticket.value()
    assert world.core.idle


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (ReplyStatus.FAILED, OperationFailed),
        (ReplyStatus.INVALID, InvalidRequest),
        (ReplyStatus.FORGOTTEN, OutcomeUnknown),
    ],
)
def test_refusals_become_errors(status: ReplyStatus, kind: type[Exception]) -> None:
    world = World()
    open_session(world)
    ticket = world.submit(Put("k", b"v"))
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    world.answer(A, CommandReply(message.session, message.seq, status, b"because"))
    with pytest.raises(kind):
        ticket.value()
    assert world.core.idle
    read = world.submit(Get("k"))
    world.exchange()
    assert read.value() == [None]


def test_closing_fails_everything() -> None:
    world = World()
    open_session(world)
    tickets = [world.submit(Put("k", b"v")), world.submit(Get("k"))]
    world.core.poll(world.now)
    tickets.append(world.submit(Put("k", b"w")))
    world.core.fail_all(ClientClosed("closed"))
    for ticket in tickets:
        with pytest.raises(ClientClosed):
            ticket.value()
    assert world.core.idle


# --- order in pipelines ---------------------------------------------------------------------------


def chain(world: World, count: int, timeout: float = 10.0) -> list[KVTicket]:
    """Chunks, each to be executed after the one before, each sent by itself."""
    tickets: list[KVTicket] = []
    for i in range(count):
        before = tickets[-1] if tickets else None
        tickets.append(world.submit(Append("k", b"%d" % i), timeout=timeout, after=before))
    return tickets


def separate() -> CoreOptions:
    """Every ticket is a command of its own, all in flight at once."""
    return CoreOptions(batch_weight=1, eager=1000)


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
    first = world.submit(Append("k", b"0"))
    world.core.poll(world.now)
    follower = world.submit(Append("k", b"1"), after=first)
    stranger = world.submit(Append("other", b""))
    second_follower = world.submit(Append("k", b"2"), after=follower)
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
    third = world.submit(Append("k", b"2"), after=tickets[-1])
    world.pass_time(5.0)
    assert all(isinstance(ticket.error, OutcomeUnknown) for ticket in tickets)
    assert isinstance(third.error, OperationFailed | OutcomeUnknown)
    assert world.executed("k") == b"01"


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
    first = world.submit(Append("k", b"0"), timeout=0.1)
    world.exchange()
    stuck = world.submit(Put("stuck", b""), timeout=2.0)
    world.exchange()
    second = world.submit(Append("k", b"1"), timeout=0.1, after=first)
    world.pass_time(0.3)
    assert isinstance(first.error, RequestTimeout)
    assert isinstance(second.error, RequestTimeout)
    assert not stuck.done
    other = world.submit(Put("other", b""))
    world.pass_time(1.0)
    assert other.done
    followers = [m for m in caught if isinstance(m, Command) and m.after]
    world.cluster.serve(A, followers)
    assert world.executed("k") is None, "the follower ran although the first never did"
    world.pass_time(3.0)
    assert isinstance(stuck.error, RequestTimeout)
    last = world.submit(Put("last", b""))
    world.pass_time(2.0)
    assert last.done
    assert commands(world)[-1].acked == commands(world)[-1].seq


def test_followers_of_an_invalid_command_are_not_executed() -> None:
    world = World(options=separate())
    open_session(world)
    tickets = chain(world, 2)
    world.core.poll(world.now)
    tickets.append(world.submit(Append("k", b"2"), after=tickets[-1]))
    world.answer(A, CommandReply(1 << 20, 2, ReplyStatus.INVALID, b"too large"))
    assert isinstance(tickets[0].error, InvalidRequest)
    assert isinstance(tickets[1].error, OutcomeUnknown)
    world.exchange()
    assert isinstance(tickets[2].error, OperationFailed)
    assert world.core.idle


# --- raw commands ---------------------------------------------------------------------------------


def test_raw_commands_are_requests_of_their_own() -> None:
    core = RawCore([A], random.Random(1))
    tickets = [core.submit(b"%d" % i, now=0.0, deadline=9.0) for i in range(3)]
    [(_, [opening])] = core.poll(0.0)
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
            world.submit(Append("k", b"%d" % i))
            world.pass_time(0.1)
        world.pass_time(5.0)
        return world.cluster.received

    assert history() == history()
