"""`Lock`, and `Semaphore`, `RWLock`, which are made of such: for threads."""

from __future__ import annotations

import threading
import weakref

from paxon.kvstore.client.arguments import Key
from paxon.kvstore.client.checks import check_flag
from paxon.kvstore.client.client import Client
from paxon.kvstore.recipes.contests import Contender, Contest, until_of
from paxon.kvstore.recipes.held import Entered, Held
from paxon.kvstore.recipes.sharing import Permits, Sharing
from paxon.kvstore.recipes.taking import take

__all__ = ["Lock", "RWLock", "Semaphore"]


class Lock:
    """At most one holds it; see `Client.lock`, which makes it. Any thread may use it."""

    _contest: Contest

    def __init__(
        self, kv: Client, contest: Contest, *, timeout: float | None, reentrant: bool = False
    ) -> None:
        until_of(timeout)
        check_flag("reentrant", reentrant)
        self._kv = kv
        self._contest = contest
        self._timeout = timeout
        self._reentrant = reentrant
        # (By thread, not by its number: that of one that has ended is soon another's.)
        self._of_thread: weakref.WeakKeyDictionary[threading.Thread, Held] = (
            weakref.WeakKeyDictionary()
        )
        self._entered: Entered[Held] = Entered()

    @property
    def name(self) -> str:
        """Its name."""
        return self._contest.name

    def acquire(self, *, timeout: float | None = None) -> Held:
        """Wait for one's turn: whoever asks first holds first.

        Args:
            timeout: seconds to wait for others, 0: not at all; None: as long as the lock was made
                for. (Each request to the servers has the client's own timeout.)

        Raises:
            NotAcquired: others held it all the time.
            LeaseExpired: its lease ended, or was revoked, while it waited.
            LockLost: its key was deleted while it waited.
            RequestTimeout: the servers did not answer.
        Nothing is left of it then: what it had put goes at once, or with its lease at last.
        """
        me = threading.current_thread()
        held = self._of_thread.get(me)
        if held is not None and held._depth:
            held.check()
            held._enter()
            return held
        wait = self._timeout if timeout is None else timeout
        lease, fence = take(self._kv, self._contest, self._contest.value, wait)
        held = Held(self._kv, self._contest, lease, fence)
        if self._reentrant:
            self._of_thread[me] = held
        return held

    def locked(self, *, timeout: float | None = None) -> bool:
        """Whether others hold it, so that whoever comes now has to wait."""
        return self._contest.waits(self.contenders(timeout=timeout))

    def holders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders."""
        return list(self._contest.holding(self.contenders(timeout=timeout)))

    def contenders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders, then those who wait, in their order."""
        found = self._kv._do(self._contest.all(), timeout)
        return self._contest.contenders(found)

    def __enter__(self) -> Held:
        held = self.acquire()
        self._entered.add(threading.current_thread(), held)
        return held

    def __exit__(self, *failure: object) -> None:
        """Release it; if that fails, it ends with its lease."""
        self._entered.leave(threading.current_thread()).__exit__(*failure)


class Semaphore(Lock):
    """A lock that so many hold at once; see `Client.semaphore`, which makes it."""

    _contest: Permits

    @property
    def limit(self) -> int:
        """How many hold it at most."""
        return self._contest.limit


class RWLock:
    """Many read or one writes; see `Client.rwlock`, which makes it. Any thread may use it."""

    def __init__(self, kv: Client, name: Key, *, ttl: float, timeout: float | None) -> None:
        self.read = Lock(kv, Sharing(name, "read", ttl), timeout=timeout)
        """Held together with other readers."""
        self.write = Lock(kv, Sharing(name, "write", ttl), timeout=timeout)
        """Held alone."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.read.name

    def holders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders; the value of each is `b"read"` or `b"write"`."""
        return self.read.holders(timeout=timeout)

    def contenders(self, *, timeout: float | None = None) -> list[Contender]:
        """The holders, then those who wait, in their order."""
        return self.read.contenders(timeout=timeout)
