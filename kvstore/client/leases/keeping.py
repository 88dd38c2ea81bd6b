"""When a lease is renewed, and when its owner takes it for lost: alike for threads and asyncio."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from paxon.kvstore.client.checks import call_back, check_callable
from paxon.kvstore.client.leases.clock import boot_seconds
from paxon.kvstore.errors import ClientClosed, LeaseExpired, PaxonError

__all__ = [
    "CLOCK_DRIFT", "LAST_SECONDS", "LEAST_SECONDS", "TOO_LATE", "Cared", "Held", "given_up", "plan",
    "renewing", "take_answers",
]  # fmt: skip

CLOCK_DRIFT = 0.05
"""The fraction by which the speeds of two clocks may differ, either way."""
TOO_LATE = "it could not be renewed in time"
_COUNTED = (1 - CLOCK_DRIFT) / (1 + CLOCK_DRIFT)
LEAST_SECONDS = 0.05
"""How long a renewal waits for its answer at least, and the end of what is lost at most."""
LAST_SECONDS = 1.0
"""For so long one that gives up, or a client that is closed, tries to end what it has."""


class Held:
    """A lease, as far as its owner can know. Times are seconds of the owner's boot clock."""

    def __init__(self, number: int, ttl: float, sent: float) -> None:
        """`sent` is when the grant was sent first, `ttl` what was granted, seconds."""
        self.id = number
        """What the store knows it by."""
        self.ttl = ttl
        """Seconds that it lives from each renewal."""
        self.reason = ""
        """Why it is lost; "" while it is not."""
        self.deadline = 0.0
        """When the servers may have ended it at the earliest."""
        self.renew_at = 0.0
        self.ended = False
        """Whether it has ended in the store, or that was asked for and is not to be again."""
        self.ends_with_client = False
        """Whether a client that is closed ends it: a recipe's own, and what its owner gave up."""
        self._on_lost: list[Callable[[], object]] = []
        self.renewed(sent)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id:x}: {self.reason or 'alive'}>"

    def renewed(self, sent: float) -> None:
        """A renewal was granted that was sent then, for the first time.

        It counts from the sending, because nobody knows from when the servers count, and is
        shortened by as much as their clocks may be faster.
        """
        deadline = sent + self.ttl * _COUNTED
        if not self.reason and deadline > self.deadline:
            self.deadline = deadline
            self.renew_at = sent + self.ttl / 3

    def tried(self, now: float) -> None:
        """A renewal was not answered: soon again."""
        self.renew_at = now + min(0.2, self.ttl / 20)

    def is_over(self, now: float) -> bool:
        """Whether it is lost, or has to be taken for it now."""
        if not self.reason and now >= self.deadline:
            self.lose(TOO_LATE)
        return bool(self.reason)

    def time_left(self) -> float:
        """Seconds for which it certainly lives on; 0 if it may have ended."""
        now = boot_seconds()
        return 0.0 if self.is_over(now) else self.deadline - now

    def check(self) -> None:
        """Raise `LeaseExpired` if it is lost."""
        if self.is_over(boot_seconds()):
            raise self.error()

    @property
    def wants_care(self) -> bool:
        """Whether it is to be renewed, or revoked."""
        return not self.reason or (self.reason == TOO_LATE and not self.ended)

    def lose(self, reason: str, *, ended: bool = False) -> None:
        """It is lost, for good: whatever the servers say later, its owner has been told.

        `ended`: in the store, too.
        """
        self.ended = self.ended or ended
        if self.reason:
            return
        self.reason = reason
        self._tell()
        self._call_back()

    def _call_back(self) -> None:
        """Their exceptions are logged: all leases of the client depend on the caller of this."""
        while True:
            try:
                callback = self._on_lost.pop(0)
            except IndexError:  # (asked before, another thread might take it)
                return
            call_back(f"lease {self.id:x} is lost", callback)

    def _tell(self) -> None:
        """Wake those that wait for its loss."""

    def when_lost(self, callback: Callable[[], object]) -> None:
        """Call `callback` once it is lost, from the background; now if it is. It must not block.

        What it raises is logged. Raises `InvalidRequest` for what cannot be called so.
        """
        check_callable("on_lost", callback)
        self._on_lost.append(callback)
        if self.reason:
            self._call_back()

    def error(self) -> LeaseExpired:
        """The error that is raised once it is lost."""
        return LeaseExpired(f"lease {self.id:x} is lost: {self.reason}")


H = TypeVar("H", bound=Held)


class Cared(Generic[H]):
    """The leases of a client. It keeps none of them alive: a lease that its owner drops ends."""

    def __init__(self) -> None:
        self.leases: weakref.WeakSet[H] = weakref.WeakSet()
        self.asked: set[int] = set()
        """The ids of those that recipes are about to hold, or to give up."""

    def left(self) -> set[int]:
        """The ids of those that the client ends when it is closed."""
        asked = set(self.asked)  # first, for what is granted goes from these to those
        return asked | {one.id for one in self.leases if one.ends_with_client and not one.ended}


def given_up(held: Iterable[Held]) -> list[int]:
    """The ids of those that only their owner takes for ended: to be revoked now, and not again."""
    late = [lease for lease in held if lease.reason == TOO_LATE and not lease.ended]
    for lease in late:
        lease.ended = True
    return [lease.id for lease in late]


def plan(leases: Iterable[H], now: float) -> tuple[list[H], float]:
    """Those to be renewed now, and when to look again; what is over by now is lost."""
    due, next_look = [], float("inf")
    for lease in leases:
        if lease.is_over(now):
            continue
        if lease.renew_at <= now:
            due.append(lease)
        next_look = min(next_look, lease.deadline, max(lease.renew_at, now))
    return due, next_look


@contextlib.contextmanager
def renewing(due: Sequence[Held], held: Iterable[Held]) -> Iterator[float]:
    """Renew these, all in one request, waiting for the answer for so many seconds.

    Whatever goes wrong is tried again, or ends them. Others that are held are not to be late for
    that: neither for their own renewal, nor told late that they are lost.
    """
    now = boot_seconds()
    try:
        waits = [min(one.ttl / 3, one.deadline - now) for one in held if not one.reason]
        yield max(LEAST_SECONDS, min(waits, default=0.0))
    except ClientClosed:
        for lease in due:
            lease.lose("its client is closed")
    except PaxonError:
        now = boot_seconds()
        for lease in due:
            if not lease.is_over(now):
                lease.tried(now)


def take_answers(
    leases: Sequence[Held], sent: float, answers: Iterable[float | LeaseExpired]
) -> None:
    """Note what came of a renewal that was `sent` then."""
    now = boot_seconds()
    for lease, alive in zip(leases, answers, strict=True):
        if isinstance(alive, LeaseExpired):
            lease.lose("it has ended", ended=True)
        elif not lease.is_over(now):
            lease.renewed(sent)
