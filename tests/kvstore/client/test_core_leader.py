"""The client core finds the leader, and finds it again."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
import zmq

from paxon.actors.messages import (
    Addresses,
    Command,
    CommandReply,
    NotLeader,
    Overloaded,
    Query,
    ServerReply,
    SessionOpened,
    StatusReply,
    TellAddresses,
)
from paxon.kvstore.client import keys
from paxon.kvstore.client.core import CoreOptions
from paxon.kvstore.client.leader_search import LeaderSearch
from paxon.kvstore.client.requests import Request
from paxon.kvstore.errors import NotLeader as NotLeaderError
from paxon.kvstore.errors import (
    RequestTimeout,
)
from paxon.kvstore.store.operations import (
    LANGUAGE,
    Append,
    Get,
    Put,
)
from paxon.transport import CurveKeys
from tests.kvstore.client.core_world import A, B, C, World, commands, open_session


def test_a_hint_is_followed_and_learnt() -> None:
    world = World(known=(B,))
    ticket = world.submit(Put(b"k", b"v"))
    world.exchange()
    assert ticket.value() == [2]
    assert world.core.search.target == A
    assert world.core.search.servers == [B, A]


def test_a_changed_leader_gets_everything_unanswered_with_the_same_numbers() -> None:
    world = World()
    open_session(world)
    world.unheard = lambda address, reply: address == A and isinstance(reply, CommandReply)
    tickets = [world.submit(Append(b"k", b"x"))]
    world.exchange()
    tickets.append(world.submit(Append(b"k", b"y")))
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
    world.lost = lambda address, _message: address != C
    world.cluster.leader = C
    tickets = []
    for i in range(3):
        tickets.append(world.submit(Put(b"k%d" % i, b"v")))
        world.exchange()
    world.pass_time(0.12)
    assert not any(ticket.done for ticket in tickets)
    world.pass_time(0.1)
    assert all(ticket.done for ticket in tickets)
    assert world.core.search.target == C
    assert {a for a, m in world.cluster.received if isinstance(m, Command)} == {C}


def test_hints_back_to_a_dead_leader_do_not_delay_the_search() -> None:
    world = World()
    open_session(world)
    world.lost = lambda address, _message: address == A
    ticket = world.submit(Put(b"k", b"v" * 1000))
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
    ticket = world.submit(Put(b"k", b"v"), timeout=60)
    world.pass_time(10.0)
    before = len(world.cluster.received)
    world.pass_time(10.0)
    assert 3 * 30 <= len(world.cluster.received) - before <= 3 * 60
    world.cluster.leader = B
    world.pass_time(0.4)
    assert ticket.done


def test_two_servers_that_point_to_each_other_are_not_asked_in_a_hot_loop() -> None:
    world = World()
    world.submit(Get(b"k"))
    hops = 0
    while frames := world.core.poll(world.now):
        hops += 1
        assert hops < 10
        for address, _ in frames:
            world.answer(address, NotLeader(1, A if address == B else B))


def test_a_server_that_did_not_lead_and_now_does_is_sent_all_again() -> None:
    world = World(known=(B,))
    world.cluster.leader, world.cluster.hint = "nobody", ""
    ticket = world.submit(Put(b"k", b"v"))
    world.exchange()
    world.cluster.leader = B
    world.pass_time(0.1)
    assert ticket.done


def test_a_pause_does_not_keep_the_driver_spinning() -> None:
    world = World(options=CoreOptions(eager=4))
    open_session(world)
    world.lost = lambda _address, message: isinstance(message, Command) and message.seq == 2
    lost = world.submit(Put(b"lost", b""))
    world.exchange()
    world.cluster.busy = 10
    busy = world.submit(Put(b"busy", b""))
    world.pass_time(9.0)
    assert busy.done
    assert not lost.done


def test_a_late_answer_of_the_silent_leader_is_taken_and_it_is_trusted_again() -> None:
    world = World()
    open_session(world)
    kept: list[ServerReply] = []
    world.unheard = lambda address, reply: address == A and not kept.append(reply)  # type: ignore[func-returns-value]
    world.lost = lambda address, _message: address != A
    ticket = world.submit(Put(b"k", b"v"))
    world.pass_time(0.25)
    assert not ticket.done
    world.cluster.received.clear()
    world.answer(A, *[reply for reply in kept if isinstance(reply, CommandReply)])
    assert ticket.done
    world.pass_time(1.0)
    later = world.submit(Put(b"k", b"w"))
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
        tickets.append(world.submit(Put(b"k%d" % i, b"v")))
        world.exchange()
    world.pass_time(0.8)
    assert len(commands(world)) == 4
    world.answer(A, *kept)
    assert all(ticket.done for ticket in tickets)


def test_a_single_lost_answer_is_asked_for_again_while_others_are_answered() -> None:
    world = World()
    open_session(world)
    lost = world.submit(Append(b"k", b"x"))
    world.unheard = lambda _address, reply: isinstance(reply, CommandReply) and reply.seq == 2
    world.exchange()
    for i in range(20):
        other = world.submit(Put(b"other%d" % i, b""))
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
        tickets.append(world.submit(Append(b"k", b"%d" % i)))
        world.core.poll(world.now) if i else world.exchange()
    assert not any(ticket.done for ticket in tickets)
    world.pass_time(0.5)
    assert all(ticket.done for ticket in tickets)
    assert len(world.executed("k") or b"") == 3
    assert len(commands(world)) < 12


def test_no_redirect_fails_with_the_leaders_address() -> None:
    world = World(known=(B, A), redirect=False)
    write, read = world.submit(Put(b"k", b"v")), world.submit(Get(b"k"))
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
        [Get(b"k")], now=world.now, deadline=world.now + 5, mode="stale"
    )
    world.exchange()
    assert first.done
    [(address, _)] = world.cluster.received
    world.lost = lambda to, _message: to == address
    second = world.core.submit_operations(
        [Get(b"k")], now=world.now, deadline=world.now + 5, mode="stale"
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


def test_a_lost_connection_makes_the_client_seek_at_once() -> None:
    world = World()
    open_session(world)
    world.lost = lambda address, _message: address == A
    ticket = world.submit(Put(b"k", b"v"))
    world.exchange()
    assert not ticket.done
    world.cluster.leader = B
    world.core.lost(A, world.now)
    world.exchange()
    assert ticket.value() == [3], "no time has passed, and the new leader has it"
    assert world.core.search.target == B


def test_a_connection_lost_while_idle_makes_the_next_request_seek() -> None:
    world = World()
    open_session(world)
    world.lost = lambda address, _message: address == A
    world.cluster.leader = B
    world.core.lost(A, world.now)
    ticket = world.submit(Put(b"k", b"v"))
    world.exchange()
    assert ticket.value() == [3]


def test_losing_a_server_that_is_not_the_leader_changes_nothing() -> None:
    world = World()
    open_session(world)
    world.core.lost(B, world.now)
    ticket = world.submit(Put(b"k", b"v"))
    world.exchange()
    assert ticket.value() == [3]
    assert {a for a, _ in world.cluster.received} == {A}


def test_probes_ask_for_no_lease() -> None:
    """A lease that nobody reads by would only hold up the next leader."""
    world = World()
    world.cluster.leader = C
    world.lost = lambda address, _message: address == A
    world.submit(Get(b"k"))
    world.pass_time(1.0)
    assert {m.mode for _, m in world.cluster.received if isinstance(m, Query)} == {"linearizable"}


D, E, F = "tcp://d:1", "tcp://e:1", "tcp://f:1"
MOVED = {1: D, 2: E, 3: F}


def test_where_all_servers_are_is_learnt_from_whoever_tells() -> None:
    world = World((A,))
    seen: list[tuple[Mapping[int, str], Mapping[int, str]]] = []
    world.core.search.on_addresses = lambda *told: seen.append(told)
    open_session(world)
    world.answer(A, NotLeader(0, "", 3, {1: A, 2: B}))
    assert world.core.search.servers == [A, B]
    world.answer(B, NotLeader(0, "", 3, MOVED))
    assert world.core.search.servers == [A, B, D, E, F]
    assert seen[-2:] == [({1: A, 2: B}, {}), (MOVED, {})]
    world.core._opening = Request("open", 1, b"", [])
    world.answer(A, SessionOpened(1, 7, LANGUAGE, 0, 0, {1: "tcp://g:1"}))
    world.answer(A, Addresses({2: "tcp://h:1"}, {2: "key"}))
    assert seen[-1] == ({2: "tcp://h:1"}, {2: "key"})
    assert world.core.search.servers[-2:] == ["tcp://g:1", "tcp://h:1"]


class AskingWorld(World):
    asks_addresses = True


def asked(world: World) -> list[str]:
    """Whom the next messages ask to tell where all servers are."""
    return [address for address, message in world.sends() if type(message) is TellAddresses]


def test_each_server_is_asked_once_over_each_connection_to_tell_of_moves() -> None:
    """Else a client that is silent while all are replaced would find nobody."""
    world = AskingWorld((A, B, "tcp://stranger:1"))
    world.submit(Put(b"k", b"v"))
    assert asked(world) == [A]  # (what was only given may be anybody's by now)
    world.answer(A, Addresses({1: A, 2: B, 3: C}))
    assert asked(world) == [B, C]
    assert asked(world) == []
    world.answer(B, Addresses({1: A, 2: B, 3: C}))
    world.core.lost(B, world.now)
    assert asked(world) == [B]  # and not C, whose answer is still to come
    world.answer(A, Addresses({1: A, 2: B, 3: D}))  # a move
    assert asked(world) == [D]
    world.core.search.changes += 1  # what was queued for whoever is not connected is obsolete
    world.core.lost(A, world.now)
    assert asked(world) == [A, B, D]
    world.core.search.ask_addresses_anew()
    assert asked(world) == [A, B, D]


def test_a_client_that_stays_with_one_address_learns_none() -> None:
    world = AskingWorld((A,), redirect=False)
    open_session(world)
    assert asked(world) == []
    world.answer(A, NotLeader(0, "", 3, MOVED))
    assert world.core.search.servers == [A]


def searching(*servers: str, known: int = 64) -> LeaderSearch:
    options = CoreOptions(known_servers=known)
    return LeaderSearch(servers, random.Random(7), options, redirect=True)


def test_two_hints_are_followed_and_a_third_makes_it_ask_all() -> None:
    search = searching(A, B, C)
    for address, hint in ((A, B), (B, C)):
        search.not_leader(address, hint, 0.0)
        assert (search.target, search.seeking) == (hint, False)
    search.not_leader(C, A, 0.0)
    assert search.seeking


def test_addresses_that_were_given_stay_however_many_are_learnt() -> None:
    search = searching(A, B, known=3)
    for number in range(5):
        search.learn({number: f"tcp://learnt-{number}:1"})
    assert search.servers == [A, B, "tcp://learnt-4:1"]


def test_who_led_before_was_lost_which_does_not_matter_any_more() -> None:
    search = searching(A, B)
    search.lost(A, 0.0)
    search.not_leader(A, B, 0.0)
    search.sent(0.0)
    assert not search.seeking


def test_a_server_that_was_asked_before_is_overloaded_which_does_not_matter_any_more() -> None:
    world = World()
    open_session(world)
    world.submit(Put(b"k", b"v"))
    world.core.poll(world.now)  # gets lost at the server
    world.answer(A, NotLeader(2, B))
    assert [address for address, _ in world.sends()] == [B]
    world.answer(A, Overloaded(50, "busy"))
    assert world.sends() == []


def test_a_key_that_is_known_is_not_replaced_by_what_comes_with_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever tells may be behind; that of a server that is new, or elsewhere, is taken."""
    found: list[str] = []
    monkeypatch.setattr(keys, "secure_client", lambda _socket, _own, key: found.append(key))
    first, second, other = (CurveKeys.generate().public for _ in range(3))
    ring = keys.Keyring({A: first}, {1: first}, CurveKeys.generate())
    assert not ring.learn({1: A, 2: B}, {1: other, 2: second})
    assert not ring.learn({1: C, 2: B}, {1: other, 2: first})
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        for address in (A, B, C):
            ring(socket, address)
    assert found == [first, second, other]
