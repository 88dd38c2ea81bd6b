"""`AsyncBarrier` and `AsyncDoubleBarrier`: for asyncio."""

from __future__ import annotations

import contextlib

from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.leases.async_lease import AsyncLease
from paxon.kvstore.client.leases.keeping import LAST_SECONDS
from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.errors import NotAcquired, PaxonError
from paxon.kvstore.recipes.async_taking import _run, under_lease
from paxon.kvstore.recipes.barriers import Hall, Unbound, meet, part
from paxon.kvstore.recipes.contests import until_of
from paxon.kvstore.recipes.held import AsyncHeld

__all__ = ["AsyncBarrier", "AsyncDoubleBarrier", "AsyncInside"]


class AsyncBarrier:
    """The twin of `Barrier`."""

    def __init__(self, kv: AsyncClient, hall: Hall) -> None:
        self._kv, self._hall = kv, hall

    @property
    def name(self) -> str:
        """Its name."""
        return self._hall.name

    async def wait(self, *, timeout: float | None = None) -> None:
        """Wait until as many are there as it is for; see `Barrier.wait`."""
        lease, (_, meeting) = await _meet(self._kv, self._hall, timeout)
        with contextlib.suppress(PaxonError):  # else it goes with its lease, or by whoever is next
            await lease.revoke(timeout=LAST_SECONDS)
            await _run(self._kv, self._hall, part(self._hall, meeting, wait=False), Unbound(), 0)

    async def waiting(self, *, timeout: float | None = None) -> int:
        """How many are there."""
        found = await self._kv._do(self._hall.all(), timeout)
        return len(self._hall.contenders(found))


class AsyncInside(AsyncHeld):
    """The twin of `Inside`."""

    def __init__(
        self, kv: AsyncClient, hall: Hall, lease: AsyncLease, fence: int, meeting: int
    ) -> None:
        super().__init__(kv, hall, lease, fence)
        self._hall, self._meeting = hall, meeting

    async def leave(self, *, timeout: float | None = None) -> None:
        """Leave, and wait until all have left or died; see `Inside.leave`."""
        until = until_of(timeout)
        await self.release()
        try:
            await _run(
                self._kv, self._hall, part(self._hall, self._meeting, wait=True), Unbound(), until
            )
        except NotAcquired:
            raise self._hall.left_late() from None

    async def __aexit__(self, *failure: object) -> None:
        if any(failure):
            await super().__aexit__(*failure)
        else:
            await self.leave()


class AsyncDoubleBarrier:
    """The twin of `DoubleBarrier`."""

    def __init__(self, kv: AsyncClient, hall: Hall) -> None:
        self._kv, self._hall = kv, hall

    @property
    def name(self) -> str:
        """Its name."""
        return self._hall.name

    async def enter(self, *, timeout: float | None = None) -> AsyncInside:
        """Wait until as many are there as it is for; see `Barrier.wait`.

        async with await kv.double_barrier("round", 3).enter() as inside:
            await work()
        """
        lease, (fence, meeting) = await _meet(self._kv, self._hall, timeout)
        return AsyncInside(self._kv, self._hall, lease, fence, meeting)


async def _meet(
    kv: AsyncClient, hall: Hall, timeout: float | None
) -> tuple[AsyncLease, tuple[int, int]]:
    until = until_of(timeout)
    number = new_id()
    plan = meet(hall, number)
    return await under_lease(
        kv, hall.ttl, number, next(plan),
        lambda lease, answer: _run(kv, hall, plan, lease, until, answer=answer),
    )  # fmt: skip
