"""How long one command or query may keep a server: what it looks at in vain is bounded, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import msgpack

from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.leases import LeaseTable
from paxon.kvstore.store.operations import (
    Append,
    Compact,
    Compare,
    Delete,
    DeleteRange,
    Enqueue,
    Events,
    Get,
    Grant,
    Increment,
    Leases,
    Put,
    PutItem,
    Range,
    Scan,
    TimeLeft,
    Txn,
    Unclaimed,
    decode_results,
    encode_operations,
    is_refusal,
    is_split,
)
from paxon.kvstore.store.ranges import ROW_BYTES
from paxon.kvstore.store.refusals import LOOK_BYTES
from paxon.kvstore.store.store import KVStore

KEYS, TIMES, ROOM = 2000, 400, 1 << 20
EARLY = 10
"""A revision after which nearly all keys came in."""


def run(store: KVStore, *operations: Any) -> list[Any]:
    return decode_results(store.apply(encode_operations(operations)))


def agreed(**limits: int) -> KVStore:
    """With these limits, and the usual ones."""
    store = KVStore()
    store.agree({name: limit.default for name, limit in KVStore.limits.items()} | limits)
    return store


def filled(**limits: int) -> KVStore:
    store = agreed(**{"max_reply_bytes": ROOM} | limits)
    run(store, *(Put(b"k%04d" % number, b"v") for number in range(KEYS)))
    run(store, Grant(1, 60_000), Grant(2, 60_000), Enqueue(b"q/i/", [b""] * KEYS))
    claims = [b"q/c/%016x%04x" % (KEYS + 2, number) for number in range(KEYS - 1)]
    run(store, *(PutItem(claim, b"", 1) for claim in claims))
    return store


def compares(least: int) -> Txn:
    return Txn([Compare(b"k", "version", ">", least, b"l")], [], [])


NONE_SO_LATE = 1 << 40
IN_VAIN: dict[str, Any] = {
    "comparisons that hold": compares(0),
    "comparisons that do not": compares(9),
    "what no filter lets pass": Range(b"k", b"l", min_modified=NONE_SO_LATE),
    "scans": Scan(b"k", KEYS),
    "counts of the past": Range(b"k", b"l", count_only=True, revision=EARLY),
    "the past, which was empty": Range(b"k1", b"l", limit=1, revision=EARLY),
    "what is put in order": Range(b"k", b"l", limit=1, order="version"),
    "what is not put in order, being too long": Range(b"k", b"l", order="value"),
    "ranges in transactions": Txn([], [Range(b"k", b"l", min_modified=NONE_SO_LATE)], []),
    "transactions that read too much": Txn([], [Range(b"k", b"l")] * 3, []),
    "transactions refused after comparing": Txn(
        [Compare(b"k", "version", ">", 0, b"l")], [PutItem(b"no lease", b"", 9)], []
    ),
    "unclaimed items": Unclaimed(b"q/i/", b"q/c/"),
    "keys of a lease": TimeLeft(1, True),
    "leases": Leases(),
}
"""Each looks at two thousand keys, or leases, and is answered in a few bytes."""


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many keys and leases were looked at one by one."""
    looks = 0
    between, ids = KeyIndex.between, LeaseTable.ids

    def counted(self: KeyIndex, *arguments: Any, **more: Any) -> Iterator[bytes]:
        nonlocal looks
        for key in between(self, *arguments, **more):
            looks += 1
            yield key

    def counted_ids(self: LeaseTable) -> list[int]:
        nonlocal looks
        found = ids(self)
        looks += len(found)
        return found

    monkeypatch.setattr(KeyIndex, "between", counted)
    monkeypatch.setattr(LeaseTable, "ids", counted_ids)
    return lambda: looks


