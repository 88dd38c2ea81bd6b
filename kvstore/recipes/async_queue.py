"""`AsyncQueue` and `AsyncPriorityQueue`: for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from paxon.kvstore.client.arguments import Key, Value
from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.client.calls.calls import TxnOperation
from paxon.kvstore.client.leases.async_lease import AsyncLease, go_on
from paxon.kvstore.client.leases.keeping import LAST_SECONDS
from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.client.watches.async_watch import AsyncWatch
from paxon.kvstore.client.watches.events import Quiet
from paxon.kvstore.errors import Compacted, LeaseExpired, LockLost, NotAcquired, PaxonError
from paxon.kvstore.recipes.async_taking import take, under_lease
from paxon.kvstore.recipes.contests import time_left, until_of
from paxon.kvstore.recipes.held import AsyncHeld
from paxon.kvstore.recipes.queues import (
    Claim,
    Claimed,
    Enqueue,
    Finish,
    Found,
    Line,
    Peek,
)

__all__ = ["AsyncPriorityQueue", "AsyncQueue", "AsyncQueueItem"]


class AsyncQueueItem(AsyncHeld):
    """The twin of `QueueItem`."""

    def __init__(
        self, kv: AsyncClient, line: Line, lease: AsyncLease, fence: int, entry: Entry
    ) -> None:
        self._claimed = Claimed(line, entry.key)
        super().__init__(kv, self._claimed, lease, fence)
        self._settled = False
        self.value = entry.value
        """What was put."""

    async def done(self, then: Sequence[TxnOperation] = (), *, timeout: float | None = None) -> int:
        """Remove it from the queue, and do `then`, in one revision; see `QueueItem.done`."""
        finish = Finish(self, self._claimed, then)
        self._settled = True
        return await self._kv._do(finish, timeout)

    async def release(self, *, timeout: float | None = None) -> None:
        """Give it back, in its old place; see `QueueItem.release`."""
        self._settled = True
        await super().release(timeout=timeout)

    async def __aexit__(self, *failure: object) -> None:
        """It is done, or goes back if the block raised, or has been let go of."""
        if any(failure):
            await super().__aexit__(*failure)
        elif not self._settled:
            try:
                await self.done()
            except asyncio.CancelledError:  # the work was done; once more if that was not said
                await asyncio.shield(go_on(self.done(timeout=LAST_SECONDS)))
                raise


class AsyncQueue:
    """The twin of `Queue`. Any task may use it."""

    _kind: Literal["queue", "priority queue"] = "queue"

    def __init__(self, kv: AsyncClient, name: Key, *, ttl: float) -> None:
        self._kv = kv
        self._line = Line(name, self._kind, ttl)

    @property
    def name(self) -> str:
        """Its name."""
        return self._line.name

    async def put(self, value: Value, *, timeout: float | None = None) -> int:
        """Put an item at the end; see `Queue.put`."""
        return await self._kv._do(Enqueue(self._line.items, [value]), timeout)

    async def put_many(self, values: Iterable[Value], *, timeout: float | None = None) -> int:
        """Put items at the end, in this order; see `Queue.put_many`."""
        return await self._kv._do(Enqueue(self._line.items, values), timeout)

    async def get(self, *, timeout: float | None = None) -> AsyncQueueItem:
        """Have the first item that nobody has; see `Queue.get`. A task that is cancelled gives up.

        async with await queue.get() as item:
            await work(item.value)
        """
        until = until_of(timeout)
        while True:
            with contextlib.suppress(LeaseExpired, LockLost):  # nothing was held: begin again
                number = new_id()
                lease, found = await under_lease(
                    self._kv, self._line.ttl, number, Claim(self._line, number),
                    partial(self._claim, until),
                )  # fmt: skip
                assert found.item is not None
                return AsyncQueueItem(self._kv, self._line, lease, found.revision, found.item)

    async def peek(self, *, timeout: float | None = None) -> bytes | None:
        """The value of the first item that nobody has; None if there is none."""
        return (await self._kv._do(Peek(self._line), timeout))[1]

    async def size(self, *, timeout: float | None = None) -> int:
        """How many items there are, those that somebody has included."""
        return (await self._kv._do(Peek(self._line), timeout))[0]

    async def _claim(self, until: float, lease: AsyncLease, found: Found) -> Found:
        claim = Claim(self._line, lease.id)
        while found.item is None:
            left = self._line.time_left(until)
            try:
                turn, _ = await take(self._kv, self._line.turn, b"", left)
            except NotAcquired:
                continue  # the time is up
            try:
                found = await self._wait(claim, until)
            finally:
                with contextlib.suppress(PaxonError):
                    await turn.revoke(timeout=LAST_SECONDS)
        lease.check()
        return found

    async def _wait(self, claim: Claim, until: float) -> Found:
        """Claim one as soon as there is one; of those that wait, one alone does so."""
        kv, line = self._kv, self._line
        found = await kv._do(claim, None)
        while found.item is None:
            line.time_left(until)
            news = line.news(found.revision)
            with contextlib.suppress(Quiet, Compacted):
                async with AsyncWatch(kv._core, kv._driver, news, None) as watch:
                    while not line.may_have_item(await watch.batch(time_left(until))):
                        pass
            found = await kv._do(claim, None)
        return found


class AsyncPriorityQueue(AsyncQueue):
    """The twin of `PriorityQueue`."""

    _kind: Literal["queue", "priority queue"] = "priority queue"

    async def put(self, value: Value, priority: int = 100, *, timeout: float | None = None) -> int:
        """Put an item behind those of the same priority, from 0 (first) to 65,535."""
        return await self._kv._do(Enqueue(self._line.priority(priority), [value]), timeout)

    async def put_many(
        self, values: Iterable[Value], priority: int = 100, *, timeout: float | None = None
    ) -> int:
        """Put items of one priority, in this order; see `Queue.put_many`."""
        return await self._kv._do(Enqueue(self._line.priority(priority), values), timeout)
