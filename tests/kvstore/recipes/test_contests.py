"""Contests without threads: all plans over one store, in whatever order chance has them go on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from paxon import Contender, InvalidRequest, LeaseExpired, NotAcquired, Put, Range, TooLarge
from paxon.kvstore.client.calls.answers import accepted
from paxon.kvstore.client.calls.calls import Call
from paxon.kvstore.client.leases.requests import Grant, Revoke
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.recipes.contests import Contest, Look, Until, enter, patience, until_of
from paxon.kvstore.recipes.sharing import Permits, Sharing
from paxon.kvstore.store import ranges
from paxon.kvstore.store.operations import decode_results, encode_operations
from paxon.kvstore.store.store import KVStore


def do(store: KVStore, call: Call[Any]) -> Any:
    """What a client's `_do` does."""
    steps = call.steps()
    operations = next(steps)
    try:
        while True:
            operations = steps.send(
                decode_results(store.apply(encode_operations(list(operations))))
            )
    except StopIteration as stop:
        return stop.value


class Contending:
    """One that contends, step by step."""

    def __init__(self, store: KVStore, contest: Contest, number: int) -> None:
        self.contest = contest
        self.fence = 0
        self.error: Exception | None = None
        self.reads = self.woken = 0
        self.revoked = False
        self.looks = True
        """Whether the server looks for it when it tells of an end."""
        self._store, self._number = store, number
        do(store, Grant(number, 3600.0))
        self._plan = enter(contest, number, contest.value)
        self._step = next(self._plan)

    @property
    def contends(self) -> bool:
        """Whether it has neither come in nor given up."""
        return not self.fence and self.error is None

    def go_on(self) -> bool:
        """One step more; whether there was one to make."""
        answer = None
        if not self.contends:
            return False
        if isinstance(self._step, Until):
            query = encode_operations([self._step.wanted])
            _, rows, *looked = accepted(decode_results(self._store.query(query))[0])
            self.woken += bool(rows)
            gone = [Event("delete", row[0].decode(), b"", row[3], 0, 0, 0) for row, _ in rows]
            if not self._step.over(gone, *(looked if self.looks else ())):
                return False
        else:
            call = self._step.call if isinstance(self._step, Look) else self._step
            answer = do(self._store, call)
            self.reads += 1
        try:
            self._step = self._plan.send(answer)
        except StopIteration as stop:
            self.fence = stop.value
        except LeaseExpired as error:
            self.error = error
        return True

    def revoke(self) -> None:
        """It leaves, or is thrown out."""
        self.revoked = True
        do(self._store, Revoke(self._number))


class World:
    """Some that contend over one store, and those of them that have come in and not left."""

    def __init__(self, seed: int, make: Callable[[int], Contest]) -> None:
        self.chance, self.store, self.make = random.Random(seed), KVStore(), make
        self.everybody: list[Contending] = []
        self.inside: list[Contending] = []

    def arrive(self) -> None:
        number = len(self.everybody) + 1
        self.everybody.append(Contending(self.store, self.make(number), number))

    def go_on(self, one: Contending) -> bool:
        moved = one.go_on()
        if moved and one.fence:
            earlier = [each for each in self.everybody if 0 < each.fence < one.fence]
            assert all(each not in self.waiting() for each in earlier)
            if not one.revoked:  # (else it came in by what it had read before)
                self.inside.append(one)
                assert is_allowed([each.contest for each in self.inside])
        return moved

    def waiting(self) -> list[Contending]:
        return [each for each in self.everybody if each.contends]

    def leave(self) -> None:
        self.inside.pop(self.chance.randrange(len(self.inside))).revoke()


def is_allowed(inside: list[Contest]) -> bool:
    """Whether all these may hold at once."""
    if isinstance(inside[0], Permits):
        return len(inside) <= inside[0].limit
    return len(inside) == 1 or all(contest.value == b"read" for contest in inside)


KINDS: list[Callable[[int], Contest]] = [
    lambda _: Contest("a", "lock", 10.0),
    lambda _: Permits("a", 1, 10.0),
    lambda _: Permits("a", 3, 10.0),
    lambda number: Sharing("a", "read" if number % 3 else "write", 10.0),
]


@pytest.mark.parametrize("make", KINDS, ids=["lock", "one", "three", "rwlock"])
@pytest.mark.parametrize("seed", range(12))
def test_never_too_many_hold_and_everybody_has_its_turn(
    make: Callable[[int], Contest], seed: int
) -> None:
    world = World(seed, make)
    for _ in range(400):
        match world.chance.randrange(20):
            case 0 | 1 if len(world.everybody) < 30:
                world.arrive()
            case 2 | 3 if world.inside:
                world.leave()
            case 4 if waiting := [w for w in world.waiting() if w.reads and not w.revoked]:
                world.chance.choice(waiting).revoke()
            case _ if world.everybody:
                world.go_on(world.chance.choice(world.everybody))
            case _:
                pass
    while world.waiting():
        if not any(world.go_on(one) for one in world.everybody):
            world.leave()
    assert len(world.everybody) > 20
    for one in world.everybody:
        assert one.fence or (one.revoked and "its lease has ended" in str(one.error))
        # Its put, what it reads when it is its turn, and a little more where others gave up.
        assert one.reads <= (25 if isinstance(one.contest, Sharing) else 12)


@pytest.mark.parametrize("make", KINDS[:3], ids=["lock", "one", "three"])
def test_who_waits_is_woken_by_those_just_before_it_alone(make: Callable[[int], Contest]) -> None:
    """And asks for nothing more then, for the news brings along who is there."""
    world = World(1, make)
    for _ in range(40):
        world.arrive()
        while world.go_on(world.everybody[-1]):
            pass
    while world.inside:
        world.leave()
        while any(world.go_on(one) for one in world.everybody):
            pass
    assert all(one.fence for one in world.everybody)
    assert sum(one.reads for one in world.everybody) == 40, "the put alone"
    assert sum(one.woken for one in world.everybody) <= 2 * 37  # (and not 37 * 36 / 2)


