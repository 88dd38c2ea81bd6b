"""What befalls clients alone, on real servers: their links swallow requests, answers, or all.

These cases break no server, so all of them go on at once, each with clients and names of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from paxon import (
    AsyncClient,
    Client,
    Contender,
    Held,
    LeaseExpired,
    LockLost,
    NotAcquired,
    PipelineError,
    Put,
    RequestTimeout,
)
from paxon.kvstore.client.calls.calls import Increment
from paxon.kvstore.client.leases.requests import Grant, GrantFor, Revoke, new_id
from tests.cluster.helpers import wait_until
from tests.coordination.clocks import Clocks
from tests.faults.networks.network import RelayedCluster
from tests.unknown import executed_of, unknown_of
from tests.waiting import happens_soon

pytestmark = pytest.mark.process

SOON = 60.0
LONG_TTL = 600.0
"""So long that nothing here ends by itself."""
Case = Callable[[RelayedCluster, Clocks], None]
CASES: list[Case] = []


def case(function: Case) -> Case:
    """One of those that go on at once."""
    CASES.append(function)
    return function


def test_all_cases(cluster: RelayedCluster, clocks: Clocks) -> None:
    errors: list[Exception] = []

    def run(work: Case) -> None:
        try:
            work(cluster, clocks)
        except Exception as error:
            error.add_note(f"in the case {work.__name__}")
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in CASES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * SOON)
        assert not thread.is_alive()
    if errors:
        raise ExceptionGroup("cases that failed", errors)


class Aside(threading.Thread):
    """A call that goes on in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._outcome: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join(SOON)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error
        return self._outcome


@contextmanager
def cut_off(cluster: RelayedCluster, group: str, *, answers_only: bool = False) -> Iterator[None]:
    """Nothing gets to the servers and back; or nothing back alone."""
    for server in cluster.servers:
        cluster.network.cut(server, group, one_way=answers_only)
    try:
        yield
    finally:
        for server in cluster.servers:
            cluster.network.mend(server, group)


class Unheard:
    """From the first call of a kind on, a client of the group hears nothing more."""

    def __init__(self, cluster: RelayedCluster, client: Client, group: str, kind: type) -> None:
        self._cluster, self._client, self._group, self._kind = cluster, client, group, kind
        self._cut = False
        self._do = client._do
        client._do = self.do  # type: ignore[method-assign]

    def do(self, call: Any, timeout: float | None, mode: Any = "linearizable") -> Any:
        if isinstance(call, self._kind) and not self._cut:
            self._cut = True
            for server in self._cluster.servers:
                self._cluster.network.cut(server, self._group, one_way=True)
        return self._do(call, 1.0 if self._cut else timeout, mode)

    def end(self) -> None:
        assert self._cut
        del self._client._do
        for server in self._cluster.servers:
            self._cluster.network.mend(server, self._group)


def acquired(client: Client, name: str, ttl: float) -> Held:
    """A lock, on a machine that may be too busy for such a short lease."""
    while True:
        with contextlib.suppress(LeaseExpired):
            return client.lock(name, ttl=ttl).acquire()


def granted_with_key(client: Client, ttl: float, key: str) -> int:
    """A lease that nobody renews, with a key, in one command."""
    number = new_id()
    with client.pipeline(timeout=SOON) as pipeline:
        pipeline.call(Grant(number, ttl))
        pipeline.put(key, "", lease=number)
    return number


# --- locks -------------------------------------------------------------------------------------


def a_try_that_failed(cluster: RelayedCluster, wait: float, kind: type, error: type) -> None:
    """A holds, B tries and hears nothing from then on; A lets go, and C gets it."""
    group = f"tries for {wait:g} s, unheard from {kind.__name__} on"
    name = f"lock of {group}"
    with (
        cluster.client(timeout=SOON) as a,
        cluster.client(group, timeout=SOON) as b,
        cluster.client(timeout=SOON) as c,
    ):
        held = a.lock(name, ttl=LONG_TTL).acquire()
        unheard = Unheard(cluster, b, group, kind)
        with a.watch(prefix=f"{name}/", after=held.fence) as events:
            with pytest.raises(error):
                b.lock(name, ttl=LONG_TTL).acquire(timeout=wait)
            # Its requests come through (unless another leads by now): it takes back what it put.
            with contextlib.suppress(TimeoutError):
                assert [events.next(t).kind for t in (1.0, SOON)] == ["put", "delete"]
        unheard.end()
        held.release()
        with c.lock(name, ttl=LONG_TTL).acquire(timeout=SOON) as second:
            assert second.fence > held.fence
            assert [each.key for each in c.lock(name).contenders()] == [second.key]
            assert b.get(second.key) == b"", "B is alive, and its client works"


