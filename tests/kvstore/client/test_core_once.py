"""The client core at most once: lost answers, timeouts, expired sessions, refusals."""

from __future__ import annotations

import pytest

from paxon.actors.messages import (
    ClientMessage,
    Command,
    CommandReply,
    NotLeader,
    OpenSession,
    ReplyStatus,
    SessionOpened,
)
from paxon.kvstore.errors import (
    ClientClosed,
    ClusterUnavailable,
    InvalidRequest,
    OperationFailed,
    OutcomeUnknown,
    RequestTimeout,
)
from paxon.kvstore.store.operations import (
    Append,
    Get,
    Put,
)
from tests.kvstore.client.core_world import A, B, C, World, commands, open_session


def test_a_lost_reply_does_not_execute_twice() -> None:
    world = World()
    open_session(world)
    drops = iter([True, True, True])
    world.unheard = lambda _address, _reply: next(drops, False)
    ticket = world.submit(Append(b"k", b"x"))
    world.pass_time(5.0)
    assert ticket.value() == [1]
    assert world.executed("k") == b"x"


def test_acked_follows_the_lowest_unanswered() -> None:
    world = World()
    open_session(world)
    hold = True
    world.unheard = lambda _a, reply: hold and isinstance(reply, CommandReply) and reply.seq == 2
    slow = world.submit(Put(b"slow", b""))
    world.exchange()
    for i in range(3):
        world.submit(Put(b"k%d" % i, b""))
        world.exchange()
    assert [(c.seq, c.acked) for c in commands(world)] == [(2, 2), (3, 2), (4, 2), (5, 2)]
    hold = False
    world.pass_time(3.0)
    assert slow.done
    world.submit(Put(b"last", b""))
    world.exchange()
    assert (commands(world)[-1].seq, commands(world)[-1].acked) == (6, 6)


def test_a_timeout_says_that_the_outcome_is_unknown_and_nothing_is_sent_again() -> None:
    world = World()
    open_session(world)
    world.lost = lambda _address, message: isinstance(message, Command)
    world.cluster.hint = ""
    ticket = world.submit(Append(b"k", b"x"), timeout=0.5)
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
    later = world.submit(Append(b"k", b"y"))
    world.exchange()
    assert later.done
    assert commands(world)[-1].acked == commands(world)[-1].seq == 3, "given up counts as acked"


def test_a_late_copy_of_a_command_given_up_is_refused() -> None:
    world = World()
    open_session(world)
    caught: list[ClientMessage] = []
    world.lost = lambda _address, message: not caught.append(message)  # type: ignore[func-returns-value]
    world.submit(Append(b"k", b"late"), timeout=0.1)
    world.pass_time(0.2)
    world.lost = lambda _address, _message: False
    world.submit(Append(b"k", b"new"))
    world.pass_time(1.0)
    world.cluster.serve(A, caught)
    assert world.executed("k") == b"new"


@pytest.mark.parametrize("how", ["interrupted", "timed out"])
def test_a_late_copy_of_what_was_abandoned_is_refused_after_the_next_command(how: str) -> None:
    """As of a lock that was given up: what arrives after its revocation does nothing."""
    world = World()
    open_session(world)
    caught: list[ClientMessage] = []
    world.lost = lambda _address, message: not caught.append(message)  # type: ignore[func-returns-value]
    ticket = world.submit(Append(b"k", b"late"), timeout=0.1 if how == "timed out" else 10)
    ticket.keeps = True
    world.pass_time(0.2)
    world.lost = lambda _address, _message: False
    if how == "interrupted":
        world.core.abandon(ticket)
    else:
        with pytest.raises(RequestTimeout) as error:
            ticket.value()
        error.value.forget()
        world.core.abandon()
    world.submit(Append(b"k", b"new"))
    world.pass_time(1.0)
    world.cluster.serve(A, [message for message in caught if isinstance(message, Command)][:1])
    assert world.executed("k") == b"new"


def test_a_timeout_before_anything_was_sent_says_so() -> None:
    world = World()
    world.lost = lambda _address, _message: True
    ticket = world.submit(Put(b"k", b"v"), timeout=0.4)
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
        tickets.append(world.submit(Append(b"k", value)))
        world.core.poll(world.now) if value == b"" else None
    world.exchange()
    assert [ticket.value() for ticket in tickets] == [[1], [2]]
    assert len({command.session for command in commands(world)}) == 2


def test_a_command_tried_before_its_session_expired_has_an_unknown_outcome() -> None:
    world = World()
    open_session(world)
    world.unheard = lambda _address, reply: isinstance(reply, CommandReply)
    ticket = world.submit(Append(b"k", b"x"))
    world.exchange()  # executed; the reply is lost
    world.cluster.expire_sessions()
    world.unheard = lambda _address, _reply: False
    world.pass_time(3.0)
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        ticket.value()
    assert world.executed("k") == b"x", "once"
    again = world.submit(Append(b"k", b"y"))
    world.pass_time(1.0)
    assert again.value() == [2]


def test_a_busy_refusal_does_not_make_an_outcome_unknown() -> None:
    world = World()
    open_session(world)
    world.cluster.busy = 2
    ticket = world.submit(Append(b"k", b"x"))
    world.exchange()
    world.cluster.expire_sessions()
    world.pass_time(1.0)
    assert ticket.value() == [1]


def test_an_idle_session_is_replaced_before_it_can_have_expired() -> None:
    world = World()
    open_session(world)
    world.now += 901
    world.submit(Put(b"k", b"v"))
    world.exchange()
    assert [type(message) for _, message in world.cluster.received] == [OpenSession, Command]


def test_opening_a_session_is_repeated_with_the_same_nonce() -> None:
    world = World()
    drops = iter([True, True])
    world.unheard = lambda _address, reply: isinstance(reply, SessionOpened) and next(drops, False)
    ticket = world.submit(Put(b"k", b"v"))
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
    assert world.core.search.target == A
    assert world.sends() == []


def test_a_malformed_reply_is_an_error_of_that_request_only() -> None:
    world = World()
    open_session(world)
    for payload in (b"\xc1", b"\x90", b"\x92\xc0\xc0"):
        ticket = world.submit(Put(b"k", b"v"))
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
    ticket = world.submit(Put(b"k", b"v"))
    [(_, message)] = world.sends()
    assert isinstance(message, Command)
    world.answer(A, CommandReply(message.session, message.seq, status, b"because"))
    with pytest.raises(kind):
        ticket.value()
    assert world.core.idle
    read = world.submit(Get(b"k"))
    world.exchange()
    assert read.value() == [None]


def test_what_waits_is_shown_in_few_words() -> None:
    """By a debugger, or a log that shows variables: however much it is, and whatever it follows."""
    world = World()
    open_session(world)
    ticket = None
    for _ in range(500):
        ticket = world.submit(Put(b"k", bytes(1000)), after=ticket)
    world.core.poll(world.now)
    assert ticket is not None and ticket.request is not None
    assert repr(ticket) == "<Ticket: command, 1 operations, pending>"
    assert len(repr(ticket.request)) < 60


def test_closing_fails_everything() -> None:
    world = World()
    open_session(world)
    tickets = [world.submit(Put(b"k", b"v")), world.submit(Get(b"k"))]
    world.core.poll(world.now)
    tickets.append(world.submit(Put(b"k", b"w")))
    world.core.fail_all(ClientClosed("closed"))
    for ticket in tickets:
        with pytest.raises(ClientClosed):
            ticket.value()
    assert world.core.idle
