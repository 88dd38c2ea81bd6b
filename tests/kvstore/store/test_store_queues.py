"""Queues in the store's state machine: what is claimed, in which order, and the bounds."""

from __future__ import annotations

from typing import Any

import pytest

from paxon.kvstore.store.operations import (
    MAX_CLAIMED,
    MAX_KEY_BYTES,
    Claim,
    Compare,
    Delete,
    Enqueue,
    Grant,
    Put,
    PutItem,
    Range,
    Revoke,
    Txn,
    Unclaimed,
    decode_results,
    encode_operations,
    is_read,
    is_split,
    operation_bytes,
)
from paxon.kvstore.store.state import MAX_REVISION_BYTES
from paxon.kvstore.store.store import KVStore
from tests.kvstore.store.test_store_rules import ask, reborn, run

SECOND = 1_000_000_000
PEEK = Unclaimed(b"q/i/", b"q/c/")


def claim(lease: int) -> Claim:
    return Claim(b"q/i/", b"q/c/", lease)


def test_items_are_claimed_in_their_order_each_once() -> None:
    store = KVStore()
    run(store, *(Grant(lease, 5000) for lease in (1, 2, 3, 4)))
    assert run(store, Enqueue(b"q/i/", [b"a", b"b"]), Enqueue(b"q/i/", [b"c"])) == [2, 3]
    assert run(store, claim(1), claim(2), claim(3), claim(4)) == [
        [4, [b"q/i/" + b"%016x0000" % 2, b"a", 2, 2, 1, 0]],
        [5, [b"q/i/" + b"%016x0001" % 2, b"b", 2, 2, 1, 0]],
        [6, [b"q/i/" + b"%016x0000" % 3, b"c", 3, 3, 1, 0]],
        [6, None],
    ]
    assert ask(store, PEEK) == [6, 3, None]


def test_what_was_claimed_is_there_again_in_its_place_once_the_lease_ends() -> None:
    store = KVStore()
    run(store, Grant(1, 2000), Grant(2, 60_000), Grant(3, 60_000))
    run(store, Enqueue(b"q/i/", [b"a", b"b", b"c"]), claim(1), claim(2))
    for machine in (reborn(store), store):
        assert ask(machine, PEEK)[2][1] == b"c"
        machine.advance(2 * SECOND)
        machine.wake(2 * SECOND)
        assert ask(machine, PEEK)[2][1] == b"a"
        assert run(machine, claim(3))[0][1][1] == b"a"


def test_a_claim_needs_a_lease_whether_there_are_items_or_not() -> None:
    store = KVStore()
    assert run(store, claim(1))[0]["kind"] == "lease"
    run(store, Enqueue(b"q/i/", [b"a"]), Grant(1, 5000), Revoke(1))
    assert run(store, claim(1))[0]["kind"] == "lease"
    assert store.revision == 2


def test_only_so_many_claimed_items_are_passed_over() -> None:
    store = KVStore()
    run(store, *(Grant(lease, 5000) for lease in (1, 2, 3)))
    run(store, Enqueue(b"q/i/", [b""] * MAX_CLAIMED + [b"last", b"beyond"]))
    key = b"q/c/%016x" % 2
    run(store, *(PutItem(b"%b%04x" % (key, n), b"", 1) for n in range(MAX_CLAIMED)))
    [(_, item)] = run(store, claim(3))
    assert item[1] == b"last"
    before = store.revision
    assert run(store, claim(3))[0]["kind"] == "large" and store.revision == before
    assert ask(store, PEEK)["kind"] == "large"
    run(store, Delete(b"%b%04x" % (key, 9)))
    assert run(store, claim(3))[0][1][0] == b"q/i/%016x0009" % 2


def test_a_command_full_of_claims_does_not_hold_up_a_server() -> None:
    """What is passed over takes room of the reply; the claims that do not fit are asked again."""
    store = KVStore()
    store.agree({name: limit.default for name, limit in KVStore.limits.items()}
                | {"max_reply_bytes": 1 << 20})  # fmt: skip
    run(store, Grant(1, 5000), Grant(2, 5000), Enqueue(b"q/i/", [b""] * 4000))
    key = b"q/c/%016x" % 2
    run(store, *(PutItem(b"%b%04x" % (key, n), b"", 1) for n in range(3000)))
    results = run(store, *([claim(2)] * 20))
    done = [result for result in results if not is_split(result)]
    assert 1 <= len(done) < 5 and results[: len(done)] == done
    assert len(ask(store, Range(b"q/c/", b"q/d", keys_only=True))[3]) == 3000 + len(done)


def test_the_reply_has_room_for_so_much_of_the_items_and_a_claim_is_a_key_like_others() -> None:
    store = KVStore()
    run(store, Grant(1, 5000), Enqueue(b"q/i/", [bytes(6 << 20)]))
    results = decode_results(store.query(encode_operations([PEEK] * 3)))
    assert [is_split(result) for result in results] == [False, False, True]
    assert "longer than" in run(store, Claim(b"q/i/", bytes(MAX_KEY_BYTES), 1))[0]["error"]


