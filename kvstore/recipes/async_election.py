"""`AsyncElection`: for asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from paxon.kvstore.client.arguments import Key, Value
from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.checks import call_async
from paxon.kvstore.recipes.async_taking import take
from paxon.kvstore.recipes.contests import (
    Contender,
    Contest,
    Statement,
    check_proposal,
    first_of,
)
from paxon.kvstore.recipes.held import AsyncHeld
from paxon.kvstore.recipes.observing import AsyncObservation

__all__ = ["AsyncElection", "AsyncLeadership"]

T = TypeVar("T")


class AsyncLeadership(AsyncHeld):
    """The twin of `Leadership`."""

    async def proclaim(self, value: Value, *, timeout: float | None = None) -> int:
        """Let all know another value; see `Leadership.proclaim`."""
        statement = Statement(self, check_proposal(value), self._contest.lost)
        return await self._kv._do(statement, timeout)

    async def resign(self, *, timeout: float | None = None) -> None:
        """Stop leading: the next one does. May be called again, such as after `RequestTimeout`."""
        await self.release(timeout=timeout)


class AsyncElection:
    """The twin of `Election`. Any task may use it."""

    def __init__(self, kv: AsyncClient, name: Key, *, ttl: float) -> None:
        self._kv = kv
        self._contest = Contest(name, "election", ttl)

    @property
    def name(self) -> str:
        """Its name."""
        return self._contest.name

    async def campaign(self, value: Value, *, timeout: float | None = None) -> AsyncLeadership:
        """Wait until one leads; see `Election.campaign`. A task that is cancelled leaves nothing.

        async with await kv.election("cron").campaign("worker 7") as leading:
            ...
        """
        lease, fence = await take(self._kv, self._contest, check_proposal(value), timeout)
        return AsyncLeadership(self._kv, self._contest, lease, fence)

    async def run(
        self,
        function: Callable[[AsyncLeadership], Awaitable[T]],
        value: Value = "leader",
        *,
        timeout: float | None = None,
    ) -> T:
        """Campaign, await the function while one leads, and resign; see `Election.run`."""
        async with await self.campaign(value, timeout=timeout) as leading:
            return await call_async("what an election runs", function, leading)

    async def leader(self, *, timeout: float | None = None) -> Contender | None:
        """The leader; None: there is none."""
        return first_of(await self.contenders(timeout=timeout))

    async def contenders(self, *, timeout: float | None = None) -> list[Contender]:
        """The leader, then those who wait to lead, in their order."""
        found = await self._kv._do(self._contest.all(), timeout)
        return self._contest.contenders(found)

    def observe(self) -> AsyncObservation[Contender | None]:
        """The leader now, and then each change; see `Election.observe`."""
        return AsyncObservation(self._kv, self._contest, first_of)
