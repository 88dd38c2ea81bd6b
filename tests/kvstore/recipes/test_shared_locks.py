"""Semaphores, and locks of readers and writers: fair, fenced, nothing left of whoever gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from paxon import (
    AsyncClient,
    AsyncLock,
    Client,
    ClientClosed,
    InvalidRequest,
    LeaseExpired,
    Lock,
    LockLost,
    NotAcquired,
    Put,
    RequestTimeout,
)
from paxon.kvstore.client.leases import async_lease
from paxon.kvstore.errors import UNKNOWN
from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import only
from tests.kvstore.recipes.others import Waiter, interrupted
from tests.waiting import wait_until


def read(kv: Client) -> Lock:
    return kv.rwlock("a", ttl=3600).read


def write(kv: Client) -> Lock:
    return kv.rwlock("a", ttl=3600).write


KINDS: dict[str, Callable[[Client], Lock]] = {
    # The time to live is so long that nobody learns by it of anything.
    "lock": lambda kv: kv.lock("a", ttl=3600),
    "semaphore": lambda kv: kv.semaphore("a", 1, ttl=3600),
    "write": write,
}
exclusive = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def test_a_semaphore_lets_so_many_in_and_then_whoever_came_first(
    cluster: MemoryCluster, kv: Client
) -> None:
    gpu = kv.semaphore("gpu", 2)
    assert (gpu.limit, gpu.name, gpu.locked(), gpu.holders()) == (2, "gpu", False, [])
    first = gpu.acquire()
    assert first.key == f"gpu/.sem/{first.lease.id:x}"
    with gpu as second:
        assert second.fence > first.fence and gpu.locked()
        assert [each.key for each in gpu.holders()] == [first.key, second.key]
        with pytest.raises(NotAcquired, match="semaphore 'gpu' was not to be had"):
            gpu.acquire(timeout=0)
        third, fourth = (Waiter(cluster, lambda kv: kv.semaphore("gpu", 2)) for _ in range(2))
        assert len(gpu.contenders()) == 4 == len(kv.leases())
        assert kv.txn(if_=[second], then=[Put("guarded", "yes")]).succeeded
    assert third.join().fence == gpu.holders()[1].fence and fourth.waits
    assert not kv.txn(if_=[second], then=[Put("guarded", "no")]).succeeded
    with pytest.raises(LockLost, match="semaphore 'gpu' is lost"):
        second.check()
    kv.revoke(first.lease)  # by somebody else: whoever waits does not care why it went
    fourth.join().check()
    with pytest.raises(LockLost):
        first.check()
    third.join().release()
    fourth.join().release()
    assert kv.leases() == [] and not gpu.locked()
    with gpu as first:
        with gpu as second:
            pass
        assert second.lost.is_set() and not first.lost.is_set()
    many = [kv.semaphore("many", 4).acquire() for _ in range(4)]
    fifth = Waiter(cluster, lambda kv: kv.semaphore("many", 4))
    many[2].release()
    fifth.join().check()


def test_all_agree_on_a_semaphores_limit(kv: Client) -> None:
    with kv.semaphore("gpu", 2):
        with pytest.raises(InvalidRequest, match="has a limit of 2 to those who contend for it"):
            kv.semaphore("gpu", 3).acquire()
        assert len(kv.leases()) == 1
    with kv.semaphore("gpu", 3):  # now that nobody else does
        pass


def test_readers_share_and_a_writer_is_alone(cluster: MemoryCluster, kv: Client) -> None:
    lock = kv.rwlock("a")
    assert lock.name == "a" and not lock.write.locked()
    with lock.read as one, lock.read as two:
        assert not lock.read.locked() and lock.write.locked()
        assert [each.value for each in lock.holders()] == [b"read", b"read"]
        writer = Waiter(cluster, write)
        assert lock.read.locked()  # for whoever comes after the writer
        with pytest.raises(NotAcquired, match="rwlock 'a' was not to be had"):
            lock.read.acquire(timeout=0)
        late = Waiter(cluster, read)
        two.release()
        assert writer.waits and late.waits and len(lock.contenders()) == 3
        assert one.key == f"a/.rw/{one.lease.id:x}"
    held = writer.join()
    assert late.waits and held.fence > two.fence
    assert [each.value for each in lock.holders()] == [b"write"]
    assert kv.txn(if_=[held], then=[Put("x", "1")]).succeeded
    held.release()
    assert not kv.txn(if_=[held], then=[Put("x", "2")]).succeeded
    late.join().check()
    late.join().release()
    assert kv.leases() == []


def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(
    cluster: MemoryCluster, kv: Client
) -> None:
    with kv.rwlock("a").read:
        writer = Waiter(cluster, write)
        late = Waiter(cluster, read)
        kv.revoke(kv.rwlock("a").contenders()[1].lease)
        late.join().release()
        assert isinstance(writer.failure(), LeaseExpired)


def test_kinds_of_one_name_do_not_touch_each_other(kv: Client) -> None:
    kv.put("a/.rw/config", "x")
    kv.put("a/.sem/7", "1")  # looks like a contender, and is none: it has no lease
    with (
        kv.lease(10) as lease,
        kv.lock("a", timeout=0), kv.semaphore("a", 1, timeout=0), kv.rwlock("a", timeout=0).write,
        kv.election("a").campaign("me", timeout=0),
    ):  # fmt: skip
        kv.put(f"a/.rw/{lease.id:x}", "note", lease=lease)
        for number in range(9):  # so many that they do not fit into what is read at first
            kv.put_many({f"a/{segment}{number}odd": "1" for segment in (".sem/", ".rw/")})
        for kind in KINDS.values():
            assert len(kind(kv).contenders()) == 1
            with pytest.raises(NotAcquired):
                kind(kv).acquire(timeout=0)
    with kv.rwlock("a", timeout=0).read, kv.rwlock("a", timeout=0).read:
        pass


@exclusive
def test_a_waiter_whose_lease_is_revoked_is_told_at_once(
    cluster: MemoryCluster, kv: Client, kind: Callable[[Client], Lock]
) -> None:
    with kind(kv):
        waiter = Waiter(cluster, kind)
        kv.revoke(kind(kv).contenders()[1].lease)
        error = waiter.failure()
        assert isinstance(error, LeaseExpired) and "its lease has ended" in str(error)


def test_a_candidate_whose_lease_is_revoked_is_told_at_once(
    cluster: MemoryCluster, kv: Client
) -> None:
    election = kv.election("cron", ttl=3600)
    with election.campaign("one"):
        errors: list[BaseException] = []

        def campaign() -> None:
            with cluster.client() as other, pytest.raises(LeaseExpired) as caught:
                other.election("cron", ttl=3600).campaign("two")
            errors.append(caught.value)

        thread = threading.Thread(target=campaign, daemon=True)
        thread.start()
        wait_until(lambda: len(election.contenders()) == 2)
        kv.revoke(election.contenders()[1].lease)
        thread.join(60)
        assert len(errors) == 1


@exclusive
def test_a_waiter_whose_key_was_deleted_is_told_at_once(
    cluster: MemoryCluster, kv: Client, kind: Callable[[Client], Lock]
) -> None:
    with kind(kv):
        waiter = Waiter(cluster, kind)
        kv.delete(kind(kv).contenders()[1].key)
        error = waiter.failure()
        assert isinstance(error, LockLost) and "deleted while it waited" in str(error)
        assert len(kv.leases()) == 1


@exclusive
def test_a_closed_client_waits_no_longer(
    cluster: MemoryCluster, kv: Client, kind: Callable[[Client], Lock]
) -> None:
    with kind(kv):
        waiter = Waiter(cluster, kind)
        waiter.client.close()
        assert isinstance(waiter.failure(), ClientClosed)
        with pytest.raises(ClientClosed):
            kind(waiter.client).acquire()


@exclusive
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_ctrl_c_and_alarms_leave_nothing(
    cluster: MemoryCluster,
    kv: Client,
    kind: Callable[[Client], Lock],
    error: type[BaseException],
) -> None:
    lock = kind(kv)
    with lock:
        with interrupted(cluster, lambda other: len(kind(other).contenders()) == 2, error):
            lock.acquire()
        assert len(lock.contenders()) == 1 == len(kv.leases())


@exclusive
def test_a_put_of_unknown_outcome_leaves_nothing(
    kv: Client, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Client], Lock]
) -> None:
    """The answer to it never comes. (What arrives even later is refused: test_core_once.py.)"""
    client: Any = getattr(kv, "_of", kv)
    ask = client._ask

    def cut(*args: Any) -> object:
        if len(args[0]) == 1:
            return ask(*args)
        monkeypatch.undo()
        done = ask(*args)
        return fail() if client is kv else fail_after(done)

    def fail() -> object:
        raise RequestTimeout(f"no answer{UNKNOWN}")

    async def fail_after(asked: Any) -> object:
        await asked
        return fail()

    monkeypatch.setattr(client, "_ask", cut)
    with pytest.raises(RequestTimeout, match="no answer; it was given up, so nothing") as caught:
        kind(kv).acquire(timeout=1)
    assert not caught.value.unknown
    with pytest.raises(InvalidRequest, match="call the method again"):
        caught.value.retry()
    assert kv.leases() == []
    assert not kind(kv).locked()


def test_an_arrival_that_comes_late_is_refused(
    cluster: MemoryCluster, kv: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up: nobody would renew the lease."""
    slow: Any = cluster.client(timeout=0.2)
    client = getattr(slow, "_of", slow)
    links, late = client._driver._links, []
    send, forget = links.send, RequestTimeout.forget

    def hold_back(*frames: Any) -> tuple[()]:
        late.append(frames)
        return ()

    def given_up(error: RequestTimeout) -> None:
        monkeypatch.undo()
        forget(error)

    slow.put("x", "", timeout=20)  # its session is open
    monkeypatch.setattr(links, "send", hold_back)
    monkeypatch.setattr(RequestTimeout, "forget", given_up)
    with pytest.raises(RequestTimeout):
        slow.lock("a", ttl=3600).acquire()
    slow.put("x", "", timeout=20)
    for frames in late:
        if slow is client:
            with client._driver.lock:
                send(*frames)
        else:
            slow._bridge.do(lambda: send(*frames))  # noqa: B023
    slow.put("x", "", timeout=20)
    assert kv.leases() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda kv: kv.semaphore("", 1),
        lambda kv: kv.semaphore("a", 0),
        lambda kv: kv.semaphore("a", True),
        lambda kv: kv.semaphore("a", "2"),
        lambda kv: kv.semaphore("a", 1.5),
        lambda kv: kv.semaphore("a", 1, ttl=0),
        lambda kv: kv.semaphore("a", 1, timeout=-1),
        lambda kv: kv.semaphore("a", 1).acquire(timeout="x"),
        lambda kv: kv.rwlock(7),
        lambda kv: kv.rwlock("a" * 5000),
        lambda kv: kv.rwlock("a", ttl="1"),
        lambda kv: kv.rwlock("a").write.acquire(timeout=-1),
    ],
)
def test_wrong_arguments_are_refused(kv: Client, make: Callable[[Client], object]) -> None:
    kv.close()
    with pytest.raises(InvalidRequest):  # before anything is sent
        make(kv)


