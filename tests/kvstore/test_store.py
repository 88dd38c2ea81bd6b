"""The store by itself: what each operation means, bounds, snapshots, digests, and a model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.operations import (
    MAX_KEY_BYTES,
    MAX_REPLY_BYTES,
    MAX_SCAN_BYTES,
    MAX_VALUE_BYTES,
    Append,
    CompareAndSet,
    Delete,
    Get,
    Operation,
    Put,
    Scan,
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
    assert run(store, Put("a", b"1"), Get("a"), Get("b")) == [None, b"1", None]
    assert run(store, Append("a", b"23"), Append("new", b"x"), Get("a")) == [3, 1, b"123"]
    assert run(store, Delete("a"), Delete("a"), Get("a")) == [True, False, None]


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
        run(store, Put("k", before))
    assert run(store, CompareAndSet("k", expected, new), Get("k")) == [succeeds, after]


def test_an_oversized_operation_is_refused_alone() -> None:
    store = KVStore()
    long_key = "ü" * (MAX_KEY_BYTES // 2) + "x"
    longest_key = "ü" * (MAX_KEY_BYTES // 2)
    longest, too_long = b"v" * MAX_VALUE_BYTES, b"v" * (MAX_VALUE_BYTES + 1)
    results = run(
        store,
        Put("a", b"1"),
        Put(long_key, b"x"),
        Get(long_key),
        Put(longest_key, b"x"),
        Put("big", too_long),
        Put("big", longest),
        Append("big", b"!"),
        CompareAndSet("big", longest, too_long),
        Put("b", b"2"),
    )
    refused = [is_refusal(result) for result in results]
    assert refused == [False, True, True, False, True, False, True, True, False]
    assert ask(store, Get("a"), Get("b")) == [b"1", b"2"]
    assert ask(store, Get("big"))[0] == longest
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
        msgspec.msgpack.encode([[1, b"a", b"v"]]),
        encode_operations([Put("a", b"v")])[:-1],
        msgspec.msgpack.encode([[1, "a", b"v"], [2]]),
        b"\x91\x93\x01\xa2\xff\xfe\xc4\x01v",
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
    with pytest.raises(ValueError, match="only hold gets and scans"):
        ask(store, Get("a"), Put("a", b"1"))
    assert len(store) == 0


def test_scans_are_sorted_bounded_and_can_be_continued() -> None:
    store = KVStore()
    keys = ["b", "a/2", "a/10", "a/1", "a", "é", "a/𝄞", "a/\uffff"]
    run(store, *(Put(key, key.encode()) for key in keys))
    expected = sorted((key for key in keys if key.startswith("a/")), key=str.encode)
    more, pairs = ask(store, Scan("a/", 100))[0]
    assert [key for key, _ in pairs] == expected
    assert not more
    assert all(value == key.encode() for key, value in pairs)
    more, pairs = ask(store, Scan("a/", 2))[0]
    assert (more, [key for key, _ in pairs]) == (True, expected[:2])
    more, pairs = ask(store, Scan("a/", 3, expected[1]))[0]
    assert (more, [key for key, _ in pairs]) == (False, expected[2:])
    assert ask(store, Scan("a/", 3, "b")) == [[False, []]]
    assert ask(store, Scan("zz", 3)) == [[False, []]]
    assert is_refusal(ask(store, Scan("a", 0))[0])


def test_a_scan_is_bounded_in_bytes() -> None:
    store = KVStore()
    quarter = b"v" * (MAX_SCAN_BYTES // 4)
    run(store, *(Put(f"k{i}", quarter) for i in range(9)))
    more, pairs = ask(store, Scan("k", 9))[0]
    assert more
    assert len(pairs) == 4
    run(store, Put("k", b"v" * MAX_VALUE_BYTES))
    more, pairs = ask(store, Scan("k", 9))[0]
    assert (more, len(pairs)) == (True, 1)


def test_scans_follow_later_changes() -> None:
    store = KVStore()
    run(store, Put("a", b""), Put("c", b""))

    def keys() -> list[str]:
        return [key for key, _ in ask(store, Scan("", 100))[0][1]]

    assert keys() == ["a", "c"]
    run(store, Put("b", b""), Delete("a"), Append("d", b""), CompareAndSet("e", None, b""))
    assert keys() == ["b", "c", "d", "e"]
    run(store, CompareAndSet("e", b"", None), Delete("b"), Put("b", b""), Put("a", b""))
    assert keys() == ["a", "b", "c", "d"]
    other = KVStore()
    run(other, Put("z", b""))
    store.restore(other.snapshot())
    assert keys() == ["z"]


def test_one_reply_is_bounded() -> None:
    store = KVStore()
    big = b"v" * MAX_VALUE_BYTES
    run(store, Put("big", big), Put("small", b"1"))
    results = ask(store, *(Get("big") for _ in range(4)), Get("small"))
    fit = MAX_REPLY_BYTES // MAX_VALUE_BYTES
    assert [is_split(result) for result in results[:4]] == [i >= fit for i in range(4)]
    assert run(store, Get("big"))[0] == big


def test_snapshots_restore_state_and_digest() -> None:
    store = KVStore()
    run(store, Put("b", b"1"), Put("a", b"2"), Delete("b"), Put("b", b"3"))
    twin = KVStore()
    twin.restore(store.snapshot())
    assert ask(twin, Scan("", 10)) == ask(store, Scan("", 10))
    assert twin.digest() == store.digest() != ""
    run(twin, Put("a", b"other"))
    assert twin.digest() != store.digest()
    run(store, Put("a", b"other"))
    assert twin.digest() == store.digest()
    empty = KVStore()
    empty.restore(KVStore().snapshot())
    assert len(empty) == 0


@pytest.mark.parametrize("image", [b"", b"nonsense", msgspec.msgpack.encode([1]), b"\xc1"])
def test_a_wrong_snapshot_is_refused(image: bytes) -> None:
    store = KVStore()
    run(store, Put("a", b"1"))
    with pytest.raises(ValueError, match="not a snapshot"):
        store.restore(image)
    with pytest.raises(ValueError, match="format 9"):
        store.restore(msgspec.msgpack.encode([9, {}]))
    assert ask(store, Get("a")) == [b"1"]


def test_a_big_store_has_a_digest_in_part() -> None:
    store = KVStore()
    for start in range(0, 101_000, 1000):
        run(store, *(Put(f"k{i}", b"v") for i in range(start, start + 1000)))
    digest = store.digest()
    assert digest.startswith("~")
    run(store, Put("new", b"v"))
    assert store.digest() != digest


def test_operation_bytes_never_understates() -> None:
    for operation in (
        Put("k" * 300, b"v" * 70_000),
        Get("ü" * 100),
        Append("𝄞" * 50, b"v"),
        Delete(""),
        CompareAndSet("k", None, b"v" * 300),
        CompareAndSet("k", b"v" * 300, None),
        Scan("p" * 40, 10_000, "s" * 40),
    ):
        assert len(encode_operations([operation])) <= operation_bytes(operation) + 5


# --- against a model ------------------------------------------------------------------------------

KEYS = st.sampled_from(["", "a", "aa", "ab", "b", "ba", "é", "𝄞"])
VALUES = st.binary(max_size=3)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Put, KEYS, VALUES),
    st.builds(Get, KEYS),
    st.builds(Append, KEYS, VALUES),
    st.builds(Delete, KEYS),
    st.builds(CompareAndSet, KEYS, st.none() | VALUES, st.none() | VALUES),
    st.builds(Scan, KEYS, st.integers(1, 4), KEYS),
)


def model(state: dict[str, bytes], operation: Operation) -> Any:
    """What the operation should say, by a plain dict."""
    match operation:
        case Put(key, value):
            state[key] = value
            return None
        case Get(key):
            return state.get(key)
        case Append(key, value):
            state[key] = state.get(key, b"") + value
            return len(state[key])
        case Delete(key):
            return state.pop(key, None) is not None
        case CompareAndSet(key, expected, new):
            if state.get(key) != expected:
                return False
            if new is None:
                state.pop(key, None)
            else:
                state[key] = new
            return True
        case Scan(prefix, limit, start_after):
            keys = sorted(k for k in state if k.startswith(prefix))
            if start_after:
                keys = [key for key in keys if key > start_after]
            return [len(keys) > limit, [[key, state[key]] for key in keys[:limit]]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(OPERATIONS, max_size=6), max_size=12), st.integers(0, 12))
def test_the_store_is_a_dict(commands: list[list[Operation]], restart_at: int) -> None:
    store, state = KVStore(), dict[str, bytes]()
    for number, operations in enumerate(commands):
        if number == restart_at:
            reborn = KVStore()
            reborn.restore(store.snapshot())
            assert reborn.digest() == store.digest()
            store = reborn
        assert run(store, *operations) == [model(state, operation) for operation in operations]
    assert dict(ask(store, Scan("", 100))[0][1]) == state


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("abc", max_size=3)),
    st.lists(st.tuples(st.booleans(), st.text("abc", max_size=3))),
    st.text("abc", max_size=3),
    st.booleans(),
)
def test_the_index_is_a_sorted_set(
    first: list[str], changes: list[tuple[bool, str]], start: str, after: bool
) -> None:
    index, expected = KeyIndex(set(first)), set(first)
    for add, key in changes:
        if add:
            index.add(key)
            expected.add(key)
        else:
            index.discard(key)
            expected.discard(key)
    wanted = sorted(k for k in expected if k > start or (k == start and not after))
    assert list(index.starting(start, after=after)) == wanted


def test_the_index_splits_and_drops_blocks() -> None:
    index = KeyIndex(f"{i:05d}" for i in range(5000))
    for i in range(5000):
        index.add(f"{i:05d}x")
    assert list(index.starting("", after=False)) == sorted(
        [f"{i:05d}" for i in range(5000)] + [f"{i:05d}x" for i in range(5000)]
    )
    for i in range(5000):
        index.discard(f"{i:05d}")
        index.discard(f"{i:05d}x")
    assert list(index.starting("", after=False)) == []
    index.add("again")
    assert list(index.starting("", after=False)) == ["again"]


def test_what_a_read_has_found_stays_so_whatever_the_same_command_does_next() -> None:
    """A value that was appended to is changed in place, and one from a snapshot is not."""
    store = KVStore()
    run(store, Put("k", b"v" * 2000))
    run(store, Append("k", b"1"))
    restored = KVStore()
    restored.restore(store.snapshot())
    operations = (Get("k"), Scan("", 10), Append("k", b"2"), Get("k"), Append("k", b"3"))
    found = run(store, *operations)
    assert found == run(restored, *operations)
    first, second = b"v" * 2000 + b"1", b"v" * 2000 + b"12"
    assert found == [first, [False, [["k", first]]], 2002, second, 2003]
