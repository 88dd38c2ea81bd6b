"""Leases, locks and reads while servers are killed and stand still."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from paxon import Client, Held, LockLost, PaxonError, Put
from paxon.kvstore.client.leases.requests import Grant, new_id
from tests.cluster.helpers import wait_until
from tests.coordination.test_cut_clients import acquired
from tests.course.support import together
from tests.faults.networks.network import RelayedCluster
from tests.faults.trial import at_once
from tests.soak import SOAK, sized

pytestmark = pytest.mark.process

SOON = 60.0


def grant_many(client: Client, count: int, ttl: float, prefix: str) -> list[int]:
    """Leases that nobody renews, each with a key."""
    numbers = [new_id() for _ in range(count)]
    with client.pipeline(timeout=SOON) as pipeline:
        for number in numbers:
            pipeline.call(Grant(number, ttl))
            pipeline.put(f"{prefix}{number:x}", "", lease=number)
    return numbers


def elections(cluster: RelayedCluster) -> int:
    """The highest round of a ballot that any server has promised."""
    rounds: list[int] = []

    def all_answer() -> bool:
        replies = [row.reply for row in cluster.status(state=False)]
        rounds[:] = [reply.ballot.round for reply in replies if reply is not None]
        return bool(rounds)

    wait_until(all_answer)
    return max(rounds)


# --- no majority ---------------------------------------------------------------------------------


class Turn:
    """Who holds one lock: at most one, and each with a higher fence than the one before."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fences: list[int] = []
        self.inside = 0
        self.first: Held | None = None

    def begin(self, client: Client) -> None:
        self.first = acquired(client, self.name, 2.0)
        self.fences.append(self.first.fence)

    def take(self, client: Client) -> None:
        with client.lock(self.name, ttl=SOON).acquire(timeout=SOON) as held:
            self.inside += 1
            self.fences.append(held.fence)
            done = client.txn(if_=[held], then=[Put(f"{self.name}.guarded", str(held.fence))])
            assert done.succeeded
            assert self.inside == 1, f"{self.name} has two holders"
            self.inside -= 1

    def is_told(self) -> bool:
        return self.first is not None and self.first.lost.is_set()

    def check(self, client: Client) -> None:
        assert len(self.fences) == 3 and self.fences == sorted(set(self.fences))
        assert self.first is not None
        with pytest.raises(LockLost):
            self.first.check()
        assert not client.txn(if_=[self.first], then=[Put(f"{self.name}.guarded", "")]).succeeded


def test_no_majority_for_longer_than_leases_live(cluster: RelayedCluster) -> None:
    """PySyncObj #108: two holders; etcd #10686, #9935: expiry fails once, and for ever."""
    with cluster.client("a", timeout=SOON) as a, cluster.client("b", timeout=SOON) as b:
        for number in range(sized(1, 5)):
            turns = [Turn(f"majority/{number}/{n}") for n in range(20)]
            together([lambda t=t: t.begin(a) for t in turns])  # type: ignore[misc]
            left = grant_many(b, 5, 2.0, f"left/{number}/")
            leader = cluster.leader(timeout=SOON)
            stopped = [leader, 1 + leader % 3]
            at_once(cluster.pause, stopped)
            wait_until(lambda: all(t.is_told() for t in turns), "A is told")  # noqa: B023
            if SOAK and number == 0:
                threading.Event().wait(20.0)  # the report's own times
            at_once(cluster.resume, stopped)
            together(
                [lambda t=t, c=c: t.take(c) for t in turns for c in (a, b)],  # type: ignore[misc]
                3 * SOON,
            )
            for turn in turns:
                turn.check(a)
            wait_until(lambda: not set(left) & set(b.leases()), "they end, for all that")  # noqa: B023
            assert not b.range(prefix=f"left/{number}/").entries


# --- a killed leader -----------------------------------------------------------------------------


