"""Keys, sizes and comparisons at their edges, through every way in and out of real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from paxon import (
    AsyncClient,
    Client,
    FutureRevision,
    InvalidRequest,
    PaxonError,
    PipelineError,
    Put,
    TooLarge,
)
from paxon.kvstore.store.leases import MAX_LEASE_KEYS
from paxon.kvstore.store.operations import MAX_KEY_BYTES, MAX_TXN_OPERATIONS, MAX_VALUE_BYTES
from paxon.kvstore.store.state import MAX_REVISION_BYTES
from tests.cluster.helpers import are_level, wait_until
from tests.faults.networks.network import RelayedCluster
from tests.faults.trial import at_once
from tests.soak import SOAK

pytestmark = pytest.mark.process

SOON = 240.0


def with_async(
    cluster: RelayedCluster, use: Callable[[AsyncClient], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        async with AsyncClient(cluster._client_fronts(), timeout=SOON) as kv:
            await use(kv)

    asyncio.run(run())


def test_a_missing_key_is_compared_as_etcd_does(cluster: RelayedCluster) -> None:
    """etcd #10566: its numbers are 0; a comparison of its value is false, = and ≠ alike."""
    with cluster.client(timeout=SOON) as kv:
        key = "missing"
        for compared in (kv.version, kv.created, kv.modified, kv.lease_of):
            assert kv.txn(if_=[compared(key) == 0]).succeeded
            assert kv.txn(if_=[compared(key) < 1]).succeeded
            assert not kv.txn(if_=[compared(key) != 0]).succeeded
        for condition in (kv.value(key) == b"", kv.value(key) != b"", kv.value(key) < b"x"):
            assert not kv.txn(if_=[condition]).succeeded
        revision = kv.put("there", "")
        with pytest.raises(FutureRevision):
            kv.get("there", revision=revision + 1000)
        assert not kv.txn(if_=[kv.created(key) == 7], then=[Put(key, "x")]).succeeded
        assert kv.get(key) is None


