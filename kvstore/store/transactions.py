"""Carrying out a transaction: decide, check all of it, do it on the side, commit it at once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, assert_never

import msgspec

from paxon.kvstore.store.items import SHORT_VALUE, Item, Prefix, as_bytes, row, value_bytes
from paxon.kvstore.store.operations import (
    Compare,
    Delete,
    DeleteRange,
    Get,
    Inner,
    Put,
    PutItem,
    Range,
    Relation,
    Result,
    Txn,
)
from paxon.kvstore.store.past import Changed, View
from paxon.kvstore.store.ranges import ROW_BYTES, looked_in_vain, read_range
from paxon.kvstore.store.refusals import LOOK_BYTES, Refusal, Room
from paxon.kvstore.store.state import MAX_REVISION_EVENTS, State

__all__ = ["MAX_COMPARED", "Bounds", "Transaction", "check_put", "one_put"]

MAX_COMPARED = 10_000
"""Keys that the comparisons of a transaction look at. Part of the format."""
_MOST_LOOKED = 64 << 20
"""What they may count for that a transaction looks at and does not answer. Part of the format."""
_RELATIONS: dict[Relation, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The limits in force (`KVStore.limits`)."""

    max_key_bytes: int
    max_value_bytes: int
    max_scan_items: int
    max_scan_bytes: int
    max_reply_bytes: int

    def check_key(self, key: bytes) -> None:
        """Raise `Refusal` for a key that nothing may be written to."""
        if not key:
            raise Refusal("the key is empty")
        if len(key) > self.max_key_bytes:
            raise Refusal(f"the key is longer than {self.max_key_bytes} bytes")

    def check_value(self, size: int) -> None:
        """Raise `Refusal` for a value of a size that is not taken."""
        if size > self.max_value_bytes:
            raise Refusal(f"the value is longer than {self.max_value_bytes} bytes")


def check_put(state: State, bounds: Bounds, put: PutItem) -> None:
    """Raise `Refusal` if it cannot be carried out."""
    bounds.check_key(put.key)
    if put.value is not None:
        bounds.check_value(len(put.value))
    if (put.value is None or put.lease is None) and put.key not in state.data:
        raise Refusal("the key is missing, so there is nothing of it to keep", "missing")
    if put.lease and state.leases.get(put.lease) is None:
        raise Refusal(f"there is no lease {put.lease:x}: it has ended", "lease")


def one_put(state: State, bounds: Bounds, txn: Txn) -> Result | None:
    """The shortest way for the most frequent kind: single keys are compared, one is put at most.

    None: it is of another kind, and nothing is changed. Raises `Refusal`.
    """
    succeeded = True
    for compare in txn.compare:
        if compare.end is not None:
            return None
        item = state.data.get(compare.key)
        if item is None:
            holds = compare.target != "value" and _holds(compare, 0)
        else:
            holds = _holds(compare, _operand(item, compare))
        if not holds:
            succeeded = False
            break
    branch = txn.then if succeeded else txn.otherwise
    if not branch:
        return [succeeded, state.revision, []]
    put = branch[0]
    if len(branch) > 1 or type(put) is not Put:
        return None
    bounds.check_key(put.key)
    bounds.check_value(len(put.value))
    before, revision = state.data.get(put.key), state.revision + 1
    if before is None:
        state.commit_one(Item(put.key, put.value, revision, revision, 1, 0), None)
    else:
        state.commit_one(
            Item(before.key, put.value, before.created, revision, before.version + 1, 0), before
        )
    return [succeeded, revision, [revision]]


