"""Locks: fair, fenced, and nothing left of whoever gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from paxon import (
    AsyncHeld,
    AsyncLock,
    Client,
    ClientClosed,
    Held,
    InvalidRequest,
    LeaseExpired,
    Lock,
    LockLost,
    NotAcquired,
    Put,
    RequestTimeout,
)
from paxon.kvstore.client.leases import async_lease, keeping, lease
from paxon.kvstore.client.leases.async_lease import AsyncLease
from paxon.kvstore.client.leases.clock import boot_seconds
from paxon.kvstore.client.leases.lease import Lease
from paxon.kvstore.client.leases.requests import GrantFor
from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import only
from tests.kvstore.recipes.others import Other, cut_off_once
from tests.waiting import wait_until


def test_it_is_held_once_and_in_the_layout_of_etcd(kv: Client) -> None:
    lock = kv.lock("deploy")
    assert not lock.locked() and lock.name == "deploy"
    with lock as held:
        assert held.key == f"deploy/{held.lease.id:x}"
        entry = kv.entry(held.key)
        assert entry is not None and (entry.created, entry.value) == (held.fence, b"")
        assert entry.lease == held.lease.id
        assert lock.locked()
        assert [each.key for each in lock.contenders()] == [held.key]
        held.check()
        with pytest.raises(NotAcquired, match="lock 'deploy' was not to be had"):
            lock.acquire(timeout=0)
        assert kv.leases() == [held.lease.id]  # nothing is left of the second
        assert kv.txn(if_=[held], then=[Put("guarded", "yes")]).succeeded
    assert not lock.locked() and kv.leases() == [] and not kv._care.asked
    assert held.lost.is_set()
    assert not kv.txn(if_=[held], then=[Put("guarded", "no")]).succeeded
    with pytest.raises(LockLost, match="it was released"):
        held.check()


def test_who_asks_first_holds_first_and_fences_rise(cluster: MemoryCluster, kv: Client) -> None:
    order: list[tuple[int, int]] = []

    def turn(number: int) -> Callable[[Client], object]:
        def act(client: Client) -> None:
            with client.lock("a") as held:
                order.append((number, held.fence))

        return act

    lock = kv.lock("a")
    others = []
    with lock as held:
        for number in range(5):
            others.append(Other(cluster, turn(number)))
            wait_until(lambda: len(lock.contenders()) == 2 + number)  # noqa: B023
        assert order == []
    for other in others:
        other.join()
    assert [number for number, _ in order] == list(range(5))
    fences = [held.fence, *(fence for _, fence in order)]
    assert fences == sorted(set(fences)) and kv.leases() == []


def test_who_was_cut_off_while_it_waited_waits_on(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a lock, an item, or others at a barrier."""
    lock, queue, barrier = kv.lock("a"), kv.queue("q"), kv.barrier("b", 2)
    cut_off_once(monkeypatch)
    with lock:
        others = [
            Other(cluster, lambda client: client.lock("a").acquire()),
            Other(cluster, lambda client: client.queue("q").get()),
            Other(cluster, lambda client: client.barrier("b", 2).wait()),
        ]
        wait_until(lambda: len(kv.leases()) == 5)  # one for the item, one for one's turn
    queue.put("item")
    barrier.wait()
    for other in others:
        other.join()
        assert other.error is None


