"""Leases as their owners see them: when they are renewed, and when they are lost."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from paxon import InvalidRequest, LeaseExpired, RequestTimeout
from paxon.kvstore.client.leases import keeping
from paxon.kvstore.client.leases import lease as threads
from paxon.kvstore.client.leases.keeping import (
    CLOCK_DRIFT,
    LEAST_SECONDS,
    TOO_LATE,
    Held,
    plan,
    renewing,
    take_answers,
)
from paxon.kvstore.client.leases.lease import Lease
from paxon.kvstore.client.leases.requests import RevokeAll
from paxon.testing import MemoryCluster as Cluster
from tests.waiting import wait_until


def test_the_deadline_counts_from_the_first_sending_and_allows_for_drift() -> None:
    held = Held(7, 10.0, sent=100.0)
    assert held.deadline == 100.0 + 10.0 * (1 - CLOCK_DRIFT) / (1 + CLOCK_DRIFT)
    held.renewed(103.0)
    assert held.deadline == 103.0 + 10.0 * (1 - CLOCK_DRIFT) / (1 + CLOCK_DRIFT)
    held.renewed(101.0)  # an answer that was overtaken
    assert held.deadline > 112.0


def test_it_is_renewed_at_each_third_and_soon_again_without_an_answer() -> None:
    held = Held(7, 9.0, sent=100.0)
    assert plan([held], 102.9) == ([], 103.0)
    assert plan([held], 103.0)[0] == [held]
    held.tried(106.0)
    due, next_look = plan([held], 106.1)
    assert not due and 106.1 < next_look <= 106.5


def test_what_is_lost_stays_lost_and_says_so_once() -> None:
    """A laptop that slept: the answer to its renewal comes after its time was up."""
    held, told = Held(7, 10.0, sent=100.0), []
    held.when_lost(lambda: told.append(1))
    assert plan([held], 200.0) == ([], float("inf"))
    held.renewed(199.0)
    assert held.is_over(199.5) and told == [1]
    held.when_lost(lambda: told.append(2))  # too late to wait for it
    assert told == [1, 2]
    held.when_lost(lambda: told[7])  # what it raises keeps nobody from renewing other leases
    for wrong in (3, None, asyncio.sleep):
        with pytest.raises(InvalidRequest, match="on_lost has to be a plain function"):
            held.when_lost(wrong)  # type: ignore[arg-type]
    with pytest.raises(LeaseExpired, match=r"lease 7 is lost: it could not be renewed in time"):
        raise held.error()


def test_near_the_deadline_an_answer_is_waited_for_a_little_and_after_it_revives_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(7, 10.0, sent=100.0)
    monkeypatch.setattr(keeping, "boot_seconds", lambda: held.deadline - 0.01)
    with renewing([held], [held]) as seconds:
        assert seconds == LEAST_SECONDS
    monkeypatch.setattr(keeping, "boot_seconds", lambda: held.deadline)
    take_answers([held], 108.0, [10.0])
    assert held.reason == TOO_LATE


def test_one_that_lives_long_is_not_waited_for_while_another_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody answers any more: the owner of the short one would hear of that after minutes."""
    long, short, gone = Held(7, 600.0, 100.0), Held(8, 3.0, 299.5), Held(9, 3.0, 299.5)
    gone.lose("it was revoked")
    held = [long, short, gone]
    for now, expected in ((300.0, 1.0), (short.deadline - 0.25, 0.25), (short.deadline, 200.0)):
        due, _ = plan(held, now)
        assert long in due
        monkeypatch.setattr(keeping, "boot_seconds", lambda now=now: now)
        with renewing(due, held) as seconds:
            assert seconds == pytest.approx(expected)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def test_its_keys_go_with_it(cluster: Cluster) -> None:
    with cluster.client() as kv:
        with kv.lease(ttl=10) as lease:
            kv.put("a", b"1", lease=lease)
            assert kv.leases() == [lease.id]
            info = kv.lease_info(lease)
            assert info is not None and info.keys == ["a"] and 0 < info.left <= info.ttl == 10.0
            assert 0 < lease.time_left() < 10.0 and not lease.lost.is_set()
            assert lease.keep_alive() > 8.0
        assert kv.get("a") is None and kv.leases() == []
        assert lease.lost.is_set() and lease.time_left() == 0.0
        with pytest.raises(LeaseExpired, match="it was revoked"):
            lease.keep_alive()
        with pytest.raises(LeaseExpired, match="it was revoked"), lease:
            pytest.fail("its block ran")
        with pytest.raises(LeaseExpired):
            kv.put("a", b"1", lease=lease)
        with pytest.raises(LeaseExpired):
            kv.renew(lease)