class Transaction:
    """One transaction, or one operation that is carried out like one."""

    def __init__(self, state: State, bounds: Bounds, room: Room) -> None:
        self._state = state
        self._bounds = bounds
        self._room = room
        self._view = Changed(state.now, {})
        self._next = state.revision + 1
        self._compared = 0
        self._taken_up = 0
        """Bytes of the reply."""
        self._looked = 0
        """Bytes that looking at keys counts for, of which nothing is in the reply."""
        self._kept: list[tuple[Item, bytes | bytearray]] = []
        """What keeps its value, which appending extends in place: the new item goes on with it.
        (Whatever its type, which is another one after a snapshot, where an item is encoded.)"""
        self._succeeded: dict[int, bool] = {}
        """By the identity of each transaction that is reached: which branch is taken."""

    def run(self, txn: Txn) -> Result:
        """Raises `Refusal`, with nothing changed."""
        try:
            self._decide(txn)
            self._check(txn)
            result = self._txn(txn)
            self._commit()
        except Refusal:
            self._room.waste(self._looked + self._taken_up)
            raise
        return result

    def run_alone(self, operation: PutItem | DeleteRange) -> Result:
        """The same for an operation outside of any transaction."""
        self._check_one(operation)
        result = self._execute(operation)
        self._commit()
        return result

    def _commit(self) -> None:
        if self._looked:
            self._room.spend(self._taken_up + self._looked)
            self._looked = self._taken_up = 0
        elif self._taken_up:
            self._room.take(self._taken_up)
        self._state.commit(self._view.changes)
        for item, value in self._kept:
            item.value = Prefix(value, len(value))  # type: ignore[assignment]

    def _take(self, size: int) -> None:
        """So much goes into the reply."""
        if self._taken_up and self._taken_up + size > self._bounds.max_reply_bytes:
            raise Refusal(
                f"its results would be longer than {self._bounds.max_reply_bytes} bytes: read less",
                "large",
            )
        self._taken_up += size

    def _look(self, keys: int) -> None:
        """So many keys are looked at that are not in the reply."""
        self._looked += LOOK_BYTES * keys
        if self._looked > _MOST_LOOKED:
            raise Refusal("it looks at too many keys: do it in parts", "large")

    @property
    def _revision(self) -> int:
        """The store's, as far as this has got."""
        return self._next if self._view.changes else self._next - 1

    # --- comparisons, all of them before anything is done ------------------------------------

    def _decide(self, txn: Txn) -> None:
        succeeded = all(self._compare(compare) for compare in txn.compare)
        self._succeeded[id(txn)] = succeeded
        for operation in txn.then if succeeded else txn.otherwise:
            if type(operation) is Txn:
                self._decide(operation)

    def _compare(self, compare: Compare) -> bool:
        state, end = self._state, compare.end
        if end is None:
            item = state.data.get(compare.key)
            found = [] if item is None else [item]
            self._compared += 1
        else:
            self._room.look()
            count = state.now.count(compare.key, end)
            self._compared += count
            self._look(count)
            if self._compared <= MAX_COMPARED:
                found = list(state.now.items(compare.key, end, backward=False))
        if self._compared > MAX_COMPARED:
            raise Refusal(f"it compares more than {MAX_COMPARED} keys", "large")
        if not found:
            return compare.target != "value" and _holds(compare, 0)
        return all(_holds(compare, _operand(item, compare)) for item in found)

    # --- what would make it fail, before anything is done ------------------------------------

    def _check(self, txn: Txn) -> None:
        for operation in self._taken(txn):
            if type(operation) is Txn:
                self._check(operation)
            else:
                self._check_one(operation)

    def _taken(self, txn: Txn) -> list[Inner]:
        return txn.then if self._succeeded[id(txn)] else txn.otherwise

    def _check_one(self, operation: Inner) -> None:
        match operation:
            case PutItem():
                check_put(self._state, self._bounds, operation)
            case Put(key, value):
                self._bounds.check_key(key)
                self._bounds.check_value(len(value))
            case Range():
                self._state.check_revision(operation.revision)
            case Get() | Delete() | DeleteRange() | Txn():
                pass  # these fail for no reason of their own
            case _:
                assert_never(operation)

    # --- doing it, on the side ---------------------------------------------------------------

    def _txn(self, txn: Txn) -> Result:
        results = [
            self._txn(operation) if type(operation) is Txn else self._execute(operation)
            for operation in self._taken(txn)
        ]
        return [self._succeeded[id(txn)], self._revision, results]

    def _execute(self, operation: Inner) -> Result:
        match operation:
            case Put(key, value):
                self._put(key, value, 0)
                return self._next
            case PutItem():
                return self._put_item(operation)
            case Get(key):
                item = self._view.get(key)
                if item is None:
                    return None
                self._take(value_bytes(item.value) + ROW_BYTES)
                return as_bytes(item.value)
            case Delete(key):
                item = self._view.get(key)
                if item is not None:
                    self._view.changes[key] = None
                return item is not None
            case DeleteRange():
                return self._delete_range(operation)
            case Range():
                return self._range(operation)
            case Txn():
                raise AssertionError("a transaction is carried out by _txn")

    def _put(self, key: bytes, value: bytes, lease: int) -> Item | None:
        before = self._view.get(key)
        if before is None:
            item = Item(key, value, self._next, self._next, 1, lease)
        else:
            item = Item(before.key, value, before.created, self._next, before.version + 1, lease)
        self._view.changes[item.key] = item
        return before

    def _put_item(self, put: PutItem) -> Result:
        before = self._view.get(put.key)
        value, lease = put.value, put.lease
        if before is not None:
            if value is None:
                value = before.value  # not copied: that may be megabytes for each of many
                if len(value) >= SHORT_VALUE:
                    self._kept.append((before, value))
            lease = before.lease if lease is None else lease
        assert value is not None and lease is not None  # checked
        self._put(put.key, value, lease)
        if not put.previous or before is None:
            return [self._revision, None]
        self._take(value_bytes(before.value) + ROW_BYTES)
        return [self._revision, row(before)]

    def _delete_range(self, delete: DeleteRange) -> Result:
        view: View = self._view
        if delete.end is None:
            item = view.get(delete.key)
            found = [] if item is None else [item]
        else:
            self._look(view.looks(delete.key, delete.end))
            count = view.count(delete.key, delete.end)
            if count > MAX_REVISION_EVENTS:
                raise Refusal(
                    f"it would delete {count} keys at once; at most {MAX_REVISION_EVENTS} are "
                    "allowed: do it in parts",
                    "large",
                )
            found = list(view.items(delete.key, delete.end, backward=False))
        self._take(ROW_BYTES * max(1, len(found)))
        previous = None
        if delete.previous:
            self._take(sum(len(item.key) + value_bytes(item.value) for item in found))
            previous = [row(item) for item in found]
        for item in found:
            self._view.changes[item.key] = None
        return [self._revision, len(found), previous]

    def _range(self, wanted: Range) -> Result:
        bounds = self._bounds
        view = self._state.at(wanted.revision) if wanted.revision else self._view
        self._room.look()
        try:
            page = read_range(
                view, wanted, max_items=bounds.max_scan_items, max_bytes=bounds.max_reply_bytes
            )
        except Refusal:
            self._looked += looked_in_vain(view, wanted)
            raise
        self._look(page.looked // LOOK_BYTES)
        if page.rest is not None:
            self._looked += page.work
            raise Refusal(
                "a range of the transaction is too large for one reply: read it outside, or less "
                "of it",
                "large",
            )
        self._take(page.work)
        return [self._revision, page.count, page.more, page.rows, None]


def _operand(item: Item, compare: Compare) -> bytes | int:
    if compare.target == "value":
        return item.value  # compared as it is: a copy of megabytes for each of many takes long
    found: int = getattr(item, compare.target)
    return found


def _holds(compare: Compare, found: bytes | int) -> bool:
    return _RELATIONS[compare.relation](found, compare.operand)
