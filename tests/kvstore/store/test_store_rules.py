"""The rules of COORDINATION.md that the store's state machine has to keep, each by its scenario."""

from __future__ import annotations

from typing import Any

import pytest

import paxon.kvstore.store.history as history_module
import paxon.kvstore.store.operations as operations_module
from paxon.kvstore.store.operations import (
    Append,
    Compact,
    Compare,
    CompareAndSet,
    Delete,
    DeleteRange,
    Events,
    Get,
    Grant,
    Increment,
    KeepAlive,
    Put,
    PutItem,
    Range,
    Revoke,
    TimeLeft,
    Txn,
    decode_results,
    encode_operations,
    is_refusal,
)
from paxon.kvstore.store.spans import prefix_span
from paxon.kvstore.store.state import MAX_REVISION_EVENTS
from paxon.kvstore.store.store import KVStore

SECOND = 1_000_000_000
ALL = (b"\0", b"\0")


def run(store: KVStore, *operations: Any) -> list[Any]:
    return decode_results(store.apply(encode_operations(operations)))


def ask(store: KVStore, operation: Any) -> Any:
    return decode_results(store.query(encode_operations([operation])))[0]


def reborn(store: KVStore) -> KVStore:
    other = KVStore()
    other.restore(store.snapshot())
    assert other.digest() == store.digest()
    return other


# --- 5, 6: leases ---------------------------------------------------------------------------------


def test_5_a_put_without_a_lease_loses_the_one_it_had_append_and_increment_keep_it() -> None:
    store = KVStore()
    run(store, Grant(7, 5000), PutItem(b"a", b"1", 7), PutItem(b"b", b"1", 7))
    run(store, PutItem(b"c", b"1", 7), PutItem(b"d", b"1", 7), PutItem(b"e", b"1", 7))
    run(store, Put(b"a", b"2"), Append(b"b", b"2"), Increment(b"c", 1))
    run(store, CompareAndSet(b"d", b"1", b"2"), Txn([], [Put(b"e", b"2")], []))
    for machine in (store, reborn(store)):
        assert ask(machine, TimeLeft(7, keys=True))[2] == [b"b", b"c"]
        assert machine._state.leases.get(7).bytes == 64 + 3 + 64 + 2  # type: ignore[union-attr]
        run(machine, Revoke(7))
        assert [row[0] for row in ask(machine, Range(*ALL))[3]] == [b"a", b"d", b"e"]


def test_5_the_least_time_is_granted_and_a_retry_finds_its_own() -> None:
    store = KVStore()
    assert run(store, Grant(7, 1)) == [2000]
    assert run(store, Grant(7, 1))[0]["kind"] == "exists"
    assert run(store, KeepAlive(8))[0]["kind"] == "lease"


def test_6_each_lease_that_ends_is_a_revision_of_its_own_and_lives_until_then() -> None:
    store = KVStore()
    run(store, *(Grant(lease, 3000) for lease in (9, 3, 5)))
    run(store, *(PutItem(b"k%d" % lease, b"", lease) for lease in (9, 3, 5)))
    before = store.revision
    store.advance(3 * SECOND)
    assert store.next_wakeup() == 3 * SECOND
    assert run(store, KeepAlive(5)) == [3000]  # due, but its keys had not gone
    store.wake(3 * SECOND)
    assert store.revision == before + 2
    events = ask(store, Events(before, [ALL]))[1]
    assert [(item[0], item[3], item[4]) for item, _ in events] == [
        (b"k3", before + 1, 0),
        (b"k9", before + 2, 0),
    ]
    assert store.next_wakeup() == 6 * SECOND


def test_6_so_many_at_once_and_the_others_keep_their_turn_through_a_snapshot() -> None:
    store = KVStore()
    run(store, *(Grant(lease, 2000) for lease in range(1, 251)))
    run(store, *(PutItem(b"%03d" % lease, b"", lease) for lease in range(1, 251)))
    left = []
    for machine in (store, reborn(store)):
        while (due := machine.next_wakeup()) is not None and due <= 2 * SECOND:
            machine.wake(2 * SECOND)
            left.append(len(machine))
    assert left == [150, 50, 0] * 2


def test_6_leases_that_are_renewed_often_still_end_in_their_order() -> None:
    store = KVStore()
    run(store, *(Grant(lease, 2000 + 1000 * lease) for lease in (3, 2, 1)))
    for step in range(100):
        store.advance(step)
        run(store, *(KeepAlive(lease) for lease in (3, 2)))
        assert store.next_wakeup() == 3 * SECOND
    assert len(store._state.leases._by_due) <= 64 + 4 * 3
    run(store, KeepAlive(1), Revoke(1))
    assert store.next_wakeup() == 4 * SECOND + 99