KEYS = [b"\0", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff"]
FOUND = {b"a\xff": 3, b"\xff": 2, b"": 8}
"""How many keys a prefix has."""


def test_prefixes_that_end_in_the_highest_byte(cluster: RelayedCluster) -> None:
    """python-etcd3 #1120, PR 1647: get, delete and watch by prefix."""
    texts = [key.decode("utf-8", "surrogateescape") for key in KEYS]
    with cluster.client(timeout=SOON) as kv:
        for prefix, count in FOUND.items():
            while kv.range(prefix=b"", keys_only=True, limit=1).count:
                kv.delete_prefix(b"")
            start = kv.put(b"b", "")
            with kv.watch(prefix=prefix, after=start) as events:
                kv.put_many(dict.fromkeys(KEYS, b"1"))
                expected = [t for t, key in zip(texts, KEYS, strict=True) if key.startswith(prefix)]
                assert len(expected) == count
                assert sorted(events.next(SOON).key for _ in expected) == sorted(expected)
                for mode in ("linearizable", "stale"):
                    wait_until(lambda m=mode: len(kv.range(prefix=b"", mode=m)) == 8)  # type: ignore[misc]
                    found = kv.range(prefix=prefix, mode=mode)
                    assert [entry.key for entry in found] == expected
                assert [key for key, _ in kv.scan(prefix)] == expected
                assert kv.delete_prefix(prefix) == count
                assert {events.next(SOON).kind for _ in expected} == {"delete"}
            assert kv.range(prefix=b"", count_only=True).count == 8 - count
        with pytest.raises(InvalidRequest, match="empty"):
            kv.put(b"", "x")
        kv.put_many(dict.fromkeys(KEYS, b"1"))
        assert kv.range(range=(b"b", b"a")).count == 0
        assert kv.delete_range(b"b", b"a") == 0
        assert kv.range(prefix=b"", count_only=True).count == 8


LONGEST = "k" * MAX_KEY_BYTES
LARGEST = b"v" * MAX_VALUE_BYTES


def refusals(kv: Client) -> list[Callable[[], object]]:
    """Just above a limit, through each way in."""
    many = {f"limit/many/{n}": b"" for n in range(MAX_TXN_OPERATIONS + 1)}
    third = b"v" * (MAX_REVISION_BYTES // 3)
    lease = kv.lease(SOON)
    kv.put_many({f"limit/lease/{n}": b"" for n in range(MAX_LEASE_KEYS)}, lease=lease)

    def piped(add: Callable[[Any], object]) -> None:
        with kv.pipeline() as pipeline:
            add(pipeline)

    return [
        lambda: kv.put(LONGEST + "k", "x"),
        lambda: kv.put("limit/more", LARGEST + b"v"),
        lambda: kv.append("limit/put", b"v"),
        lambda: kv.submit_append("limit/put", b"v").result(),
        lambda: piped(lambda p: p.append("limit/put", b"v")),
        lambda: piped(lambda p: p.put("limit/more", LARGEST + b"v")),
        lambda: kv.compare_and_set("limit/put", LARGEST, LARGEST + b"v"),
        lambda: kv.txn(then=[Put("limit/more", LARGEST + b"v")]),
        lambda: kv.put_many(many),
        lambda: kv.put_many({f"limit/third/{n}": third for n in range(4)}),
        lambda: kv.get(LONGEST + "k"),
        lambda: kv.watch(LONGEST + "k"),
        lambda: kv.put("limit/lease/more", b"", lease=lease),
    ]


def test_sizes_around_each_limit(cluster: RelayedCluster) -> None:
    """etcd #14025, #14997: refused cleanly, or there after a restart and at every server."""
    with cluster.client(timeout=SOON) as kv:
        values = {"limit/put": LARGEST, LONGEST: b"x"}
        for key, value in values.items():
            kv.put(key, value)
        if SOAK:  # more than one reply may have
            values |= {"limit/txn": LARGEST, "limit/append": LARGEST}
            kv.txn(then=[Put("limit/txn", LARGEST)])
            kv.append("limit/append", LARGEST[1:])
            assert kv.append("limit/append", b"v") == MAX_VALUE_BYTES
        attempts = refusals(kv)
        revision = kv.range("limit/put").revision
        for number, attempt in enumerate(attempts):
            with pytest.raises((InvalidRequest, TooLarge, PipelineError)) as refused:
                attempt()
            if isinstance(refused.value, PipelineError):
                assert isinstance(refused.value.errors[0], InvalidRequest)
            assert kv.range("limit/put").revision == revision, f"attempt {number} changed something"
        if SOAK:
            at_once(cluster.kill, cluster.servers)
            at_once(cluster.restart, cluster.servers)
        else:  # (each of the others has to be right in its turn)
            cluster.kill(leader := cluster.leader(timeout=SOON))
            cluster.restart(leader)
        check_sync(kv, values)
        with_async(cluster, lambda other: check_async(other, values))
        wait_until(lambda: are_level(cluster), "all have executed it", SOON)
        for front in cluster._client_fronts():
            with Client(front, timeout=SOON) as alone:
                for key, value in values.items():
                    assert alone.get(key, mode="stale") == value
        # What is deleted is told with its value, which makes a revision of twice the size.
        with kv.watch("limit/put", after=kv.range("limit/put").revision, previous=True) as events:
            kv.put("limit/put", LARGEST[1:])
            event = events.next(SOON)
            assert event.previous is not None and len(event.value) + 1 == len(LARGEST)
        for key in values:
            assert kv.delete(key)


def check_sync(kv: Client, values: dict[str, bytes]) -> None:
    for key, value in values.items():
        assert kv.get(key) == value == kv.submit_get(key).result()
        entry = kv.entry(key)
        assert entry is not None and entry.value == value
    assert kv.get_many(values) == values
    found = kv.range(prefix="limit/", sort="created")
    assert {entry.key: entry.value for entry in found if entry.key in values} == {
        key: value for key, value in values.items() if key != LONGEST
    }
    assert dict(kv.scan("limit/put")) == {"limit/put": LARGEST}
    with kv.pipeline() as pipeline:
        for key in values:
            pipeline.get(key)
    assert pipeline.results == list(values.values())


async def check_async(kv: AsyncClient, values: dict[str, bytes]) -> None:
    for key, value in values.items():
        assert await kv.get(key) == value
    assert await kv.get_many(values) == values
    with pytest.raises(PaxonError):
        await kv.append("limit/put", b"v")
    with pytest.raises(InvalidRequest):
        await kv.put("limit/more", LARGEST + b"v")
