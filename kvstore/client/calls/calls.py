"""Requests to the store: each checks what it is given, and knows what to make of the answer.

`Put`, `Get`, `Delete`, `Range` and `Txn` are also what a transaction is made of. Wrong types, sizes
and options raise `InvalidRequest` when a request is made, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from paxon.kvstore.client.arguments import Key, Value, as_text, check_key, check_value
from paxon.kvstore.client.calls.answers import (
    Entry,
    RangeResult,
    TxnResult,
    accepted,
    entry_of,
)
from paxon.kvstore.client.calls.conditions import Conditions, compares_of
from paxon.kvstore.client.calls.keys import (
    Bounds,
    Leased,
    Values,
    check_lease,
    check_number,
    span_of,
)
from paxon.kvstore.client.checks import check_flag
from paxon.kvstore.errors import Compacted, FutureRevision, InvalidRequest, TooLarge
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.operations import MAX_NUMBER, Operation, Result
from paxon.kvstore.store.ranges import ORDERS

__all__ = [
    "Call",
    "Compact",
    "Delete",
    "Get",
    "GetEntry",
    "GetMany",
    "Increment",
    "Put",
    "PutMany",
    "Range",
    "SortBy",
    "Steps",
    "Txn",
    "TxnOperation",
]

T = TypeVar("T")
SortBy: TypeAlias = Literal["key", "value", "version", "created", "modified"]
Steps: TypeAlias = Generator[Sequence[Operation], list[Result], T]
"""A generator: yields one request after the other, receives the answers, returns the result."""


class Call(Generic[T]):
    """One request to the store."""

    __slots__ = ("operation",)

    def __init__(self, operation: Operation) -> None:
        self.operation: Operation = operation

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {wire.operation_bytes(self.operation)} bytes>"

    def answer(self, result: Result) -> T:
        """Turn an operation's result into what callers get. Raises the error if it was refused."""
        answer: T = accepted(result)
        return answer

    def steps(self) -> Steps[T]:
        """How it is asked for alone."""
        [result] = yield (self.operation,)
        return self.answer(result)


class Put(Call[int]):
    """Set a key's value, with a lease or without. Result: the revision."""

    __slots__ = ()

    def __init__(self, key: Key, value: Value, *, lease: Leased | int | None = None) -> None:
        number = 0 if lease is None else check_lease(lease)
        encoded, data = check_key(key), check_value(value)
        super().__init__(wire.PutItem(encoded, data, number) if number else wire.Put(encoded, data))

    def answer(self, result: Result) -> int:
        revision: int | list[Any] = accepted(result)
        return revision if isinstance(revision, int) else revision[0]


class Get(Call["bytes | None"]):
    """Read a key's value. Result: the value, None if the key is missing."""

    __slots__ = ()

    def __init__(self, key: Key) -> None:
        super().__init__(wire.Get(check_key(key)))


class GetEntry(Call["Entry | None"]):
    """Read a key with all that belongs to it, as it was after `revision` (0: as it is)."""

    __slots__ = ()

    def __init__(self, key: Key, revision: int = 0) -> None:
        super().__init__(wire.Range(check_key(key), revision=check_number(revision, "revision")))

    def answer(self, result: Result) -> Entry | None:
        rows = accepted(result)[3]
        return entry_of(rows[0]) if rows else None


class Delete(Call[int]):
    """Remove a key, those with a prefix, or a range. Result: how many there were."""

    __slots__ = ()

    def __init__(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
    ) -> None:
        super().__init__(wire.DeleteRange(*span_of(key, prefix, range)))

    def answer(self, result: Result) -> int:
        deleted: int = accepted(result)[1]
        return deleted


class Increment(Call[int]):
    """Add to a value that is a whole number in decimal, a missing one counting as 0."""

    __slots__ = ()

    def __init__(self, key: Key, by: int = 1) -> None:
        if type(by) is not int or not -MAX_NUMBER <= by <= MAX_NUMBER:
            raise InvalidRequest(f"add an int of at most 63 bits, not {by!r}")
        super().__init__(wire.Increment(check_key(key), by))


class Compact(Call[int]):
    """Forget history before a revision. Result: the oldest revision that is kept."""

    __slots__ = ()

    def __init__(self, revision: int) -> None:
        super().__init__(wire.Compact(check_number(revision, "revision")))


class Range(Call[RangeResult]):
    """The entries of a key, a prefix or a range, of one moment. Result: `RangeResult`.

    Args:
        key: one key.
        prefix: all keys that begin so.
        range: all keys from the first on, up to but without the second; None: no bound.
        limit: at most so many entries; 0: all.
        sort: by what they are put in order; equal ones in the order of keys.
        reverse: the last ones first.
        revision: as it was after this one; 0: as it is.
        keys_only: leave out the values.
        count_only: leave out the entries: only `count` is asked for.
        min_modified, max_modified: only entries last written in these revisions, both included.
        min_created, max_created: the same of the revision that made the key.
    """

    __slots__ = ()
    operation: wire.Range

    def __init__(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        range: Bounds | None = None,  # noqa: A002
        limit: int = 0,
        sort: SortBy = "key",
        reverse: bool = False,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        min_modified: int = 0,
        max_modified: int = 0,
        min_created: int = 0,
        max_created: int = 0,
    ) -> None:
        first, end = span_of(key, prefix, range)
        if not isinstance(sort, str) or (sort != "key" and sort not in ORDERS):
            raise InvalidRequest(f"sort is by key, {', '.join(ORDERS)}, not {sort!r}")
        for flag, name in (
            (reverse, "reverse"),
            (keys_only, "keys_only"),
            (count_only, "count_only"),
        ):
            check_flag(name, flag)
        super().__init__(
            wire.Range(
                first, end,
                limit=check_number(limit, "limit"),
                revision=check_number(revision, "revision"),
                order=sort, backward=reverse, keys_only=keys_only, count_only=count_only,
                min_modified=check_number(min_modified, "min_modified"),
                max_modified=check_number(max_modified, "max_modified"),
                min_created=check_number(min_created, "min_created"),
                max_created=check_number(max_created, "max_created"),
            )
        )  # fmt: skip

    def answer(self, result: Result) -> RangeResult:
        revision, count, more, rows, rest = accepted(result)
        return RangeResult(list(map(entry_of, rows)), count, more or rest is not None, revision)

    def steps(self) -> Steps[RangeResult]:
        """A long one in parts, all of the revision of the first."""
        wanted = self.operation
        while True:
            try:
                return (yield from _parts(wanted))
            except (Compacted, FutureRevision):
                if wanted.revision:
                    raise
                # Its revision went meanwhile, or another server has not come to it: begin again.
            except TooLarge:
                if wanted.order == "key":
                    raise
                return (yield from _sorted_here(wanted))


