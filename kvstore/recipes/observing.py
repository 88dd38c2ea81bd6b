"""Who is told each change of a contest's standing: `Observation`, and `AsyncObservation`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.watches.async_watch import AsyncWatch
from paxon.kvstore.client.watches.events import Quiet
from paxon.kvstore.client.watches.watch import Watch
from paxon.kvstore.errors import ClientClosed, Compacted
from paxon.kvstore.recipes.contests import Contender, Contest, Standing, time_left, until_of

__all__ = ["AsyncObservation", "Observation"]

T = TypeVar("T")
W = TypeVar("W", Watch, AsyncWatch)
View = Callable[[list[Contender]], T]


class _Observing(Generic[T, W]):
    """What was told, and is to be."""

    def __init__(self, contest: Contest, view: View[T]) -> None:
        self._contest = contest
        self._standing = Standing(contest, view)
        self._untold: deque[T] = deque()
        self._watch: W | None = None
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise ClientClosed("the observation is closed")


def _late(timeout: float | None) -> Quiet:
    return Quiet(f"nothing has changed within {timeout:g} s; the observation goes on")


class Observation(_Observing[T, Watch]):
    """An iterator over changes, in their order; made by `Election.observe` and `Members.watch`.

    It begins when it is first read. One thread may use it at a time; another may close it.
    """

    def __init__(self, kv: Client, contest: Contest, view: View[T]) -> None:
        super().__init__(contest, view)
        self._kv = kv

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Wait for the next change. Ends when it is closed; raises as `next` does."""
        try:
            return self.next()
        except ClientClosed:
            if self._closed:
                raise StopIteration from None
            raise

    def next(self, timeout: float | None = None) -> T:
        """What stands now, if nothing was told yet, or else wait for the next change.

        Args:
            timeout: seconds to wait for a change; None: for ever. (What is read at the beginning,
                and after a long absence, has the client's own timeout.)

        Raises:
            TimeoutError: nothing has changed in that time. It goes on.
            ClientClosed: it, or its client, was closed.
        """
        until = until_of(timeout)
        while not self._untold:
            self._check()
            watch = self._watch
            if watch is None:
                found = self._kv._do(self._contest.all(), None)
                self._untold += self._standing.begin(found)
                self._watch = self._kv.watch(range=self._contest.keys, after=found.revision)
                if self._closed:  # meanwhile, when there was no watch to close
                    self._watch.close()
                continue
            try:
                self._untold += self._standing.after(watch.batch(time_left(until)))
            except Compacted:
                self._watch = None
            except Quiet:
                raise _late(timeout) from None
        return self._untold.popleft()

    def close(self) -> None:
        """End it; may be called twice. Whoever waits for it sees its end."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncObservation(_Observing[T, AsyncWatch]):
    """An asynchronous iterator over changes; see `Observation`."""

    def __init__(self, kv: AsyncClient, contest: Contest, view: View[T]) -> None:
        super().__init__(contest, view)
        self._kv = kv

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Wait for the next change. Ends when it is closed; raises as `next` does."""
        try:
            return await self.next()
        except ClientClosed:
            if self._closed:
                raise StopAsyncIteration from None
            raise

    async def next(self, timeout: float | None = None) -> T:
        """Wait for the next change; see `Observation.next`. Cancelled, it takes none along."""
        until = until_of(timeout)
        while not self._untold:
            self._check()
            watch = self._watch
            if watch is None:
                found = await self._kv._do(self._contest.all(), None)
                self._untold += self._standing.begin(found)
                self._watch = self._kv.watch(range=self._contest.keys, after=found.revision)
                continue
            try:
                self._untold += self._standing.after(await watch.batch(time_left(until)))
            except Compacted:
                self._watch = None
            except Quiet:
                raise _late(timeout) from None
        return self._untold.popleft()

    async def close(self) -> None:
        """End it; may be called twice. Whoever waits for it sees its end."""
        self._closed = True
        if self._watch is not None:
            await self._watch.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