def test_the_server_reckons_with_the_claimed_items_that_it_looks_at() -> None:
    store = KVStore()
    run(store, Grant(1, 5000), Enqueue(b"q/i/", [b""] * 1000), *([claim(1)] * 500))
    assert len(store) == 1500
    command = encode_operations([claim(1)])
    store.check(command)
    assert store.cost(command) - len(command) == 500 * 128
    put = encode_operations([Enqueue(b"q/i/", [b"x" * 1000])])
    store.check(put)
    assert store.cost(put) == len(put)


@pytest.mark.parametrize(
    "operations",
    [
        [Enqueue(b"q/i/", [b""] * 1000)],
        [Enqueue(b"q/i/", [b"x" * 100] * 10)] * 100,
        [Txn([], [Put(b"%d" % n, b"x" * 50) for n in range(1000)], [])],
        [Put(b"k", b"")] * 1000,
        [*[Put(b"k", b"x" * 100)] * 100, *[Enqueue(b"q/i/", [b""] * 300)] * 3],
    ],
)
def test_many_operations_cost_by_their_number_wherever_they_are(operations: list[Any]) -> None:
    """A slot of 1 MiB had queue inserts that took half a second to execute."""
    store, command = KVStore(), encode_operations(operations)
    store.check(command)
    assert store.cost(command) >= len(command) + 1000 * 1280


@pytest.mark.parametrize(
    "bad",
    [
        Enqueue(b"", [b"a"]),
        Enqueue(b"q" * (MAX_KEY_BYTES - 10), [b"a"]),
        Enqueue(b"q/i/", [b"a", b"x" * ((8 << 20) + 1)]),
        Enqueue(b"q/i/", [b"x" * (MAX_REVISION_BYTES // 4)] * 4),
    ],
)
def test_what_cannot_be_put_is_refused_whole(bad: Enqueue) -> None:
    store = KVStore()
    [refused] = run(store, bad)
    assert "error" in refused and (store.revision, len(store)) == (1, 0)


def test_a_key_that_is_there_is_not_overwritten() -> None:
    store = KVStore()
    run(store, Put(b"q/i/" + b"%016x%04x" % (3, 1), b"mine"))
    [refused] = run(store, Enqueue(b"q/i/", [b"a", b"b"]))
    assert "there already" in refused["error"] and len(store) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Claim(b"", b"c", 1),
        lambda: Claim(b"q", b"", 1),
        lambda: Claim(b"q/", b"q/claims/", 1),
        lambda: Unclaimed(b"q/items/", b"q/"),
        lambda: Unclaimed(b"q/", b"q/"),
    ],
)
def test_claims_never_are_items_themselves(make: Any) -> None:
    with pytest.raises(ValueError, match="none begins the other"):
        make()


def test_a_command_with_such_an_operation_is_refused_and_so_is_one_without_values() -> None:
    raw = decode_results(encode_operations([claim(1)]))[0]
    for bad in ([21, b"q/", b"q/c", 1], [19, b"q/", []], [19, b"q/", [b""] * 10_001]):
        with pytest.raises(ValueError, match="not a list of store operations"):
            KVStore().apply(encode_operations([bad]))  # type: ignore[list-item]
    assert raw == [21, b"q/i/", b"q/c/", 1]


def test_looking_is_a_read_and_claiming_is_none() -> None:
    assert is_read(PEEK) and not is_read(claim(1)) and not is_read(Enqueue(b"q", [b""]))
    for operation in (PEEK, claim(1 << 62), Enqueue(b"q/i/", [b"x" * 200, b""])):
        assert len(encode_operations([operation])) <= operation_bytes(operation)


def test_an_item_is_finished_by_the_transaction_that_its_claim_guards() -> None:
    """What the client's `done` sends: the second consumer's claim is another, so it is refused."""
    store = KVStore()
    run(store, Grant(1, 2000), Grant(2, 60_000), Enqueue(b"q/i/", [b"a"]))
    [(fence, item)] = run(store, claim(1))
    key = item[0].replace(b"q/i/", b"q/c/")
    store.advance(2 * SECOND)
    store.wake(2 * SECOND)
    [(second, again)] = run(store, claim(2))
    assert again == item and second > fence

    def done(created: int) -> bool:
        txn = Txn([Compare(key, "created", "=", created)], [Delete(item[0]), Delete(key)], [])
        succeeded: bool = run(store, txn)[0][0]
        return succeeded

    assert not done(fence) and ask(store, PEEK)[1] == 1
    assert done(second) and len(store) == 0
    assert not done(second)


def test_a_lease_takes_so_many_claims_as_any_other_keys() -> None:
    store = KVStore()
    run(store, Grant(1, 5000), *(PutItem(b"%05d" % n, b"", 1) for n in range(5000)))
    run(store, Enqueue(b"q/i/", [b"a"]))
    before = store.revision
    assert run(store, claim(1))[0]["kind"] == "large" and store.revision == before