@case
def unheard_when_it_contends(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """kazoo #732, #429, the answer to the creation, of lease and key in one, is lost."""
    a_try_that_failed(cluster, 0.0, GrantFor, RequestTimeout)


@case
def unheard_when_it_contends_for_a_while(cluster: RelayedCluster, _clocks: Clocks) -> None:
    a_try_that_failed(cluster, 1.0, GrantFor, RequestTimeout)


@case
def unheard_when_it_gives_up(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """kazoo #732, #429, the answer to the deletion is lost."""
    a_try_that_failed(cluster, 0.0, Revoke, NotAcquired)


@case
def unheard_when_it_gives_up_after_a_while(cluster: RelayedCluster, _clocks: Clocks) -> None:
    a_try_that_failed(cluster, 1.0, Revoke, NotAcquired)


@case
def names_that_begin_alike(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """etcd #6278: a key or a name that begins with another name blocks nobody."""
    with cluster.client(timeout=SOON) as kv:
        kv.put("xyz", "7")
        kv.put("xy/z", "7")
        with kv.election("xy").campaign("me", timeout=0) as leading:
            assert [each.key for each in kv.election("xy").contenders()] == [leading.key]
            assert kv.election("x").leader() is None
        names = ("n", "nb", "n/b", "n/b/c")
        holders = [kv.lock(name, ttl=LONG_TTL).acquire(timeout=0) for name in names]
        for name in names:
            with pytest.raises(NotAcquired):
                kv.lock(name).acquire(timeout=0)
        for held in holders:
            held.check()
            held.release()


@case
def a_holder_that_nobody_hears(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """consul #1843, PR 4935: its link swallows all, without a reset."""
    group, name = "isolated", "isolated/lock"
    told: list[float] = []
    with cluster.client(group, timeout=SOON) as a, cluster.client(timeout=SOON) as b:

        def both_contend() -> tuple[Held, Aside]:
            """Once B does before the lease of A ends: a busy machine may be too late."""
            while True:
                held = acquired(a, name, 8.0)
                next_one = Aside(b.lock(name, ttl=LONG_TTL).acquire)
                wait_until(lambda: len(b.lock(name).contenders()) == 2 or not next_one.is_alive())  # noqa: B023
                if next_one.is_alive():
                    return held, next_one
                next_one.result().release()

        held, next_one = both_contend()
        held.lease.when_lost(lambda: told.append(time.monotonic()))
        with cut_off(cluster, group):
            second: Held = next_one.result()
            assert held.lost.is_set(), "another holds, and the first was not told"
            wait_until(lambda: bool(told))
        assert not a.txn(if_=[held], then=[Put("isolated/guarded", "late")]).succeeded
        with pytest.raises(LockLost):
            held.check()
        assert b.txn(if_=[second], then=[Put("isolated/guarded", "good")]).succeeded
        second.release()


@case
def a_cut_shorter_than_the_lease(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """consul #1843: nobody is stuck afterwards, neither who holds nor who waits."""
    holds, waits, name = "briefly cut, holds", "briefly cut, waits", "brief/lock"
    with cluster.client(holds, timeout=SOON) as a, cluster.client(waits, timeout=SOON) as b:
        held = a.lock(name, ttl=LONG_TTL).acquire()
        next_one = Aside(b.lock(name, ttl=LONG_TTL).acquire)
        wait_until(lambda: len(a.lock(name).contenders()) == 2)
        with cut_off(cluster, holds), cut_off(cluster, waits), pytest.raises(RequestTimeout):
            held.lease.keep_alive(timeout=0.5)
        assert held.lease.keep_alive(timeout=SOON) > 0
        held.check()
        held.release()
        with next_one.result() as second:
            second.check()


@case
def readers_and_writers_in_their_order(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """kazoo #649: one writes, one wants to read, another to write: in this order, none is stuck."""
    name, order = "shared/readers", []
    with cluster.client(timeout=SOON) as kv, cluster.client("reads", timeout=SOON) as other:
        lock, others = (each.rwlock(name, ttl=LONG_TTL) for each in (kv, other))
        first = lock.write.acquire()

        def take(kind: str, acquire: Callable[[], Held]) -> None:
            with acquire() as held:
                order.append(kind)
                held.check()

        reads = Aside(lambda: take("read", others.read.acquire))
        wait_until(lambda: len(lock.contenders()) == 2)
        writes = Aside(lambda: take("write", lock.write.acquire))
        wait_until(lambda: len(lock.contenders()) == 3)
        with cut_off(cluster, "reads"):  # so briefly that nobody need notice
            first.release()
        reads.result()
        writes.result()
        assert order == ["read", "write"]
        assert not lock.contenders()


# --- asking again ------------------------------------------------------------------------------


@case
def asked_for_again(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """A call that timed out in the middle: its retry executes nothing twice, whoever asks."""
    group, key = "asks again", "again/number"
    with cluster.client(group, timeout=SOON) as kv, cluster.client(timeout=SOON) as other:
        kv.put(key, "0")

        def pipeline() -> None:
            with kv.pipeline(timeout=0.3) as many:
                for _ in range(512):  # two chunks, one after the other
                    many.increment(key)

        ways: list[tuple[Callable[[], Any], int]] = [
            (lambda: kv.increment(key, timeout=0.3), 1),
            (lambda: kv.txn(then=[Put(key, str(total + 1))], timeout=0.3), 1),
            (lambda: kv._future(Increment(key).operation, 0.3).result(), 1),
            (pipeline, 512),
        ]
        total = 0
        for way, count in ways:
            with cut_off(cluster, group, answers_only=True):
                with pytest.raises((RequestTimeout, PipelineError)) as failed:
                    way()
                happens_soon(lambda t=total + count: other.get(key) == b"%d" % t)  # type: ignore[misc]
            for error in unknown_of(failed.value):
                error.retry(timeout=SOON)
            total += executed_of(failed.value, count)
            assert other.get(key) == b"%d" % total
        asyncio.run(asked_for_again_by_tasks(cluster, group, key, total))
        with cut_off(cluster, group, answers_only=True), pytest.raises(RequestTimeout) as failed:
            kv.lease(LONG_TTL, id=4711, timeout=0.3)
        with failed.value.retry() as lease:
            assert lease.id == 4711 and lease.keep_alive() > 0


async def asked_for_again_by_tasks(
    cluster: RelayedCluster, group: str, key: str, total: int
) -> None:
    async with AsyncClient(**cluster.doors(group), timeout=SOON) as kv:
        await kv.get(key)

        async def pipeline() -> None:
            async with kv.pipeline(timeout=0.3) as many:
                for _ in range(512):
                    many.increment(key)

        ways: list[tuple[Callable[[], Any], int]] = [
            (lambda: kv.increment(key, timeout=0.3), 1),
            (pipeline, 512),
        ]
        for way, count in ways:
            with (
                cut_off(cluster, group, answers_only=True),
                pytest.raises((RequestTimeout, PipelineError)) as failed,
            ):
                await way()
            for error in unknown_of(failed.value):
                await error.retry(timeout=SOON)
            total += executed_of(failed.value, count)
            assert await kv.get(key) == b"%d" % total


# --- elections ---------------------------------------------------------------------------------


@case
def resigning_twice(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """etcd #22123, #21128; trillian PR 1388: a resignation that fails is made again."""
    group, name = "resigns", "resigning"
    with cluster.client(group, timeout=SOON) as a, cluster.client(timeout=SOON) as b:
        first = a.election(name, ttl=LONG_TTL).campaign("first")
        told: list[Contender | None] = []
        changes = b.election(name).observe()
        told.append(next(changes))
        follower = Aside(lambda: b.election(name, ttl=LONG_TTL).campaign("second"))
        wait_until(lambda: len(b.election(name).contenders()) == 2)
        with cut_off(cluster, group), pytest.raises(RequestTimeout):
            first.resign(timeout=0.5)
        first.resign()
        second = follower.result()
        told.append(next(changes))
        second.resign()
        told.append(next(changes))
        assert [each and each.value for each in told] == [b"first", b"second", None]


# --- watches -----------------------------------------------------------------------------------


@case
def where_a_watch_goes_on(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """gazette PR 336: after the last revision that was told whole, whatever the answer said."""
    group, keys = "watches", [f"resume/{number}" for number in range(3)]
    with cluster.client(group, timeout=SOON) as a, cluster.client(timeout=SOON) as b:
        start = b.put("resume/0", "first")
        with a.watch(prefix="resume/", after=start) as events:
            revision = b.put_many(dict.fromkeys(keys, "x"))
            assert events.next(SOON).revision == revision
            assert events.revision < revision
            with cut_off(cluster, group):
                b.put("resume/0", "last")
                position = events.revision
        with b.watch(prefix="resume/", after=position) as again:
            assert [again.next(SOON).key for _ in range(4)] == [*keys, "resume/0"]


# --- leases ------------------------------------------------------------------------------------


@case
def renewed_as_soon_as_granted(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """etcd #6978, #6537: ten threads at each server; never 0, never "not found"."""

    def grant_and_renew(client: Client) -> None:
        for _ in range(5):
            number = new_id()
            assert client._do(Grant(number, SOON), SOON) == SOON
            assert client.renew(number, timeout=SOON) == SOON
            found = client.lease_info(number, timeout=SOON)
            assert found is not None and 0 < found.left <= SOON
            client.revoke(number, timeout=SOON)
            with pytest.raises(LeaseExpired):
                client.renew(number, timeout=SOON)

    for server in cluster.servers:
        front = cluster._client_fronts()[server - 1]
        with Client(front, timeout=SOON) as client:
            asides = [Aside(lambda: grant_and_renew(client)) for _ in range(10)]
            for aside in asides:
                aside.result()


@case
def what_is_left_through_the_end(cluster: RelayedCluster, _clocks: Clocks) -> None:
    """etcd #12381: 0…TTL, or not found; a renewal after the end says that it has ended."""
    with cluster.client(timeout=SOON) as kv:
        began = time.monotonic()
        number = granted_with_key(kv, 2.0, "left/key")
        before = 2.0
        while (found := kv.lease_info(number)) is not None:
            assert 0 <= found.left <= before
            before = found.left
        assert time.monotonic() - began >= 2.0, "it ended early"
        assert kv.get("left/key") is None
        for _ in range(2):
            with pytest.raises(LeaseExpired):
                kv.renew(number)


HOLDER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from paxon import Client, LeaseExpired, LockLost, Put

def told(call):
    try:
        return str(call())
    except (LeaseExpired, LockLost) as error:
        return type(error).__name__

with Client(sys.argv[1], timeout=60) as kv, ThreadPoolExecutor(9) as pool:
    def all_of(name, act):
        one, lives = f"still/{name}/", {"ttl": float(sys.argv[2])}
        return [act(call) for call in (
            kv.lock(one + "lock", **lives).acquire,
            kv.rwlock(one + "rwlock", **lives).read.acquire,
            kv.semaphore(one + "semaphore", 1, **lives).acquire,
            lambda: kv.election(one + "election", **lives).campaign("A"),
            lambda: kv.double_barrier(one + "double", 1 + (name == "waited"), **lives).enter(),
            kv.queue(one + "queue", **lives).get,
        )]

    held = all_of("held", lambda call: call())
    held.append(kv.members("still/held/members", ttl=float(sys.argv[2])).join("A"))
    *waits, item = all_of("waited", pool.submit)
    mirror = kv.mirror("still/news")
    print("holds", flush=True)
    input()
    for one in held:
        written = kv.txn(if_=[one], then=[Put("still/written", one.key)]).succeeded
        print(one.lost.is_set(), told(one.check), written, flush=True)
    print(told(held[3].resign), told(lambda: held[3].proclaim("B")), told(held[5].done))
    print(*(told(wait.result) for wait in waits))
    print(item.result().value.decode(), mirror.wait(lambda news: news.get("still/news")).decode())
"""


@case
def one_that_stands_still_for_longer_than_its_leases(
    cluster: RelayedCluster, _clocks: Clocks
) -> None:
    """SIGSTOP: others have what it held. It is told of all, and what it does then is refused."""
    with cluster.client(timeout=SOON) as kv:

        def all_of(name: str) -> list[Held]:
            one = f"still/{name}/"
            return [
                kv.lock(one + "lock").acquire(timeout=SOON),
                kv.rwlock(one + "rwlock").write.acquire(timeout=SOON),
                kv.semaphore(one + "semaphore", 1).acquire(timeout=SOON),
                kv.election(one + "election").campaign("B", timeout=SOON),
            ]

        before = all_of("waited")
        kv.queue("still/held/queue").put("item")
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, ",".join(cluster._client_fronts()), "8"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdin is not None and holder.stdout is not None
        try:
            assert holder.stdout.readline() == "holds\n"
            wait_until(lambda: len(kv.range(prefix="still/waited/").entries) == 4 + 6)
            holder.send_signal(signal.SIGSTOP)
            after = [*all_of("held"), kv.queue("still/held/queue").get(timeout=SOON)]
            wait_until(lambda: not kv.members("still/held/members").list())
            wait_until(lambda: len(kv.range(prefix="still/waited/").entries) == 4)
            kv.put("still/news", "news")
            holder.send_signal(signal.SIGCONT)
            holder.stdin.write("\n")
            holder.stdin.flush()
            for _ in range(7):
                assert holder.stdout.readline() == "True LockLost False\n"
            assert holder.stdout.readline() == "None LockLost LockLost\n"
            assert holder.stdout.readline() == "LeaseExpired " * 4 + "LeaseExpired\n"
            for held in (*before, *after):
                held.check()
                held.release()
            kv.queue("still/waited/queue").put("next")
            assert holder.stdout.readline() == "next news\n"
            assert kv.get("still/written") is None
        finally:
            holder.kill()
            holder.wait()
            holder.stdin.close()
            holder.stdout.close()


KEEPER = """
import sys, time
from paxon import Client
with Client(sys.argv[1], timeout=60) as kv, kv.lease(9) as lease:
    kv.put(sys.argv[2], "", lease=lease)
    print(time.time(), flush=True)
    for line in sys.stdin:
        print(time.time(), not lease.lost.is_set() and lease.keep_alive() > 0, flush=True)
"""


@case
def wall_clocks_that_jump(cluster: RelayedCluster, clocks: Clocks) -> None:
    """etcd #12291, #6700: alive at half its time, gone soon after it, kept where it is kept."""
    if clocks.missing:
        return
    pids = [row.pid for row in cluster.status(state=False) if row.pid]
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, ",".join(cluster._client_fronts()), "jumps/kept"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | clocks.environment(),
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        told = float(keeper.stdout.readline())
        with cluster.client(timeout=SOON) as kv:
            began = time.monotonic()
            granted_with_key(kv, 3.0, "jumps/left")
            for process, seconds in zip(
                [*pids, keeper.pid], (3600, -3600, 3600, 3600), strict=True
            ):
                clocks.jump(process, seconds)
            keeper.stdin.write("\n")
            keeper.stdin.flush()
            now, alive = keeper.stdout.readline().split()
            assert float(now) - told > 3500, "the clock did not jump"
            assert alive == "True"
            clocks.jump(keeper.pid, -3600)
            wait_until(lambda: kv.get("jumps/left") is None)
            assert time.monotonic() - began >= 3.0, "it ended early"
            assert kv.get("jumps/kept") == b""
            for process in pids:
                clocks.jump(process, 0)
            keeper.stdin.write("\n")
            keeper.stdin.flush()
            assert keeper.stdout.readline().split()[1] == "True"
            keeper.stdin.close()
            wait_until(lambda: kv.get("jumps/kept") is None)  # it let go in order
    finally:
        keeper.kill()
        keeper.wait()
        keeper.stdout.close()
