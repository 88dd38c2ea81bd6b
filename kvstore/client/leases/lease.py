"""Leases for threads: `Client.lease`."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

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

__all__ = ["Lease", "LeaseCalls", "Lost"]

T = TypeVar("T")


class Lost:
    """Set once a lease is lost; like `threading.Event`, but only the lease sets it."""

    def __init__(self, lease: Lease) -> None:
        self._lease = weakref.ref(lease)
        self._event = threading.Event()

    def is_set(self) -> bool:
        """Whether the lease is lost, by the clock of this very moment."""
        lease = self._lease()
        return self._event.is_set() if lease is None else lease.is_over(boot_seconds())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lease is lost, at most so many seconds; whether it is."""
        return self._event.wait(timeout)

    def set(self) -> None:
        """For the lease alone."""
        self._event.set()


class Lease(Held):
    """Keys put with it go when it ends. Renewed in the background while anybody holds it.

    In a `with` statement it is revoked at the end. One that is thrown away is not renewed any more.
    """

    def __init__(self, calls: LeaseCalls, number: int, ttl: float, sent: float) -> None:
        self._calls = calls
        self.lost = Lost(self)
        """Set once it is lost: before its time to live has run out by this machine's clock."""
        super().__init__(number, ttl, sent)

    def __enter__(self) -> Self:
        """Raises `LeaseExpired` if it was revoked or lost before, as far as is known here."""
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        """Revoke it; if that fails, it ends by itself."""
        with contextlib.suppress(PaxonError):
            self.revoke()

    def _tell(self) -> None:
        self.lost.set()

    def keep_alive(self, *, timeout: float | None = None) -> float:
        """Renew it now (the background does so at each third of its time); seconds left then.

        Raises:
            LeaseExpired: it is lost.
        """
        self.check()
        self._calls._renew([self], timeout)
        self.check()
        return self.time_left()

    def revoke(self, *, timeout: float | None = None) -> None:
        """End it, and with it all keys that go with it. One that has ended is no error."""
        self.ends_with_client = True  # should this be interrupted, or not be answered
        self.lose("it was revoked")
        with contextlib.suppress(LeaseExpired):
            self._calls._do(Revoke(self.id), timeout)
        self.ended = True