def _parts(wanted: wire.Range) -> Steps[RangeResult]:
    [result] = yield (wanted,)
    revision, count, more, rows, rest = accepted(result)
    at, limit = wanted.revision or revision, wanted.limit
    while rest is not None and not (limit and len(rows) >= limit):
        key, end = (wanted.key, rest) if wanted.backward else (rest, wanted.end)
        left = limit - len(rows) if limit else 0
        part = msgspec.structs.replace(wanted, key=key, end=end, revision=at, limit=left)
        [result] = yield (part,)
        _, _, more, further, rest = accepted(result)
        rows += further
    return RangeResult(list(map(entry_of, rows)), count, more or rest is not None, revision)


def _sorted_here(wanted: wire.Range) -> Steps[RangeResult]:
    """The entries that are too many for a server to put in order in one reply."""
    sort_by = wanted.order
    plain = msgspec.structs.replace(wanted, order="key", backward=False, limit=0)
    found = yield from _parts(plain)
    entries = sorted(found, key=lambda entry: getattr(entry, sort_by), reverse=wanted.backward)
    limit = wanted.limit or len(entries)
    return RangeResult(entries[:limit], found.count, len(entries) > limit, found.revision)


class GetMany(Call["dict[str, bytes | None]"]):
    """Values of many keys at one moment; None for one that is missing."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key]) -> None:
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise InvalidRequest(f"give a list of keys, not {keys!r}")
        self._keys = [check_key(key) for key in keys]
        if len(self._keys) > wire.MAX_TXN_OPERATIONS:
            raise TooLarge(f"at most {wire.MAX_TXN_OPERATIONS} keys can be read at once")

    def steps(self) -> Steps[dict[str, bytes | None]]:
        """Read on where the first reply was full, in the revision of that reply."""
        while True:
            try:
                return (yield from self._at_one_revision())
            except (Compacted, FutureRevision):
                continue

    def _at_one_revision(self) -> Steps[dict[str, bytes | None]]:
        found: dict[str, bytes | None] = {}
        wanted: list[wire.Range] = [wire.Range(key) for key in self._keys]
        revision = 0
        while wanted:
            results = yield wanted
            late = []
            for asked, result in zip(wanted, results, strict=True):
                at, _, _, rows, _ = accepted(result)
                revision = revision or at
                if at != revision and not asked.revision:
                    late.append(wire.Range(asked.key, revision=revision))
                else:
                    found[as_text(asked.key)] = rows[0][1] if rows else None
            wanted = late
        return found


class PutMany(Call[int]):
    """Set many keys in one revision. Result: the revision."""

    __slots__ = ()

    def __init__(self, values: Values, *, lease: Leased | int | None = None) -> None:
        if not isinstance(values, Mapping):
            raise InvalidRequest(f"give a dict of values by key, not {type(values).__name__}")
        puts = [Put(key, value, lease=lease) for key, value in values.items()]
        super().__init__(Txn(then=puts).operation)

    def answer(self, result: Result) -> int:
        revision: int = accepted(result)[1]
        return revision


class Txn(Call[TxnResult]):
    """Conditions, and what is done if all of them hold (`then`) or not (`else_`). One revision.

    All conditions, also of transactions in it, are looked at before anything is done. A key may be
    written once in what is done.
    """

    __slots__ = ("_else", "_then")

    def __init__(
        self,
        if_: Conditions = (),
        then: Sequence[TxnOperation] = (),
        else_: Sequence[TxnOperation] = (),
    ) -> None:
        self._then, self._else = _operations(then, "then"), _operations(else_, "else_")
        inner: list[list[Any]] = [[call.operation for call in branch]
                                  for branch in (self._then, self._else)]  # fmt: skip
        try:
            self.operation = wire.Txn(compares_of(if_), *inner)
        except wire.LargeTxn as error:
            raise TooLarge(str(error)) from None
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    def answer(self, result: Result) -> TxnResult:
        succeeded, revision, results = accepted(result)
        branch = self._then if succeeded else self._else
        answers = [call.answer(each) for call, each in zip(branch, results, strict=True)]
        return TxnResult(succeeded, revision, answers)


TxnOperation: TypeAlias = Put | Get | Delete | Range | Txn
_IN_TXN = (Put, Get, Delete, Range, Txn)


def _operations(branch: Sequence[TxnOperation], name: str) -> list[TxnOperation]:
    if type(branch) is not list and (
        not isinstance(branch, Sequence) or isinstance(branch, str | bytes)
    ):
        raise InvalidRequest(f"{name} has to be a list of operations, not {branch!r}")
    for call in branch:
        if not isinstance(call, _IN_TXN):
            raise InvalidRequest(f"{name} takes Put, Get, Delete, Range and Txn, not {call!r}")
    return list(branch)
