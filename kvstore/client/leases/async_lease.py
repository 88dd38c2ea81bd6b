"""Leases for asyncio: `AsyncClient.lease`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, TypeVar

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.calls.calls import Call
from paxon.kvstore.client.calls.keys import Leased, check_lease
from paxon.kvstore.client.checks import check_callable
from paxon.kvstore.client.leases.clock import boot_seconds
from paxon.kvstore.client.leases.keeping import (
    LAST_SECONDS,
    LEAST_SECONDS,
    Cared,
    Held,
    given_up,
    plan,
    renewing,
    take_answers,
)
from paxon.kvstore.client.leases.requests import (
    Grant,
    GrantFor,
    LeaseIds,
    LeaseInfo,
    ReadLease,
    Revoke,
    RevokeAll,
    new_id,
    renewal,
    still_alive,
)
from paxon.kvstore.errors import LeaseExpired, PaxonError, RequestTimeout

__all__ = ["AsyncLease", "AsyncLeaseCalls", "AsyncLost", "go_on"]

T = TypeVar("T")
_going_on: set[asyncio.Task[Any]] = set()
"""Held here, because the loop itself holds its tasks weakly."""


def go_on(work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
    """Run it in a task of its own, to be shielded: it goes on if nobody waits any more.

    Clients' errors are swallowed.
    """

    async def suppressed() -> None:
        with contextlib.suppress(PaxonError):
            await work

    task = asyncio.create_task(suppressed())
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    return task


class AsyncLost:
    """Set once a lease is lost; like `asyncio.Event`, but only the lease sets it."""

    def __init__(self, lease: AsyncLease) -> None:
        self._lease = weakref.ref(lease)
        self._event = asyncio.Event()

    def is_set(self) -> bool:
        """Whether the lease is lost, by the clock of this very moment."""
        lease = self._lease()
        return self._event.is_set() if lease is None else lease.is_over(boot_seconds())

    async def wait(self) -> bool:
        """Wait until the lease is lost."""
        return await self._event.wait()

    def set(self) -> None:
        """For the lease alone."""
        self._event.set()


class AsyncLease(Held):
    """The twin of `Lease`."""

    def __init__(self, calls: AsyncLeaseCalls, number: int, ttl: float, sent: float) -> None:
        self._calls = calls
        self.lost = AsyncLost(self)
        """Set once it is lost: before its time to live has run out by this machine's clock."""
        super().__init__(number, ttl, sent)

    def _tell(self) -> None:
        self.lost.set()

    async def keep_alive(self, *, timeout: float | None = None) -> float:
        """Renew it now; see `Lease.keep_alive`."""
        self.check()
        await self._calls._renew([self], timeout)
        self.check()
        return self.time_left()

    async def revoke(self, *, timeout: float | None = None) -> None:
        """End it, and with it all keys that go with it. One that has ended is no error.

        A task that is cancelled meanwhile ends it all the same, or tries to for a second.
        """
        self.ends_with_client = True  # should this not be answered
        self.lose("it was revoked")
        try:
            await self._end(timeout)
        except asyncio.CancelledError:
            await asyncio.shield(go_on(self._end(LAST_SECONDS)))  # (whatever was sent is given up)
            raise

    async def _end(self, timeout: float | None) -> None:
        with contextlib.suppress(LeaseExpired):
            await self._calls._do(Revoke(self.id), timeout)
        self.ended = True


class _Granting:
    """The result of `AsyncClient.lease`: to be awaited, or for `async with`."""

    def __init__(self, grant: Callable[[], Any]) -> None:
        self._grant = grant
        self._lease: AsyncLease | None = None

    def __await__(self) -> Generator[Any, Any, AsyncLease]:
        lease: AsyncLease = yield from self._grant().__await__()
        return lease

    async def __aenter__(self) -> AsyncLease:
        self._lease = await self
        return self._lease

    async def __aexit__(self, *_: object) -> None:
        """Revoke it; if that fails, it ends by itself."""
        if self._lease is not None:
            with contextlib.suppress(PaxonError):
                await self._lease.revoke()


