"""The store against the plainest model of it, with snapshots, time and leases in between."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxon.kvstore.store import history
from paxon.kvstore.store.operations import (
    Append,
    Claim,
    Compact,
    Compare,
    CompareAndSet,
    Delete,
    DeleteRange,
    Enqueue,
    Events,
    Get,
    Grant,
    Increment,
    KeepAlive,
    Leases,
    Put,
    PutItem,
    Range,
    Revoke,
    Scan,
    TimeLeft,
    Txn,
    Unclaimed,
    decode_results,
    encode_operations,
    is_refusal,
    only_reads,
)
from paxon.kvstore.store.store import KVStore
from tests.kvstore.store.model import MS, Model
from tests.soak import sized

KEYS = st.sampled_from([b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"\xff", b"\xff\xff"])
ENDS = st.none() | st.sampled_from([b"\0", b"a", b"ab", b"b", b"c", b"\xff"])
VALUES = st.sampled_from([b"", b"1", b"22", b"-3", b"x"])
SMALL = st.integers(0, 12)
LEASES = st.integers(1, 3)


def compares() -> st.SearchStrategy[Compare]:
    relation = st.sampled_from(["=", "!=", "<", ">"])
    numbers = st.sampled_from(["version", "created", "modified", "lease"])
    return st.one_of(
        st.builds(Compare, KEYS, st.just("value"), relation, VALUES, ENDS),
        st.builds(Compare, KEYS, numbers, relation, st.integers(0, 6), ENDS),
    )


RANGES = st.builds(
    Range,
    KEYS,
    ENDS,
    limit=st.integers(0, 3),
    revision=st.sampled_from([0, 0, 1, 2, 3, 5, 8, 13]),
    order=st.sampled_from(["key", "value", "version", "created", "modified"]),
    backward=st.booleans(),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, True]),
    min_modified=st.sampled_from([0, 0, 3]),
    max_modified=st.sampled_from([0, 0, 6]),
    min_created=st.sampled_from([0, 0, 2]),
    max_created=st.sampled_from([0, 0, 4]),
)
PUT_ITEMS = st.builds(
    PutItem,
    st.just(b"") | KEYS,
    st.none() | VALUES,
    st.none() | st.just(0) | LEASES,
    st.booleans(),
)
DELETE_RANGES = st.builds(DeleteRange, KEYS, ENDS, st.booleans())
SIMPLE: Any = st.one_of(
    st.builds(Put, KEYS, VALUES), st.builds(Get, KEYS), st.builds(Delete, KEYS),
    PUT_ITEMS, DELETE_RANGES, RANGES,
)  # fmt: skip


@st.composite
def txns(draw: st.DrawFn, depth: int = 2) -> Txn:
    inner = SIMPLE if depth == 0 else st.one_of(SIMPLE, SIMPLE, txns(depth - 1))
    compare = draw(st.lists(compares(), max_size=2))
    then, otherwise = draw(st.lists(inner, max_size=3)), draw(st.lists(inner, max_size=3))
    try:
        return Txn(compare, then, otherwise)
    except ValueError:  # a key is written twice
        reads: list[Any] = [op for op in then + otherwise if isinstance(op, Get | Range)]
        return Txn(compare, reads, [])


CLAIMS = st.builds(
    Claim, st.sampled_from([b"a", b"aa", b"\xff"]), st.sampled_from([b"b", b"c"]), LEASES
)
OPERATIONS: Any = st.one_of(
    st.builds(Put, KEYS, VALUES),
    st.builds(Get, KEYS),
    st.builds(Append, KEYS, VALUES | st.just(b"long" * 300)),
    st.builds(Delete, KEYS),
    st.builds(CompareAndSet, KEYS, st.none() | VALUES, st.none() | VALUES),
    st.builds(Scan, KEYS, st.integers(1, 4), KEYS | st.just(b"")),
    st.builds(Increment, KEYS, st.integers(-3, 3)),
    st.builds(Compact, SMALL),
    st.builds(Grant, LEASES, st.sampled_from([1000, 5000, 20_000])),
    st.builds(KeepAlive, LEASES),
    st.builds(Revoke, LEASES),
    st.builds(TimeLeft, LEASES, st.booleans()),
    st.builds(Leases),
    st.builds(
        Events,
        st.integers(0, 20),
        st.lists(st.tuples(KEYS, ENDS), max_size=2),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    PUT_ITEMS,
    DELETE_RANGES,
    RANGES,
    txns(),
    st.builds(Enqueue, st.sampled_from([b"a", b"aa", b"ab", b""]), st.lists(VALUES, min_size=1)),
    st.builds(Unclaimed, st.sampled_from([b"a", b"aa"]), st.sampled_from([b"b", b"c"])),
    CLAIMS,
    CLAIMS,
)
STEPS = st.one_of(
    st.tuples(st.just("do"), st.lists(OPERATIONS, max_size=4)),
    st.tuples(st.just("do"), st.lists(OPERATIONS, max_size=4)),
    st.tuples(st.just("time"), st.integers(0, 6000)),
    st.tuples(st.just("restart"), st.none()),
)


def comparable(result: Any) -> Any:
    return {"kind": result.get("kind", "")} if is_refusal(result) else result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block_events", "examples"), [(2, sized(150, 3000)), (1024, sized(100, 2000))]
)
def test_the_store_does_what_its_model_does(block_events: int, examples: int) -> None:
    """Whether history is cut into blocks of a few events or not."""

    @settings(max_examples=examples)
    @given(st.lists(STEPS, max_size=14))
    def try_steps(steps: list[Any]) -> None:
        compare_with_model(steps)

    with patch.object(history, "_BLOCK_EVENTS", block_events):
        try_steps()


def compare_with_model(steps: list[Any]) -> None:
    store, twin, model = KVStore(), KVStore(), Model()
    for kind, what in steps:
        if kind == "do":
            command = encode_operations(what)
            reply = store.apply(command)
            assert reply == twin.apply(command)
            results = [comparable(result) for result in decode_results(reply)]
            assert results == plain([model.run(operation) for operation in what])
        elif kind == "time":
            model.now += what * MS
            for machine in (store, twin):
                machine.advance(model.now)
                while (due := machine.next_wakeup()) is not None and due <= model.now:
                    machine.wake(model.now)
            model.wake()
        else:
            reborn = KVStore()
            reborn.restore(store.snapshot())
            assert reborn.snapshot() == store.snapshot()
            store = reborn
        assert store.digest() == twin.digest()
        assert store.revision == model.revision
    for revision in range(model.oldest, model.revision + 1):
        whole = Range(b"\0", b"\0", revision=revision)
        assert ask(store, whole) == plain(model.run(whole))
    reads = [operation for kind, what in steps if kind == "do" for operation in what
             if only_reads([operation])]  # fmt: skip
    for read in reads:
        assert comparable(ask(store, read)) == plain(model.run(read))


def test_a_restored_history_answers_the_same() -> None:
    """Whatever its values: small, large, appended to (which share bytes), deleted, made again."""
    store, reborn = KVStore(), KVStore()
    with patch.object(history, "_BLOCK_EVENTS", 4):
        for number in range(44):
            key = b"%d" % (number % 3)
            step = (
                Append(key, b"a" * 2000) if 20 <= number < 30
                else Delete(key) if number in (33, 34)
                else Put(key, b"v" * 5000 * (8 <= number < 16))
            )  # fmt: skip
            store.apply(encode_operations([step]))
        reborn.restore(store.snapshot())
    everything = Events(0, [(b"\0", b"\0")], previous=True)
    assert len(all_events(store, everything)[1]) == 44
    assert all_events(reborn, everything) == all_events(store, everything)
    assert reborn.snapshot() == store.snapshot()


def ask(store: KVStore, operation: Any) -> Any:
    return decode_results(store.query(encode_operations([operation])))[0]


def all_events(store: KVStore, wanted: Events) -> Any:
    """In as many answers as it takes."""
    through, found = ask(store, wanted)
    while through < store.revision:
        through, more = ask(store, msgspec.structs.replace(wanted, after=through))
        found += more
    return [through, found]


def plain(result: Any) -> Any:
    """Tuples as the lists that they become on the wire."""
    return decode_results(encode_operations([result]))[0]


@pytest.mark.parametrize("count", [3, 40])
def test_long_values_share_what_they_have_in_common_through_snapshots(count: int) -> None:
    """Appending costs what is appended, in history too, and a restored store counts the same."""
    store, model = KVStore(), Model()
    piece = b"p" * 1000
    steps: list[Any] = [Append(b"log", piece) for _ in range(count)]
    steps += [Put(b"log", b"short"), Append(b"log", piece), Delete(b"log"), Append(b"log", piece)]
    for step in steps:
        assert decode_results(store.apply(encode_operations([step]))) == [model.run(step)]
        reborn = KVStore()
        reborn.restore(store.snapshot())
        for machine in (store, reborn):
            for revision in range(1, model.revision + 1):
                read = Range(b"log", revision=revision)
                assert ask(machine, read) == plain(model.run(read))
            watch = Events(0, [(b"\0", b"\0")], previous=True)
            assert all_events(machine, watch) == plain(model.run(watch))
        assert reborn.digest() == store.digest()
        if model.revision % 3 == 0:
            store = reborn
