"""What clients may ask of the store: one test a promise, on one real server in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from paxon import (
    AsyncTransaction,
    Client,
    ClientClosed,
    Compacted,
    Conflict,
    Delete,
    FutureRevision,
    Get,
    InvalidRequest,
    LeaseExpired,
    LockLost,
    Put,
    Range,
    RequestTimeout,
    TooLarge,
    Transaction,
    Txn,
)
from paxon.kvstore.client.calls import faces
from paxon.kvstore.client.calls.async_faces import AsyncStoreCalls
from paxon.kvstore.client.calls.calls import Call, GetMany
from paxon.kvstore.client.calls.drafts import Draft
from paxon.kvstore.client.calls.faces import StoreCalls
from paxon.kvstore.client.calls.tries import pause_before_next
from paxon.kvstore.store.operations import refusal
from paxon.testing import MemoryCluster

KEYS = [b"\0", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff\xff"]
"""Those of FAULTS.md, "Prefixes"."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[MemoryCluster]:
    with MemoryCluster() as cluster:
        yield cluster


@pytest.fixture
def kv(cluster: MemoryCluster) -> Iterator[Client]:
    with cluster.client() as client:
        client.delete_prefix("")
        yield client


def test_an_entry_has_all_that_belongs_to_a_key(kv: Client) -> None:
    assert kv.entry("motto") is None
    first = kv.put("motto", "fewer dictators")
    second = kv.put("motto", "more quorums")
    entry = kv.entry("motto")
    assert entry is not None
    assert (entry.key, entry.value) == ("motto", b"more quorums")
    assert (entry.created, entry.modified, entry.version, entry.lease) == (first, second, 2, 0)
    assert second == first + 1


def test_the_past_can_be_read(kv: Client) -> None:
    first = kv.put("a", "1")
    kv.put("a", "2")
    kv.delete("a")
    assert kv.get("a") is None
    assert kv.get("a", revision=first) == b"1"
    entry = kv.entry("a", revision=first + 1)
    assert entry is not None and entry.version == 2
    assert [entry.value for entry in kv.range(prefix="a", revision=first + 1)] == [b"2"]


def test_what_was_compacted_and_what_is_to_come_are_told_apart(kv: Client) -> None:
    revision = kv.put("a", "1")
    kv.put("a", "2")
    assert kv.compact(revision + 1) == revision + 1
    with pytest.raises(Compacted, match="has been compacted") as gone:
        kv.get("a", revision=revision)
    assert gone.value.oldest == revision + 1
    assert gone.value.revision == revision + 1
    with pytest.raises(Compacted):
        kv.compact(revision)
    with pytest.raises(FutureRevision, match="in the future") as early:
        kv.entry("a", revision=revision + 100)
    assert early.value.revision == revision + 1
    with pytest.raises(FutureRevision):
        kv.compact(revision + 100)
    assert kv.get("a") == b"2"


def test_a_transaction_takes_one_branch_in_one_revision(kv: Client) -> None:
    before = kv.put("motto", "a")
    done = kv.txn(
        if_=[kv.modified("motto") == before, kv.value("motto") == "a", kv.version("nobody") == 0],
        then=[Put("motto", "b"), Put("other", "c"), Get("motto"), Range(prefix="")],
        else_=[Get("motto")],
    )
    assert done.succeeded and done.revision == before + 1
    assert done.results[:3] == [before + 1, before + 1, b"b"]
    assert [entry.key for entry in done.results[3]] == ["motto", "other"]
    again = kv.txn(
        if_=[kv.modified("motto") == before], then=[Put("motto", "d")], else_=[Get("motto")]
    )
    assert not again.succeeded and again.results == [b"b"]
    assert again.revision == before + 1


def test_transactions_nest(kv: Client) -> None:
    done = kv.txn(
        then=[
            Put("a", "1"),
            Txn(if_=[kv.version("a") == 0], then=[Put("b", "2")], else_=[Put("c", "3")]),
            Delete(prefix="nothing"),
        ]
    )
    inner = done.results[1]
    assert inner.succeeded and inner.revision == done.revision  # "a" was missing before all of it
    assert done.results[2] == 0
    assert kv.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2", "c": None}