def test_what_is_under_way_as_a_client_is_closed_is_ended(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to it is never told."""
    closing = cluster.client()
    client: Any = getattr(closing, "_of", closing)
    ask = client._do

    def cut(call: Any, *more: Any) -> Any:
        done = ask(call, *more)
        if not isinstance(call, GrantFor):
            return done
        return fail() if client is closing else fail_after(done)

    def fail() -> None:
        client.close()
        raise ClientClosed("it was closed meanwhile")

    async def fail_after(asked: Any) -> None:
        await asked
        await client.close()
        raise ClientClosed("it was closed meanwhile")

    monkeypatch.setattr(client, "_do", cut)
    with pytest.raises(ClientClosed):
        closing.lock("a").acquire()
    assert kv.leases() == []


def test_a_waiter_in_the_middle_that_goes_lets_nobody_in(
    cluster: MemoryCluster, kv: Client
) -> None:
    lock = kv.lock("a")
    with lock:
        middle = Other(cluster, lambda client: client.lock("a", ttl=60).acquire())
        wait_until(lambda: len(lock.contenders()) == 2)
        last = Other(cluster, lambda client: client.lock("a").acquire())
        wait_until(lambda: len(lock.contenders()) == 3)
        kv.revoke(lock.contenders()[1].lease)
        middle.join()
        assert isinstance(middle.error, LeaseExpired)
        wait_until(lambda: len(lock.contenders()) == 2)
        with pytest.raises(NotAcquired):
            lock.acquire(timeout=0.01)
        assert last.thread.is_alive()
    held = last.join()
    assert isinstance(held, Held)
    held.release()


def test_other_names_and_other_keys_below_a_name_do_not_matter(kv: Client) -> None:
    with kv.lease(10) as lease:
        kv.put("a/config", "x", lease=lease)
        kv.put(f"a/{lease.id:x}x", "", lease=lease)
        kv.put("a/0", "")  # looks like a contender, and is none: it has no lease
        with kv.lock("a", timeout=0), kv.lock("a/b", timeout=0), kv.lock("ab", timeout=0):
            assert len(kv.lock("a").contenders()) == 1


def test_many_odd_keys_do_not_hide_who_holds(kv: Client) -> None:
    with kv.lock("a") as held:
        for number in range(9):
            kv.put(f"a/{number}odd", "")
        with pytest.raises(NotAcquired):
            kv.lock("a").acquire(timeout=0)
        assert [each.fence for each in kv.lock("a").contenders()] == [held.fence]
        for many in (10_000, 10_000, 1):  # beside a queue of its name, with more than are sorted
            kv.queue("a").put_many(["x"] * many)
        with pytest.raises(NotAcquired):
            kv.lock("a").acquire(timeout=0)


def test_it_is_reentrant_only_where_asked_for(cluster: MemoryCluster, kv: Client) -> None:
    lock = kv.lock("a", timeout=0, reentrant=True)
    held: list[Held] = []
    with lock as outer:
        with lock as inner:
            assert inner is outer
        outer.check()
        other = Other(cluster, lambda _: lock.acquire())  # another thread
        other.join()
        assert isinstance(other.error, NotAcquired)
    assert not lock.locked()
    with lock as again:
        assert again is not outer and again.fence > outer.fence
        kv.revoke(again.lease)
        with pytest.raises(LockLost, match="lock 'a' is lost: its key is gone"):
            lock.acquire()
    Other(cluster, lambda _: held.append(lock.acquire())).join()  # a thread that ends with it …
    other = Other(cluster, lambda _: lock.acquire())  # … and one that has its number, as a rule
    other.join()
    assert isinstance(other.error, NotAcquired)


def test_a_block_may_end_in_another_thread_or_task(cluster: MemoryCluster, kv: Client) -> None:
    """As that of a generator does which a web framework runs in its pool."""
    lock = kv.lock("a")
    other = Other(cluster, lambda _: lock.__enter__())
    other.join()
    lock.__exit__(None, None, None)
    assert not lock.locked()

    async def main() -> None:
        async with cluster.async_client() as client:
            lock = client.lock("a")
            await asyncio.create_task(lock.__aenter__())
            await lock.__aexit__(None, None, None)
            assert not await lock.locked()

    asyncio.run(main())


def test_one_whose_lease_is_over_by_its_own_clock_does_not_begin(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine slept: while it waited for the answer, or when it held."""
    ahead = [0.0, 1000.0]
    """Seconds that it slept by now, and that it will have slept at each later look."""

    def clock() -> float:
        return boot_seconds() + (ahead.pop(0) if len(ahead) > 1 else ahead[0])

    for module in (async_lease, keeping, lease):
        monkeypatch.setattr(module, "boot_seconds", clock)
    with pytest.raises(LeaseExpired, match="the place in lock 'a' is lost"):
        kv.lock("a").acquire()
    kv.queue("q").put("item")
    ahead.append(2000.0)
    assert not kv.queue("q").get().lost.is_set()  # it has begun again
    held = kv.lock("a").acquire()
    ahead[:] = [3000.0]
    with pytest.raises(LockLost, match="could not be renewed in time"), held:
        pytest.fail("its block ran")
    held = kv.lock("b").acquire()
    ahead[:] = [4000.0]
    with pytest.raises(LockLost, match="could not be renewed in time"):
        held.check()


def test_a_holder_learns_that_its_key_is_gone(cluster: MemoryCluster, kv: Client) -> None:
    with kv.lock("a") as held:
        kv.delete(held.key)
        with pytest.raises(LockLost):
            held.check()
        kv.put(held.key, "", lease=held.lease)  # a key of the same name is not the same
        with pytest.raises(LockLost):
            held.check()
        assert not kv.txn(if_=[held], then=[Put("x", "")]).succeeded


def test_one_that_is_let_go_twice_frees_nobody_elses(kv: Client) -> None:
    held = kv.lock("a").acquire()
    held.release()
    with kv.lock("a") as second:
        held.release()
        second.check()


def test_what_was_let_go_of_or_lost_is_not_entered(cluster: MemoryCluster, kv: Client) -> None:
    """Its block would run unguarded."""
    lock, queue = kv.lock("a"), kv.queue("q")
    queue.put("item")

    def lost() -> Held:
        held = lock.acquire()
        kv.revoke(held.lease)
        with pytest.raises(LeaseExpired):
            held.lease.keep_alive()
        return held

    item = queue.get()
    item.done()
    released = [
        item,
        *(held.acquire() for held in (lock, kv.semaphore("s", 1), kv.rwlock("rw").write)),
        kv.election("e").campaign("me"),
        kv.members("m").join(),
        kv.double_barrier("d", 1).enter(),
    ]
    for held in released:
        held.release()
    for held in (*released, lost()):
        with pytest.raises(LockLost, match=r"released|let go of|has ended"), held:
            pytest.fail("its block ran")

    async def main() -> None:
        async with cluster.async_client() as akv:
            held = await akv.lock("a").acquire()
            await held.release()
            with pytest.raises(LockLost, match="it was released"):
                async with held:
                    pytest.fail("its block ran")

    asyncio.run(main())
    twice = kv.lock("twice", reentrant=True)
    with twice as held, twice:
        held.release()
        with held:  # let go of at the end of this one
            assert twice.locked()
        assert not twice.locked()


def test_the_lease_that_ends_frees_it(cluster: MemoryCluster, kv: Client) -> None:
    """A holder that is dropped is not renewed any more: as if its process had died."""
    fence = kv.lock("a", ttl=60).acquire().fence
    wait_until(lambda: not kv._care.leases)
    other = Other(cluster, lambda client: client.lock("a", ttl=600).acquire())
    wait_until(lambda: len(kv.lock("a").contenders()) == 2)
    cluster.let_pass(61)
    held = other.join()
    assert isinstance(held, Held) and held.fence > fence
    held.release()


def test_who_gives_up_and_cannot_revoke_does_not_renew_either(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error lives on in its caller's hands; the lease must not, for all that."""

    def cut(*_: object, **__: object) -> int:
        raise RequestTimeout("no answer")

    with kv.lock("a"):
        monkeypatch.setattr(getattr(kv, "_of", kv), "revoke", cut)
        with pytest.raises(NotAcquired) as kept:
            kv.lock("a").acquire(timeout=0)
        assert kept.traceback
        assert [lease.reason for lease in kv._care.leases].count("") == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda kv: kv.lock(""),
        lambda kv: kv.lock(7),
        lambda kv: kv.lock("a", ttl=0),
        lambda kv: kv.lock("a", ttl="1"),
        lambda kv: kv.lock("a", timeout=-1),
        lambda kv: kv.lock("a", reentrant="no"),
        lambda kv: kv.lock("a" * 4090),
        lambda kv: kv.lock("a").acquire(timeout="x"),
    ],
)
def test_wrong_arguments_are_refused(kv: Client, make: Callable[[Client], Lock]) -> None:
    kv.close()
    with pytest.raises(InvalidRequest):  # before anything is sent
        make(kv)


