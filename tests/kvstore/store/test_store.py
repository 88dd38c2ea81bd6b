"""The store by itself: what each operation means, bounds, snapshots, digests, and a model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxon.kvstore.store.image import FORMAT
from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.operations import (
    MAX_KEY_BYTES,
    MAX_NUMBER,
    MAX_REPLY_BYTES,
    MAX_SCAN_BYTES,
    MAX_VALUE_BYTES,
    Append,
    Compare,
    CompareAndSet,
    Delete,
    DeleteRange,
    Events,
    Get,
    Grant,
    Increment,
    Operation,
    Put,
    PutItem,
    Range,
    Scan,
    Txn,
    decode_results,
    encode_operations,
    is_refusal,
    is_split,
    operation_bytes,
)
from paxon.kvstore.store.store import KVStore


def run(store: KVStore, *operations: Operation) -> list[Any]:
    return decode_results(store.apply(encode_operations(operations)))


def ask(store: KVStore, *operations: Operation) -> list[Any]:
    return decode_results(store.query(encode_operations(operations)))


def test_each_operation_says_what_it_did() -> None:
    store = KVStore()
    assert run(store, Put(b"a", b"1"), Get(b"a"), Get(b"b")) == [2, b"1", None]
    assert run(store, Append(b"a", b"23"), Append(b"new", b"x"), Get(b"a")) == [3, 1, b"123"]
    assert run(store, Delete(b"a"), Delete(b"a"), Get(b"a")) == [True, False, None]


@pytest.mark.parametrize(
    ("before", "expected", "new", "succeeds", "after"),
    [
        (None, None, b"n", True, b"n"),
        (b"o", None, b"n", False, b"o"),
        (b"o", b"o", b"n", True, b"n"),
        (b"o", b"x", b"n", False, b"o"),
        (None, b"x", b"n", False, None),
        (b"o", b"o", None, True, None),
        (None, None, None, True, None),
        (b"", None, b"n", False, b""),
    ],
)
def test_compare_and_set(
    before: bytes | None, expected: bytes | None, new: bytes | None, succeeds: bool, after: Any
) -> None:
    store = KVStore()
    if before is not None:
        run(store, Put(b"k", before))
    assert run(store, CompareAndSet(b"k", expected, new), Get(b"k")) == [succeeds, after]


def test_an_oversized_operation_is_refused_alone() -> None:
    store = KVStore()
    long_key = b"k" * (MAX_KEY_BYTES + 1)
    longest_key = b"k" * MAX_KEY_BYTES
    longest, too_long = b"v" * MAX_VALUE_BYTES, b"v" * (MAX_VALUE_BYTES + 1)
    results = run(
        store,
        Put(b"a", b"1"),
        Put(long_key, b"x"),
        Get(long_key),
        Delete(long_key),
        Put(longest_key, b"x"),
        Put(b"big", too_long),
        Put(b"big", longest),
        Append(b"big", b"!"),
        CompareAndSet(b"big", longest, too_long),
        Put(b"b", b"2"),
    )
    refused = [is_refusal(result) for result in results]
    assert refused == [False, True, True, True, False, True, False, True, True, False]
    assert ask(store, Get(b"a"), Get(b"b")) == [b"1", b"2"]
    assert ask(store, Get(b"big"))[0] == longest
    assert len(store) == 4


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\xc1",
        b"nonsense",
        msgspec.msgpack.encode("a"),
        msgspec.msgpack.encode([[99, "a"]]),
        msgspec.msgpack.encode([[1, "a"]]),
        msgspec.msgpack.encode([[1, "a", "text"]]),
        msgspec.msgpack.encode([[2, "a"]]),
        msgspec.msgpack.encode([[1, b"a", "text"]]),
        encode_operations([Put(b"a", b"v")])[:-1],
        msgspec.msgpack.encode([[1, "a", b"v"], [2]]),
        msgspec.msgpack.encode([[1, b"a", b"v", 1, 1, 1, 1, 1]]),
    ],
)
def test_a_malformed_command_raises_and_changes_nothing(command: bytes) -> None:
    store = KVStore()
    with pytest.raises(ValueError, match="not a list of store operations"):
        store.apply(command)
    with pytest.raises(ValueError, match="not a list of store operations"):
        store.query(command)
    assert len(store) == 0


def test_a_query_takes_no_writes() -> None:
    store = KVStore()
    with pytest.raises(ValueError, match="only hold reads"):
        ask(store, Get(b"a"), Put(b"a", b"1"))
    assert len(store) == 0


def test_scans_are_sorted_bounded_and_can_be_continued() -> None:
    store = KVStore()
    keys = [key.encode() for key in ("b", "a/2", "a/10", "a/1", "a", "é", "a/𝄞", "a/\uffff")]
    keys.append(b"a/\xff\xfe")
    run(store, *(Put(key, key) for key in keys))
    expected = sorted(key for key in keys if key.startswith(b"a/"))
    more, pairs = ask(store, Scan(b"a/", 100))[0]
    assert [key for key, _ in pairs] == expected
    assert not more
    assert all(value == key for key, value in pairs)
    more, pairs = ask(store, Scan(b"a/", 2))[0]
    assert (more, [key for key, _ in pairs]) == (True, expected[:2])
    more, pairs = ask(store, Scan(b"a/", 4, expected[1]))[0]
    assert (more, [key for key, _ in pairs]) == (False, expected[2:])
    assert ask(store, Scan(b"a/", 3, b"b")) == [[False, []]]
    assert ask(store, Scan(b"zz", 3)) == [[False, []]]
    assert is_refusal(ask(store, Scan(b"a", 0))[0])


def test_a_scan_is_bounded_in_bytes() -> None:
    store = KVStore()
    quarter = b"v" * (MAX_SCAN_BYTES // 4)
    run(store, *(Put(b"k%d" % i, quarter) for i in range(9)))
    more, pairs = ask(store, Scan(b"k", 9))[0]
    assert more
    assert len(pairs) == 4
    run(store, Put(b"k", b"v" * MAX_VALUE_BYTES))
    more, pairs = ask(store, Scan(b"k", 9))[0]
    assert (more, len(pairs)) == (True, 1)


def test_scans_follow_later_changes() -> None:
    store = KVStore()
    run(store, Put(b"a", b""), Put(b"c", b""))

    def keys() -> list[bytes]:
        return [key for key, _ in ask(store, Scan(b"", 100))[0][1]]

    assert keys() == [b"a", b"c"]
    run(store, Put(b"b", b""), Delete(b"a"), Append(b"d", b""), CompareAndSet(b"e", None, b""))
    assert keys() == [b"b", b"c", b"d", b"e"]
    run(store, CompareAndSet(b"e", b"", None), Delete(b"b"), Put(b"b", b""), Put(b"a", b""))
    assert keys() == [b"a", b"b", b"c", b"d"]
    other = KVStore()
    run(other, Put(b"z", b""))
    store.restore(other.snapshot())
    assert keys() == [b"z"]


def test_one_reply_is_bounded() -> None:
    store = KVStore()
    big = b"v" * MAX_VALUE_BYTES
    run(store, Put(b"big", big), Put(b"small", b"1"))
    results = ask(store, *(Get(b"big") for _ in range(4)), Get(b"small"))
    fit = MAX_REPLY_BYTES // MAX_VALUE_BYTES
    assert [is_split(result) for result in results[:4]] == [i >= fit for i in range(4)]
    assert run(store, Get(b"big"))[0] == big


def test_snapshots_restore_state_and_digest() -> None:
    store = KVStore()
    run(store, Put(b"b", b"1"), Put(b"a", b"2"), Delete(b"b"), Put(b"b", b"3"))
    twin = KVStore()
    twin.restore(store.snapshot())
    assert ask(twin, Scan(b"", 10)) == ask(store, Scan(b"", 10))
    assert twin.digest() == store.digest() != ""
    run(twin, Put(b"a", b"other"))
    assert twin.digest() != store.digest()
    run(store, Put(b"a", b"other"))
    assert twin.digest() == store.digest()
    empty = KVStore()
    empty.restore(KVStore().snapshot())
    assert len(empty) == 0


@pytest.mark.parametrize("image", [b"", b"nonsense", msgspec.msgpack.encode([FORMAT]), b"\xc1"])
def test_a_wrong_snapshot_is_refused(image: bytes) -> None:
    store = KVStore()
    run(store, Put(b"a", b"1"))
    with pytest.raises(ValueError, match="not a snapshot"):
        store.restore(image)
    with pytest.raises(ValueError, match="format 9"):
        store.restore(msgspec.msgpack.encode([9, {}]))
    assert ask(store, Get(b"a")) == [b"1"]


def test_a_big_store_has_a_digest_in_part() -> None:
    store = KVStore()
    for start in range(0, 101_000, 1000):
        run(store, *(Put(b"k%d" % i, b"v") for i in range(start, start + 1000)))
    digest = store.digest()
    assert digest.startswith("~")
    run(store, Put(b"new", b"v"))
    assert store.digest() != digest


RANGE = Range(b"k" * 300, b"l" * 300, 100, 0, "modified", True, True, True, *[MAX_NUMBER] * 4)


def test_operation_bytes_never_understates() -> None:
    for operation in (
        Put(b"k" * 300, b"v" * 70_000),
        Get(b"\xff" * 100),
        Append(b"\xff" * 50, b"v"),
        Delete(b""),
        CompareAndSet(b"k", None, b"v" * 300),
        CompareAndSet(b"k", b"v" * 300, None),
        Scan(b"p" * 40, 10_000, b"s" * 40),
        PutItem(b"k" * 300, b"v" * 300, MAX_NUMBER, previous=True),
        RANGE,
        DeleteRange(b"k" * 300, b"l" * 300),
        Events(MAX_NUMBER, [(b"k" * 300, b"l" * 300)] * 20, look=RANGE),
        Increment(b"k" * 300, MAX_NUMBER),
        Grant(MAX_NUMBER, MAX_NUMBER),
        Txn([Compare(b"k" * 300, "version", "!=", MAX_NUMBER, b"l" * 300)] * 20, [Get(b"k")], []),
    ):
        assert len(encode_operations([operation])) <= operation_bytes(operation) + 5


# --- the index ------------------------------------------------------------------------------------

TEXTS = st.text("abc", max_size=3).map(str.encode)


@settings(max_examples=100)
@given(
    st.lists(TEXTS), st.lists(st.tuples(st.booleans(), TEXTS)), TEXTS, TEXTS | st.just(b"\0")
)  # fmt: skip
def test_the_index_is_a_sorted_set(
    first: list[bytes], changes: list[tuple[bool, bytes]], start: bytes, end: bytes
) -> None:
    index, expected = KeyIndex(set(first)), set(first)
    for add, key in changes:
        if add:
            index.add(key)
            expected.add(key)
        else:
            index.discard(key)
            expected.discard(key)
    wanted = sorted(k for k in expected if k >= start and (k < end or end == b"\0"))
    assert list(index.between(start, end)) == wanted
    assert list(index.between(start, end, backward=True)) == wanted[::-1]
    assert index.count(start, end) == len(wanted)


def test_the_index_splits_and_drops_blocks() -> None:
    index = KeyIndex(b"%05d" % i for i in range(5000))
    for i in range(5000):
        index.add(b"%05dx" % i)
    both = sorted([b"%05d" % i for i in range(5000)] + [b"%05dx" % i for i in range(5000)])
    assert list(index.between(b"", b"\0")) == both
    assert list(index.between(b"", b"\0", backward=True)) == both[::-1]
    assert list(index.between(both[900], both[6000], backward=True)) == both[900:6000][::-1]
    assert index.count(both[900], both[6000]) == 5100
    for i in range(5000):
        index.discard(b"%05d" % i)
        index.discard(b"%05dx" % i)
    assert list(index.between(b"", b"\0")) == []
    index.add(b"again")
    assert list(index.between(b"", b"\0")) == [b"again"]


def test_what_a_read_has_found_stays_so_whatever_the_same_command_does_next() -> None:
    """A value that was appended to is changed in place, and one from a snapshot is not."""
    store = KVStore()
    run(store, Put(b"k", b"v" * 2000))
    run(store, Append(b"k", b"1"))
    restored = KVStore()
    restored.restore(store.snapshot())
    operations = (Get(b"k"), Scan(b"", 10), Append(b"k", b"2"), Get(b"k"), Append(b"k", b"3"))
    found = run(store, *operations)
    assert found == run(restored, *operations)
    first, second = b"v" * 2000 + b"1", b"v" * 2000 + b"12"
    assert found == [first, [False, [[b"k", first]]], 2002, second, 2003]