def test_comparisons_with_a_missing_key(kv: Client) -> None:
    """etcd #10566: version, created and modified are 0; a value is neither equal nor unequal."""
    for number in (kv.version, kv.created, kv.modified, kv.lease_of):
        assert kv.txn(if_=[number("missing") == 0]).succeeded
        assert not kv.txn(if_=[number("missing") != 0]).succeeded
    assert not kv.txn(if_=[kv.value("missing") == ""]).succeeded
    assert not kv.txn(if_=[kv.value("missing") != "x"]).succeeded


def test_comparisons_of_a_range_hold_for_each_key(kv: Client) -> None:
    first = kv.put_many({"j/1": "x", "j/2": "x"})
    assert kv.txn(if_=[kv.created(prefix="j/") == first]).succeeded
    assert kv.txn(if_=[kv.created(prefix="j/") >= first]).succeeded
    assert kv.txn(if_=[kv.created(prefix="j/") <= first]).succeeded
    assert not kv.txn(if_=[kv.created(prefix="j/") < first]).succeeded
    kv.put("j/3", "x")
    assert not kv.txn(if_=[kv.created(range=("j/", "j/4")) == first]).succeeded
    assert kv.txn(if_=[kv.created(range=("j/", "j/3")) == first]).succeeded


def test_a_condition_is_no_truth_value(kv: Client) -> None:
    with pytest.raises(InvalidRequest, match="put it into if_"):
        bool(kv.modified("a") == 7)


@pytest.mark.parametrize(
    ("order", "keys"),
    [("key", "abc"), ("value", "cab"), ("created", "bac"), ("modified", "acb"), ("version", "acb")],
)
def test_ranges_in_every_order(kv: Client, order: Any, keys: str) -> None:
    for key, value in (("b", "z"), ("a", "m"), ("c", "l"), ("b", "x")):
        kv.put(key, value)
    assert "".join(entry.key for entry in kv.range(prefix="", sort=order)) == keys
    last = kv.range(prefix="", sort=order, reverse=True, limit=1)
    assert [entry.key for entry in last] == [keys[-1]]
    assert last.count == 3 and last.more


def test_filters_keys_and_counts(kv: Client) -> None:
    first, *_ = [kv.put(key, "v") for key in "abcd"]
    found = kv.range(prefix="", min_modified=first + 1, max_modified=first + 2, keys_only=True)
    assert [(entry.key, entry.value) for entry in found] == [("b", b""), ("c", b"")]
    assert found.count == 4 and not found.more
    assert [entry.key for entry in kv.range(prefix="", max_created=first)] == ["a"]
    counted = kv.range(prefix="", count_only=True)
    assert counted.count == 4 and not counted.entries


def test_prefixes_of_awkward_bytes(kv: Client) -> None:
    kv.put_many(dict.fromkeys(KEYS, "x"))
    for prefix, count in ((b"a\xff", 3), (b"\xff", 2), (b"", 8)):
        assert len(kv.range(prefix=prefix)) == count
        assert kv.range(prefix=prefix, count_only=True).count == count
    assert kv.delete_prefix(b"a\xff") == 3
    assert kv.delete_prefix(b"\xff") == 2
    assert kv.delete_prefix(b"") == 3
    with pytest.raises(InvalidRequest, match="key is empty"):
        kv.put(b"", "x")
    kv.put("m", "x")
    assert not kv.range(range=("z", "a")).entries
    assert not kv.range(range=("m", b"\0")).entries
    assert kv.delete_range("z", "a") == 0
    assert len(kv.range(range=("m", None))) == len(kv.range(range=(None, "n"))) == 1


def test_keys_that_are_no_utf8_come_back_as_they_were(kv: Client) -> None:
    kv.put(b"k\xff\xfe", "x")
    [entry] = kv.range(prefix="k")
    assert kv.get(entry.key) == b"x"
    assert kv.delete(entry.key)


def test_a_long_range_is_handed_over_whole(kv: Client) -> None:
    """2 MB, where a reply holds about one: in parts, all of one revision, in every order."""
    values = {f"k{number:02}": bytes([number]) * 100_000 for number in range(20)}
    kv.put_many(values)
    each: tuple[dict[str, Any], ...] = (
        {},
        {"reverse": True},
        {"sort": "value"},
        {"sort": "value", "reverse": True},
    )
    for options in each:
        found = kv.range(prefix="k", **options)
        expected = sorted(values, reverse="reverse" in options)
        assert [entry.key for entry in found] == expected
        assert all(entry.value == values[entry.key] for entry in found)
        assert found.count == 20 and not found.more
    cut = kv.range(prefix="k", limit=15)
    assert len(cut) == 15 and cut.more