@pytest.mark.parametrize("kind", IN_VAIN)
def test_so_much_is_looked_for_in_vain_and_no_more(kind: str, looked: Callable[[], int]) -> None:
    """A query of 7.5 KB stopped its server for 48 s, one of 600 KB for three minutes."""
    limits = {"max_scan_bytes": 64} if "not put in order" in kind else {}
    store = filled(**limits)
    if kind == "leases":
        run(store, *(Grant(number, 60_000) for number in range(3, KEYS)))
    before = looked()
    results = run(store, *[IN_VAIN[kind]] * TIMES)
    assert looked() - before < 3 * KEYS + 3 * ROOM // LOOK_BYTES, (
        "as many as have room, as many in vain, and one"
    )
    refused = [is_split(result) for result in results]
    assert refused[0] is False and refused[-1] is True and refused == sorted(refused)
    again = run(store, IN_VAIN[kind])
    assert again == results[:1], "asked alone it is answered"


def test_cheap_reads_and_writes_go_on_beside_what_is_looked_for_in_vain() -> None:
    store = filled()
    many = [IN_VAIN["what no filter lets pass"]] * TIMES
    *_, value, revision, done, deleted = run(
        store, *many, Get(b"k0001"), Put(b"new", b""),
        Txn([Compare(b"new", "version", "=", 1)], [Put(b"newer", b""), Get(b"new")], []),
        Delete(b"new"),
    )  # fmt: skip
    assert value == b"v" and revision == store.revision - 2
    assert done == [True, store.revision - 1, [store.revision - 1, b""]] and deleted


@pytest.mark.parametrize("kind", IN_VAIN)
def test_the_first_is_answered_however_small_replies_are(kind: str) -> None:
    store = filled(max_reply_bytes=1)
    first, second = run(store, IN_VAIN[kind], IN_VAIN[kind])
    assert not is_split(first) and is_split(second)


@pytest.mark.parametrize(
    "read",
    [
        Range(b"l", b"m", limit=1, order="value"),
        Range(b"k", b"l", count_only=True, revision=KEYS - 100),
        Range(b"k", b"l", limit=1, order="version", revision=KEYS - 100),
    ],
)
def test_what_it_counts_for_is_the_same_on_a_server_that_started_from_a_snapshot(read: Any) -> None:
    """There no value was appended to in place, and nobody had asked for the past."""
    store = filled(max_reply_bytes=200_000)
    for number in range(3):
        run(store, Put(b"l%d" % number, bytes(20_000)), Append(b"l%d" % number, b"more"))
    store.query(encode_operations([Range(b"k", b"l", count_only=True, revision=EARLY)]))
    run(store, Compact(KEYS - 200))
    other = filled(max_reply_bytes=200_000)
    other.restore(store.snapshot())
    for times in (1, 2, 4, 8, 16):
        whole = encode_operations([read] * times + [Txn([], [read] * times, [])])
        assert store.apply(whole) == other.apply(whole)
    assert is_split(run(other, *[read] * 16)[-1])


@pytest.mark.parametrize(
    "inner",
    [Range(b"n", b"o", limit=1), Range(b"n", b"o", count_only=True), DeleteRange(b"m", b"n")],
)
def test_a_transaction_looks_at_what_it_has_written_in_order(
    inner: Any, looked: Callable[[], int]
) -> None:
    """A transaction of 5,000 puts and 4,000 ranges took 18 s: each went through all of the puts."""
    store = filled()
    store.agree({name: limit.default for name, limit in KVStore.limits.items()})
    before = looked()
    puts = [Put(b"n%04d" % number, b"") for number in range(1000)]
    [result] = run(store, Txn([], [*puts, *[inner] * 1000], []))
    assert is_refusal(result) == (inner.key == b"n")
    assert looked() - before < 300_000


# --- values that were appended to -----------------------------------------------------------------