def test_of_a_crowd_before_a_semaphore_the_next_one_alone_reads() -> None:
    """All are woken: nobody's watch names more keys than servers hold, however high the limit."""
    world = World(1, lambda _: Permits("a", 4, 10.0))
    for _ in range(20):
        world.arrive()
        while world.go_on(world.everybody[-1]):
            pass
    for waiting in world.waiting():
        assert isinstance(waiting._step, Until) and len(waiting._step.wanted.spans) == 1
    while world.inside:
        world.leave()
        while any(world.go_on(one) for one in world.everybody):
            pass
    assert sum(one.reads for one in world.everybody) <= 20 + 2 * 16


@pytest.mark.parametrize("make", KINDS, ids=["lock", "one", "three", "rwlock"])
@pytest.mark.parametrize("seed", range(12))
def test_who_holds_and_who_waits_are_the_same_rule(
    make: Callable[[int], Contest], seed: int
) -> None:
    chance = random.Random(seed)
    contests = [make(number) for number in range(chance.randrange(1, 9))]
    all_ = [Contender(f"a/{n}", each.value, n, n + 1) for n, each in enumerate(contests)]
    holding = contests[0].holding(all_)
    for index, contest in enumerate(contests):
        others, most = contest.before(all_[:index])
        assert (all_[index] in holding) is (len(others) <= most)
        assert contest.waits(all_[:index]) is (len(others) > most)


def test_who_was_told_of_an_end_holds_by_no_older_answer() -> None:
    """The read after it needs no round between servers, if it is as new as what was told.

    (Mostly the news brings what is there along. Here history was cut under it.)
    """
    store, contest = KVStore(), Contest("name", "lock", 10.0)
    first, second = Contending(store, contest, 1), Contending(store, contest, 2)
    assert first.go_on() and second.go_on()
    assert isinstance(second._step, Until)
    second.looks = False
    before = do(store, contest.upto(0, 5))
    first.revoke()
    assert second.go_on()
    assert isinstance(second._step, Look)
    second._step = second._plan.send(before)
    assert not isinstance(second._step, Look | Until), "an older answer: it asks the store itself"
    assert second.go_on()
    assert second.fence
    assert second.reads == 2


def test_who_was_told_of_nothing_asks_the_store_itself() -> None:
    """History was cut, or its time is up: an older answer might do for its own key alone."""
    store, contest = KVStore(), Contest("name", "lock", 10.0)
    first, second = Contending(store, contest, 1), Contending(store, contest, 2)
    assert first.go_on() and second.go_on()
    assert isinstance(second._step, Until)
    second._step = next(second._plan)
    assert isinstance(second._step, Range) and second.go_on()
    assert isinstance(second._step, Until), "the first holds still"


def test_a_lease_that_is_not_its_own_is_noticed() -> None:
    store, contest = KVStore(), Contest("name", "lock", 10.0)
    do(store, Put(contest.key(1), b""))
    with pytest.raises(InvalidRequest, match="is there already"):
        Contending(store, contest, 1).go_on()


def test_only_an_end_is_news() -> None:
    """Not that somebody wrote to a key that is there."""
    store, contest = KVStore(), Permits("name", 1, 10.0)
    first, second = Contending(store, contest, 1), Contending(store, contest, 2)
    assert first.go_on() and second.go_on()
    do(store, Put(contest.key(1), contest.value, lease=1))
    assert not second.go_on()


def test_the_news_of_an_end_brings_along_who_is_there() -> None:
    """So who waited asks for nothing more; and who waited for one that gave up waits on."""
    store, contest = KVStore(), Contest("name", "lock", 10.0)
    first, second, third = (Contending(store, contest, number) for number in (1, 2, 3))
    assert all(each.go_on() for each in (first, second, third))
    second.revoke()
    assert third.go_on()
    assert isinstance(third._step, Until), "the first holds still"
    first.revoke()
    assert third.go_on()
    assert third.fence
    assert third.reads == 1, "the put alone"


def test_one_whose_own_key_is_gone_sees_it_in_the_news() -> None:
    store, contest = KVStore(), Contest("name", "lock", 10.0)
    first, second = Contending(store, contest, 1), Contending(store, contest, 2)
    assert first.go_on() and second.go_on()
    second.revoke()
    assert second.go_on() and second.go_on()
    assert isinstance(second.error, LeaseExpired)


def test_who_comes_when_no_more_can_be_put_in_order_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is in nobody's way."""
    monkeypatch.setattr(ranges, "MAX_SORTED", 2)
    store, contest = KVStore(), Contest("a", "lock", 10.0)
    for number in (1, 2):
        Contending(store, contest, number).go_on()
    with pytest.raises(TooLarge, match="lock 'a' has more contenders than can be put in order"):
        Contending(store, contest, 3).go_on()
    assert do(store, contest.all()).count == 2


def test_nobody_waits_longer_than_the_time_given_or_than_its_lease_lives() -> None:
    contest, for_ever = Contest("a", "lock", 10.0), float("inf")
    assert patience(contest, for_ever, 0.5) == 0.5
    assert 0.0 < patience(contest, until_of(60.0), 1000.0) <= 60.0
    for until in (for_ever, until_of(0.0)):
        with pytest.raises(LeaseExpired, match="lock 'a' is lost: its lease has ended"):
            patience(contest, until, 0.0)
    with pytest.raises(NotAcquired, match="lock 'a' was not to be had in the time given"):
        patience(contest, until_of(0.0), 3.0)
