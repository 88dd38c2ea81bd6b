"""`Election`: for threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from paxon.kvstore.client.arguments import Key, Value
from paxon.kvstore.client.checks import call_plain, check_callable
from paxon.kvstore.client.client import Client
from paxon.kvstore.recipes.contests import (
    Contender,
    Contest,
    Statement,
    check_proposal,
    first_of,
)
from paxon.kvstore.recipes.held import Held
from paxon.kvstore.recipes.observing import Observation
from paxon.kvstore.recipes.taking import take

__all__ = ["Election", "Leadership"]

T = TypeVar("T")


class Leadership(Held):
    """An election that was won; see `Held`. `fence` rises from leader to leader."""

    def proclaim(self, value: Value, *, timeout: float | None = None) -> int:
        """Let all know another value, without a new election; the store's revision.

        Raises:
            LockLost: it no longer leads; nothing was written.
        """
        statement = Statement(self, check_proposal(value), self._contest.lost)
        return self._kv._do(statement, timeout)

    def resign(self, *, timeout: float | None = None) -> None:
        """Stop leading: the next one does. May be called again, such as after `RequestTimeout`."""
        self.release(timeout=timeout)


class Election:
    """At most one leads; see `Client.election`, which makes it. Any thread may use it."""

    def __init__(self, kv: Client, name: Key, *, ttl: float) -> None:
        self._kv = kv
        self._contest = Contest(name, "election", ttl)

    @property
    def name(self) -> str:
        """Its name."""
        return self._contest.name

    def campaign(self, value: Value, *, timeout: float | None = None) -> Leadership:
        """Wait until one leads: whoever asks first leads first.

            with kv.election("cron").campaign("worker 7") as leading:
                while not leading.lost.is_set():
                    ...

        Args:
            value: what all others see of the leader, such as its address; not empty.
            timeout: seconds to wait for others, 0: not at all; None: for ever.

        Raises:
            NotAcquired: others led all the time.
            LeaseExpired: its lease ended, or was revoked, while it waited.
            LockLost: its key was deleted while it waited.
            RequestTimeout: the servers did not answer.
        Nothing is left of it then: what it had put goes at once, or with its lease at last.
        """
        lease, fence = take(self._kv, self._contest, check_proposal(value), timeout)
        return Leadership(self._kv, self._contest, lease, fence)

    def run(
        self,
        function: Callable[[Leadership], T],
        value: Value = "leader",
        *,
        timeout: float | None = None,
    ) -> T:
        """Campaign, call the function while one leads, and resign; what it returned.

        The function has to look at `lost` from time to time: nothing can stop it from outside.
        """
        what = "what an election runs"
        check_callable(what, function)
        with self.campaign(value, timeout=timeout) as leading:
            return call_plain(what, function, leading)

    def leader(self, *, timeout: float | None = None) -> Contender | None:
        """The leader; None: there is none."""
        return first_of(self.contenders(timeout=timeout))

    def contenders(self, *, timeout: float | None = None) -> list[Contender]:
        """The leader, then those who wait to lead, in their order."""
        found = self._kv._do(self._contest.all(), timeout)
        return self._contest.contenders(found)

    def observe(self) -> Observation[Contender | None]:
        """The leader now, and then each change: a leader, its new value, None for nobody.

            with kv.election("cron").observe() as changes:
                for leader in changes:
                    ...

        Each change is told once, in order, until it is closed. An observer that was cut off for
        longer than history reaches back is told who leads then.
        """
        return Observation(self._kv, self._contest, first_of)