class _Keeper(Cared[Lease]):
    """One thread that renews all leases of a client."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._runs = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._next_look = -math.inf
        """When the thread wakes up by itself, by the boot clock."""

    def add(self, lease: Lease) -> None:
        with self._changed:
            self.leases.add(lease)
            if not self._runs:
                self._runs = True
                self._thread = threading.Thread(target=self._run, name="paxon-leases", daemon=True)
                self._thread.start()
            elif lease.renew_at < self._next_look:
                self._changed.notify()
        if self._closed:  # while it was being granted
            lease.lose("its client is closed")

    def left(self) -> set[int]:
        with self._changed:
            return super().left()

    def close(self) -> None:
        """The client is closed: its leases are lost to it, and the thread ends."""
        with self._changed:
            self._closed = True
            held = list(self.leases)
            self._changed.notify()
        for lease in held:
            lease.lose("its client is closed")
        below = self._changed._is_owned()  # type: ignore[attr-defined]  # (a handler, say)
        if self._thread not in (None, threading.current_thread()) and not below:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                held = [lease for lease in self.leases if lease.wants_care]
                if self._closed or not held:
                    self._runs = False
                    return
            now = boot_seconds()
            due, next_look = plan(held, now)
            if due:
                with renewing(due, held) as seconds:
                    due[0]._calls._renew(due, seconds)
            if numbers := given_up(held):
                with contextlib.suppress(PaxonError):
                    held[0]._calls._do(RevokeAll(numbers), LEAST_SECONDS)
            del held, due  # nothing is held while nothing is done
            with self._changed:
                if self._closed:
                    continue
                # (Not for long: this clock may stand while the machine sleeps, the other does not.)
                now = boot_seconds()
                self._next_look = min(next_look, now + 1.0)
                self._changed.wait(max(0.0, self._next_look - now))
                self._next_look = -math.inf


class LeaseCalls:
    """The leases of a client for threads."""

    _core: Any
    _driver: Any
    _timeout: float
    _offer_retry: Callable[[RequestTimeout, Callable[[Any], Any]], None]
    _keeper: _Keeper | None = None

    def _do(self, call: Call[T], timeout: float | None, mode: ReadMode = "linearizable") -> T:
        raise NotImplementedError

    def _ask_to_renew(self, body: bytes, timeout: float | None) -> bytes:
        """Ask the leader; a request of no session."""
        raise NotImplementedError

    def lease(
        self,
        ttl: float,
        *,
        id: int | None = None,  # noqa: A002
        on_lost: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Lease:
        """A new lease, kept alive in the background while it is held.

        Args:
            ttl: seconds that it lives from each renewal, at least 2 are granted.
            id: by which the store is to know it; None: one that is drawn.
            on_lost: called, from the background, once it is lost; what it raises is logged.
            timeout: seconds.

        Raises:
            RequestTimeout: no answer in time; if there is such a lease now, it ends by itself,
                unless `retry` returns it.
        """
        number = new_id() if id is None else check_lease(id)
        call = Grant(number, ttl)
        if on_lost is not None:
            check_callable("on_lost", on_lost)
        sent = boot_seconds()

        def granted(ttl: float) -> Lease:
            lease = self._granted(number, ttl, sent)
            if on_lost is not None:
                lease.when_lost(on_lost)
            return lease

        try:
            return granted(self._do(call, timeout))
        except RequestTimeout as error:
            self._offer_retry(error, lambda results: granted(call.answer(results[0])))
            raise

    def _lease_for(self, number: int, ttl: float, call: Call[T]) -> tuple[Lease, T]:
        """A recipe's lease, and what is done under it first, in one command; see `lease`."""
        sent = boot_seconds()
        granted, answer = self._do(GrantFor(number, ttl, call), None)
        return self._granted(number, granted, sent, recipes=True), answer

    def _granted(self, number: int, ttl: float, sent: float, *, recipes: bool = False) -> Lease:
        lease = Lease(self, number, ttl, sent)
        lease.ends_with_client = recipes
        self._care.add(lease)
        return lease

    @property
    def _care(self) -> _Keeper:
        return self._keeper or self.__dict__.setdefault("_keeper", _Keeper())  # (threads share)

    def close(self) -> None:
        """Close the client; see `_BlockingClient.close`.

        What its recipes hold (locks, memberships, items, …) is free at once if the servers answer
        within a second; leases of `lease` run out. May be called twice, and by several threads.
        """
        # (A forked child must not touch its parent's.)
        keeper = self._keeper if self._driver.serves else None
        try:
            if keeper is not None:
                left = keeper.left()  # before those who wait are told, and let go of theirs
                self._driver.refuse()
                left |= keeper.left()
                keeper.close()
                with contextlib.suppress(PaxonError):
                    self._end(left)
        finally:
            super().close()  # type: ignore[misc]  # (of whatever client this is part of)

    def _end(self, left: set[int]) -> None:
        """Revoke these, although nothing else is taken in any more."""
        driver = self._driver
        until = time.monotonic() + min(LAST_SECONDS, self._timeout)
        for operations in RevokeAll(left).steps() if left else ():
            with driver.lock:
                if not driver.serves:  # (closed meanwhile by another thread)
                    return
                now = time.monotonic()
                ticket = self._core.submit_operations(operations, now=now, deadline=until)
                driver.pump()
            driver.wait(ticket)
            if ticket.error is not None:
                return

    def leases(self, *, mode: ReadMode = "linearizable", timeout: float | None = None) -> list[int]:
        """The ids of all leases that there are."""
        return self._do(LeaseIds(), timeout, mode)

    def lease_info(
        self, lease: Leased | int, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> LeaseInfo | None:
        """A lease as the store has it, with its keys; None if no lease has that id."""
        return self._do(ReadLease(lease), timeout, mode)

    def revoke(self, lease: Leased | int, *, timeout: float | None = None) -> int:
        """End a lease that anybody holds; the store's revision. Raises `LeaseExpired`."""
        return self._do(Revoke(lease), timeout)

    def renew(self, lease: Leased | int, *, timeout: float | None = None) -> float:
        """Let a lease live on that nobody here keeps; its time to live, in seconds.

        Raises:
            LeaseExpired: it has ended.
        """
        number = check_lease(lease)
        [alive] = still_alive(self._ask_to_renew(renewal([number]), timeout), [number])
        if isinstance(alive, LeaseExpired):
            raise alive
        return alive

    def _renew(self, leases: Sequence[Lease], timeout: float | None) -> None:
        """Renew these, and note what comes of it. Each call is a new request (rule 7)."""
        numbers = [lease.id for lease in leases]
        sent = boot_seconds()
        answer = self._ask_to_renew(renewal(numbers), timeout)
        take_answers(leases, sent, still_alive(answer, numbers))