# --- asyncio --------------------------------------------------------------------------------------


async def contenders(lock: AsyncLock, number: int) -> None:
    """Wait until there are so many."""
    for _ in range(6000):
        if len(await lock.contenders()) == number:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"there were never {number} contenders")


ASYNC_KINDS: dict[str, Callable[[AsyncClient], AsyncLock]] = {
    "lock": lambda kv: kv.lock("a", ttl=3600),
    "semaphore": lambda kv: kv.semaphore("a", 1, ttl=3600),
    "write": lambda kv: kv.rwlock("a", ttl=3600).write,
}


@only("asyncio")
@pytest.mark.parametrize("kind", ASYNC_KINDS.values(), ids=ASYNC_KINDS)
def test_a_task_that_is_cancelled_or_thrown_out_leaves_nothing(
    cluster: MemoryCluster, kind: Callable[[AsyncClient], AsyncLock]
) -> None:
    async def main() -> None:
        async with cluster.async_client() as kv, kind(kv) as held:
            tasks = []
            for number in range(2):
                tasks.append(asyncio.create_task(kind(kv).acquire()))
                await contenders(kind(kv), 2 + number)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await contenders(kind(kv), 2)
            await kv.revoke((await kind(kv).contenders())[1].lease)
            with pytest.raises(LeaseExpired, match="its lease has ended"):
                await tasks[1]
            assert await kv.leases() == [held.lease.id] and not async_lease._going_on

    asyncio.run(main())
