"""Paxon's side of `paxon bench coordination`: the clients that users have, in a client process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Answer, ClosedLoop, Job, Loop, Outcome, clock, open_client_load
from paxon.bench.harness.workloads import WorkloadData
from paxon.kvstore.client.calls.calls import Put
from paxon.kvstore.client.client import Future
from paxon.kvstore.client.leases.async_lease import AsyncLease
from paxon.kvstore.client.watches.watch import Watch
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.recipes.clients import AsyncClient, Client

__all__ = ["OTHER_KEY", "WATCHED_KEY", "LockLoop", "open_paxon"]

WATCHED_KEY = "watched"
OTHER_KEY = b"other/%07d"
"""What idle watches watch: nobody writes it."""

S = TypeVar("S")
T = TypeVar("T")
_AT_ONCE = 256
"""Leases are granted and revoked so many at a time."""
_LOOK_SECONDS = 0.5
"""How often renewals are counted: less than a lease takes to its next one."""


def open_paxon(job: Job) -> tuple[Loop, Callable[[], None]]:
    """Connect as a job says; see `OpenLoad`. Raises `PaxonError`."""
    load = job.workload
    if load.kind == "watch":
        watches = WatchLink(job)
        return ClosedLoop(watches), watches.close
    if load.kind == "lock":
        stack = ExitStack()
        clients = [stack.enter_context(_client(job)) for _ in range(load.outstanding)]
        return LockLoop([client.lock("lock") for client in clients]), stack.close
    if load.kind in ("txn", "renew"):
        loop = TxnLoop(job) if load.kind == "txn" else RenewLoop(job)
        return loop, loop.close
    idle = _client(job)
    now = idle.range(OTHER_KEY).revision
    held = [idle.watch(OTHER_KEY % number, after=now) for number in range(load.watches)]
    for watch in held[:1]:
        watch.call(bool)  # a thread that looks after the connection for all of them
    plain, close = open_client_load(job)

    def close_all() -> None:
        idle.close()
        held.clear()
        close()

    return plain, close_all


def _client(job: Job) -> Client:
    return Client(job.addresses, timeout=job.timeout)


class WatchLink:
    """A writer, and so many watchers of what it writes, with a client of their own; see `Link`.

    An operation is a write that all watchers have been told of, each exactly once.
    """

    def __init__(self, job: Job) -> None:
        load = job.workload
        self._writing, self._watching = _client(job), _client(job)
        self._value = WorkloadData(load, job.seed).value
        now = self._writing.put(WATCHED_KEY, self._value)
        self._watches: list[Watch] = [
            self._watching.watch(WATCHED_KEY, after=now) for _ in range(load.watches)
        ]
        self._put: Future[int] | None = None
        self._started = 0.0
        self._told: list[int] = []
        """The revisions that watchers were told of, in their order."""

    def top_up(self, now: float) -> None:
        if self._put is None:
            self._started = now
            self._put = self._writing.submit_put(WATCHED_KEY, self._value)

    def take(self, seconds: float) -> list[Answer]:
        put, until = self._put, clock() + seconds
        if put is None:
            raise TimeoutError
        while len(self._told) < len(self._watches):
            watch = self._watches[len(self._told)]
            self._told += [event.revision for event in watch.batch(max(0.0, until - clock()))]
        taken = clock() - self._started
        if set(self._told) != {put.result()} or len(self._told) > len(self._watches):
            raise BenchError("a watcher of Paxon was told of a write twice, or not of it")
        self._put = None
        self._told.clear()
        return [(taken, None)]

    def under_way(self) -> list[float]:
        return [] if self._put is None else [self._started]

    def close(self) -> None:
        """Disconnect."""
        self._watching.close()
        self._writing.close()


class LockLoop:
    """Threads that contend for one lock, each in a way of its own to have it; see `Loop`.

    Who has it gives it up at once. What is timed is a handover: from giving it up to the next one's
    having it.
    """

    def __init__(self, contenders: Sequence[AbstractContextManager[object]]) -> None:
        self._contenders = contenders
        self._released = 0.0

    def run(self, seconds: float) -> Outcome:
        """See `Loop`."""
        outcome = Outcome(seconds=seconds)
        self._released = 0.0
        end = clock() + seconds
        with ThreadPoolExecutor(len(self._contenders)) as threads:
            list(threads.map(lambda lock: self._contend(lock, end, outcome), self._contenders))
        outcome.operations = len(outcome.latencies)
        return outcome

    def _contend(self, lock: AbstractContextManager[object], end: float, outcome: Outcome) -> None:
        while clock() < end:
            try:
                with lock:
                    now = clock()
                    if self._released and now < end:
                        outcome.latencies.append(now - self._released)
                    self._released = clock()
            except PaxonError as error:
                outcome.note(error)


class _Tasks:
    """An event loop that runs while something is asked of it."""

    def __init__(self, job: Job) -> None:
        self._runner = asyncio.Runner()
        self.do = self._runner.run
        self._load = job.workload
        self.client = self.do(self._open(job))

    async def _open(self, job: Job) -> AsyncClient:
        return AsyncClient(job.addresses, timeout=job.timeout)

    def close(self) -> None:
        """Disconnect."""
        self.do(self.client.close())
        self._runner.close()


class TxnLoop(_Tasks):
    """Tasks of which each has one transaction under way; see `Loop`."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        data = WorkloadData(job.workload, job.seed)
        self._keys, self._value = itertools.cycle(data.keys), data.value

    def run(self, seconds: float) -> Outcome:
        """See `Loop`."""
        return self.do(self._run(seconds))

    async def _run(self, seconds: float) -> Outcome:
        outcome, end = Outcome(seconds=seconds), clock() + seconds
        await asyncio.gather(*[self._go_on(end, outcome) for _ in range(self._load.outstanding)])
        outcome.operations = len(outcome.latencies)
        return outcome

    async def _go_on(self, end: float, outcome: Outcome) -> None:
        client, started = self.client, clock()
        while started < end:
            key = next(self._keys)
            put = Put(key, self._value)
            try:
                await client.txn(if_=[client.version(key) > 0], then=[put], else_=[put])
            except PaxonError as error:
                outcome.note(error)
            now = clock()
            if now < end:
                outcome.latencies.append(now - started)
            started = now


