"""`RequestTimeout.retry()`: the very same request again, with its session and number."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from paxon import Client, ClusterUnavailable, InvalidRequest, OutcomeUnknown, RequestTimeout
from paxon.actors.messages import Command, CommandReply
from paxon.kvstore.client.calls import calls
from paxon.kvstore.client.core import CoreOptions, KVTicket
from paxon.kvstore.client.pipelining import BasePipeline
from paxon.kvstore.store.operations import Append, Put
from tests.kvstore.client.core_world import World, chain, commands, open_session, separate


def timed_out(world: World, *, arrives: bool) -> RequestTimeout:
    """An append whose answer, or which itself, is lost until its time is up."""
    world.unheard = lambda _a, reply: isinstance(reply, CommandReply)
    world.lost = lambda _a, message: isinstance(message, Command) and not arrives
    ticket = world.submit(Append(b"k", b"x"), timeout=1.0)
    ticket.keeps = True
    world.pass_time(2.0)
    world.lost = lambda _a, _m: False
    world.unheard = lambda _a, _m: False
    assert isinstance(ticket.error, RequestTimeout) and ticket.error.unknown
    return ticket.error


def again(world: World, error: RequestTimeout) -> KVTicket:
    return world.core.ask_again(error.kept, now=world.now, deadline=world.now + 5)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_retry_is_the_same_command(arrives: bool) -> None:
    world = World(options=CoreOptions(resend_after=0.3))
    open_session(world)
    error = timed_out(world, arrives=arrives)
    assert world.executed("k") == (b"x" if arrives else None)
    assert world.exchange() == 0, "nobody waits for it, so it is not sent"
    ticket = again(world, error)
    world.pass_time(3.0)
    assert ticket.value() == [1]
    assert world.executed("k") == b"x"
    assert len({(command.session, command.seq) for command in commands(world)}) == 1


def test_a_command_that_may_be_asked_for_again_is_not_acknowledged() -> None:
    world = World()
    open_session(world)
    error = timed_out(world, arrives=True)
    for number in range(3):
        world.submit(Put(b"other", b"%d" % number))
        world.exchange()
    assert {command.acked for command in commands(world)} == {2}
    assert again(world, error) and error.kept is not None
    world.pass_time(1.0)
    world.submit(Put(b"other", b"last"))
    world.exchange()
    assert commands(world)[-1].acked == commands(world)[-1].seq
    assert world.executed("k") == b"x"


def test_who_lets_go_of_the_error_gives_up() -> None:
    world = World()
    open_session(world)
    error = timed_out(world, arrives=False)
    del error
    gc.collect()  # (only the test's own frames may have made a cycle)
    world.submit(Put(b"late", b""), timeout=0.1)
    world.lost = lambda _a, _m: True
    world.pass_time(1.0)
    world.lost = lambda _a, _m: False
    world.submit(Put(b"last", b""))
    world.exchange()
    assert commands(world)[-1].acked == commands(world)[-1].seq
    assert world.executed("k") is None, "given up, so it is never sent again"


def test_a_chain_that_timed_out_is_asked_for_again_in_its_order() -> None:
    """A pipeline: the last one asked for takes along those that it follows."""
    world = World(options=separate())
    open_session(world)
    world.lost = lambda _a, message: isinstance(message, Command)
    tickets = chain(world, 4, timeout=1.0)
    for ticket in tickets:
        ticket.keeps = True
    world.pass_time(2.0)
    world.lost = lambda _a, _m: False
    errors = [ticket.error for ticket in tickets]
    assert all(isinstance(error, RequestTimeout) and error.kept for error in errors)
    assert world.exchange() == 0 and world.executed("k") is None
    last = errors[2]
    assert isinstance(last, RequestTimeout)
    third = again(world, last)
    world.pass_time(3.0)
    assert third.value() == [3] and world.executed("k") == b"012"
    sent = len(commands(world))
    for number in (0, 1):  # known by now
        error = errors[number]
        assert isinstance(error, RequestTimeout) and again(world, error).value() == [number + 1]
    assert len(commands(world)) == sent and world.executed("k") == b"012"


def test_one_that_timed_out_is_sent_on_for_those_that_follow_it() -> None:
    world = World(options=separate())
    open_session(world)
    world.lost = lambda _a, message: isinstance(message, Command)
    first = world.submit(Append(b"k", b"0"), timeout=1.0)
    first.keeps = True
    second = world.submit(Append(b"k", b"1"), timeout=30.0, after=first)
    world.pass_time(2.0)
    assert isinstance(first.error, RequestTimeout) and not second.done
    world.lost = lambda _a, _m: False
    world.pass_time(20.0)
    assert second.value() == [2] and again(world, first.error).value() == [1]


def test_who_lets_go_of_the_first_of_a_chain_still_has_the_last() -> None:
    world = World(options=separate())
    open_session(world)
    world.lost = lambda _a, message: isinstance(message, Command)
    tickets = chain(world, 3, timeout=1.0)
    tickets[2].keeps = True
    world.pass_time(2.0)
    error = tickets[2].error
    assert isinstance(error, RequestTimeout)
    del tickets
    world.submit(Put(b"late", b""), timeout=0.1)
    world.pass_time(1.0)
    world.lost = lambda _a, _m: False
    ticket = again(world, error)
    world.pass_time(5.0)
    assert ticket.value() == [3] and world.executed("k") == b"012"


def test_an_error_whose_retry_timed_out_can_be_asked_again() -> None:
    """Whoever loops on the first error must not be told the same for ever."""
    world = World()
    open_session(world)
    error = timed_out(world, arrives=False)
    world.lost = lambda _a, message: isinstance(message, Command)
    for _ in range(3):
        world.pass_time(6.0)
        failed = again(world, error)
        world.pass_time(6.0)
        assert isinstance(failed.error, RequestTimeout)
    world.lost = lambda _a, _m: False
    ticket = again(world, error)
    world.pass_time(3.0)
    assert ticket.value() == [1] and world.executed("k") == b"x"


def test_a_late_answer_is_what_a_retry_returns() -> None:
    world = World()
    open_session(world)
    late: list[tuple[str, CommandReply]] = []

    def keep(address: str, reply: Any) -> bool:
        if isinstance(reply, CommandReply) and reply.seq == 2:
            late.append((address, reply))
        return bool(late) and reply is late[-1][1]

    world.unheard = keep
    ticket = world.submit(Append(b"k", b"x"), timeout=1.0)
    ticket.keeps = True
    world.pass_time(2.0)
    error = ticket.error
    assert isinstance(error, RequestTimeout)
    world.answer(*late[-1])
    sent = len(commands(world))
    again_ = again(world, error)
    assert again_.value() == [1]
    world.pass_time(1.0)
    assert len(commands(world)) == sent
    assert again(world, error).value() == [1], "as often as one likes"


def test_the_window_is_not_kept_shut() -> None:
    options = separate()
    world = World(options=options)
    open_session(world)
    error = timed_out(world, arrives=True)
    tickets = [world.submit(Put(b"n%d" % n, b"")) for n in range(options.window + 10)]
    world.pass_time(3.0)
    assert all(ticket.done and ticket.error is None for ticket in tickets)
    with pytest.raises(OutcomeUnknown, match="cannot be asked for again"):
        again(world, error).value()


def test_a_session_that_ended_is_not_begun_anew_for_a_retry() -> None:
    world = World(options=CoreOptions(session_idle=5.0))
    open_session(world)
    error = timed_out(world, arrives=True)
    world.pass_time(10.0)
    world.submit(Put(b"later", b""))
    world.exchange()
    with pytest.raises(OutcomeUnknown, match="its session has ended"):
        again(world, error).value()
    assert world.executed("k") == b"x"


def test_others_in_the_same_request_are_not_disturbed() -> None:
    world = World()
    open_session(world)
    world.unheard = lambda _a, reply: isinstance(reply, CommandReply)
    short = world.submit(Append(b"k", b"x"), timeout=1.0)
    long = world.submit(Append(b"k", b"y"), timeout=30.0)
    short.keeps = True
    world.pass_time(2.0)
    assert isinstance(short.error, RequestTimeout) and not long.done
    ticket = again(world, short.error)
    world.unheard = lambda _a, _m: False
    world.pass_time(3.0)
    assert ticket.value() == [1] and long.value() == [2]
    assert world.executed("k") == b"xy"


class Chunks(BasePipeline):
    """A pipeline whose chunks are sent and collected by hand."""

    def _chunk_closed(self) -> None:
        pass

    def turn(self, world: World, seconds: float = 0.0) -> list[Any]:
        """Send the next chunk, take over its results; what the store answered."""
        self._submit_held(world.now)
        ticket, _ = self._in_flight[0]
        world.pass_time(seconds)
        self._collect()
        return ticket.result or []


def test_what_a_pipelines_later_chunk_is_asked_again_for_is_told_as_that_operations() -> None:
    world, offered = World(), []
    pipeline = Chunks(
        world.core, max_in_flight=1, timeout=1.0, mode="linearizable",
        offer_retry=lambda _, answer: offered.append(answer),
    )  # fmt: skip
    for value in ("x", "y"):
        pipeline.txn(then=[calls.Put("k", value)])
    answered = pipeline.turn(world)
    world.unheard = lambda _a, reply: isinstance(reply, CommandReply)
    pipeline.turn(world, 2.0)
    assert isinstance(pipeline.results[1], RequestTimeout)
    assert type(offered[0](answered)) is type(pipeline.results[0])


def test_what_has_no_unknown_outcome_has_nothing_to_retry() -> None:
    with Client("127.0.0.1:1", timeout=0.05) as kv:
        for call in (lambda: kv.get("a"), lambda: kv.put("a", "b")):
            with pytest.raises(ClusterUnavailable) as failed:
                call()
            assert not failed.value.unknown
            with pytest.raises(InvalidRequest, match="call the method again"):
                failed.value.retry()