class AsyncLeaseCalls:
    """The leases of an asyncio client."""

    _core: Any
    _driver: Any
    _timeout: float
    _offer_retry: Callable[[RequestTimeout, Callable[[Any], Any]], None]
    _kept: _Kept | None = None
    _keeping: asyncio.Task[None] | None = None

    async def _do(self, call: Call[T], timeout: float | None, mode: ReadMode = "linearizable") -> T:
        raise NotImplementedError

    async def _ask_to_renew(self, body: bytes, timeout: float | None) -> bytes:
        """Ask the leader; a request of no session."""
        raise NotImplementedError

    def lease(
        self,
        ttl: float,
        *,
        id: int | None = None,  # noqa: A002
        on_lost: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> _Granting:
        """A new lease, kept alive while it is held: await it, or use it in `async with`.

        See `Client.lease`.
        """
        number = new_id() if id is None else check_lease(id)
        call = Grant(number, ttl)
        if on_lost is not None:
            check_callable("on_lost", on_lost)

        async def grant() -> AsyncLease:
            sent = boot_seconds()

            def granted(ttl: float) -> AsyncLease:
                lease = self._granted(number, ttl, sent)
                if on_lost is not None:
                    lease.when_lost(on_lost)
                return lease

            try:
                return granted(await self._do(call, timeout))
            except RequestTimeout as error:
                self._offer_retry(error, lambda results: granted(call.answer(results[0])))
                raise

        return _Granting(grant)

    async def _lease_for(self, number: int, ttl: float, call: Call[T]) -> tuple[AsyncLease, T]:
        """A recipe's lease, and what is done under it first, in one command; see `lease`."""
        sent = boot_seconds()
        granted, answer = await self._do(GrantFor(number, ttl, call), None)
        return self._granted(number, granted, sent, recipes=True), answer

    def _granted(
        self, number: int, ttl: float, sent: float, *, recipes: bool = False
    ) -> AsyncLease:
        lease = AsyncLease(self, number, ttl, sent)
        lease.ends_with_client = recipes
        self._keep(lease)
        return lease

    async def close(self) -> None:
        """Close the client; see `Client.close`."""
        try:
            self._driver.refuse()
            left = self._care.close()
            if self._driver.serves:
                await self._end(left)
        finally:
            await super().close()  # type: ignore[misc]  # (of whatever client this is part of)

    async def _end(self, left: set[int]) -> None:
        """Revoke these, although nothing else is taken in any more."""
        driver = self._driver
        loop = asyncio.get_running_loop()
        until = loop.time() + min(LAST_SECONDS, self._timeout)
        for operations in RevokeAll(left).steps() if left else ():
            if not driver.serves:  # (closed meanwhile by another task)
                return
            now = loop.time()
            ticket = self._core.submit_operations(operations, now=now, deadline=until)
            driver.plan_pump()
            await driver.wait(ticket)
            if ticket.error is not None:
                return

    async def leases(
        self, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> list[int]:
        """The ids of all leases that there are."""
        return await self._do(LeaseIds(), timeout, mode)

    async def lease_info(
        self, lease: Leased | int, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> LeaseInfo | None:
        """A lease as the store has it, with its keys; None if no lease has that id."""
        return await self._do(ReadLease(lease), timeout, mode)

    async def revoke(self, lease: Leased | int, *, timeout: float | None = None) -> int:
        """End a lease that anybody holds; the store's revision. Raises `LeaseExpired`."""
        return await self._do(Revoke(lease), timeout)

    async def renew(self, lease: Leased | int, *, timeout: float | None = None) -> float:
        """Let a lease live on that nobody here keeps; see `Client.renew`."""
        number = check_lease(lease)
        [alive] = still_alive(await self._ask_to_renew(renewal([number]), timeout), [number])
        if isinstance(alive, LeaseExpired):
            raise alive
        return alive

    async def _renew(self, leases: Sequence[AsyncLease], timeout: float | None) -> None:
        """Renew these, and note what comes of it. Each call is a new request (rule 7)."""
        numbers = [lease.id for lease in leases]
        sent = boot_seconds()
        answer = await self._ask_to_renew(renewal(numbers), timeout)
        take_answers(leases, sent, still_alive(answer, numbers))

    # --- in the background -----------------------------------------------------------------------

    @property
    def _care(self) -> _Kept:
        if self._kept is None:
            self._kept = _Kept()
        return self._kept

    def _keep(self, lease: AsyncLease) -> None:
        kept = self._care
        kept.leases.add(lease)
        if lease.renew_at < kept.next_look:
            kept.added.set()
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(_keep_all(kept))


class _Kept(Cared[AsyncLease]):
    """The leases that are renewed in the background."""

    def __init__(self) -> None:
        super().__init__()
        self.added = asyncio.Event()
        self.next_look = math.inf
        """When they are looked after next without the event, by the boot clock."""

    def close(self) -> set[int]:
        """The client is closed: its leases are lost to it; the ids of those to be ended."""
        left = self.left()
        for lease in list(self.leases):
            lease.lose("its client is closed")
        self.added.set()
        return left


async def _keep_all(kept: _Kept) -> None:
    """Renew all leases of a client, while anybody holds one (it holds none of them itself)."""
    leases, added = kept.leases, kept.added
    while held := [lease for lease in leases if lease.wants_care]:
        added.clear()
        due, next_look = plan(held, boot_seconds())
        if due:
            with renewing(due, held) as seconds:
                await due[0]._calls._renew(due, seconds)
        if numbers := given_up(held):
            with contextlib.suppress(PaxonError):
                await held[0]._calls._do(RevokeAll(numbers), LEAST_SECONDS)
        del held, due
        with contextlib.suppress(TimeoutError):
            now = boot_seconds()
            kept.next_look = min(next_look, now + 1.0)
            await asyncio.wait_for(added.wait(), max(0.0, kept.next_look - now))
        kept.next_look = math.inf
