"""How a thread takes its turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from paxon.kvstore.client.calls.calls import Call
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.leases.keeping import LAST_SECONDS
from paxon.kvstore.client.leases.lease import Lease
from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.client.watches.events import Quiet
from paxon.kvstore.client.watches.watch import Watch
from paxon.kvstore.errors import Compacted, PaxonError, RequestTimeout
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


def take(kv: Client, contest: Contest, value: bytes, timeout: float | None) -> tuple[Lease, int]:
    """Contend under a lease drawn for this alone, and wait for one's turn; the fence."""
    until = until_of(timeout)
    number = new_id()
    plan = enter(contest, number, value)

    def contend(lease: Lease, answer: Any) -> int:
        fence = _run(kv, contest, plan, lease, until, answer=answer)
        if lease.time_left() <= 0:
            raise contest.expired()
        return fence

    return under_lease(kv, contest.ttl, number, next(plan), contend)


def under_lease(
    kv: Client, ttl: float, number: int, first: Step, act: Callable[[Lease, Any], T]
) -> tuple[Lease, T]:
    """Do something under a lease drawn for it alone; the lease goes on.

    Whatever goes wrong, Ctrl-C too, the lease is revoked. What was asked for before that is given
    up, so the servers refuse it if it arrives after the revocation.

    Args:
        kv: the client.
        ttl: of the lease, seconds.
        number: its id, drawn just now.
        first: what is asked for together with the lease.
        act: is given the lease, and the answer to that.
    """
    assert isinstance(first, Call)
    lease: Lease | None = None
    asked = kv._care.asked
    asked.add(number)
    try:
        lease, answer = kv._lease_for(number, ttl, first)
        return lease, act(lease, answer)
    except BaseException as error:
        if lease is not None:
            lease.lose("it was given up")  # the error keeps this frame, which keeps the lease
        if isinstance(error, RequestTimeout):
            error.forget()  # asked for again, its put would be nobody's
            with kv._driver.lock:
                kv._core.abandon()
        with contextlib.suppress(PaxonError):
            kv.revoke(number, timeout=LAST_SECONDS)
            if lease is not None:
                lease.ended = True
        raise
    finally:
        asked.discard(number)


def _run(
    kv: Client,
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
                _wait(kv, contest, step, lease, until)
                step = next(plan)
            elif isinstance(step, Look):
                step = plan.send(kv._do(step.call, None, "lease"))
            else:
                step = plan.send(kv._do(step, None))
    except StopIteration as stop:
        value: T = stop.value
        return value


def _wait(kv: Client, contest: Contest, step: Until, lease: Living, until: float) -> None:
    """Until it is over, or may be, or the time is up: then one looks again."""
    with contextlib.suppress(Compacted), Watch(kv._core, kv._driver, step.wanted) as watch:
        while True:
            seconds = patience(contest, until, lease.time_left())
            try:
                if step.over(watch.batch(seconds), watch.looked):
                    return
            except Quiet:
                return
