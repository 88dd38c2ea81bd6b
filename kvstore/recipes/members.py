"""`Members`: who is there, until it leaves or dies; and `Counter`. For threads and for asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from paxon.kvstore.client.arguments import Key, Value, as_text, check_key, check_value
from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.client.calls.calls import Get, Increment
from paxon.kvstore.client.client import Client
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.recipes.async_taking import take as take_async
from paxon.kvstore.recipes.contests import Contender, Contest, Statement
from paxon.kvstore.recipes.held import AsyncHeld, Held
from paxon.kvstore.recipes.observing import AsyncObservation, Observation
from paxon.kvstore.recipes.taking import take
from paxon.kvstore.store.items import whole_number

__all__ = ["AsyncCounter", "AsyncMembers", "AsyncMembership", "Counter", "Members", "Membership"]


All: TypeAlias = list[Contender]
"""Members, in the order in which they joined."""


class Joining(Contest):
    """A contest in which nobody waits. A member's value is what it says of itself."""

    def __init__(self, name: Key, ttl: float) -> None:
        super().__init__(name, "members", ttl, ".members/")

    def _is_ours(self, entry: Entry) -> bool:
        return True

    def before(self, earlier: Sequence[Contender]) -> tuple[Sequence[Contender], int]:
        return (), 0


def _all(members: All) -> All:
    return members


class Membership(Held):
    """A member, until it leaves or is lost; see `Held`."""

    def update(self, value: Value, *, timeout: float | None = None) -> int:
        """Say something else of oneself; the store's revision.

        Raises:
            LockLost: it is no member any more; nothing was written.
        """
        return self._kv._do(Statement(self, value, self._contest.lost), timeout)

    def leave(self, *, timeout: float | None = None) -> None:
        """Stop being a member. May be called again, such as after `RequestTimeout`."""
        self.release(timeout=timeout)


class Members:
    """A group's members; see `Client.members`, which makes it. Any thread may use it."""

    def __init__(self, kv: Client, name: Key, *, ttl: float) -> None:
        self._kv = kv
        self._contest = Joining(name, ttl)

    @property
    def name(self) -> str:
        """Its name."""
        return self._contest.name

    def join(self, value: Value = b"") -> Membership:
        """Be a member from now on, kept alive in the background.

        Args:
            value: what the others see of it, such as its address.

        Raises:
            RequestTimeout: the servers did not answer; it is no member, or not for long.
        """
        lease, fence = take(self._kv, self._contest, check_value(value), None)
        return Membership(self._kv, self._contest, lease, fence)

    def list(self, *, timeout: float | None = None) -> All:
        """All members, in the order in which they joined."""
        found = self._kv._do(self._contest.all(), timeout)
        return self._contest.contenders(found)

    def watch(self) -> Observation[All]:
        """All members now, and then again with each change.

            with kv.members("workers").watch() as changes:
                for members in changes:
                    ...

        Each change is told once, in order, until it is closed. An observer that was cut off for
        longer than history reaches back is told who is there then.
        """
        return Observation(self._kv, self._contest, _all)


class AsyncMembership(AsyncHeld):
    """The twin of `Membership`."""

    async def update(self, value: Value, *, timeout: float | None = None) -> int:
        """Say something else of oneself; see `Membership.update`."""
        return await self._kv._do(Statement(self, value, self._contest.lost), timeout)

    async def leave(self, *, timeout: float | None = None) -> None:
        """Stop being a member. May be called again, such as after `RequestTimeout`."""
        await self.release(timeout=timeout)


class AsyncMembers:
    """The twin of `Members`."""

    def __init__(self, kv: AsyncClient, name: Key, *, ttl: float) -> None:
        self._kv = kv
        self._contest = Joining(name, ttl)

    @property
    def name(self) -> str:
        """Its name."""
        return self._contest.name

    async def join(self, value: Value = b"") -> AsyncMembership:
        """Be a member from now on; see `Members.join`. A task that is cancelled leaves nothing."""
        lease, fence = await take_async(self._kv, self._contest, check_value(value), None)
        return AsyncMembership(self._kv, self._contest, lease, fence)

    async def list(self, *, timeout: float | None = None) -> All:
        """All members, in the order in which they joined."""
        found = await self._kv._do(self._contest.all(), timeout)
        return self._contest.contenders(found)

    def watch(self) -> AsyncObservation[All]:
        """All members now, and then again with each change; see `Members.watch`."""
        return AsyncObservation(self._kv, self._contest, _all)


class Counter:
    """A whole number; see `Client.counter`, which makes it. Any thread may use it."""

    def __init__(self, kv: Client, name: Key) -> None:
        self._kv = kv
        self.name = as_text(check_key(name))
        """Its name, and its key in the store."""

    def add(self, by: int = 1, *, timeout: float | None = None) -> int:
        """Add to it (a negative number takes away); the sum.

        Raises:
            RequestTimeout: the outcome is unknown; `retry()` on the error adds once in any case.
            InvalidRequest: its key has something else than a number, or the sum does not fit into
                64 bits.
        """
        return self._kv._do(Increment(self.name, by), timeout)

    def value(self, *, timeout: float | None = None) -> int:
        """The number now; 0 if nobody has counted yet.

        Raises:
            InvalidRequest: its key has something else than a number.
        """
        return _number(self.name, self._kv._do(Get(self.name), timeout))


class AsyncCounter:
    """The twin of `Counter`."""

    def __init__(self, kv: AsyncClient, name: Key) -> None:
        self._kv = kv
        self.name = as_text(check_key(name))
        """Its name, and its key in the store."""

    async def add(self, by: int = 1, *, timeout: float | None = None) -> int:
        """Add to it; the sum. See `Counter.add`."""
        return await self._kv._do(Increment(self.name, by), timeout)

    async def value(self, *, timeout: float | None = None) -> int:
        """The number now; 0 if nobody has counted yet."""
        return _number(self.name, await self._kv._do(Get(self.name), timeout))


def _number(name: str, value: bytes | None) -> int:
    number = 0 if value is None else whole_number(value)
    if number is None:
        raise InvalidRequest(f"{name!r} is no counter: its value is not a whole number")
    return number
