"""How a task takes its turn; the twin of `taking`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.calls.calls import Call
from paxon.kvstore.client.leases.async_lease import AsyncLease, go_on
from paxon.kvstore.client.leases.keeping import LAST_SECONDS
from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.client.watches.async_watch import AsyncWatch
from paxon.kvstore.client.watches.events import Quiet
from paxon.kvstore.errors import Compacted, RequestTimeout
from paxon.kvstore.recipes.contests import (
    Contest,
    Living,
    Look,
    Plan,
    Step,
    Until,
    enter,
    patience,
    until_of,
)

__all__ = ["take", "under_lease"]

T = TypeVar("T")


async def take(
    kv: AsyncClient,
    contest: Contest,
    value: bytes,
    timeout: float | None,
) -> tuple[AsyncLease, int]:
    """Contend and wait for one's turn; see `taking.take`. A task that is cancelled gives up."""
    until = until_of(timeout)
    number = new_id()
    plan = enter(contest, number, value)

    async def contend(lease: AsyncLease, answer: Any) -> int:
        fence = await _run(kv, contest, plan, lease, until, answer=answer)
        if lease.time_left() <= 0:
            raise contest.expired()
        return fence

    return await under_lease(kv, contest.ttl, number, next(plan), contend)


async def under_lease(
    kv: AsyncClient,
    ttl: float,
    number: int,
    first: Step,
    act: Callable[[AsyncLease, Any], Awaitable[T]],
) -> tuple[AsyncLease, T]:
    """Do something under a lease drawn for it alone; see `taking.under_lease`."""
    assert isinstance(first, Call)
    lease: AsyncLease | None = None
    asked = kv._care.asked
    asked.add(number)
    try:
        lease, answer = await kv._lease_for(number, ttl, first)
        return lease, await act(lease, answer)
    except BaseException as error:
        if lease is not None:
            lease.lose("it was given up")  # the error keeps this frame, which keeps the lease
        if isinstance(error, RequestTimeout):
            error.forget()  # asked for again, its put would be nobody's
            kv._core.abandon()
        await asyncio.shield(go_on(_give_up(kv, number, lease)))  # though cancelled once more
        raise
    finally:
        asked.discard(number)


async def _give_up(kv: AsyncClient, number: int, lease: AsyncLease | None) -> None:
    await kv.revoke(number, timeout=LAST_SECONDS)
    if lease is not None:
        lease.ended = True


async def _run(
    kv: AsyncClient,
    contest: Contest,
    plan: Plan[T],
    lease: Living,
    until: float,
    *,
    answer: Any = None,
) -> T:
    """Go on with a plan, whose first step got that answer; None: it has not begun."""
    try:
        step = plan.send(answer)
        while True:
            if isinstance(step, Until):
                await _wait(kv, contest, step, lease, until)
                step = next(plan)
            elif isinstance(step, Look):
                step = plan.send(await kv._do(step.call, None, "lease"))
            else:
                step = plan.send(await kv._do(step, None))
    except StopIteration as stop:
        value: T = stop.value
        return value


async def _wait(
    kv: AsyncClient, contest: Contest, step: Until, lease: Living, until: float
) -> None:
    """Until it is over, or may be, or the time is up: then one looks again."""
    with contextlib.suppress(Compacted):
        async with AsyncWatch(kv._core, kv._driver, step.wanted, None) as watch:
            while True:
                seconds = patience(contest, until, lease.time_left())
                try:
                    if step.over(await watch.batch(seconds), watch.looked):
                        return
                except Quiet:
                    return
