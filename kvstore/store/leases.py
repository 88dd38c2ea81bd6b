"""Leases by the log's time: plain state of the store, changed by executing commands alone."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import msgspec

__all__ = ["MAX_LEASES", "MAX_LEASE_KEYS", "MAX_TTL_MS", "MIN_TTL_MS", "Lease", "LeaseTable"]

# Parts of the format.
MAX_TTL_MS = 9_000_000_000_000
"""The longest time to live, milliseconds (285 years)."""
MIN_TTL_MS = 2000
"""What is granted at least: a lease has to live through an election."""
MAX_LEASES = 1_000_000
MAX_LEASE_KEYS = 5_000
"""Keys of one lease: half the events that one revision may have, so that its end is one."""
_MS = 1_000_000


class Lease(msgspec.Struct, gc=False):
    """Keys that go when its time is up."""

    id: int
    ttl: int
    """Nanoseconds that it lives from its last renewal."""
    due: int
    """When it ends, nanoseconds of the log's time."""
    keys: dict[bytes, None]
    bytes: int = 0
    """What its keys and their values count for."""

    def left(self, now: int) -> int:
        """Nanoseconds that it still lives; 0 if it is due and its keys have not gone yet."""
        return max(0, self.due - now)


class LeaseTable:
    """All leases, and which of them ends next."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._by_due: list[tuple[int, int]] = []
        """A heap of (due, id): what it says of a lease that was renewed or ended since is stale."""

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def get(self, lease: int) -> Lease | None:
        return self._leases.get(lease)

    def add(self, lease: Lease) -> None:
        """A new lease, or one from a snapshot."""
        self._leases[lease.id] = lease
        heappush(self._by_due, (lease.due, lease.id))

    def renew(self, lease: Lease, now: int) -> None:
        """It lives for its whole time again."""
        lease.due = now + lease.ttl
        heappush(self._by_due, (lease.due, lease.id))
        if len(self._by_due) > 64 + 4 * len(self._leases):  # mostly stale by now
            self._by_due = [(lease.due, lease.id) for lease in self._leases.values()]
            heapify(self._by_due)

    def remove(self, lease: Lease) -> None:
        del self._leases[lease.id]

    def next_due(self) -> Lease | None:
        """The lease that ends next, of several the one with the lowest id."""
        heap = self._by_due
        while heap:
            due, number = heap[0]
            lease = self._leases.get(number)
            if lease is not None and lease.due == due:
                return lease
            heappop(heap)
        return None

    def ids(self) -> list[int]:
        return sorted(self._leases)
