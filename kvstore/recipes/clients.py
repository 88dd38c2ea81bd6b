"""`Client` and `AsyncClient` as users see them: those of the store, with the recipes."""

from __future__ import annotations

from paxon.kvstore.client import async_client, client
from paxon.kvstore.client.arguments import Key
from paxon.kvstore.recipes.async_barrier import AsyncBarrier, AsyncDoubleBarrier
from paxon.kvstore.recipes.async_election import AsyncElection
from paxon.kvstore.recipes.async_lock import AsyncLock, AsyncRWLock, AsyncSemaphore
from paxon.kvstore.recipes.async_queue import AsyncPriorityQueue, AsyncQueue
from paxon.kvstore.recipes.barrier import Barrier, DoubleBarrier
from paxon.kvstore.recipes.barriers import Hall
from paxon.kvstore.recipes.contests import Contest
from paxon.kvstore.recipes.election import Election
from paxon.kvstore.recipes.lock import Lock, RWLock, Semaphore
from paxon.kvstore.recipes.members import AsyncCounter, AsyncMembers, Counter, Members
from paxon.kvstore.recipes.queue import PriorityQueue, Queue
from paxon.kvstore.recipes.sharing import Permits

__all__ = ["AsyncClient", "Client"]

_TTL = 10.0


class Client(client.Client):
    """Client of the replicated key-value store, with recipes; threads may share it."""

    def lock(
        self, name: Key, *, ttl: float = _TTL, timeout: float | None = None, reentrant: bool = False
    ) -> Lock:
        """A lock that at most one holds, and that frees itself when its holder dies.

            with kv.lock("deploy", ttl=10, timeout=5) as held:
                kv.txn(if_=[held], then=[...])

        Fair: whoever asks first holds first. Each acquisition has its own lease, kept alive in the
        background. A holder that stalls for longer than its lease lives is not alone any more when
        it wakes up: what it writes must be guarded by `held`, or carry `held.fence` to a resource
        that refuses lower ones (docs/recipes.md).

        Args:
            name: any two locks of one name exclude each other.
            ttl: seconds after which it is free once its holder has died; at least 2.
            timeout: seconds to wait for others; None: for ever.
            reentrant: whether a thread that holds it may acquire this very object again.
        """
        return Lock(self, Contest(name, "lock", ttl), timeout=timeout, reentrant=reentrant)

    def semaphore(
        self, name: Key, limit: int, *, ttl: float = _TTL, timeout: float | None = None
    ) -> Semaphore:
        """A lock that at most `limit` hold at once.

            with kv.semaphore("gpu", 4) as held:
                kv.txn(if_=[held], then=[...])

        All that `lock` says is true of it, but that fences do not tell who holds: of two holders
        the one with the lower fence may well hold longer (docs/recipes.md).

        Args:
            name: of what there are so many.
            limit: how many hold it at most; the same for all who contend for it.
            ttl, timeout: as those of `lock`.

        Raises:
            InvalidRequest: (when it is acquired) others contend for it with another limit.
        """
        return Semaphore(self, Permits(name, limit, ttl), timeout=timeout)

    def rwlock(self, name: Key, *, ttl: float = _TTL, timeout: float | None = None) -> RWLock:
        """A lock that many readers hold together, or one writer alone.

            with kv.rwlock("catalogue").read as held:
                ...
            with kv.rwlock("catalogue", timeout=5).write as held:
                kv.txn(if_=[held], then=[...])

        `read` and `write` are locks, each as `lock` makes them. Fair: those who come later wait for
        those who came earlier, so readers do not keep a writer out.
        """
        return RWLock(self, name, ttl=ttl, timeout=timeout)

    def election(self, name: Key, *, ttl: float = _TTL) -> Election:
        """An election: at most one leads, and when it dies the next one does.

            with kv.election("cron").campaign("worker 7") as leading:
                kv.txn(if_=[leading], then=[...])

        What `lock` says of a holder that stalls is true of a leader.

        Args:
            name: of what is to be led.
            ttl: seconds after which a leader that has died no longer leads; at least 2.
        """
        return Election(self, name, ttl=ttl)

    def queue(self, name: Key, *, ttl: float = _TTL) -> Queue:
        """A queue of items, each of which at most one consumer holds until it is done.

            queue = kv.queue("jobs")
            queue.put("resize 7.png")
            with queue.get() as item:
                resize(item.value)

        The item of a consumer that dies is there again, in its old place, once its lease ends. So
        an item may be begun more than once; `done` takes effect once: what has to happen once goes
        into `item.done(then=[Put(…)])`, or is guarded by `item`, or carries `item.fence`.

        Args:
            name: of the queue.
            ttl: seconds after which the item of a dead consumer is there again; at least 2.
        """
        return Queue(self, name, ttl=ttl)

    def priority_queue(self, name: Key, *, ttl: float = _TTL) -> PriorityQueue:
        """A queue in which items of lower priority come first; else as `queue`.

        It has nothing in common with a `queue` of the same name.
        """
        return PriorityQueue(self, name, ttl=ttl)

    def barrier(self, name: Key, parties: int, *, ttl: float = _TTL) -> Barrier:
        """A barrier that lets nobody on before so many are there; it serves again and again.

            kv.barrier("go", 3).wait(timeout=60)

        Args:
            name: of the barrier.
            parties: how many have to come; all of them have to say the same.
            ttl: seconds after which one that has died while it waited does not count; at least 2.
        """
        return Barrier(self, Hall(name, "barrier", parties, ttl))

    def double_barrier(self, name: Key, parties: int, *, ttl: float = _TTL) -> DoubleBarrier:
        """A barrier at which so many begin together, and end together; see `barrier`.

            with kv.double_barrier("round", 3).enter() as inside:
                work()

        Those who die inside are waited for no longer than `ttl`.
        """
        return DoubleBarrier(self, Hall(name, "double barrier", parties, ttl))

    def members(self, name: Key, *, ttl: float = _TTL) -> Members:
        """A group's members: each until it leaves, or for `ttl` seconds after it has died.

            with kv.members("workers").join("10.0.0.7") as me:
                print(kv.members("workers").list())

        A member that stalls for longer is no longer one, and has to join again (`me.lost`).
        """
        return Members(self, name, ttl=ttl)

    def counter(self, name: Key) -> Counter:
        """A whole number: the value of the key of that name, in decimal.

        kv.counter("hits").add()
        """
        return Counter(self, name)


