"""One try of `transact`: what it has read, and what it writes if that still holds."""

from __future__ import annotations

from typing import TypeVar

from paxon.kvstore.client.arguments import Key, Value, as_text, check_key
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.client.calls.calls import Call, Delete, Put, Range, Steps, Txn
from paxon.kvstore.client.calls.conditions import Condition, Conditions
from paxon.kvstore.client.calls.keys import Bounds, Leased, span_of
from paxon.kvstore.errors import Conflict, InvalidRequest, LockLost
from paxon.kvstore.store.operations import Compare, PutItem, Result
from paxon.kvstore.store.operations import Put as WirePut
from paxon.kvstore.store.spans import contains

__all__ = ["Commit", "Draft"]

T = TypeVar("T")


class Commit(Call[T]):
    """A draft as one transaction. Result: the value of the function that made it."""

    __slots__ = ("_guarded", "_txn", "_value")

    def __init__(self, guards: Conditions, txn: Txn, value: T) -> None:
        self._guarded = bool(guards)
        self._txn, self._value = Txn(guards, [txn]) if guards else txn, value
        super().__init__(self._txn.operation)

    def answer(self, result: Result) -> T:
        """Raises `LockLost`: what guards it is gone; `Conflict`: what was read has changed."""
        done = self._txn.answer(result)
        if self._guarded:
            if not done.succeeded:
                raise LockLost("what guards the transaction is no longer true: nothing was written")
            done = done.results[0]
        if done.succeeded:
            return self._value
        raise Conflict("what the transaction reads was changed meanwhile: nothing was written")


class Draft:
    """All reads are of the revision of the first; a key's value is seen as written here."""

    def __init__(self, guards: Conditions) -> None:
        self._guards = guards
        self._revision = 0
        self._seen: dict[bytes, int] = {}
        """Keys read, and the revisions of their last writes; 0: missing."""
        self._spans: list[tuple[bytes, bytes | None]] = []
        self._writes: dict[bytes, Put | Delete] = {}
        self._over = False

    def put(self, key: Key, value: Value, *, lease: Leased | int | None = None) -> None:
        """Set a key's value when this is committed."""
        self._write(key, Put(key, value, lease=lease))

    def delete(self, key: Key) -> None:
        """Remove a key when this is committed."""
        self._write(key, Delete(key))

    def _write(self, key: Key, call: Put | Delete) -> None:
        if self._over:
            raise InvalidRequest(
                "the transaction is over, so this would be lost: write before its function returns"
            )
        self._writes[check_key(key)] = call

    def _commit(self, value: T) -> Commit[T] | None:
        """The transaction, which succeeds if nothing that was read has changed; None: nothing."""
        self._over = True
        if not self._writes and not self._guards:
            return None
        compares = [
            Compare(key, "modified", "=", modified) for key, modified in self._seen.items()
        ] + [Compare(key, "modified", "<", self._revision + 1, end) for key, end in self._spans]
        txn = Txn(list(map(Condition, compares)), list(self._writes.values()))
        return Commit(self._guards, txn, value)

    def _get(self, key: Key) -> Steps[bytes | None]:
        written = self._writes.get(check_key(key))
        if written is None:
            entry = yield from self._entry(key)
            return None if entry is None else entry.value
        match written.operation:
            case WirePut(_, value) | PutItem(_, bytes(value)):
                return value
            case _:
                return None

    def _entry(self, key: Key) -> Steps[Entry | None]:
        found = yield from Range(key, revision=self._revision).steps()
        self._revision = self._revision or found.revision
        entry = next(iter(found), None)
        self._seen[check_key(key)] = 0 if entry is None else entry.modified
        return entry

    def _range(self, prefix: Key | None, bounds: Bounds | None) -> Steps[list[Entry]]:
        span = span_of(None, prefix, bounds)
        for key in self._writes:
            if contains(*span, key):
                raise InvalidRequest(
                    f"read a range before you write into it: {as_text(key)!r} was written already"
                )
        found = yield from Range(prefix=prefix, range=bounds, revision=self._revision).steps()
        self._revision = self._revision or found.revision
        self._spans.append(span)
        for entry in found:
            self._seen[check_key(entry.key)] = entry.modified
        return found.entries
