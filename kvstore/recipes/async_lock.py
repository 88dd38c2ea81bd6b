"""`AsyncLock`, `AsyncSemaphore`, `AsyncRWLock`: for asyncio."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from paxon.kvstore.client.arguments import Key
from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.checks import check_flag
from paxon.kvstore.recipes.async_taking import take
from paxon.kvstore.recipes.contests import Contender, Contest, until_of
from paxon.kvstore.recipes.held import AsyncHeld, Entered
from paxon.kvstore.recipes.sharing import Permits, Sharing

__all__ = ["AsyncLock", "AsyncRWLock", "AsyncSemaphore"]


class AsyncLock:
    """The twin of `Lock`. Any task may use it."""

    _contest: Contest

    def __init__(
        self, kv: AsyncClient, contest: Contest, *, timeout: float | None, reentrant: bool = False
    ) -> None:
        until_of(timeout)
        check_flag("reentrant", reentrant)
        self._kv = kv
        self._contest = contest
        self._timeout = timeout
        self._reentrant = reentrant
        self._of_task: weakref.WeakKeyDictionary[asyncio.Task[Any], AsyncHeld] = (
            weakref.WeakKeyDictionary()
        )
        self._entered: Entered[AsyncHeld] = Entered()

    @property
    def name(self) -> str:
        """Its name."""
        return self._contest.name

    async def acquire(self, *, timeout: float | None = None) -> AsyncHeld:
        """Wait for one's turn; see `Lock.acquire`. A task that is cancelled leaves nothing."""
        me = _this_task()
        held = self._of_task.get(me)
        if held is not None and held._depth:
            await held.check()
            held._enter()
            return held
        wait = self._timeout if timeout is None else timeout
        lease, fence = await take(self._kv, self._contest, self._contest.value, wait)
        held = AsyncHeld(self._kv, self._contest, lease, fence)
        if self._reentrant:
            self._of_task[me] = held
        return held

    async def locked(self, *, timeout: float | None = None) -> bool:
        """Whether others hold it, so that whoever comes now has to wait."""
        return self._contest.waits(await self.contenders(timeout=timeout))

    async def holders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders."""
        return list(self._contest.holding(await self.contenders(timeout=timeout)))

    async def contenders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders, then those who wait, in their order."""
        found = await self._kv._do(self._contest.all(), timeout)
        return self._contest.contenders(found)

    async def __aenter__(self) -> AsyncHeld:
        held = await self.acquire()
        self._entered.add(_this_task(), held)
        return held

    async def __aexit__(self, *failure: object) -> None:
        """Release it; if that fails, it ends with its lease."""
        await self._entered.leave(_this_task()).__aexit__(*failure)


class AsyncSemaphore(AsyncLock):
    """The twin of `Semaphore`."""

    _contest: Permits

    @property
    def limit(self) -> int:
        """How many hold it at most."""
        return self._contest.limit


class AsyncRWLock:
    """The twin of `RWLock`."""

    def __init__(self, kv: AsyncClient, name: Key, *, ttl: float, timeout: float | None) -> None:
        self.read = AsyncLock(kv, Sharing(name, "read", ttl), timeout=timeout)
        """Held together with other readers."""
        self.write = AsyncLock(kv, Sharing(name, "write", ttl), timeout=timeout)
        """Held alone."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.read.name

    async def holders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders; see `RWLock.holders`."""
        return await self.read.holders(timeout=timeout)

    async def contenders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders, then those who wait, in their order."""
        return await self.read.contenders(timeout=timeout)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # a coroutine that awaits the store runs in one
    return task