class AsyncClient(async_client.AsyncClient):
    """The same for asyncio. It belongs to the event loop in which it is first used.

    Any number of tasks may share it. A task that is cancelled while it waits does not call its
    operation back: a write may still take effect. (A lock that it waits for is given up.)
    """

    def lock(
        self, name: Key, *, ttl: float = _TTL, timeout: float | None = None, reentrant: bool = False
    ) -> AsyncLock:
        """A lock that at most one holds; see `Client.lock`.

        async with kv.lock("deploy", ttl=10, timeout=5) as held:
            await kv.txn(if_=[held], then=[...])
        """
        return AsyncLock(self, Contest(name, "lock", ttl), timeout=timeout, reentrant=reentrant)

    def semaphore(
        self, name: Key, limit: int, *, ttl: float = _TTL, timeout: float | None = None
    ) -> AsyncSemaphore:
        """A lock that at most `limit` hold at once; see `Client.semaphore`.

        async with kv.semaphore("gpu", 4) as held:
            await kv.txn(if_=[held], then=[...])
        """
        return AsyncSemaphore(self, Permits(name, limit, ttl), timeout=timeout)

    def rwlock(self, name: Key, *, ttl: float = _TTL, timeout: float | None = None) -> AsyncRWLock:
        """A lock that many readers hold together, or one writer alone; see `Client.rwlock`.

        async with kv.rwlock("catalogue").read as held:
            ...
        """
        return AsyncRWLock(self, name, ttl=ttl, timeout=timeout)

    def election(self, name: Key, *, ttl: float = _TTL) -> AsyncElection:
        """An election; see `Client.election`.

        async with await kv.election("cron").campaign("worker 7") as leading:
            await kv.txn(if_=[leading], then=[...])
        """
        return AsyncElection(self, name, ttl=ttl)

    def queue(self, name: Key, *, ttl: float = _TTL) -> AsyncQueue:
        """A queue of items; see `Client.queue`.

        async with await kv.queue("jobs").get() as item:
            await resize(item.value)
        """
        return AsyncQueue(self, name, ttl=ttl)

    def priority_queue(self, name: Key, *, ttl: float = _TTL) -> AsyncPriorityQueue:
        """A queue in which items of lower priority come first; see `Client.priority_queue`."""
        return AsyncPriorityQueue(self, name, ttl=ttl)

    def barrier(self, name: Key, parties: int, *, ttl: float = _TTL) -> AsyncBarrier:
        """A barrier that lets nobody on before so many are there; see `Client.barrier`.

        await kv.barrier("go", 3).wait(timeout=60)
        """
        return AsyncBarrier(self, Hall(name, "barrier", parties, ttl))

    def double_barrier(self, name: Key, parties: int, *, ttl: float = _TTL) -> AsyncDoubleBarrier:
        """A barrier at which so many begin and end together; see `Client.double_barrier`.

        async with await kv.double_barrier("round", 3).enter() as inside:
            await work()
        """
        return AsyncDoubleBarrier(self, Hall(name, "double barrier", parties, ttl))

    def members(self, name: Key, *, ttl: float = _TTL) -> AsyncMembers:
        """A group's members; see `Client.members`.

        async with await kv.members("workers").join("10.0.0.7") as me:
            ...
        """
        return AsyncMembers(self, name, ttl=ttl)

    def counter(self, name: Key) -> AsyncCounter:
        """A whole number; see `Client.counter`."""
        return AsyncCounter(self, name)