class RenewLoop(_Tasks):
    """Leases that the client keeps alive by itself; see `Loop`."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._leases = self.do(self._some(self._lease, range(job.workload.outstanding)))

    async def _lease(self, _: int) -> AsyncLease:
        return await self.client.lease(self._load.seconds)

    async def _some(
        self, make: Callable[[S], Coroutine[Any, Any, T]], things: Sequence[S]
    ) -> list[T]:
        """One of each, so many at a time."""
        made: list[T] = []
        for place in range(0, len(things), _AT_ONCE):
            made += await asyncio.gather(*map(make, things[place : place + _AT_ONCE]))
        return made

    def run(self, seconds: float) -> Outcome:
        """See `Loop`."""
        return self.do(self._watch(seconds))

    async def _watch(self, seconds: float) -> Outcome:
        """Count the renewals that the client makes."""
        outcome, begin = Outcome(), clock()
        known = [lease.deadline for lease in self._leases]
        while (left := begin + seconds - clock()) > 0:
            await asyncio.sleep(min(left, _LOOK_SECONDS))
            deadlines = [lease.deadline for lease in self._leases]
            outcome.operations += sum(map(float.__ne__, known, deadlines))
            known = deadlines
        lost = sum(lease.lost.is_set() for lease in self._leases)
        if lost:
            raise BenchError(f"{lost} leases ended that were kept alive")
        outcome.seconds = clock() - begin
        return outcome

    def close(self) -> None:
        """End the leases and disconnect."""
        self.do(self._some(AsyncLease.revoke, self._leases))
        super().close()