def test_it_ends_by_the_logs_time_and_its_owner_hears_of_it(cluster: Cluster) -> None:
    with cluster.client() as kv:
        told: list[int] = []
        lease = kv.lease(ttl=3, on_lost=lambda: told.append(1))
        odd = kv.lease(ttl=3, on_lost=lambda: sys.exit("as some would have it"))
        kv.put("a", b"1", lease=lease)
        cluster.let_pass(4.0)  # for the servers: its owner had no time to renew it
        wait_until(lambda: kv.get("a") is None)
        assert lease.lost.wait(30) and odd.lost.wait(30)
        wait_until(lambda: told == [1])
        assert "ended" in lease.reason
        after = kv.lease(ttl=60)
        granted, after.renew_at = after.deadline, 0.0
        wait_until(lambda: after.deadline > granted)  # renewed, although one raised


def test_a_lost_one_is_lost_before_anybody_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks while the thread that found it out has not got to telling of it."""
    seen: list[bool] = []
    monkeypatch.setattr(Lease, "_tell", lambda self: seen.append(self.lost.is_set()))
    with cluster.client() as kv:
        kv.lease(ttl=60).lose("it has ended")
    assert seen == [True]


def test_a_renewal_is_renewed_at_the_servers(cluster: Cluster) -> None:
    with cluster.client() as kv:
        number = kv.lease(ttl=60, id=77).id
        cluster.let_pass(40.0)
        assert kv.renew(number) == 60.0
        cluster.let_pass(40.0)
        info = kv.lease_info(number)
        assert number == 77 and info is not None and 15.0 < info.left < 21.0


def test_nobody_renews_what_nobody_owns(cluster: Cluster) -> None:
    with cluster.client() as kv:
        lease = kv.lease(ttl=2)
        keeper = kv._keeper
        assert keeper is not None
        del lease
        gc.collect()
        wait_until(lambda: not keeper._runs)
        cluster.let_pass(3.0)
        wait_until(lambda: kv.leases() == [])


def test_a_machine_that_slept_wakes_up_without_its_lease(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in (threads, keeping):
        monkeypatch.setattr(module, "boot_seconds", clock)
    with cluster.client() as kv:
        asked: list[Any] = []
        do = kv._do

        def note(call: Any, *more: Any) -> Any:
            asked.append(call)
            return do(call, *more)

        monkeypatch.setattr(kv, "_do", note)
        leases = [kv.lease(ttl=60) for _ in range(99)]
        lease = leases[7]
        kv.put("a", b"1", lease=lease)
        assert not lease.lost.is_set()
        clock.now += 3600.0
        assert lease.lost.is_set()
        with pytest.raises(LeaseExpired):
            lease.check()
        wait_until(lambda: kv.leases() == [])  # and what it held is given up, at once
        assert kv.get("a") is None
        assert sum(isinstance(call, RevokeAll) for call in asked) == 1


def test_a_failed_renewal_is_a_new_request_next_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline must count from its own sending, not from that of one never answered."""
    clock = Clock()
    for module in (threads, keeping):
        monkeypatch.setattr(module, "boot_seconds", clock)
    with cluster.client() as kv:
        lease = Lease(kv, 5, 10.0, clock.now)
        answers: list[bytes] = []

        def ask(body: bytes, timeout: float | None) -> bytes:
            clock.now += 3.0
            if not answers:
                answers.append(b"")
                raise RequestTimeout("no answer")
            return b"\x91\xcd\x27\x10"  # [10000]

        monkeypatch.setattr(kv, "_ask_to_renew", ask)
        first = clock.now
        with renewing([lease], [lease]) as seconds:
            kv._renew([lease], seconds)
        assert lease.deadline < first + 10.0
        with renewing([lease], [lease]) as seconds:
            kv._renew([lease], seconds)
        counted = 10.0 * (1 - CLOCK_DRIFT) / (1 + CLOCK_DRIFT)
        assert lease.deadline == first + 3.0 + counted


def test_a_closed_clients_leases_are_lost(cluster: Cluster) -> None:
    kv = cluster.client()
    lease = kv.lease(ttl=2)
    kv.close()
    assert lease.lost.wait(30)
    kv = cluster.client()
    assert kv.lease(ttl=2) and kv._keeper is not None
    with kv._keeper._changed:  # a handler strikes while a lease is taken into care
        kv.close()

    async def main() -> None:
        kv = cluster.async_client()
        lease = await kv.lease(ttl=2)
        await kv.close()
        assert lease.reason == "its client is closed"

    asyncio.run(main())


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, "10", True, 1e12, 1e308, 10**400])
def test_a_time_to_live_that_is_none(cluster: Cluster, ttl: float) -> None:
    with cluster.client() as kv, pytest.raises(InvalidRequest, match="ttl"):
        kv.lease(ttl=ttl)


@pytest.mark.parametrize("number", [0, -1, 1 << 63, "a"])
def test_an_id_that_is_none(cluster: Cluster, number: int) -> None:
    with cluster.client() as kv, pytest.raises(InvalidRequest, match="lease"):
        kv.lease(ttl=10, id=number)
