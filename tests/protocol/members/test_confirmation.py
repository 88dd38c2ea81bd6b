"""Old copies of directories: whose answers are enough, and whose leave no hope."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from paxon.actors.disk.storage import StorageError
from paxon.actors.messages import CountAnswer, Heartbeat
from paxon.actors.records.configuration import Configuration, Member, encode_config
from paxon.actors.records.disks import Confirmation
from tests.harness import Cluster

FIVE = Configuration(0, 0, tuple(Member(server, server) for server in (1, 2, 3, 4, 5)))


@pytest.mark.parametrize(("confirmed", "enough"), [(set(), False), ({2}, False), ({2, 3}, True)])
def test_a_majority_confirms_this_server_being_one_of_it(confirmed: set[int], enough: bool) -> None:
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=FIVE)
    confirmation.confirmed_by = confirmed
    assert confirmation.is_enough(10.0) is enough


def test_a_database_that_is_another_file_takes_all_others_for_a_while() -> None:
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=FIVE)
    confirmation.all_until = 12.0
    confirmation.confirmed_by = {2, 3, 4}
    assert not confirmation.is_enough(11.9)
    assert confirmation.is_enough(12.0)
    confirmation.confirmed_by = {2, 3, 4, 5}
    assert confirmation.is_enough(10.0)


@pytest.mark.parametrize(
    ("denied", "hopeless"), [(set(), False), ({2, 3}, False), ({2, 3, 4}, True)]
)
def test_no_hope_is_left_once_no_majority_can_confirm(denied: set[int], hopeless: bool) -> None:
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=FIVE)
    confirmation.denied_by = denied
    with pytest.raises(StorageError, match="not the one") if hopeless else nullcontext():
        confirmation.check_hope()


def test_a_new_question_counts_no_answer_to_the_one_before() -> None:
    confirmation = Confirmation(1, 1, 7, 10.0, pending=False, newest=FIVE)
    confirmation.life = 5
    confirmation.confirmed_by, confirmation.denied_by = {2}, {3}
    confirmation.ask_anew()
    assert confirmation.life == 0
    assert confirmation.unanswered() == [2, 3, 4, 5]


def test_an_absurd_epoch_keeps_nobody_from_voting() -> None:
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=FIVE)
    assert not confirmation.hear_of_epoch(1 << 20, 3)
    assert confirmation.epoch_told == 0
    assert confirmation.hear_of_epoch(2, 3) and not confirmation.hear_of_epoch(2, 3)
    assert confirmation.epoch_told == 2 and confirmation.unanswered() == [2, 3, 4, 5]
    assert confirmation.hear_of_epoch(2, 9) and 9 in confirmation.unanswered()


def test_who_sent_it_can_take_a_later_epoch_back() -> None:
    """One damaged frame must not keep a server from its vote for good."""
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=FIVE)
    confirmation.hear(CountAnswer(1, 1, 0, sender=3), 3, joins=False)
    assert confirmation.hear_of_epoch(2, 3)
    assert confirmation.tellers() == [3] and 3 in confirmation.unanswered()
    confirmation.hear(CountAnswer(1, 1, 0, sender=3), 3, joins=False)
    assert confirmation.epoch_told == 0 and confirmation.tellers() == []
    assert confirmation.confirmed_by == {3}


def test_who_is_in_an_earlier_epoch_knows_nothing_of_a_directory_that_replaced_another() -> None:
    later = FIVE.followed_by([Member(1, 11), Member(2, 2), Member(3, 3)], 9, 5)
    confirmation = Confirmation(1, 11, 7, 10.0, pending=True, newest=later)
    confirmation.hear(CountAnswer(1, 1, 0, sender=2), 2, joins=False)  # it knows the old one of 1
    assert confirmation.denied_by == set() and confirmation.is_enough(10.0)
    told = encode_config(later)
    confirmation.hear(CountAnswer(1, 1, 0, told, sender=3), 3, joins=False)
    assert confirmation.denied_by == {3}


def test_only_the_directories_of_the_newest_configuration_confirm() -> None:
    later = FIVE.followed_by([Member(1, 1), Member(2, 22), Member(3, 3)], 9, 5)
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=later)
    confirmation.hear(CountAnswer(1, 1, 0, sender=2), 2, joins=False)  # the one that was replaced
    assert not confirmation.is_enough(10.0)
    confirmation.hear(CountAnswer(1, 1, 0, sender=22), 2, joins=False)
    assert confirmation.is_enough(10.0)


def test_an_answer_from_a_directory_that_was_replaced_is_asked_for_again() -> None:
    """Its server may be back on the right one: with two voters nobody else can confirm."""
    later = FIVE.followed_by([Member(1, 1), Member(2, 22)], 9, 5)
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=later)
    confirmation.hear(CountAnswer(1, 1, 0, sender=2), 2, joins=False)
    assert not confirmation.is_enough(10.0) and confirmation.unanswered() == [2]
    confirmation.hear(CountAnswer(1, 1, 0, sender=22), 2, joins=False)
    assert confirmation.is_enough(10.0) and confirmation.unanswered() == []


def test_who_is_in_an_epoch_by_now_is_denied_by_nobody_of_an_earlier_one() -> None:
    """It was no member when it started; whom it has replaced since, late answers still name."""
    confirmation = Confirmation(1, 11, 7, 10.0, pending=True, newest=FIVE)
    second = FIVE.followed_by([Member(1, 1), Member(2, 2)], 9, 5)
    third = second.followed_by([Member(1, 11), Member(2, 2)], 12, 6)
    for told in (second, third):
        answer = CountAnswer(1, 1, 0, encode_config(told), sender=2)
        confirmation.hear(answer, 2, joins=True)
    assert confirmation.settle(10.0)
    assert not confirmation.enters(third)  # they have confirmed it already
    confirmation.hear(CountAnswer(1, 1, 0, encode_config(second), sender=2), 2, joins=False)
    confirmation.check_hope()


@pytest.mark.parametrize("config", [b"\x01no CONFIG", encode_config(Configuration(9, 0, ()))])
def test_what_is_no_configuration_opens_no_epoch(config: bytes) -> None:
    confirmation = Confirmation(1, 1, 7, 10.0, pending=True, newest=FIVE)
    confirmation.hear(CountAnswer(1, 1, 0, config, sender=3), 3, joins=False)
    assert confirmation.newest is FIVE and confirmation.confirmed_by == {3}


def test_each_epoch_asks_anew_but_of_a_directory_that_was_just_made() -> None:
    second = FIVE.followed_by([Member(1, 1), Member(2, 2)], 9, 5)
    alone = second.followed_by([Member(1, 1)], 12, 6)
    for made_here in (False, True):
        confirmation = Confirmation(1, 1, 7, 10.0, pending=False, made_here=made_here, newest=FIVE)
        confirmation.newest = second
        assert confirmation.enters(second) is not made_here
        assert not confirmation.enters(second)  # once
        assert not confirmation.enters(alone)


@pytest.mark.parametrize("majority", [True, False])
def test_who_is_told_of_a_later_epoch_leads_no_more(majority: bool) -> None:
    """Who confirmed it knew nothing of that epoch, in which it may have voted (M15)."""
    cluster = Cluster(3).start()
    cluster.confirms = False
    server = cluster.restart(2)
    cluster.step(2)
    life = server.membership.confirmation.life
    cluster.drop()
    cluster.confirm(2)
    cluster.campaign(2)
    if majority:
        cluster.stabilize()
    assert server.role == ("leader" if majority else "candidate")
    told = server.configuration.followed_by(server.configuration.members, 9, 77)
    known, incarnation = encode_config(told), cluster.storages[2].incarnation
    cluster.drop()
    cluster.hand(
        2, 3,
        CountAnswer(
            life, incarnation, 0, configuration=known, sender=cluster.storages[3].incarnation
        ),
    )  # fmt: skip
    assert not server.is_voter and cluster.servers[2].role == "follower"
    cluster.pass_time(0.1)
    assert not cluster.sent(Heartbeat, source=2)