def test_6_a_lease_has_at_most_so_many_keys() -> None:
    store = KVStore()
    run(store, Grant(7, 5000), *(PutItem(b"%05d" % n, b"", 7) for n in range(5000)))
    before = store.revision
    assert run(store, PutItem(b"more", b"", 7))[0]["kind"] == "large"
    assert store.revision == before
    run(store, Revoke(7))
    assert (store.revision, len(store)) == (before + 1, 0)


# --- 9: revisions and transactions ----------------------------------------------------------------


def test_9_the_empty_store_is_at_revision_1_and_what_has_no_effect_raises_none() -> None:
    store = KVStore()
    assert store.revision == 1
    assert run(store, Put(b"a", b"")) == [2]
    run(store, Grant(1, 2000))
    nothing: list[Any] = [
        Delete(b"b"),
        DeleteRange(b"b", b"\0"),
        CompareAndSet(b"a", b"x", b"y"),
        CompareAndSet(b"b", None, None),
        Revoke(1),
        Txn([], [], []),
        Txn([], [Get(b"a"), Delete(b"b")], []),
        Compact(2),
    ]
    run(store, *nothing)
    assert store.revision == 2


def test_9_all_comparisons_come_before_any_operation_nested_ones_too() -> None:
    store = KVStore()
    inner = Txn([Compare(b"a", "version", "=", 0)], [Put(b"b", b"then")], [Put(b"b", b"else")])
    succeeded, revision, results = run(store, Txn([], [Put(b"a", b""), inner], []))[0]
    assert (succeeded, revision, results[1][0]) == (True, 2, True)
    assert ask(store, Get(b"b")) == b"then"


