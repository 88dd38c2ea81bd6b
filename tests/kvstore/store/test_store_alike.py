"""Two stores execute the same, one of which starts from the other's snapshot now and then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from paxon.kvstore.store.operations import (
    Append,
    Compact,
    Compare,
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
    encode_operations,
)
from paxon.kvstore.store.store import KVStore

SPANS: list[tuple[bytes, bytes | None]] = [(b"k", b"l"), (b"", b""), (b"k1", b"k2"), (b"k7", None)]


def key(chance: Random) -> bytes:
    return b"k%d" % chance.randrange(30)


def value(chance: Random) -> bytes:
    return chance.choice([b"a", b"b"]) * chance.choice([0, 1, 10, 1100, 3000])


def a_range(chance: Random, revision: int) -> Range:
    first, end = chance.choice(SPANS)
    then = chance.choice([0, 0, max(1, revision - chance.randrange(80))])
    order: Any = chance.choice(["key", "value", "version", "created", "modified"])
    return Range(
        first, end, limit=chance.choice([0, 1, 5]), revision=then, order=order,
        keys_only=chance.random() < 0.3, count_only=chance.random() < 0.2,
        min_modified=chance.choice([0, revision]),
    )  # fmt: skip


def a_compare(chance: Random) -> Compare:
    first, end = chance.choice(SPANS)
    relation: Any = chance.choice(["=", "!=", "<", ">"])
    if chance.random() < 0.5:
        return Compare(first, "value", relation, value(chance), end)
    return Compare(first, "version", relation, chance.randrange(4), end)


def an_inner(chance: Random, revision: int) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: Put(key(chance), value(chance)),
        lambda: PutItem(key(chance), chance.choice([None, b"x"]), chance.choice([None, 0, 1])),
        lambda: Get(key(chance)),
        lambda: DeleteRange(*chance.choice(SPANS[2:]), previous=True),
        lambda: a_range(chance, revision),
    ]
    return chance.choice(kinds)()


def an_operation(chance: Random, revision: int) -> Any:
    compares = [a_compare(chance) for _ in range(chance.randrange(3))]
    kinds: list[Callable[[], Any]] = [
        lambda: an_inner(chance, revision),
        lambda: Append(key(chance), value(chance)),
        lambda: Append(key(chance), value(chance)),
        lambda: Txn(compares, [an_inner(chance, revision)], [an_inner(chance, revision)]),
        lambda: Scan(b"k", chance.choice([1, 20])),
        lambda: Increment(b"n", 1),
        lambda: Grant(1, 60_000),
        lambda: TimeLeft(1, True),
        Leases,
        lambda: Events(max(0, revision - chance.randrange(60)), [chance.choice(SPANS)]),
        lambda: Enqueue(b"q/i/", [b"x"] * 3),
        lambda: Unclaimed(b"q/i/", b"q/c/"),
        lambda: Compact(max(1, revision - chance.randrange(5, 100))),
        lambda: a_range(chance, revision),
    ]
    return chance.choice(kinds)()


@pytest.mark.parametrize("seed", range(60))
def test_a_server_that_started_from_a_snapshot_executes_the_same(seed: int) -> None:
    """However little room there is for replies, and whatever was asked of one of them alone."""
    chance = Random(seed)
    usual = {name: limit.default for name, limit in KVStore.limits.items()}
    room = {"max_reply_bytes": chance.choice([1, 3000, 30_000]), "max_scan_bytes": 5000}
    one, other = KVStore(), KVStore()
    for store in (one, other):
        store.agree(usual | room)
    for _ in range(100):
        many = chance.choice([1, 2, 10])
        command = encode_operations([an_operation(chance, one.revision) for _ in range(many)])
        one.query(encode_operations([a_range(chance, one.revision)]))
        assert one.apply(command) == other.apply(command)
        if chance.random() < 0.1:
            assert one.digest() == other.digest()
            other = KVStore()
            other.agree(usual | room)
            other.restore(one.snapshot())