def test_a_long_range_is_of_one_revision(cluster: MemoryCluster, kv: Client) -> None:
    kv.put_many({f"k{number:02}": b"old" + bytes(100_000) for number in range(20)})
    steps = Range(prefix="k").steps()
    with cluster.client() as other:
        asked, answers = next(steps), 0
        while True:
            ticket = kv._core.submit_operations(asked, now=0, deadline=1e18)
            kv._driver.look()
            kv._driver.pump()
            kv._driver.wait(ticket)
            answers += 1
            other.put_many({f"k{number:02}": b"new" for number in range(20)})
            try:
                asked = steps.send(ticket.value())
            except StopIteration as stop:
                found = stop.value
                break
    assert answers > 1
    assert {entry.value[:3] for entry in found} == {b"old"} and len(found) == 20


@pytest.fixture
def three_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a `transact` is up after its third try, and not amid one."""

    def paused(tries: int, spent: float, left: float) -> float:
        return pause_before_next(tries, spent, left if tries < 3 else 0.0)

    monkeypatch.setattr(faces, "pause_before_next", paused)


def test_no_try_begins_for_which_there_is_no_time() -> None:
    """Amid one the time was up, and it was said that no server answers."""
    assert 0 <= pause_before_next(2, 0.5, 0.36) <= 0.1
    with pytest.raises(Conflict, match="2 times: nothing was written"):
        pause_before_next(2, 0.5, 0.25)


def test_a_retried_transact_says_what_the_call_would(kv: Client, unheard: list[Any]) -> None:
    with pytest.raises(RequestTimeout) as caught:
        kv.transact(lambda t: t.put("n", "1") or "done")  # type: ignore[func-returns-value]
    unheard[:] = [[True, 7, [7]]]
    assert caught.value.retry() == "done"
    unheard[:] = [[False, 7, []]]
    with pytest.raises(Conflict, match="nothing was written"):
        caught.value.retry()


@pytest.mark.parametrize("call", [Range(prefix="k"), GetMany(["k1", "k2"])])
@pytest.mark.parametrize("why", ["compacted", "future"])
def test_what_cannot_go_on_in_its_revision_begins_anew(call: Call[Any], why: Any) -> None:
    """It went from history, or a stale read goes on at a server that is further behind."""
    steps = call.steps()
    first = next(steps)
    part = [5, 2, False, [[b"k1", b"v", 2, 2, 1, 0]], b"k2"]
    (following,) = steps.send([part, [6, *part[1:]]][: len(first)])
    assert following.revision == 5  # type: ignore[union-attr]
    assert steps.send([refusal("it is not here", why)]) == first


def test_many_keys_at_one_moment(cluster: MemoryCluster, kv: Client) -> None:
    """18 MB, where a reply holds at most 16: the rest is read as it was at the first."""
    revision = kv.put_many({"a": "1", "b": "2"})
    assert kv.entry("a") == kv.range("a").entries[0]
    assert {entry.modified for entry in kv.range(prefix="")} == {revision}
    for number in range(3):
        kv.put(f"big{number}", bytes([number]) * 6_000_000)
    found = kv.get_many(["a", "big0", "big1", "big2", "missing"])
    assert found["a"] == b"1" and found["missing"] is None
    assert all(found[f"big{number}"] == bytes([number]) * 6_000_000 for number in range(3))


def test_numbers_are_counted(kv: Client) -> None:
    assert kv.increment("hits") == 1
    assert kv.increment("hits", 41) == 42
    assert kv.increment("hits", -2) == 40
    assert kv.get("hits") == b"40"
    kv.put("word", "x")
    with pytest.raises(InvalidRequest, match="not a whole number"):
        kv.increment("word")
    kv.put("large", str((1 << 63) - 1))
    with pytest.raises(InvalidRequest, match="64 bits"):
        kv.increment("large")


def test_transact_tries_again_on_conflict(cluster: MemoryCluster, kv: Client) -> None:
    tries: list[int] = []

    def body(t: Transaction) -> int:
        seen = int(t.get("n") or 0)
        if not tries:
            kv.put("n", "10")  # somebody else
        tries.append(seen)
        t.put("n", str(seen + 1))
        assert t.get("n") == str(seen + 1).encode()
        return seen + 1

    assert kv.transact(body) == 11
    assert tries == [0, 10]
    assert kv.get("n") == b"11"


@pytest.mark.usefixtures("three_tries")
def test_transact_is_guarded(kv: Client) -> None:
    def disturbed(t: Transaction) -> None:
        t.get("n")
        kv.increment("n")
        t.put("n", "2")

    with kv.lock("a") as held:
        kv.transact(lambda t: t.put("n", "1"), if_=[held])
        assert kv.transact(lambda t: t.get("n"), if_=[held]) == b"1"
        with pytest.raises(Conflict):
            kv.transact(disturbed, if_=[held])
    before = kv.get("n")
    for function in (lambda t: t.put("n", "1"), lambda t: t.get("n")):
        with pytest.raises(LockLost, match="nothing was written"):
            kv.transact(function, if_=[held])
    assert kv.get("n") == before != b"1"
    with pytest.raises(InvalidRequest, match="if_ has to be a list"):
        kv.transact(disturbed, if_=held)  # type: ignore[arg-type]


def test_transact_notices_keys_that_come_and_go_in_a_range(kv: Client) -> None:
    for disturb in (lambda: kv.put("j/new", "x"), lambda: kv.delete("j/1")):
        kv.put_many({"j/1": "x", "j/2": "x"})
        counts: list[int] = []

        def body(t: Transaction, disturb: Any = disturb, counts: list[int] = counts) -> None:
            counts.append(len(t.range(prefix="j/")))
            if len(counts) == 1:
                disturb()
            t.put("count", str(counts[-1]))

        kv.transact(body)
        assert len(counts) == 2 and counts[0] != counts[1]
        assert kv.get("count") == str(counts[1]).encode()


@pytest.mark.usefixtures("three_tries")
def test_transact_reads_one_moment_and_gives_up(kv: Client) -> None:
    kv.put_many({"a": "0", "b": "0"})

    def torn(t: Transaction) -> tuple[bytes | None, bytes | None]:
        first = t.get("a")
        kv.put_many({"a": "1", "b": "1"})
        return first, t.get("b")

    assert kv.transact(torn) == (b"0", b"0")

    def hopeless(t: Transaction) -> None:
        kv.increment("a")
        t.get("a")
        kv.increment("a")
        t.put("b", "never")

    with pytest.raises(Conflict, match="nothing was written"):
        kv.transact(hopeless)
    assert kv.get("b") == b"1"


def test_deletes_in_transact(kv: Client) -> None:
    kv.put("a", "1")

    def move(t: Transaction) -> None:
        value = t.get("a")
        assert value is not None
        t.delete("a")
        assert t.get("a") is None
        t.put("b", value)
        with pytest.raises(InvalidRequest, match="before you write"):
            t.range(prefix="b")

    kv.transact(move)
    assert kv.get_many(["a", "b"]) == {"a": None, "b": b"1"}


def test_a_transaction_takes_no_writes_after_its_end(kv: Client) -> None:
    """They were lost without a word."""
    kept: list[Transaction] = []
    kv.transact(kept.append)
    with pytest.raises(InvalidRequest, match="is over, so this would be lost"):
        kept[0].put("late", "1")
    with pytest.raises(InvalidRequest, match="is over, so this would be lost"):
        kept[0].delete("late")


WRONG: list[tuple[Any, str]] = [
    (lambda kv: kv.txn(then=[Put("a", "1"), Put("a", "2")]), "writes the key b'a' twice"),
    (lambda kv: kv.txn(then=[Put("ab", "1"), Delete(prefix="a")]), "twice"),
    (lambda kv: kv.txn(then=["a"]), "takes Put, Get"),
    (lambda kv: kv.txn(then=Put("a", "b")), "has to be a list"),
    (lambda kv: kv.txn(if_=[True]), "written like"),
    (lambda kv: kv.txn(if_=kv.modified("a") == 7), "list of conditions"),
    (lambda kv: kv.txn(if_=[kv.value("a") == 7]), "has to be bytes"),
    (lambda kv: kv.txn(if_=[kv.version("a") == "7"]), "has to be an int"),
    (lambda kv: kv.txn(if_=[kv.value("a") >= "7"]), "==, !=, < and > only"),
    (lambda kv: kv.modified("a", prefix="b"), "give one of"),
    (lambda kv: kv.range(), "give one of"),
    (lambda kv: kv.range(prefix="", sort="size"), "sort is by"),
    (lambda kv: kv.range(prefix="", limit=-1), "from 0"),
    (lambda kv: kv.range(prefix="", reverse=1), "True or False"),
    (lambda kv: kv.range(range=("a",)), "pair"),
    (lambda kv: kv.get("a", revision="1"), "int"),
    (lambda kv: kv.get("a", revision=1 << 63), "2\\^63"),
    (lambda kv: kv.entry(7), "str or bytes"),
    (lambda kv: kv.put("a", "b", lease="c"), "int"),
    (lambda kv: kv.put("a", "b", lease=0), "not 0"),
    (lambda kv: kv.get_many("abc"), "list of keys"),
    (lambda kv: kv.put_many([("a", "b")]), "dict"),
    (lambda kv: kv.put_many({"a": 7}), "bytes"),
    (lambda kv: kv.increment("a", 1.5), "int"),
    (lambda kv: kv.compact(-1), "from 0"),
    (lambda kv: kv.txn(mode="sloppy"), "mode is"),
    (lambda kv: kv.txn(timeout=0), "timeout"),
    (lambda kv: kv.put_many({f"k{n}": "" for n in range(10_001)}), "more than 10000"),
    (lambda kv: kv.put("a" * 4097, ""), "4096"),
    (lambda kv: kv.txn(then=[Put("a", bytes((8 << 20) + 1))]), "8388608"),
]


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_what_is_wrong_is_said_before_anything_is_sent(call: Any, text: str) -> None:
    with Client("127.0.0.1:1", timeout=0.01) as kv, pytest.raises(InvalidRequest, match=text):
        call(kv)


def test_too_much_for_one_revision_changes_nothing() -> None:
    with MemoryCluster() as cluster, cluster.client() as kv:
        too_much(kv)


def too_much(kv: Client) -> None:
    for part in range(3):
        kv.put_many({f"k{part}/{number}": "" for number in range(5000)})
    with pytest.raises(TooLarge, match="15000 keys at once"):
        kv.delete_prefix("k")
    assert kv.range(prefix="k", count_only=True).count == 15_000
    for number in range(4):
        kv.put(f"v{number}", bytes(7 << 20))
    with pytest.raises(TooLarge, match="at most 25165824"):
        kv.delete_prefix("v")
    assert kv.range(prefix="v", count_only=True).count == 4
    with pytest.raises(TooLarge):
        kv.txn(then=[Put(f"w{number}", bytes(6 << 20)) for number in range(3)])
    assert kv.get("w0") is None


def test_limits_at_their_edge_are_kept_or_refused_cleanly(kv: Client) -> None:
    value = bytes(8 << 20)
    kv.put("a" * 4096, value)
    assert kv.get("a" * 4096) == value
    assert kv.put_many({f"k{number}": "" for number in range(10_000)})
    assert kv.delete_prefix("k") == 10_000
    deep: Txn = Txn(then=[Put("a", "1")])
    for _ in range(7):
        deep = Txn(then=[deep])
    assert kv.txn(then=deep._then).succeeded
    with pytest.raises(InvalidRequest, match="nested more than 8"):
        Txn(then=[deep])


def test_a_lease_that_is_gone_refuses_the_whole(kv: Client) -> None:
    with pytest.raises(LeaseExpired, match="has ended"):
        kv.put("a", "b", lease=12345)
    with pytest.raises(LeaseExpired):
        kv.txn(then=[Put("x", "1"), Put("a", "b", lease=12345)])
    assert kv.get_many(["a", "x"]) == {"a": None, "x": None}


def test_a_pipeline_takes_transactions(kv: Client) -> None:
    with kv.pipeline() as p:
        p.put("a", "1")
        p.increment("n", 5)
        p.txn(if_=[kv.value("a") == "1"], then=[Put("a", "2")], else_=[Get("a")])
        p.entry("a")
        p.call(Range(prefix="a"))
        p.call(Delete(prefix="a"))
    first, total, done, entry, found, deleted = p.results
    assert total == 5 and done.succeeded and done.revision == first + 2
    assert entry.value == b"2" and found.entries == [entry] and deleted == 1


def test_a_closed_client(cluster: MemoryCluster) -> None:
    kv = cluster.client()
    kv.close()
    for call in (lambda: kv.txn(then=[Put("a", "b")]), lambda: kv.transact(lambda t: t.get("a"))):
        with pytest.raises(ClientClosed):
            call()


def test_the_async_twins(cluster: MemoryCluster) -> None:
    async def body() -> None:
        async with cluster.async_client() as kv:
            await kv.delete_prefix("")
            revision = await kv.put("a", "1")
            entry = await kv.entry("a")
            assert entry is not None and entry.modified == revision
            done = await kv.txn(
                if_=[kv.modified("a") == revision], then=[Put("a", "2")], else_=[Get("a")]
            )
            assert done.succeeded
            assert await kv.get("a", revision=revision) == b"1"
            assert await kv.put_many({"j/1": "x", "j/2": "y"}) == done.revision + 1
            found = await kv.range(prefix="j/", reverse=True)
            assert [entry.key for entry in found] == ["j/2", "j/1"]
            assert await kv.get_many(["j/1", "no"]) == {"j/1": b"x", "no": None}
            assert await kv.delete_range("j/", "j/2") == 1
            assert await kv.increment("n") == 1

            async def add(t: AsyncTransaction) -> None:
                seen = int(await t.get("n") or 0)
                await asyncio.sleep(0)
                t.put("n", str(seen + 1))

            await asyncio.gather(*(kv.transact(add) for _ in range(8)))
            assert await kv.get("n") == b"9"
            assert await kv.compact(revision) == revision
            with pytest.raises(Compacted):
                await kv.entry("a", revision=revision - 1)

    asyncio.run(body())


# --- the plain client and its asyncio twin ask for the same ---------------------------------------


class Asked(Exception):
    """What a face would ask for: the operation, how it is read, and for how many seconds."""


class Plain(StoreCalls):
    _timeout = 20.0

    def _run(self, steps: Any, until: float, mode: Any, call: Any = None) -> Any:
        raise Asked(next(steps), mode, round(until - time.monotonic()))


class Twin(AsyncStoreCalls):
    _timeout = 20.0

    async def _run(self, steps: Any, until: float, mode: Any, call: Any = None) -> Any:
        raise Asked(next(steps), mode, round(until - time.monotonic()))


def asked(face: Any, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    with pytest.raises((Asked, InvalidRequest)) as found:
        coroutine = getattr(face, name)(*given, **options)
        coroutine.send(None)
    return found.value.args


@pytest.mark.parametrize(
    ("name", "given", "options"),
    [
        ("entry", ("k",), {"revision": 3, "mode": "stale", "timeout": 5}),
        ("range", (), {
            "range": ("a", "b"), "limit": 3, "sort": "version", "reverse": True, "revision": 3,
            "keys_only": True, "min_modified": 2, "max_modified": 9, "min_created": 3,
            "max_created": 8, "mode": "lease", "timeout": 5,
        }),
        ("range", (), {"prefix": "a", "count_only": True}),
        ("get_many", (["a", "b"],), {"mode": "stale", "timeout": 5}),
        ("put_many", ({"a": "b"},), {"lease": 7, "timeout": 5}),
        ("delete_prefix", ("a",), {"timeout": 5}),
        ("delete_range", ("a", "b"), {"timeout": 5}),
        ("increment", ("a",), {"by": 5, "timeout": 5}),
        ("compact", (7,), {"timeout": 5}),
        ("txn", (), {
            "if_": [Plain().version("a") > 0], "then": [Put("a", "b")], "else_": [Put("c", "d")],
            "mode": "stale", "timeout": 5,
        }),
    ],
)  # fmt: skip
def test_both_faces_pass_on_all_that_they_are_given(
    name: str, given: tuple[Any, ...], options: dict[str, Any]
) -> None:
    whole = asked(Plain(), name, given, options)
    assert asked(Twin(), name, given, options) == whole
    for each in options:
        rest = {key: value for key, value in options.items() if key != each}
        assert asked(Plain(), name, given, rest) != whole, each


def test_a_draft_keeps_the_lease_and_a_transaction_says_that_it_is_too_large() -> None:
    draft = Draft(())
    draft.put("k", "v", lease=7)
    commit: Any = draft._commit(None)
    assert commit.operation.then[0].lease == 7
    with pytest.raises(TooLarge):
        Txn([], [Put(str(n), "") for n in range(10_001)])