def test_9_ranges_inside_see_what_was_written_before_them() -> None:
    store = KVStore()
    run(store, Put(b"b", b"old"), Put(b"c", b"gone"))
    look = Range(*ALL, keys_only=True)
    txn = Txn([], [look, Put(b"a", b"1"), Put(b"b", b"2"), Delete(b"c"), look], [])
    _, revision, results = run(store, txn)[0]
    assert [row[0] for row in results[0][3]] == [b"b", b"c"]
    assert [(row[0], row[3]) for row in results[4][3]] == [(b"a", revision), (b"b", revision)]
    assert (results[0][1], results[4][1]) == (2, 2)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (PutItem(b"x", b"", 99), "lease"),
        (PutItem(b"x", None), "missing"),
        (PutItem(b"x", b"", None), "missing"),
        (PutItem(b"x", bytes((8 << 20) + 1)), ""),
        (Range(b"a", revision=99), "future"),
        (Range(b"a", revision=2), "compacted"),
        (Put(b"", b"empty"), ""),
        (Put(b"k" * 5000, b""), ""),
        (Txn([], [Range(b"a", revision=99)], []), "future"),
    ],
)
def test_9_what_cannot_be_done_refuses_the_whole_beforehand(wrong: Any, kind: str) -> None:
    store = KVStore()
    run(store, Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"), Compact(3))
    before = store.snapshot()
    (result,) = run(store, Txn([], [Put(b"b", b""), Delete(b"a"), wrong], []))
    assert is_refusal(result)
    assert result.get("kind", "") == kind
    assert store.snapshot() == before
    assert not is_refusal(run(store, Txn([], [Put(b"b", b"")], [wrong]))[0])  # not taken


def test_9_what_would_make_its_reply_too_long_refuses_the_whole() -> None:
    store = KVStore()
    run(store, *(Put(b"long%d" % n, bytes(4 << 20)) for n in range(5)))
    for wrong in (Range(b"long", b"long~"), DeleteRange(b"long", b"long~", previous=True)):
        assert run(store, Txn([], [Put(b"b", b""), wrong], []))[0]["kind"] == "large"
    assert len(store) == 5


def test_9_what_is_not_named_stays() -> None:
    store = KVStore()
    run(store, Grant(7, 5000), PutItem(b"a", b"1", 7), PutItem(b"b", b"1", 7))
    run(store, PutItem(b"a", None), Txn([], [PutItem(b"b", b"2", None)], []))
    rows = ask(store, Range(*ALL))[3]
    assert [(row[1], row[4], row[5]) for row in rows] == [(b"1", 2, 0), (b"2", 2, 7)]


@pytest.mark.parametrize(
    "operations",
    [
        [Put(b"a", b""), Put(b"a", b"")],
        [Put(b"a", b""), Delete(b"a")],
        [DeleteRange(b"a", b"c"), PutItem(b"b", b"")],
        [DeleteRange(b"a", b"\0"), Put(b"z", b"")],
        [Put(b"a", b""), Txn([], [], [Put(b"a", b"")])],
        [Txn([], [Put(b"a", b"")], []), Txn([], [], [Delete(b"a")])],
    ],
)
def test_9_a_key_written_twice_is_refused_before_the_log(operations: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"writes the key .* twice"):
        Txn([], operations, [])
    raw = encode_operations([]).replace(b"\x90", b"\x91\x94\x0a\x90") + encode_operations(
        operations
    )
    with pytest.raises(ValueError, match=r"writes the key .* twice"):
        KVStore().check(raw + b"\x90")


def test_9_the_branches_of_one_transaction_exclude_each_other() -> None:
    Txn([], [Txn([], [Put(b"a", b"1")], [Put(b"a", b"2"), Delete(b"b")])], [Put(b"a", b"")])
    Txn([], [Delete(b"a"), DeleteRange(b"a", b"b")], [])


@pytest.mark.parametrize("relation", ["=", "!=", "<", ">"])
def test_9_the_value_of_a_missing_key_compares_as_false(relation: Any) -> None:
    store = KVStore()
    for end in (None, b"\0"):
        compare = Compare(b"a", "value", relation, b"", end)
        assert run(store, Txn([compare], [], []))[0][0] is False
    for target in ("version", "created", "modified"):
        zero = Compare(b"a", target, "=", 0)
        assert run(store, Txn([zero], [], []))[0][0] is True


# --- 10, 11: bounds and history -------------------------------------------------------------------


def test_10_one_revision_has_at_most_so_many_events_and_bytes() -> None:
    store = KVStore()
    for start in range(0, MAX_REVISION_EVENTS + 1, 1000):
        run(store, *(Put(b"%06d" % n, b"") for n in range(start, start + 1000)))
    before = store.snapshot()
    assert run(store, DeleteRange(*ALL))[0]["kind"] == "large"
    assert store.snapshot() == before
    big = bytes(8 << 20)
    run(store, Put(b"x1", big), Put(b"x2", big), Put(b"x3", big))
    before = store.snapshot()
    assert run(store, DeleteRange(*prefix_span(b"x")))[0]["kind"] == "large"
    assert store.snapshot() == before


def test_11_history_is_cut_by_count_and_age_and_alike_after_a_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history_module, "KEPT_EVENTS", 100)
    monkeypatch.setattr(history_module, "_BLOCK_EVENTS", 10)
    store = KVStore()
    twin = store
    oldest, kept = [], []
    for step in range(60):
        for machine in (store, twin):
            machine.advance(step * SECOND)
            run(machine, *(Put(b"%d" % (n % 7), b"") for n in range(20)))
        assert twin.snapshot() == store.snapshot()
        twin = reborn(store)
        history = store._state.history
        oldest.append(history.oldest)
        assert step == 0 or next(history.changes(history.first))[0] == max(2, history.oldest)
        kept.append(len(store._state.history))
    assert oldest[8] == 1  # all of it is younger than ten seconds
    assert min(kept[10:]) >= 200  # that is what ten seconds had
    assert max(kept) < 300
    store.advance(100 * SECOND)
    run(store, Put(b"x", b""), *(Put(b"y", b"") for _ in range(20)))
    assert 100 <= len(store._state.history) < 150
    assert ask(store, Range(b"y", revision=oldest[-1] - 1))["kind"] == "compacted"


def test_11_what_an_event_counts_for_is_a_part_of_the_format() -> None:
    """Servers of two releases cut history alike."""
    store = KVStore()
    sizes = []
    for operations in (
        [Put(b"key", b"value")], [Put(b"key", b"v")], [Append(b"key", b"w" * 2000)],
        [Append(b"key", b"w")], [Put(b"key", b"v"), Put(b"k2", b"v")],
        [Txn([], [Put(b"key", b"")], [])], [Txn([], [Put(b"key", b""), Put(b"k2", b"")], [])],
        [Delete(b"key")],
    ):  # fmt: skip
        before = store._state.history.bytes
        run(store, *operations)
        sizes.append(store._state.history.bytes - before)
    assert sizes == [128, 128 + 5, 128, 128, 2 * 128 + 2002, 128 + 1, 2 * 128 + 1, 128 + 3]
    assert reborn(store)._state.history.bytes == sum(sizes)


