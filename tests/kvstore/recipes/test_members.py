"""Members come and go, and all are told; counters count once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from paxon import (
    Client,
    ClientClosed,
    Contender,
    InvalidRequest,
    LockLost,
    Put,
    RequestTimeout,
)
from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import only
from tests.waiting import wait_until


def values(members: list[Contender]) -> list[bytes]:
    return [member.value for member in members]


def test_members_come_and_go_and_each_change_is_told(kv: Client) -> None:
    workers = kv.members("workers")
    told = workers.watch()
    assert workers.name == "workers" and next(told) == [] == workers.list()
    with workers.join("one") as one, workers.join() as two:
        assert values(next(told)) == [b"one"] and values(next(told)) == [b"one", b""]
        assert one.key == f"workers/.members/{one.lease.id:x}" and two.fence > one.fence
        kv.put("workers/.members/config", "x")  # is none
        assert two.update("zwei") > two.fence
        assert values(next(told)) == [b"one", b"zwei"] == values(workers.list())
        assert kv.txn(if_=[one], then=[Put("x", "1")]).succeeded
        one.leave()
        one.leave()
        assert values(next(told)) == [b"zwei"]
        assert not kv.txn(if_=[one], then=[Put("x", "2")]).succeeded
        with pytest.raises(LockLost, match="members 'workers' is lost"):
            one.update("again")
        kv.revoke(two.lease)  # as its time to live would
        assert next(told) == []
        with pytest.raises(LockLost):
            two.check()
    with kv.lock("workers", timeout=0), kv.election("workers").campaign("me", timeout=0):
        assert workers.list() == [] and len(kv.leases()) == 2


def test_a_member_that_dies_is_one_no_more(cluster: MemoryCluster, kv: Client) -> None:
    workers = kv.members("workers", ttl=60)
    told = workers.watch()
    assert next(told) == []
    workers.join("one")  # and nobody keeps what it returned, as if its process had died
    assert values(next(told)) == [b"one"]
    wait_until(lambda: not kv._care.leases)
    cluster.let_pass(61)
    assert next(told) == []


@only("threads")
def test_a_retried_update_says_what_the_update_would(
    kv: Client, request: pytest.FixtureRequest
) -> None:
    one = kv.members("workers").join("one")
    unheard: list[Any] = request.getfixturevalue("unheard")
    with pytest.raises(RequestTimeout) as caught:
        one.update("uno")
    unheard[:] = [[True, 7, [7]]]
    assert caught.value.retry() == 7
    unheard[:] = [[False, 7, []]]
    with pytest.raises(LockLost):
        caught.value.retry()


def test_a_counter_counts(kv: Client) -> None:
    hits = kv.counter("hits")
    assert (hits.value(), hits.add(), hits.add(41), hits.add(-2), hits.value()) == (
        0,
        1,
        42,
        40,
        40,
    )
    assert hits.name == "hits" and kv.get("hits") == b"40"
    for value in (b"many", b"", b"1_0", b" 1", b"+1", b"1\n", "\u0663".encode(), b"1" * 20):
        kv.put("hits", value)
        with pytest.raises(InvalidRequest, match="'hits' is no counter: its value is not a whole"):
            hits.value()
        with pytest.raises(InvalidRequest, match="the value is not a whole number"):
            hits.add()
        assert kv.get("hits") == value
    for value in (b"-0", b"007", b"-9223372036854775808"):
        kv.put("hits", value)
        assert hits.value() == hits.add(0) == int(value)
    kv.put("hits", "12")
    kv.append("hits", "3")
    assert hits.value() == hits.add(0) == 123


def test_wrong_arguments_are_refused(kv: Client) -> None:
    kv.close()
    for make in (
        lambda: kv.members(""),
        lambda: kv.members("a", ttl=0),
        lambda: kv.members("a").join(7),  # type: ignore[arg-type]
        lambda: kv.counter(7),  # type: ignore[arg-type]
        lambda: kv.counter("a").add("1"),  # type: ignore[arg-type]
        lambda: kv.counter("a").add(1 << 63),
    ):
        with pytest.raises(InvalidRequest):  # before anything is sent
            make()


def test_an_observation_times_out_and_ends(kv: Client) -> None:
    with kv.members("workers").watch() as unread:
        pass
    assert list(unread) == []
    with kv.members("workers").watch() as told:
        assert told.next(0) == []
        with pytest.raises(TimeoutError, match=r"within 0\.05 s; the observation goes on"):
            told.next(0.05)
        with kv.members("workers").join("one"):
            kv.put("workers/.members/config", "x")  # is none, and no news
            assert values(told.next(60)) == [b"one"]
        assert told.next(60) == []
        threading.Timer(0.05, told.close).start()  # from another thread
        assert list(told) == []
    with pytest.raises(ClientClosed, match="the observation is closed"):
        told.next()
    late = kv.members("workers").watch()
    kv.close()
    for _ in range(2):  # that its client was closed is an error
        with pytest.raises(ClientClosed, match="the client is closed"):
            next(late)