def test_keeping_a_value_that_was_appended_to_copies_nothing() -> None:
    """A thousand appends to a value of 7 MiB, each of them kept, took seven seconds."""
    store = KVStore()
    run(store, Grant(1, 60_000), Put(b"k", bytes(5000)), Append(b"k", b"1"))
    held = store._state.data[b"k"].value
    assert isinstance(held, bytearray)
    run(store, PutItem(b"k", None, 1), Append(b"k", b"2"), PutItem(b"k", None, None))
    assert store._state.data[b"k"].value is held
    at = store.revision
    values = [run(store, Range(b"k", revision=at - back))[0][3][0][1] for back in range(5)]
    zeros = bytes(5000)
    assert values == [zeros + b"12", zeros + b"12", zeros + b"1", zeros + b"1", zeros]
    other = KVStore()
    other.restore(store.snapshot())
    assert other.digest() == store.digest()


@pytest.mark.parametrize("size", [1, 5000])
def test_what_keeps_its_value_is_encoded_alike_after_a_snapshot(size: int) -> None:
    """`paxon status --state` took servers for unlike, of which one had started from it."""
    store, other = KVStore(), KVStore()
    run(store, Grant(1, 60_000), Put(b"k", bytes(size)), Append(b"k", b"1"))
    other.restore(store.snapshot())
    for change in (PutItem(b"k", None, 1), Append(b"k", b"2"), PutItem(b"k", None, 0)):
        assert run(store, change) == run(other, change)
        assert store.digest() == other.digest()
        again = KVStore()
        again.restore(store.snapshot())
        assert again.digest() == store.digest()


def test_a_transaction_that_is_refused_keeps_nothing() -> None:
    store = filled()
    run(store, Put(b"a", bytes(5000)), Append(b"a", b"1"))
    before = store.snapshot()
    refused: list[Any] = [PutItem(b"a", None, 1), Get(b"a"), *[Range(b"k", b"l")] * 3]
    assert is_refusal(run(store, Txn([], refused, []))[0])
    assert store.snapshot() == before
    run(store, Append(b"a", b"2"))
    assert run(store, Get(b"a")) == [bytes(5000) + b"12"]


@pytest.mark.parametrize(("relation", "holds"), [("=", True), ("!=", False), ("<", False)])
def test_values_that_were_appended_to_are_compared_as_they_are(
    relation: Any, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KVStore()
    run(store, Put(b"k", bytes(5000)), Append(b"k", b"1"))
    monkeypatch.delattr("paxon.kvstore.store.transactions.as_bytes")
    compare = Compare(b"k", "value", relation, bytes(5000) + b"1")
    (result,) = run(store, Txn([compare], [Put(b"done", b"")], []))
    assert result[0] is holds


# --- what a command costs before it is executed ---------------------------------------------------


def fifty(**limits: int) -> KVStore:
    """Keys of 100 bytes each."""
    store = agreed(**limits)
    run(store, *(Put(b"k%02d" % number, bytes(100)) for number in range(50)))
    return store


def cost(store: KVStore, *operations: Any) -> int:
    """What the server reckons with besides the command's length."""
    command = encode_operations(operations)
    store.check(command)
    return store.cost(command) - len(command)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Put(b"k00", b"x"), 0),
        (Increment(b"n", 1), 0),
        (Get(b"k00"), 100),
        (Get(b"none"), 0),
        (Scan(b"k", 10), 10 * ROW_BYTES),
        (Scan(b"k", 1000), 50 * ROW_BYTES),
        (Range(b"k00"), 0),
        (Range(b"k", b"l"), 40 * ROW_BYTES),
        (Range(b"k", b"l", limit=7), 7 * ROW_BYTES),
        (Range(b"k", b"l", limit=7, order="created"), 7 * ROW_BYTES + 50 * LOOK_BYTES),
        (Range(b"k", b"l", limit=7, revision=20), 7 * ROW_BYTES + 50 * LOOK_BYTES),
        (DeleteRange(b"k00"), 0),
        (DeleteRange(b"k", b"l"), 50 * ROW_BYTES),
        (Events(1, [(b"k", b"l")]), 50 * 64),
        (Compact(7), 50 * 64),
        (Leases(), 0),
        (Txn([Compare(b"k00", "version", ">", 0)], [Put(b"x", b"")], []), ROW_BYTES),
        (
            Txn([Compare(b"a", "version", "=", 0), *compares(1).compare], [], []),
            2 * ROW_BYTES + 50 * LOOK_BYTES,
        ),
        (Txn([], [Put(b"x", b""), Get(b"k00")], [Range(b"k", b"l", limit=2)]), 100 + 2 * ROW_BYTES),
    ],
    ids=repr,
)
def test_a_command_costs_what_it_may_read(operation: Any, expected: int) -> None:
    store = fifty(max_scan_items=40)
    assert cost(store, operation) == expected
    assert cost(store, operation, operation) == 2 * expected


