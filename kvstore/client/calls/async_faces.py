"""Methods of `AsyncClient` that follow from the calls; see `faces`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
from paxon.kvstore.client.checks import call_async, check_mode, check_timeout
from paxon.kvstore.errors import Compacted, Conflict

__all__ = ["AsyncStoreCalls", "AsyncTransaction"]

T = TypeVar("T")


class AsyncStoreCalls(Comparing):
    """Reads and writes besides `get`, `put` and their like."""

    _timeout: float

    async def _run(
        self, steps: Steps[T], until: float, mode: ReadMode, call: Call[T] | None = None
    ) -> T:
        """Ask for one step after the other; `call`: whose answer a retry returns."""
        raise NotImplementedError

    async def _do(self, call: Call[T], timeout: float | None, mode: ReadMode = "linearizable") -> T:
        until = time.monotonic() + check_timeout(timeout, self._timeout)
        return await self._run(call.steps(), until, check_mode(mode), call)

    async def entry(
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
        return await self._do(GetEntry(key, revision), timeout, mode)

    async def range(
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
        """The entries with a prefix or in a range, of one moment; see `Client.range`."""
        call = Range(
            key, prefix=prefix, range=range, limit=limit, sort=sort, reverse=reverse,
            revision=revision, keys_only=keys_only, count_only=count_only,
            min_modified=min_modified, max_modified=max_modified,
            min_created=min_created, max_created=max_created,
        )  # fmt: skip
        return await self._do(call, timeout, mode)

    async def get_many(
        self,
        keys: Iterable[Key],
        *,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> dict[str, bytes | None]:
        """The values of many keys at one moment, None for one that is missing."""
        return await self._do(GetMany(keys), timeout, mode)

    async def put_many(
        self,
        values: Values,
        *,
        lease: Leased | int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Set many keys in one revision; see `Client.put_many`."""
        return await self._do(PutMany(values, lease=lease), timeout)

    async def delete_prefix(self, prefix: Key, *, timeout: float | None = None) -> int:
        """Remove all keys with a prefix; see `Client.delete_prefix`."""
        return await self._do(Delete(prefix=prefix), timeout)

    async def delete_range(
        self, first: Key | None, end: Key | None, *, timeout: float | None = None
    ) -> int:
        """Remove the keys from `first` up to but without `end`; see `delete_prefix`."""
        return await self._do(Delete(range=(first, end)), timeout)

    async def increment(self, key: Key, by: int = 1, *, timeout: float | None = None) -> int:
        """Add to a value that is a whole number in decimal (missing: 0); the sum."""
        return await self._do(Increment(key, by), timeout)

    async def compact(self, revision: int, *, timeout: float | None = None) -> int:
        """Forget history before a revision; see `Client.compact`."""
        return await self._do(Compact(revision), timeout)

    async def txn(
        self,
        if_: Conditions = (),
        then: Sequence[TxnOperation] = (),
        else_: Sequence[TxnOperation] = (),
        *,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> TxnResult:
        """Conditions, and what is done if they hold or not; see `Client.txn`."""
        return await self._do(Txn(if_, then, else_), timeout, mode)

    async def transact(
        self,
        function: Callable[[AsyncTransaction], Awaitable[T]],
        *,
        if_: Conditions = (),
        timeout: float | None = None,
    ) -> T:
        """Have an async function read and write as if nobody else did; see `Client.transact`."""
        compares_of(if_)
        begun = time.monotonic()
        until = begun + check_timeout(timeout, self._timeout)
        tries = 0
        while True:
            transaction = AsyncTransaction(self, if_, until)
            try:
                value = await call_async("what transact calls", function, transaction)
            except Compacted:
                pass  # what was read first went meanwhile
            else:
                commit = transaction._commit(value)
                with contextlib.suppress(Conflict):
                    if commit is None:
                        return value
                    return await self._run(commit.steps(), until, "linearizable", commit)
            tries += 1
            now = time.monotonic()
            await asyncio.sleep(pause_before_next(tries, now - begun, until - now))


class AsyncTransaction(Draft):
    """The transaction that `AsyncClient.transact` hands to its function."""

    def __init__(self, client: AsyncStoreCalls, guards: Conditions, until: float) -> None:
        super().__init__(guards)
        self._client = client
        self._until = until

    async def get(self, key: Key) -> bytes | None:
        """A key's value, as written here or as it is."""
        return await self._client._run(self._get(key), self._until, "linearizable")

    async def entry(self, key: Key) -> Entry | None:
        """The key with all that belongs to it, None if it is missing; see `Client.entry`."""
        return await self._client._run(self._entry(key), self._until, "linearizable")

    async def range(self, *, prefix: Key | None = None, range: Bounds | None = None) -> list[Entry]:  # noqa: A002
        """The entries of a prefix or range, before anything is written to it here."""
        return await self._client._run(self._range(prefix, range), self._until, "linearizable")