def test_very_many_leases_end_at_once_after_the_leader_was_killed(cluster: RelayedCluster) -> None:
    """etcd #12105, #8097, #9496; #12381: what is left is asked for all the while."""
    count, ttl = sized((2000, 2.0), (10_000, 5.0))
    ended = threading.Event()
    puts: list[int] = []
    with cluster.client(timeout=SOON) as kv, cluster.client("asks", timeout=SOON) as other:

        def ask() -> None:
            draw = random.Random(7)
            while not ended.is_set():
                found = other.lease_info(draw.choice(numbers))
                assert found is None or 0 <= found.left <= ttl

        def put() -> None:
            while not ended.is_set():
                puts.append(kv.put("many/put", "x"))

        def kill_and_wait() -> None:
            try:
                killed = cluster.leader(timeout=SOON)
                cluster.kill(killed)
                cluster.leader(timeout=SOON)
                before = elections(cluster)
                seen = len(puts)
                wait_until(lambda: not set(numbers) & set(kv.leases()), "all have ended")
                assert time.monotonic() - began >= ttl, "they ended early"
                wait_until(lambda: len(puts) > seen, "puts are answered")
                assert kv.range(prefix="many/lease/", count_only=True).count == 0
                # (A machine that is busy with other tests may well make leaders late.)
                assert not SOAK or elections(cluster) == before
                cluster.restart(killed)
            finally:
                ended.set()

        numbers = grant_many(kv, count - 1, ttl, "many/lease/")
        began = time.monotonic()
        numbers += grant_many(kv, 1, ttl, "many/lease/")
        together([ask, put, kill_and_wait], 3 * SOON)


@pytest.mark.skipif(not SOAK, reason="takes more than a minute")
def test_a_minutes_lease_ends_although_leaders_change(cluster: RelayedCluster) -> None:
    """etcd #9395: every 20 s another leads, and each began to count anew."""
    with cluster.client(timeout=SOON) as kv:
        began = time.monotonic()
        [number] = grant_many(kv, 1, 60.0, "minute/")
        for turn in (20, 40):
            wait_until(lambda: time.monotonic() - began >= turn)  # noqa: B023
            killed = cluster.leader(timeout=SOON)
            cluster.kill(killed)
            found = kv.lease_info(number)
            assert found is not None and found.left <= 60.0 - turn + 10.0
            cluster.restart(killed)
        wait_until(lambda: number not in kv.leases(), "it has ended", 60.0)
        assert 60.0 <= time.monotonic() - began < 80.0
        assert kv.get(f"minute/{number:x}") is None


# --- pauses --------------------------------------------------------------------------------------


def test_reads_right_after_a_server_goes_on_see_the_newest_value(cluster: RelayedCluster) -> None:
    """etcd #20418, #741: also a leader replaced meanwhile, and asked before it woke."""
    key = "woken"
    newest: bytes | None = None

    def check(read: Callable[[], bytes | None]) -> None:
        try:
            value = read()
        except PaxonError:
            return
        assert value == newest

    with cluster.client("writer", timeout=SOON) as writer:
        alone = {
            server: Client(cluster._client_fronts()[server - 1], redirect=False, timeout=10.0)
            for server in cluster.servers
        }
        for client in alone.values():
            check(lambda c=client: c.get(key))  # type: ignore[misc]  # (it connects)
        for number in range(sized(6, 200)):
            leader = cluster.leader(timeout=SOON)
            victim = leader if number % 2 else 1 + leader % 3
            cluster.pause(victim)
            newest = b"%d" % number
            writer.put(key, newest)
            client = alone[victim]
            early = [client.submit_get(key, mode=mode) for mode in ("linearizable", "lease")]
            cluster.resume(victim)
            for future in early:
                check(future.result)
            for mode in ("lease", "linearizable"):
                check(lambda c=client, m=mode: c.get(key, mode=m))  # type: ignore[misc]
        for client in alone.values():
            client.close()
