"""What is held: `Held` for threads, `AsyncHeld` for asyncio."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from paxon.kvstore.client.async_client import AsyncClient
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.client.calls.comparing import Comparing
from paxon.kvstore.client.calls.conditions import Condition
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.leases.async_lease import AsyncLease, AsyncLost
from paxon.kvstore.client.leases.keeping import Held as HeldLease
from paxon.kvstore.client.leases.lease import Lease, Lost
from paxon.kvstore.errors import LockLost, PaxonError

__all__ = ["AsyncHeld", "Claimable", "Entered", "Held", "Kept"]

L = TypeVar("L", bound=HeldLease)
K = TypeVar("K", bound="Kept[Any]")


class Claimable(Protocol):
    """Something that can be held: a contest, or an item of a queue."""

    def key(self, number: int) -> str:
        """Of who holds it by this lease."""

    def lost(self, why: str) -> LockLost:
        """The error of a holder that no longer holds."""


class Kept(Generic[L]):
    """The base for threads and asyncio. A `Guard` of transactions."""

    def __init__(self, contest: Claimable, lease: L, fence: int) -> None:
        self._contest = contest
        self._depth = 1
        self.lease = lease
        """With which it ends; it belongs to this acquisition alone."""
        self.key = contest.key(lease.id)
        """Its key in the store."""
        self.fence = fence
        """The revision that made its key. Whoever came later has a greater one."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r}, fence {self.fence}>"

    def conditions(self) -> Sequence[Condition]:
        """True in the store while it is held: for `if_=[held]` of a transaction."""
        return [Comparing.created(self.key) == self.fence]

    def _enter(self) -> None:
        """Its holder has acquired it once more."""
        self._depth += 1

    def _leave(self) -> bool:
        """Its holder releases it once; whether that was the last time."""
        self._depth = max(0, self._depth - 1)
        return not self._depth

    def _check_lease(self) -> None:
        if self.lease.reason:
            raise self._contest.lost(self.lease.reason if self._depth else "it was released")

    def _check_entry(self, entry: Entry | None) -> None:
        if entry is None or entry.created != self.fence:
            raise self._contest.lost("its key is gone")


class Entered(Generic[K]):
    """What `with` statements have entered and not left, by the thread or task of each."""

    def __init__(self) -> None:
        self._all: list[tuple[object, K]] = []
        self._lock = threading.RLock()

    def add(self, who: object, held: K) -> None:
        """Entered by this thread or task."""
        self._all.append((who, held))

    def leave(self, who: object) -> K:
        """What it entered last.

        A generator's block may end in another thread or task than it began in, as web frameworks
        have it: for one that has entered nothing, what was entered first.
        """
        with self._lock:
            mine = [at for at, (by, _) in enumerate(self._all) if by is who]
            return self._all.pop(mine[-1] if mine else 0)[1]


class Held(Kept[Lease]):
    """Something that is held until it is released, or lost.

    In a `with` statement it is released at the end.
    """

    def __init__(self, kv: Client, contest: Claimable, lease: Lease, fence: int) -> None:
        super().__init__(contest, lease, fence)
        self._kv = kv

    @property
    def lost(self) -> Lost:
        """Set once it is lost or released; see `Lease.lost`."""
        return self.lease.lost

    def check(self, *, timeout: float | None = None) -> None:
        """Ask the store whether it is held still. Raises `LockLost` if not.

        (It may be lost right after. Only a transaction guarded by it is safe: `if_=[held]`.)
        """
        self.lost.is_set()
        self._check_lease()
        self._check_entry(self._kv.entry(self.key, timeout=timeout))

    def release(self, *, timeout: float | None = None) -> None:
        """Let it go: its lease is revoked. May be called again, such as after `RequestTimeout`."""
        if self._leave():
            self.lease.revoke(timeout=timeout)

    def __enter__(self) -> Self:
        """Raises `LockLost` if it was released or lost before, as far as is known here."""
        self.lost.is_set()
        self._check_lease()
        return self

    def __exit__(self, *_: object) -> None:
        """Release it; if that fails, it ends with its lease."""
        with contextlib.suppress(PaxonError):
            self.release()


class AsyncHeld(Kept[AsyncLease]):
    """The twin of `Held`."""

    def __init__(self, kv: AsyncClient, contest: Claimable, lease: AsyncLease, fence: int) -> None:
        super().__init__(contest, lease, fence)
        self._kv = kv

    @property
    def lost(self) -> AsyncLost:
        """Set once it is lost or released; see `AsyncLease.lost`."""
        return self.lease.lost

    async def check(self, *, timeout: float | None = None) -> None:
        """Ask the store whether it is held still; see `Held.check`."""
        self.lost.is_set()
        self._check_lease()
        self._check_entry(await self._kv.entry(self.key, timeout=timeout))

    async def release(self, *, timeout: float | None = None) -> None:
        """Let it go; see `Held.release`. Cancelled meanwhile, it is let go all the same."""
        if self._leave():
            await self.lease.revoke(timeout=timeout)

    async def __aenter__(self) -> Self:
        """Raises `LockLost` if it was released or lost before; see `Held`."""
        self.lost.is_set()
        self._check_lease()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Release it; if that fails, it ends with its lease."""
        with contextlib.suppress(PaxonError):
            await self.release()
