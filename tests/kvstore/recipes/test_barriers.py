"""Barriers: nobody goes on alone, and the dead keep nobody."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from paxon import Client, Inside, InvalidRequest, LeaseExpired, LockLost, NotAcquired, Put
from paxon.kvstore.client.calls.answers import accepted
from paxon.kvstore.client.calls.calls import Range
from paxon.kvstore.client.leases.requests import Grant, Revoke
from paxon.kvstore.client.watches.events import Event, _event
from paxon.kvstore.recipes.barriers import Hall, _Arrivals, _Departures, meet, part
from paxon.kvstore.recipes.contests import Plan, Until
from paxon.kvstore.store.operations import decode_results, encode_operations
from paxon.kvstore.store.store import KVStore
from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import only
from tests.kvstore.recipes.others import Other
from tests.kvstore.recipes.test_contests import do
from tests.waiting import wait_until


def members(kv: Client, kind: str = "double") -> int:
    return kv.range(prefix=f"go/.{kind}/members/", count_only=True).count


def entering(**options: Any) -> Callable[[Client], Inside]:
    return lambda client: client.double_barrier("go", 3).enter(**options)


def leaving_of(inside: Inside) -> Callable[[Client], None]:
    def leave(_: Client) -> None:
        with inside:
            pass

    return leave


def test_nobody_goes_on_before_all_are_there_and_it_serves_again(
    cluster: MemoryCluster, kv: Client
) -> None:
    rounds, parties, meter = 5, 4, threading.Lock()
    passed = [0] * rounds

    def go(client: Client) -> None:
        barrier = client.barrier("go", parties)
        for number in range(rounds):
            with meter:
                assert all(count == parties for count in passed[: max(0, number - 1)])
            barrier.wait()
            with meter:
                passed[number] += 1

    others = [Other(cluster, go) for _ in range(parties - 1)]
    wait_until(lambda: kv.barrier("go", parties).waiting() == parties - 1)
    assert sum(passed) == 0
    go(kv)
    for other in others:
        other.join()
        assert other.error is None
    assert kv.double_barrier("go", 2).name == "go"
    assert passed == [parties] * rounds and kv.barrier("go", 4).name == "go"
    assert kv.leases() == [] and kv.scan("go/") == []


def test_all_begin_together_and_end_together(cluster: MemoryCluster, kv: Client) -> None:
    others = [Other(cluster, entering()) for _ in range(2)]
    wait_until(lambda: members(kv) == 2)
    assert all(other.thread.is_alive() for other in others)
    inside = kv.double_barrier("go", 3).enter()
    found = [other.join() for other in others]
    assert kv.txn(if_=[inside], then=[Put("x", "")]).succeeded
    inside.check()
    with pytest.raises(NotAcquired, match="others are still in double barrier 'go'"):
        inside.leave(timeout=0.05)
    late = Other(cluster, entering())  # has to wait for the next meeting
    leaving = []
    for each in found:
        assert isinstance(each, Inside)
        leaving.append(Other(cluster, leaving_of(each)))
    for other in leaving:
        other.join()
        assert other.error is None
    inside.leave()  # again, after the error
    assert late.thread.is_alive()
    more = [Other(cluster, entering()) for _ in range(2)]
    for other in (late, *more):
        each = other.join()
        assert isinstance(each, Inside) and each.fence > inside.fence


def test_who_dies_before_all_are_there_does_not_count(cluster: MemoryCluster, kv: Client) -> None:
    dead = kv.lease(60)
    kv.put(f"go/.double/members/{dead.id:x}", "3", lease=dead)
    dead.lose("its process was killed")
    others = [Other(cluster, entering())]
    wait_until(lambda: members(kv) == 2)
    kv.revoke(dead)  # as its time to live would
    assert members(kv) == 1
    others.append(Other(cluster, entering()))
    wait_until(lambda: members(kv) == 2)
    assert all(other.thread.is_alive() for other in others)
    others.append(Other(cluster, entering()))
    assert all(isinstance(other.join(), Inside) for other in others)


def test_if_the_last_one_dies_right_after_it_came_the_others_have_seen_it(
    cluster: MemoryCluster, kv: Client
) -> None:
    """There was a revision with all of them, and nobody else who makes sure of `ready`."""
    others = [Other(cluster, entering()) for _ in range(2)]
    wait_until(lambda: members(kv) == 2)
    with kv.lease(10) as lease:
        kv.put(f"go/.double/members/{lease.id:x}", "3", lease=lease)
    assert all(isinstance(other.join(), Inside) for other in others)


def test_who_dies_inside_keeps_nobody_there(cluster: MemoryCluster, kv: Client) -> None:
    others = [Other(cluster, entering()) for _ in range(2)]
    inside = kv.double_barrier("go", 3).enter()
    dead, alive = (other.join() for other in others)
    assert isinstance(dead, Inside) and isinstance(alive, Inside)
    leaving = [Other(cluster, leaving_of(each)) for each in (inside, alive)]
    wait_until(lambda: members(kv) == 1)
    assert all(other.thread.is_alive() for other in leaving)
    kv.revoke(dead.lease)  # what the servers do when it is not renewed
    for other in leaving:
        other.join()
        assert other.error is None
    assert kv.scan("go/") == [] and kv.leases() == []


def test_if_all_die_inside_the_next_ones_begin_anew(cluster: MemoryCluster, kv: Client) -> None:
    others = [Other(cluster, entering()) for _ in range(3)]
    for other in others:
        each = other.join()
        assert isinstance(each, Inside)
        kv.revoke(each.lease)
    assert [key for key, _ in kv.scan("go/")] == ["go/.double/ready"]
    again = [Other(cluster, entering())]
    wait_until(lambda: members(kv) == 1)
    assert again[0].thread.is_alive()
    again += [Other(cluster, entering()) for _ in range(2)]
    for other in again:
        each = other.join()
        assert isinstance(each, Inside)


def test_who_was_cut_off_while_all_were_there_goes_on_too(cluster: MemoryCluster) -> None:
    """It saw nothing of it, and two of them have gone again."""
    with cluster.client() as kv:
        hall = Hall("go", "barrier", 3, 10)
        lease = kv.lease(10)
        plan = meet(hall, lease.id)
        until = step(kv, plan)
        assert isinstance(until, _Arrivals)
        others = [Other(cluster, lambda client: client.barrier("go", 3).wait()) for _ in range(2)]
        for other in others:
            other.join()
            assert other.error is None
        assert members(kv, "barrier") == 1
        call = next(plan)  # history told nothing: it looks again
        while True:
            try:
                call = plan.send(kv._do(call, None))  # type: ignore[arg-type]
            except StopIteration as stop:
                assert stop.value[0] < stop.value[1]
                break


def test_who_waits_sees_by_itself_that_all_are_there() -> None:
    """Whoever came last may have died before it said so."""
    arrivals = waiting()
    assert not arrivals.over([come(2)]) and arrivals.over([come(3)]) and arrivals.full == 3
    arrivals = waiting()
    assert arrivals.over([come(2), come(3), end(2), end(3), come(4)]) and arrivals.full == 3


def test_who_waits_looks_again_once_its_place_is_lost_or_others_go_on() -> None:
    assert waiting().over([end(1), end(2)])
    assert waiting().over([Event("put", "go/.barrier/ready", b"3", 4, 4, 1, 0), end(2)])


def test_nothing_else_ends_waiting() -> None:
    others = [come(2), end(2), come(3), come(4, b"2"), come(5, key="go/.barrier/members/note")]
    arrivals = waiting()
    assert not arrivals.over(others) and not arrivals.full
    assert arrivals.over([come(6)])


def test_who_waits_for_the_end_waits_for_all() -> None:
    hall = Hall("go", "double barrier", 3, 5.0)
    departures = _Departures(hall, [end(1).key, end(2).key], 1)
    assert not departures.over([end(1)]) and departures.over([end(2)])


def waiting() -> _Arrivals:
    """The first of three at a barrier waits for the others."""
    hall = Hall("go", "barrier", 3, 5.0)
    return _Arrivals(hall, hall.key(1), [hall.key(1)], 1)


def come(number: int, value: bytes = b"3", *, key: str = "") -> Event:
    key = key or f"go/.barrier/members/{number:x}"
    return Event("put", key, value, number, number, 1, number)


def end(number: int) -> Event:
    return Event("delete", f"go/.barrier/members/{number:x}", b"", number + 10, 0, 0, 0)


class Party:
    """One that meets the others and leaves with them, step by step, without threads."""

    def __init__(self, store: KVStore, hall: Hall, number: int) -> None:
        self.store, self.hall, self.number = store, hall, number
        self.state = "meeting"
        self.meeting = self.fence = self._told = 0
        self._plan: Plan[Any] = meet(hall, number)
        do(store, Grant(number, 3600.0))
        self._step: Any = next(self._plan)

    def go_on(self) -> bool:
        """One step more; whether there was one to make."""
        if self.state not in ("meeting", "leaving"):
            return False
        answer = None
        if not isinstance(self._step, Until):
            answer = do(self.store, self._step)
        elif not self._is_over(self._step):
            return False
        self._told = 0
        try:
            self._step = self._plan.send(answer)
        except StopIteration as stop:
            if self.state == "meeting":
                self.fence, self.meeting = stop.value
            self.state = "inside" if self.state == "meeting" else "gone"
        except LeaseExpired:
            self.state = "expired"
        return True

    def look_again(self) -> None:
        """What it waits for has told it nothing: history was cut."""
        self._step = next(self._plan)

    def _is_over(self, until: Until) -> bool:
        since = max(self._told, until.wanted.after)
        wanted = msgspec.structs.replace(until.wanted, after=since)
        query = encode_operations([wanted])
        _, rows, *_ = accepted(decode_results(self.store.query(query))[0])
        events = [_event(row, before) for row, before in rows]
        self._told = max([since, *(event.revision for event in events)])
        return bool(events) and until.over(events)

    def leave(self) -> None:
        do(self.store, Revoke(self.number))
        self.state, self._plan = "leaving", part(self.hall, self.meeting, wait=True)
        self._step = next(self._plan)

    def die(self) -> None:
        """And its lease ends."""
        do(self.store, Revoke(self.number))
        self.state = "dead"


def test_who_comes_once_all_were_there_waits_for_the_next_meeting() -> None:
    """Two of three die, and somebody new comes, before the one who is left goes on."""
    store, hall = KVStore(), Hall("go", "double barrier", 3, 10)
    left, *dying = everybody = [Party(store, hall, number) for number in (1, 2, 3)]
    assert all(each.go_on() for each in everybody)
    for each in dying:
        each.die()
    late = Party(store, hall, 4)

    def go_on(*those: Party) -> list[str]:
        while any(each.go_on() for each in those):
            pass
        return [each.state for each in those]

    assert late.go_on() and go_on(left, late) == ["inside", "meeting"]
    left.leave()
    assert go_on(left) == ["gone"]  # it does not wait for who was never inside
    more = [Party(store, hall, number) for number in (5, 6)]
    assert go_on(late, *more) == ["inside"] * 3


def three(parties: int = 3) -> tuple[KVStore, list[Party]]:
    """Three that have come, one after the other."""
    store, hall = KVStore(), Hall("go", "double barrier", parties, 10)
    everybody = [Party(store, hall, number) for number in (1, 2, 3)]
    assert all(each.go_on() for each in everybody)
    return store, everybody


def test_who_was_cut_off_sees_that_all_are_there_though_nobody_else_goes_on() -> None:
    _, (first, *_) = three()
    first.look_again()
    while first.go_on():
        pass
    assert first.state == "inside"


def test_all_that_were_there_go_on_though_others_had_met_before() -> None:
    """Two die as three are there, and two come, before the one who is left says so."""
    store, (left, *dying) = three()
    for each in dying:
        each.die()
    assert left.go_on() and left.go_on()
    late, last = (Party(store, left.hall, number) for number in (4, 5))
    assert late.go_on() and last.go_on()
    while left.go_on():
        pass
    while late.go_on() or last.go_on():
        pass
    assert [each.state for each in (left, late, last)] == ["inside"] * 3


def test_who_has_lost_its_place_as_it_goes_on_does_not() -> None:
    store, (*_, last) = three()
    do(store, Revoke(last.number))
    while last.go_on():
        pass
    assert last.state == "expired"


def test_a_gate_that_somebody_else_has_opened_lets_all_in() -> None:
    store, (first, *_) = three(4)
    do(store, Put(first.hall.ready, "open"))
    while first.go_on():
        pass
    assert first.state == "inside"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_of_steps_nobody_is_inside_alone_or_for_ever(seed: int) -> None:
    chance, store, hall = random.Random(seed), KVStore(), Hall("go", "double barrier", 3, 10)
    everybody: list[Party] = []
    full: list[int] = []
    """Revisions in which all were there."""

    def go_on(one: Party) -> bool:
        before, moved = one.state, one.go_on()
        there = do(store, hall.all())
        if there.count >= hall.parties:
            full.append(there.revision)
        if moved and one.state == "inside":
            assert any(one.fence <= revision < one.meeting for revision in full)
        if moved and before == "leaving" and one.state == "gone":
            assert not [each for each in everybody if each.state == "inside"
                        and each.meeting == one.meeting]  # fmt: skip
        return moved

    def those(*states: str) -> list[Party]:
        return [each for each in everybody if each.state in states]

    for turn in range(400):
        match chance.randrange(12):
            case 0 if len(those("meeting", "inside", "leaving")) < 5:
                everybody.append(Party(store, hall, turn + 1))
            case 1 if inside := those("inside"):
                chance.choice(inside).leave()
            case 2 if chance.random() < 0.4 and (alive := those("meeting", "inside")):
                chance.choice(alive).die()
            case _ if everybody:
                go_on(chance.choice(everybody))
            case _:
                pass
    for number in range(1000, 1100):
        if not those("meeting", "inside", "leaving"):
            break
        while any(go_on(one) for one in everybody):
            pass
        if len(inside := those("inside")) == 1 and those("leaving"):
            inside[0].die()
        elif inside:
            chance.choice(inside).leave()
        elif those("meeting"):
            everybody.append(Party(store, hall, number))
    assert {each.state for each in everybody} <= {"gone", "dead"} and those("gone")
    assert do(store, Range(prefix="go/", count_only=True)).count == 0


def step(kv: Client, plan: Plan[Any]) -> Any:
    """Up to where it waits."""
    call = next(plan)
    while not isinstance(call, _Arrivals):
        call = plan.send(kv._do(call, None))  # type: ignore[arg-type]
    return call


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_who_gives_up_leaves_nothing(kv: Client, timeout: float) -> None:
    with pytest.raises(NotAcquired, match="the others were not at barrier 'go' in the time given"):
        kv.barrier("go", 2).wait(timeout=timeout)
    assert kv.leases() == [] and kv.scan("go/") == []


def test_who_loses_its_place_is_told(cluster: MemoryCluster, kv: Client) -> None:
    for how in (kv.delete, lambda key: kv.revoke(int(key.rpartition("/")[2], 16))):
        other = Other(cluster, entering())
        wait_until(lambda: members(kv) == 1)
        how(kv.range(prefix="go/.double/members/").entries[0].key)
        other.join()
        assert isinstance(other.error, LockLost | LeaseExpired)


def test_all_have_to_agree_on_how_many_they_are(cluster: MemoryCluster, kv: Client) -> None:
    for there in (1, 2):
        Other(cluster, entering())
        wait_until(lambda: members(kv) == there)  # noqa: B023
        with pytest.raises(InvalidRequest, match="go' is for 3 to others who are there, not for 2"):
            kv.double_barrier("go", 2).enter()
    assert members(kv) == 2 and kv.get("go/.double/ready") is None
    with kv.lease(60) as lease:  # one that is about to be refused counts neither for nor against
        kv.put(f"go/.double/members/{lease.id:x}", "2", lease=lease)
        kv.double_barrier("go", 3).enter(timeout=20).release()


def test_it_leaves_without_waiting_if_the_work_failed(cluster: MemoryCluster, kv: Client) -> None:
    others = [Other(cluster, entering()) for _ in range(2)]
    with pytest.raises(RuntimeError), kv.double_barrier("go", 3).enter():
        raise RuntimeError("the work failed")
    assert members(kv) == 2
    found = [other.join() for other in others]
    leaving = []
    for each in found:
        assert isinstance(each, Inside)
        leaving.append(Other(cluster, leaving_of(each)))
    for other in leaving:
        other.join()
    assert kv.scan("go/") == []


@pytest.mark.parametrize(
    "make",
    [
        lambda kv: kv.barrier("", 2),
        lambda kv: kv.barrier("go", 0),
        lambda kv: kv.barrier("go", True),
        lambda kv: kv.double_barrier("go", "2"),
        lambda kv: kv.double_barrier("go", 2, ttl=0),
        lambda kv: kv.barrier("go", 2).wait(timeout="x"),
    ],
)
def test_wrong_arguments_are_refused(kv: Client, make: Callable[[Client], object]) -> None:
    kv.close()
    with pytest.raises(InvalidRequest):  # before anything is sent
        make(kv)


@only("asyncio")
def test_a_task_that_is_cancelled_leaves_nothing(cluster: MemoryCluster) -> None:
    async def main() -> None:
        async with cluster.async_client() as kv:
            barrier = kv.barrier("go", 3)
            cancelled = asyncio.create_task(barrier.wait())
            while not await barrier.waiting():
                await asyncio.wait([cancelled], timeout=0.001)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert await kv.leases() == [] and await kv.scan("go/") == []

    asyncio.run(main())
