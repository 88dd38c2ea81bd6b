"""`AsyncWatch`: what happens to keys, for asyncio."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Self

import msgspec

from paxon.kvstore.client.async_driver import AsyncDriver, limited
from paxon.kvstore.client.checks import check_wait
from paxon.kvstore.client.core import ClientCore
from paxon.kvstore.client.watches.events import Event, Quiet, Told
from paxon.kvstore.errors import ClientClosed
from paxon.kvstore.store.operations import Events, Result

__all__ = ["AsyncWatch"]


class AsyncWatch:
    """An asynchronous iterator over events; see `Watch`. Made by `AsyncClient.watch`."""

    def __init__(
        self,
        core: ClientCore,
        driver: AsyncDriver,
        wanted: Events,
        now: Callable[[], Awaitable[int]] | None,
    ) -> None:
        """`now`: reads the revision after which to begin, when the watch is entered or read."""
        self._core, self._driver = core, driver
        self._wanted, self._now = wanted, now
        self._told: Told | None = None
        self._closed = False
        self._end: Callable[[], object] = bool

    @property
    def revision(self) -> int:
        """Every event up to this revision was told; see `Watch.revision`. 0: it has not begun."""
        return self._wanted.after if self._told is None else self._told.revision

    async def _begin(self) -> Told:
        """Begin, if it has not: before anything that its caller does next."""
        wanted = self._wanted
        if self._told is None and self._now is not None:
            wanted = msgspec.structs.replace(wanted, after=await self._now())
            self._check()  # (it may have been closed meanwhile)
        if self._told is None:
            self._driver.enter()
            watched = self._core.start_watch(wanted)
            self._driver.plan_pump()
            self._told = Told(watched)
            self._end = weakref.finalize(self, self._core.watches.abandon, watched).detach
        return self._told

    def _check(self) -> None:
        if self._closed:
            raise ClientClosed("the watch is closed")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event. Ends when the watch is closed; raises as `next` does."""
        try:
            return await self.next()
        except ClientClosed:
            if self._closed:
                raise StopAsyncIteration from None
            raise

    async def next(self, timeout: float | None = None) -> Event:
        """Wait for the next event; see `Watch.next`. One that is cancelled takes none along."""
        return (await self._wait(timeout)).next_event()

    async def batch(self, timeout: float | None = None) -> list[Event]:
        """Wait until something happens: all events that have come, of whole revisions."""
        return (await self._wait(timeout)).rest_of_revisions()

    @property
    def looked(self) -> Result:
        """See `Watch.looked`."""
        return None if self._told is None else self._told.looked

    async def close(self) -> None:
        """End the watch; may be called twice. Those that wait for it see its end."""
        self._closed = True
        if self._told is not None and self._end():
            self._core.watches.drop(self._told.watched, ClientClosed("the watch is closed"))
            self._driver.plan_pump()

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _wait(self, timeout: float | None) -> Told:
        """Return once there is an event that was not told yet."""
        timeout = check_wait(timeout)
        self._check()
        told = await self._begin()
        if told:
            return told
        watched = told.watched
        ticket = self._core.next_answer(watched, now=self._driver.enter(), deadline=math.inf)
        self._driver.plan_pump()
        try:
            async with limited(asyncio.timeout(timeout)):
                await self._driver.wait(ticket)
        except TimeoutError:
            if not ticket.done:
                raise Quiet(
                    f"nothing has happened within {timeout:g} s; the watch goes on"
                ) from None
        finally:  # also where the task is cancelled: what has come by then is kept
            if told.settle(self._core.watches):
                self._driver.plan_pump()
        if told.error is not None:
            await self.close()  # it cannot go on
            raise told.error
        return told