def test_what_a_command_reads_costs_no_more_than_a_reply_may_have() -> None:
    store = fifty(max_reply_bytes=5000)
    assert cost(store, *[Get(b"k00")] * 49) == 4900
    assert cost(store, *[Get(b"k00")] * 51) == 5000
    assert cost(fifty(), Range(b"k", b"l", limit=55)) == 50 * ROW_BYTES


@pytest.mark.parametrize(
    ("operation", "count", "dear"),
    [
        (Put(b"k", b""), 64, False),
        (Put(b"k", b""), 65, True),
        (Put(b"k", bytes(100)), 2000, False),
        (Put(b"k", bytes(100)), 2001, True),
        (Delete(b"none"), 64, False),
        (Delete(b"none"), 65, True),
        (Delete(bytes(100)), 65, False),
        (Get(b"none"), 64, False),
        (Get(b"none"), 65, True),
    ],
)
def test_many_operations_cost_by_their_number_unless_they_are_long(
    operation: Any, count: int, dear: bool
) -> None:
    assert cost(KVStore(), *[operation] * count) == count * 1280 * dear


def test_what_was_not_checked_here_costs_what_it_is_long() -> None:
    command = encode_operations([Get(b"none")] * 1000)
    assert KVStore().cost(command) == len(command)


def test_of_a_run_of_puts_those_that_are_too_long_alone_are_refused() -> None:
    store = agreed(max_value_bytes=10)
    puts = [Put(b"a", bytes(10)), Put(b"b", bytes(11)), Put(b"c", b"")]
    results = run(store, *puts)
    assert [is_refusal(result) for result in results] == [False, True, False]
    assert run(store, Get(b"a"), Get(b"b"), Get(b"c")) == [bytes(10), None, b""]


def test_a_put_alone_has_the_same_bounds() -> None:
    store = agreed(max_key_bytes=5, max_value_bytes=10)
    for put in (Put(b"k", bytes(11)), Put(b"", b"v"), Put(bytes(6), b"v")):
        [result] = run(store, put)
        assert is_refusal(result) and (len(store), store.revision) == (0, 1)
    assert run(store, Put(bytes(5), bytes(10))) == [2]


@pytest.mark.parametrize("count", [1, 3])
def test_a_put_decides_nothing_else_of_the_item_that_it_makes(count: int) -> None:
    """Its form on the wire has room for all that belongs to a key; other clients may use that."""
    store = KVStore()
    for times in (1, 2):
        leased = store.apply(msgpack.encode([[1, b"k", b"x", 9, 9, 9, 7]] * count))
        assert all(map(is_refusal, decode_results(leased)))
        store.apply(msgpack.encode([[1, b"k", b"v", 9, 9, 9]] * count))
        [[revision, _, _, rows, _]] = run(store, Range(b"k"))
        assert revision == 1 + times * count
        assert rows == [[b"k", b"v", 2, revision, times * count, 0]]


def test_time_alone_makes_another_state() -> None:
    store = KVStore()
    before = store.digest()
    store.advance(7)
    assert store.digest() != before