async def contenders(lock: AsyncLock, number: int) -> None:
    """Wait until there are so many."""
    for _ in range(6000):
        if len(await lock.contenders()) == number:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"there were never {number} contenders")


@only("asyncio")
def test_one_cancelled_twice_leaves_nothing_either(cluster: MemoryCluster) -> None:
    async def main() -> None:
        async with cluster.async_client() as kv, kv.lock("a") as held:
            other = kv.lock("a", ttl=3600)  # so long that only a revocation ends it
            waiting: asyncio.Task[AsyncHeld] = asyncio.create_task(other.acquire())
            await contenders(kv.lock("a"), 2)
            waiting.cancel()
            for _ in range(1000):
                if async_lease._going_on:
                    break
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await contenders(kv.lock("a"), 1)
            assert await kv.leases() == [held.lease.id]

    asyncio.run(main())


@only("threads")
def test_a_closed_client_leaves_nothing_of_its_recipes(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of those that waited; a lease that is not a recipe's may be in others' hands."""
    closing = cluster.client()
    plain, ended = closing.lease(3600), closing.lease(3600)
    kept: list[object] = [closing.lock("a", ttl=3600).acquire(), closing.members("m").join("me")]
    with monkeypatch.context() as patch, pytest.raises(RequestTimeout):
        patch.setattr(closing, "_ask", _cut)
        patch.setattr(closing, "_submit", _cut)
        ended.revoke()
    waiting = Other(cluster, lambda _: closing.lock("a", ttl=3600).acquire())
    wait_until(lambda: len(kv.lock("a").contenders()) == 2)
    closing.close()
    assert kv.leases() == [plain.id] and len(kept) == 2
    waiting.join()
    assert isinstance(waiting.error, ClientClosed)
    closing.close()
    kv.revoke(plain)

    async def main() -> None:
        closing = cluster.async_client()
        plain = await closing.lease(3600)
        kept = [await closing.lock("a", ttl=3600).acquire(), await closing.members("m").join("me")]
        waiting = asyncio.create_task(closing.lock("a", ttl=3600).acquire())
        async with cluster.async_client() as other:
            await contenders(other.lock("a"), 2)
            await closing.close()
            assert await other.leases() == [plain.id] and len(kept) == 2
            with pytest.raises(ClientClosed):
                await waiting
            await closing.close()
            await other.revoke(plain)

    asyncio.run(main())


def _cut(*_: object, **__: object) -> None:
    raise RequestTimeout("no answer")


@only("threads")
def test_a_client_of_silent_servers_is_closed_in_time(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        closing = cluster.async_client(timeout=0.1)
        held = await closing.lock("b").acquire()
        monkeypatch.setattr(closing._driver._links, "send", _nowhere)
        first = asyncio.create_task(closing.close())
        await asyncio.sleep(0)
        closing._timeout = 1.0  # the other task would wait longer
        await asyncio.gather(first, closing.close())
        assert held.lost.is_set()

    closing = cluster.client(timeout=0.1)
    held = closing.lock("a").acquire()
    monkeypatch.setattr(closing._driver._links, "send", _nowhere)
    began = time.monotonic()
    closing.close()
    assert held.lost.is_set()
    asyncio.run(main())
    assert 0.2 <= time.monotonic() - began < 30


def test_a_block_ends_well_though_its_release_is_not_answered(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was held ends with its lease."""
    other = Other(cluster, lambda client: client.queue("q").get())
    wait_until(lambda: len(kv.leases()) == 2)
    for kind in (Lease, AsyncLease):
        monkeypatch.setattr(kind, "revoke", _cut)
    with kv.lock("a"):
        pass
    kv.barrier("b", 1).wait()
    kv.queue("q").put("item")
    other.join()
    assert other.error is None


def test_each_call_takes_no_longer_than_it_may(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = cluster.client(timeout=20)
    queue, urgent = kv.queue("q"), kv.priority_queue("q")
    queue.put_many(["1", "2"])
    lock, election, counter, members = (
        kv.rwlock("a"), kv.election("e"), kv.counter("c"), kv.members("m")
    )  # fmt: skip
    calls: list[Callable[..., object]] = [
        lock.read.locked, lock.holders, lock.contenders, lock.read.holders,
        election.leader, election.contenders, members.list, counter.add, counter.value,
        queue.peek, queue.size, kv.barrier("b", 2).waiting,
        *(partial(each.put, "x") for each in (queue, urgent)),
        *(partial(each.put_many, ["x"]) for each in (queue, urgent)),
        *((held := lock.read.acquire()).check, held.release),
        *(partial((leading := election.campaign("me")).proclaim, "x"), leading.resign),
        *(partial((me := members.join()).update, "x"), me.leave),
        *((queue.get().done), queue.get().release),
    ]  # fmt: skip
    monkeypatch.setattr(kv._driver._links, "send", _nowhere)
    for call in calls:
        with pytest.raises(RequestTimeout, match=r"within 0\.0"):
            call(timeout=0.01)


def _nowhere(*_: object) -> tuple[()]:
    return ()


@only("asyncio")
@pytest.mark.parametrize("what", ["lock", "lease", "item"])
def test_a_cancelled_release_ends_it_all_the_same(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def main() -> None:
        async with cluster.async_client() as kv:
            queue = kv.queue("q", ttl=3600)
            await queue.put("7")
            if what == "lease":
                letting_go = (await kv.lease(3600)).revoke()
            elif what == "lock":
                letting_go = (await kv.lock("a", ttl=3600).acquire()).release()
            else:
                letting_go = (await queue.get()).__aexit__(None, None, None)
            task = asyncio.create_task(letting_go)
            with monkeypatch.context() as cut:
                cut.setattr(kv._driver._links, "send", _nowhere)
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await kv.leases() == [] and await queue.size() == (what != "item")

    asyncio.run(main())
