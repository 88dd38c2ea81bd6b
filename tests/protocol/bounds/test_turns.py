"""Clients' turns by themselves: what may wait, who is there, who is greedy, and what is forgotten.

Times are seconds. `test_fair_share.py` has what comes of it at a server.
"""

from __future__ import annotations

from typing import Any

import pytest

from paxon.actors.environment import NEVER
from paxon.actors.limits import turns as module
from paxon.actors.limits.allowances import MESSAGE_BYTES
from paxon.actors.limits.turns import HELD_SECONDS, MAX_MESSAGES, ClientTurns
from paxon.actors.messages import P2B, Command, Query, StatusRequest
from paxon.transport import Burst
from tests.harness import Cluster, reign_of

FLOODER, OTHER, THIRD = b"flooder", b"other", b"third"
ASK: list[Any] = [StatusRequest(1)]


# --- what may wait -------------------------------------------------------------------------------


def test_all_or_nothing_of_a_frame_waits_within_its_clients_bounds() -> None:
    turns = ClientTurns()
    assert turns.add(FLOODER, ASK * (MAX_MESSAGES // 2))
    assert not turns.is_much(FLOODER)
    assert turns.add(FLOODER, ASK)
    assert turns.is_much(FLOODER)
    assert not turns.add(FLOODER, ASK * (MAX_MESSAGES // 2))
    assert turns.add(FLOODER, ASK * (MAX_MESSAGES // 2 - 1))
    assert not turns.add(FLOODER, ASK)
    assert turns.messages == MAX_MESSAGES
    half = Query(1, "stale", bytes(module.MAX_BYTES // 2 - MESSAGE_BYTES))
    assert turns.add(OTHER, [half]) and not turns.is_much(OTHER)
    assert turns.add(OTHER, [half]) and turns.is_much(OTHER)
    assert not turns.add(OTHER, ASK)


@pytest.mark.parametrize("of", ["messages", "bytes"])
def test_once_all_is_taken_whoever_has_less_than_half_of_its_share_gets_more_in(
    monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """Which is what one has who comes then."""
    size = 1 if of == "messages" else MESSAGE_BYTES
    monkeypatch.setattr(module, f"MAX_TOTAL_{of.upper()}", 120 * size)
    turns = ClientTurns()
    for client, count in ((FLOODER, 100), (OTHER, 20)):
        assert turns.add(client, ASK * count)
    assert not turns.add(FLOODER, ASK)
    assert turns.add(OTHER, ASK * 10), "half of what two may have each"
    assert not turns.add(OTHER, ASK)
    assert not turns.add(THIRD, ASK * 21), "three, with this one"
    assert turns.add(THIRD, ASK * 20)
    for _ in range(30):
        turns.take(turns.waiting[FLOODER])
    assert not turns.add(OTHER, ASK)
    turns.drop(THIRD)
    assert turns.add(OTHER, ASK * 20), "others have left room for it"
    assert not turns.add(FLOODER, ASK)


def test_what_was_served_or_waits_for_nobody_any_more_takes_no_room() -> None:
    turns = ClientTurns()
    asked: list[Any] = [Query(1, "stale", bytes(1000)), StatusRequest(2)]
    for client in (FLOODER, OTHER):
        turns.add(client, asked)
    waiting = turns.waiting[FLOODER]
    assert (turns.messages, turns.bytes, waiting.bytes) == (4, 2 * (1000 + 2 * 64), 1128)
    assert [turns.take(waiting) for _ in range(2)] == asked
    assert (turns.messages, turns.bytes, waiting.bytes) == (2, 1128, 0)
    turns.drop(OTHER)
    assert (turns.messages, turns.bytes) == (0, 0)


def test_who_still_has_much_waiting_is_not_listened_to_again() -> None:
    turns = ClientTurns()
    turns.add(FLOODER, ASK * MAX_MESSAGES)
    turns.ignored.add(FLOODER)
    turns.listen(FLOODER)
    assert turns.ignored == {FLOODER}
    for _ in range(MAX_MESSAGES // 2):
        turns.take(turns.waiting[FLOODER])
    turns.listen(FLOODER)
    assert not turns.ignored


def test_nothing_is_kept_of_who_has_left_but_that() -> None:
    turns = ClientTurns()
    for client in (FLOODER, OTHER):
        turns.heard(client, ASK, 1.0)
        turns.add(client, ASK)
        turns.charge(client, 1.0 if client == FLOODER else 0.01, 1.0)
        turns.ignored.add(client)
        turns.drop(client)
    kept = {name: held for name, held in vars(turns).items() if isinstance(held, dict | set)}
    assert [name for name, held in kept.items() if held] == ["_left"]


def test_what_is_remembered_of_clients_that_come_and_go_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_CLIENTS", 10)
    turns = ClientTurns()
    for number in range(50):
        client = b"%d" % number
        turns.heard(client, ASK, 1.0)
        turns.charge(client, 0.0001, 1.0)
        turns.charge(b"greedy " + client, 1.0, 1.0)
        turns.drop(b"left " + client)
    kept = (turns.paid_at, turns._ahead, turns.greedy, turns._modest, turns._left)
    assert [len(held) for held in kept] == [10] * 5
    assert list(turns._modest) == [b"%d" % number for number in range(40, 50)], "the last ones"


# --- whose turn it is ----------------------------------------------------------------------------


def test_the_first_whose_turn_comes_is_waited_for() -> None:
    turns = ClientTurns()
    assert turns.due(0.0) == NEVER
    for client, seconds in ((FLOODER, 3.0), (OTHER, 2.0), (THIRD, 1.0)):
        turns.sit_out(client, 1.0, seconds)
        if client != THIRD:
            turns.add(client, ASK)
    assert turns.due(0.0) == 3.0, "the third one asks for nothing"
    assert turns.next(2.9) is None
    assert turns.next(3.0) == (OTHER, turns.waiting[OTHER])


def test_who_waits_is_there_however_long_ago_it_was_heard() -> None:
    turns = ClientTurns()
    turns.heard(OTHER, ASK, 1.0)
    turns.heard(FLOODER, ASK, 9.0)
    assert not turns.others_present(FLOODER, 9.0)
    assert turns.others_present(OTHER, 9.0)
    turns.add(FLOODER, ASK)
    turns.sit_out(OTHER, 9.0)
    assert not turns.others_present(FLOODER, 9.0), "it sits out and asks for nothing"
    turns.add(OTHER, ASK)
    assert turns.others_present(FLOODER, 9.0)


def owing(turns: ClientTurns, client: bytes, seconds: float, now: float) -> None:
    """It has something waiting, and has taken so much just now."""
    turns.charge(client, seconds, now)
    turns.add(client, ASK * 3)


def test_who_owes_lets_one_go_first_that_took_little_and_asks_again() -> None:
    turns = ClientTurns()
    turns.charge(OTHER, 0.001, 1.0)
    owing(turns, FLOODER, 0.4, 1.0)
    turns.heard(OTHER, ASK, 1.0)
    assert turns.next(1.0) is None


def test_a_client_that_has_become_greedy_is_no_longer_let_go_first() -> None:
    turns = ClientTurns()
    turns.heard(OTHER, [Command(1, 2, 1, 0, b"")], 1.0)
    turns.awaited_at = turns.listened
    assert turns.modest == (1, 2)
    owing(turns, FLOODER, 0.4, 1.0)
    assert turns.next(1.0) is None
    turns.charge(OTHER, 2.0, 1.0)
    assert turns.modest is None
    assert turns.next(1.0) == (FLOODER, turns.waiting[FLOODER])


def test_who_owes_least_of_those_in_line_goes_on() -> None:
    turns = ClientTurns()
    turns.charge(THIRD, 0.3, 1.0)
    turns.hold_back(THIRD, (1, 1), 1.0)  # it is greedy, and owes more than the first
    owing(turns, FLOODER, 1.0, 1.0)
    owing(turns, OTHER, 0.05, 1.0)
    assert turns.next(1.0) == (OTHER, turns.waiting[OTHER])


def test_it_listens_for_others_for_as_long_as_the_last_turn_took() -> None:
    turns = ClientTurns()
    owing(turns, FLOODER, 0.1, 1.0)
    turns.heard(OTHER, ASK, 1.0)
    turns.listened = 0.09
    assert turns.next(1.0) is None
    turns.listened = 0.1
    assert turns.next(1.0) is not None
    turns.charge(FLOODER, 0.03, 1.0)
    turns.heard(OTHER, ASK, 1.0)
    turns.listened += 0.029
    assert turns.next(1.0) is None
    turns.listened += 0.001
    assert turns.next(1.0) is not None, "not for what the turn before that took"


def test_who_waits_for_its_last_command_alone_goes_on_once_that_is_executed() -> None:
    """What it owes is owed to nobody who is there."""
    turns = ClientTurns()
    owing(turns, FLOODER, 0.4, 1.0)
    turns.hold_back(FLOODER, (1, 1), 1.0)
    assert turns.next(1.0) is None
    turns.go_on(FLOODER, 1.0)
    assert turns.next(1.0) == (FLOODER, turns.waiting[FLOODER])


def test_who_does_not_read_is_nobody_to_wait_for() -> None:
    turns = ClientTurns()
    turns.charge(OTHER, 0.6, 1.0)
    owing(turns, FLOODER, 1.0, 1.5)
    turns.hold_back(OTHER, (1, 1), 1.5)  # a greedy one that owes less and is not in line
    assert turns.next(2.0) is None
    turns.wait_for_reader(OTHER, 9.0)
    assert turns.next(2.0) == (FLOODER, turns.waiting[FLOODER])


# --- who is greedy -------------------------------------------------------------------------------


def test_greedy_ones_count_for_each_other_up_to_four() -> None:
    turns = ClientTurns()
    assert turns.weight(FLOODER, 1.0) == 1
    for number in range(1, 8):
        client = b"%d" % number
        turns.charge(client, 1.0, 1.0)
        assert turns.weight(client, 1.0) == min(number, 4)
        assert turns.weight(OTHER, 1.0) == 1


def test_who_has_taken_little_for_a_while_is_greedy_no_more() -> None:
    """It counts as one for as long as it owes, and perhaps is in the log."""
    turns = ClientTurns()
    for client in (FLOODER, OTHER):
        turns.charge(client, 0.1, 1.0)
        turns.charge(client, 0.5, 1.5)
    assert set(turns.greedy) == {FLOODER, OTHER}
    until = dict(turns.greedy)
    for client, at in until.items():
        assert at == pytest.approx(1.5 + 2 * (turns.paid_at[client] - 1.5) + 0.1)
    assert turns.weight(FLOODER, 1.55) == 2
    late = max(until.values())
    turns.charge(FLOODER, 0.0001, late)
    assert turns.paid_at[FLOODER] == pytest.approx(late + 0.0001)
    assert not turns.greedy


@pytest.mark.parametrize(("pause", "greedy"), [(0.9, True), (1.1, False)])
def test_however_much_somebody_took_it_is_greedy_for_about_a_second(
    pause: float, greedy: bool
) -> None:
    turns = ClientTurns()
    turns.charge(FLOODER, 60.0, 1.0)
    turns.greedy.clear()
    turns.charge(FLOODER, 0.001, 1.0 + pause)
    assert (FLOODER in turns.greedy) == greedy


def test_a_client_may_take_an_eighth_of_the_time_and_a_sixteenth_of_a_second_more() -> None:
    turns, now = ClientTurns(), 1.0
    for _ in range(100):
        now += 0.08
        turns.charge(FLOODER, 0.01, now)
    turns.charge(FLOODER, 0.0624, now := now + 0.08)
    assert not turns.greedy
    turns.charge(FLOODER, 0.0112, now + 0.08)
    assert set(turns.greedy) == {FLOODER}


# --- snapshots, and the end of a reign -----------------------------------------------------------


def test_who_made_a_snapshot_due_is_not_greedy_and_waits_for_its_command_as_well() -> None:
    turns = ClientTurns()
    turns.charge(FLOODER, 1.0, 100.0)
    assert turns.greedy
    turns.hold_for_snapshot({FLOODER: 1.0}, 100.0)
    assert not turns.greedy
    turns.hold_back(FLOODER, (1, 1), 105.0)
    assert turns.waiting[FLOODER].not_before == 105.0 + HELD_SECONDS
    turns.go_on(FLOODER, 106.0)
    waiting = turns.waiting[FLOODER]
    assert (waiting.not_before, waiting.owes) == (105.0 + HELD_SECONDS, False)
    turns.charge(FLOODER, 20.0, 114.0)
    turns.go_on(FLOODER, 114.0)
    assert (waiting.not_before, waiting.owes) == (114.0 + HELD_SECONDS, False)


def test_who_was_held_when_a_reign_ends_is_held_for_nothing_any_more() -> None:
    turns = ClientTurns()
    turns.hold_for_snapshot({FLOODER: 1.0}, 100.0)
    turns.hold_back(OTHER, (1, 1), 100.0)
    turns.let_go(101.0)
    assert not turns.blamed and not turns.held_back
    assert all(turns.waiting[client].not_before == 101.0 for client in (FLOODER, OTHER))
    turns.charge(FLOODER, 1.0, 102.0)
    assert turns.waiting[FLOODER].owes and turns.greedy, "it is charged like all others again"


# --- at a server ---------------------------------------------------------------------------------


def test_who_waits_for_a_command_between_those_that_flood_is_there() -> None:
    """However long its slot takes: those that owe do not go on as if nobody else were there."""
    cluster = Cluster(3).start()
    cluster.lead(1)
    turns = cluster.servers[1].reception.turns
    flooder, other = cluster.open_session(1, FLOODER), cluster.open_session(1, OTHER)
    cluster.pass_time(1.0)
    cluster.request(1, Command(flooder, 1, 1, 0, b"a"), client=FLOODER)
    turns.charge(FLOODER, 1.0, cluster.clock.now)
    cluster.request(1, Command(other, 1, 1, 0, b"b"), client=OTHER)
    turns.waiting[FLOODER].not_before = 0.0
    cluster.request(1, Command(flooder, 2, 1, 0, b"c"), client=FLOODER)
    assert list(reign_of(cluster.servers[1]).waiting.values()) == [FLOODER, OTHER, FLOODER]
    turns.charge(FLOODER, 1.0, cluster.clock.now)
    cluster.request(1, *ASK, client=FLOODER)
    cluster.drop(P2B)
    for _ in range(10):
        cluster.clock.now += 0.03
        cluster.step(1)
    assert turns.waiting[FLOODER].requests


def test_who_spends_a_step_with_its_last_request_has_nothing_that_waits() -> None:
    cluster = Cluster(1).start()
    cluster.servers[1].reception.handlers[StatusRequest] = lambda *_: cluster.servers[
        1
    ].reception.end_share()
    cluster.step(1, Burst(clients=[(OTHER, ASK), (FLOODER, ASK)]))
    turns = cluster.servers[1].reception.turns
    assert list(turns.waiting) == [FLOODER]
