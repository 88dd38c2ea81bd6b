"""`Barrier` and `DoubleBarrier`: for threads."""

from __future__ import annotations

import contextlib

from paxon.kvstore.client.client import Client
from paxon.kvstore.client.leases.keeping import LAST_SECONDS
from paxon.kvstore.client.leases.lease import Lease
from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.errors import NotAcquired, PaxonError
from paxon.kvstore.recipes.barriers import Hall, Unbound, meet, part
from paxon.kvstore.recipes.contests import until_of
from paxon.kvstore.recipes.held import Held
from paxon.kvstore.recipes.taking import _run, under_lease

__all__ = ["Barrier", "DoubleBarrier", "Inside"]


class Barrier:
    """Lets nobody on before all are there; see `Client.barrier`, which makes it."""

    def __init__(self, kv: Client, hall: Hall) -> None:
        self._kv, self._hall = kv, hall

    @property
    def name(self) -> str:
        """Its name."""
        return self._hall.name

    def wait(self, *, timeout: float | None = None) -> None:
        """Wait until as many are there as it is for; then all of them go on.

        One that dies or gives up before that does not count. It serves again: one that comes before
        all of the last ones have gone on waits for that, too.

        Args:
            timeout: seconds to wait for the others, 0: not at all; None: for ever.

        Raises:
            NotAcquired: the others did not come.
            LeaseExpired, LockLost: the lease ended, or the key was deleted, while it waited.
            RequestTimeout: the servers did not answer.
        Nothing is left of it then.
        """
        lease, (_, meeting) = _meet(self._kv, self._hall, timeout)
        with contextlib.suppress(PaxonError):  # else it goes with its lease, or by whoever is next
            lease.revoke(timeout=LAST_SECONDS)
            _run(self._kv, self._hall, part(self._hall, meeting, wait=False), Unbound(), 0)

    def waiting(self, *, timeout: float | None = None) -> int:
        """How many are there."""
        found = self._kv._do(self._hall.all(), timeout)
        return len(self._hall.contenders(found))


class Inside(Held):
    """That one is inside of a double barrier; see `Held`.

    In a `with` statement one leaves at the end, and waits for the others. If the block raises, one
    leaves without waiting.
    """

    def __init__(self, kv: Client, hall: Hall, lease: Lease, fence: int, meeting: int) -> None:
        super().__init__(kv, hall, lease, fence)
        self._hall, self._meeting = hall, meeting

    def leave(self, *, timeout: float | None = None) -> None:
        """Leave, and wait until all have left or died. May be called again after an error.

        Args:
            timeout: seconds to wait for the others; None: for ever.

        Raises:
            NotAcquired: others are still inside.
            RequestTimeout: the servers did not answer.
        """
        until = until_of(timeout)
        self.release()
        try:
            _run(self._kv, self._hall, part(self._hall, self._meeting, wait=True), Unbound(), until)
        except NotAcquired:
            raise self._hall.left_late() from None

    def __exit__(self, *failure: object) -> None:
        if any(failure):
            super().__exit__(*failure)
        else:
            self.leave()


class DoubleBarrier:
    """All begin together and end together; see `Client.double_barrier`, which makes it."""

    def __init__(self, kv: Client, hall: Hall) -> None:
        self._kv, self._hall = kv, hall

    @property
    def name(self) -> str:
        """Its name."""
        return self._hall.name

    def enter(self, *, timeout: float | None = None) -> Inside:
        """Wait until as many are there as it is for; see `Barrier.wait`.

        with kv.double_barrier("round", 3).enter() as inside:
            work()
        """
        lease, (fence, meeting) = _meet(self._kv, self._hall, timeout)
        return Inside(self._kv, self._hall, lease, fence, meeting)


def _meet(kv: Client, hall: Hall, timeout: float | None) -> tuple[Lease, tuple[int, int]]:
    until = until_of(timeout)
    number = new_id()
    plan = meet(hall, number)
    return under_lease(
        kv, hall.ttl, number, next(plan),
        lambda lease, answer: _run(kv, hall, plan, lease, until, answer=answer),
    )  # fmt: skip
