"""Methods of `Client` that follow from the calls; `async_faces` has their twins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.arguments import Key
from paxon.kvstore.client.calls.answers import Entry, RangeResult, TxnResult
from paxon.kvstore.client.calls.calls import (
    Call,
    Compact,
    Delete,
    GetEntry,
    GetMany,
    Increment,
    PutMany,
    Range,
    SortBy,
    Steps,
    Txn,
    TxnOperation,
)
from paxon.kvstore.client.calls.comparing import Comparing
from paxon.kvstore.client.calls.conditions import Conditions, compares_of
from paxon.kvstore.client.calls.drafts import Draft
from paxon.kvstore.client.calls.keys import Bounds, Leased, Values
from paxon.kvstore.client.calls.tries import pause_before_next
from paxon.kvstore.client.checks import call_plain, check_mode, check_timeout
from paxon.kvstore.errors import Compacted, Conflict

__all__ = ["StoreCalls", "Transaction"]

T = TypeVar("T")


class StoreCalls(Comparing):
    """Reads and writes besides `get`, `put` and their like."""

    _timeout: float

    def _run(self, steps: Steps[T], until: float, mode: ReadMode, call: Call[T] | None = None) -> T:
        """Ask for one step after the other; `call`: whose answer a retry returns."""
        raise NotImplementedError

    def _do(self, call: Call[T], timeout: float | None, mode: ReadMode = "linearizable") -> T:
        until = time.monotonic() + check_timeout(timeout, self._timeout)
        return self._run(call.steps(), until, check_mode(mode), call)

    def entry(
        self,
        key: Key,
        *,
        revision: int = 0,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> Entry | None:
        """The key with its value, revisions, version and lease; None if it is missing.

        Args:
            key: the key.
            revision: as it was after this one; 0: as it is.
            mode: see `get`.
            timeout: seconds.

        Raises:
            Compacted: history does not reach back to that revision; `oldest` is the first it has.
            FutureRevision: the store has not come to it.
        """
        return self._do(GetEntry(key, revision), timeout, mode)

    def range(
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
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> RangeResult:
        """The entries with a prefix or in a range, of one moment; see `Range` and `entry`.

        A long answer comes in parts and is handed over whole.
        """
        call = Range(
            key, prefix=prefix, range=range, limit=limit, sort=sort, reverse=reverse,
            revision=revision, keys_only=keys_only, count_only=count_only,
            min_modified=min_modified, max_modified=max_modified,
            min_created=min_created, max_created=max_created,
        )  # fmt: skip
        return self._do(call, timeout, mode)

    def get_many(
        self,
        keys: Iterable[Key],
        *,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> dict[str, bytes | None]:
        """The values of many keys at one moment, None for one that is missing."""
        return self._do(GetMany(keys), timeout, mode)

    def put_many(
        self,
        values: Values,
        *,
        lease: Leased | int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Set many keys in one revision, which is returned; all of them or none.

        Raises `TooLarge` beyond 10,000 keys, or 24 MiB with what they replace.
        """
        return self._do(PutMany(values, lease=lease), timeout)

    def delete_prefix(self, prefix: Key, *, timeout: float | None = None) -> int:
        """Remove all keys with a prefix in one revision; how many there were.

        Raises `TooLarge` beyond 10,000 keys or 24 MiB: remove them in parts.
        """
        return self._do(Delete(prefix=prefix), timeout)

    def delete_range(
        self, first: Key | None, end: Key | None, *, timeout: float | None = None
    ) -> int:
        """Remove the keys from `first` up to but without `end`; see `delete_prefix`."""
        return self._do(Delete(range=(first, end)), timeout)

    def increment(self, key: Key, by: int = 1, *, timeout: float | None = None) -> int:
        """Add to a value that is a whole number in decimal (missing: 0); the sum."""
        return self._do(Increment(key, by), timeout)

    def compact(self, revision: int, *, timeout: float | None = None) -> int:
        """Forget history before a revision; the oldest that can be read then.

        Raises:
            Compacted: it has been forgotten already.
            FutureRevision: the store has not come to it.
        """
        return self._do(Compact(revision), timeout)

    def txn(
        self,
        if_: Conditions = (),
        then: Sequence[TxnOperation] = (),
        else_: Sequence[TxnOperation] = (),
        *,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> TxnResult:
        """If all conditions hold do `then`, else `else_`; all of it or nothing, in one revision.

            kv.txn(if_=[kv.modified("motto") == 7], then=[Put("motto", "x")], else_=[Get("motto")])

        Raises:
            InvalidRequest: a key is written twice, or the like; nothing was sent.
            TooLarge: too much for one transaction; nothing was changed.
            LeaseExpired: a lease is gone; nothing was changed.
            Compacted, FutureRevision: of a revision that a range in it names; the same.
            RequestTimeout: the outcome is unknown; `retry` finds it out.
        """
        return self._do(Txn(if_, then, else_), timeout, mode)

    def transact(
        self,
        function: Callable[[Transaction], T],
        *,
        if_: Conditions = (),
        timeout: float | None = None,
    ) -> T:
        """Have a function read and write as if nobody else did; what it returns.

            kv.transact(lambda t: t.put("n", str(int(t.get("n") or 0) + 1)))
            kv.transact(next_release, if_=[held])  # guarded by a lock that is held

        What it writes is written if nothing that it read has changed, in one revision; else it is
        called again. So it must do nothing else. It is never called again after an unknown outcome.

        Args:
            function: what to do; it is given the transaction.
            if_: what has to hold besides when it is written, as of `txn`.
            timeout: seconds.

        Raises:
            LockLost: what `if_` says does not hold; nothing was written.
            Conflict: it was changed again and again until the time was up; nothing was written.
            RequestTimeout: the outcome is unknown; `retry` finds it out.
        """
        compares_of(if_)
        begun = time.monotonic()
        until = begun + check_timeout(timeout, self._timeout)
        tries = 0
        while True:
            transaction = Transaction(self, if_, until)
            try:
                value = call_plain("what transact calls", function, transaction)
            except Compacted:
                pass  # what was read first went meanwhile
            else:
                commit = transaction._commit(value)
                with contextlib.suppress(Conflict):
                    if commit is None:
                        return value
                    return self._run(commit.steps(), until, "linearizable", commit)
            tries += 1
            now = time.monotonic()
            time.sleep(pause_before_next(tries, now - begun, until - now))


class Transaction(Draft):
    """The transaction that `Client.transact` hands to its function."""

    def __init__(self, client: StoreCalls, guards: Conditions, until: float) -> None:
        super().__init__(guards)
        self._client = client
        self._until = until

    def get(self, key: Key) -> bytes | None:
        """A key's value, as written here or as it is."""
        return self._client._run(self._get(key), self._until, "linearizable")

    def entry(self, key: Key) -> Entry | None:
        """A key as it was before this transaction."""
        return self._client._run(self._entry(key), self._until, "linearizable")

    def range(self, *, prefix: Key | None = None, range: Bounds | None = None) -> list[Entry]:  # noqa: A002
        """The entries of a prefix or range, before anything is written to it here."""
        return self._client._run(self._range(prefix, range), self._until, "linearizable")