def test_11_the_past_is_taken_in_once_and_anew_where_most_of_it_is_gone() -> None:
    store = KVStore()
    run(store, *(Put(b"%d" % (n % 7), b"") for n in range(1100)))
    for _ in range(3):
        assert ask(store, Range(b"0", revision=2))[3] == [[b"0", b"", 2, 2, 1, 0]]
    past = store._state._past
    assert past is not None and sum(len(known) for known, _ in past._events.values()) == 1100
    run(store, Compact(store.revision - 5))
    ask(store, Range(b"0", revision=store.revision - 1))
    assert store._state._past is not past


def test_11_history_is_bounded_in_bytes_but_keeps_the_newest_revision() -> None:
    store = KVStore()
    for _ in range(12):
        run(store, Put(b"k", bytes(8 << 20)))
    assert store._state.history.bytes <= history_module.KEPT_BYTES
    assert store._state.history.oldest > 2
    through, events = ask(store, Events(store.revision - 1, [(b"k", None)]))
    assert (through, len(events)) == (store.revision, 1)


def test_a_page_ends_at_the_agreed_limit_and_says_where_to_go_on() -> None:
    store = KVStore()
    store.agree(
        {name: limit.default for name, limit in store.limits.items()} | {"max_scan_items": 3}
    )
    run(store, *(Put(b"%d" % n, b"") for n in range(5)))
    pages = [ask(store, Range(*ALL, backward=backward)) for backward in (False, True)]
    assert [(len(items), count, more, rest) for _, count, more, items, rest in pages] == [
        (3, 5, False, b"3"),
        (3, 5, False, b"1\0"),
    ]


# --- 14, and FAULTS: watching ---------------------------------------------------------------------


def test_a_watch_from_the_compacted_revision_gives_its_deletion_and_what_follows() -> None:
    store = KVStore()
    run(store, *(Put(b"k", b"%d" % n) for n in range(3)), Delete(b"k"))
    deleted = store.revision
    run(store, Put(b"k", b"new"), Compact(deleted))
    for machine in (store, reborn(store)):
        through, events = ask(machine, Events(deleted - 1, [(b"k", None)]))
        assert through == deleted + 1
        assert [(item[3], item[4]) for item, _ in events] == [(deleted, 0), (deleted + 1, 1)]
        refused = ask(machine, Events(deleted - 2, [(b"k", None)]))
        assert (refused["kind"], refused["oldest"]) == ("compacted", deleted)


def test_a_watch_never_gets_half_a_revision_and_its_position_never_falls() -> None:
    store = KVStore()
    big = bytes(600 << 10)
    run(store, *(Txn([], [Put(b"%d" % n, big) for n in range(4)], []) for _ in range(3)))
    after, revisions = 0, []
    while after < store.revision:
        through, events = ask(store, Events(after, [ALL], previous=True))
        assert through > after
        revisions.append([item[3] for item, _ in events])
        after = through
    assert revisions == [[2] * 4, [3] * 4, [4] * 4]
    assert ask(store, Events(77, [ALL])) == [77, []]


def test_prefixes() -> None:
    keys = [b"\0", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff\xff"]
    store = KVStore()
    run(store, *(Put(key, b"") for key in keys))
    for prefix, count in ((b"a\xff", 3), (b"\xff", 2), (b"", 8)):
        span = prefix_span(prefix)
        assert ask(store, Range(*span))[1] == count
        assert len(ask(store, Events(0, [span]))[1]) == count
        assert run(reborn(store), DeleteRange(*span))[0][1] == count
    assert ask(store, Range(b"b", b"a"))[1] == 0


def test_a_branch_with_one_write_is_not_looked_through_for_doubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every server decodes each transaction, and most write one key."""
    looked: list[Any] = []
    real = operations_module._all_writes

    def look(operations: Any) -> Any:
        looked.append(operations)
        return real(operations)

    monkeypatch.setattr(operations_module, "_all_writes", look)
    put = Put(b"k", b"v")
    Txn([], [put], [put])
    assert not looked
    with pytest.raises(ValueError, match="twice"):
        Txn([], [put, put], [])
    with pytest.raises(ValueError, match="twice"):
        Txn([], [Txn([], [put], []), put], [])
    assert looked
