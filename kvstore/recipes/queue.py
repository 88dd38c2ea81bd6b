"""`Queue` and `PriorityQueue`: for threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from paxon.kvstore.client.arguments import Key, Value
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.client.calls.calls import TxnOperation
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.leases.keeping import LAST_SECONDS
from paxon.kvstore.client.leases.lease import Lease
from paxon.kvstore.client.leases.requests import new_id
from paxon.kvstore.client.watches.events import Quiet
from paxon.kvstore.client.watches.watch import Watch
from paxon.kvstore.errors import Compacted, LeaseExpired, LockLost, NotAcquired, PaxonError
from paxon.kvstore.recipes.contests import time_left, until_of
from paxon.kvstore.recipes.held import Held
from paxon.kvstore.recipes.queues import (
    Claim,
    Claimed,
    Enqueue,
    Finish,
    Found,
    Line,
    Peek,
)
from paxon.kvstore.recipes.taking import take, under_lease

__all__ = ["PriorityQueue", "Queue", "QueueItem"]


class QueueItem(Held):
    """An item that one has, until it is done, released, or lost; see `Held`.

    In a `with` statement it is done at the end. If the block raises, it goes back instead.
    """

    def __init__(self, kv: Client, line: Line, lease: Lease, fence: int, entry: Entry) -> None:
        self._claimed = Claimed(line, entry.key)
        super().__init__(kv, self._claimed, lease, fence)
        self._settled = False
        self.value = entry.value
        """What was put."""

    def done(self, then: Sequence[TxnOperation] = (), *, timeout: float | None = None) -> int:
        """Remove it from the queue, and do `then`, in one revision, which is returned.

            item.done(then=[Put("result/7", "42")])

        What is written by `then` is written once, however often the item had to be begun.

        Raises:
            LockLost: it is not this consumer's any more, so nothing was done: it stalled for longer
                than its lease lives, or had let go of it.
            RequestTimeout: the outcome is unknown; `retry` finds it out.
        After any other refusal by the servers, such as of what is in `then`, it has gone back.
        """
        finish = Finish(self, self._claimed, then)
        self._settled = True
        return self._kv._do(finish, timeout)

    def release(self, *, timeout: float | None = None) -> None:
        """Give it back, in its old place. May be called again, such as after `RequestTimeout`."""
        self._settled = True
        super().release(timeout=timeout)

    def __exit__(self, *failure: object) -> None:
        """It is done, or goes back if the block raised, or has been let go of."""
        if any(failure):
            super().__exit__(*failure)
        elif not self._settled:
            self.done()


class Queue:
    """Items, each for one consumer; see `Client.queue`, which makes it. Any thread may use it."""

    _kind: Literal["queue", "priority queue"] = "queue"

    def __init__(self, kv: Client, name: Key, *, ttl: float) -> None:
        self._kv = kv
        self._line = Line(name, self._kind, ttl)

    @property
    def name(self) -> str:
        """Its name."""
        return self._line.name

    def put(self, value: Value, *, timeout: float | None = None) -> int:
        """Put an item at the end; the store's revision.

        After `RequestTimeout` its outcome is unknown: `retry` of the error asks for the very same
        item again, a second call puts another one.
        """
        return self._kv._do(Enqueue(self._line.items, [value]), timeout)

    def put_many(self, values: Iterable[Value], *, timeout: float | None = None) -> int:
        """Put items at the end, in this order, in one revision; all of them or none.

        Raises `TooLarge` beyond 10,000 items, or what a command may hold (16 MiB).
        """
        return self._kv._do(Enqueue(self._line.items, values), timeout)

    def get(self, *, timeout: float | None = None) -> QueueItem:
        """Have the first item that nobody has; wait for one.

            with queue.get() as item:
                work(item.value)

        Nobody else gets it before it is released, or its lease ends, which is kept alive in the
        background until then.

        Args:
            timeout: seconds to wait for an item, 0: not at all; None: for ever.

        Raises:
            NotAcquired: there was none.
            RequestTimeout: the servers did not answer.
        Nobody has it then, at the latest once its lease has ended.
        """
        until = until_of(timeout)
        while True:
            with contextlib.suppress(LeaseExpired, LockLost):  # nothing was held: begin again
                number = new_id()
                lease, found = under_lease(
                    self._kv, self._line.ttl, number, Claim(self._line, number),
                    partial(self._claim, until),
                )  # fmt: skip
                assert found.item is not None
                return QueueItem(self._kv, self._line, lease, found.revision, found.item)

    def peek(self, *, timeout: float | None = None) -> bytes | None:
        """The value of the first item that nobody has; None if there is none."""
        return self._kv._do(Peek(self._line), timeout)[1]

    def size(self, *, timeout: float | None = None) -> int:
        """How many items there are, those that somebody has included; the same as `len`."""
        return self._kv._do(Peek(self._line), timeout)[0]

    def __len__(self) -> int:
        return self.size()

    def __bool__(self) -> bool:
        return True  # an empty one is a queue, too; and nobody expects a question to servers here

    def _claim(self, until: float, lease: Lease, found: Found) -> Found:
        claim = Claim(self._line, lease.id)
        while found.item is None:
            left = self._line.time_left(until)
            try:
                turn, _ = take(self._kv, self._line.turn, b"", left)
            except NotAcquired:
                continue  # the time is up
            try:
                found = self._wait(claim, until)
            finally:
                with contextlib.suppress(PaxonError):
                    turn.revoke(timeout=LAST_SECONDS)
        lease.check()
        return found

    def _wait(self, claim: Claim, until: float) -> Found:
        """Claim one as soon as there is one; of those that wait, one alone does so."""
        kv, line = self._kv, self._line
        found = kv._do(claim, None)
        while found.item is None:
            line.time_left(until)
            news = line.news(found.revision)
            with (
                contextlib.suppress(Quiet, Compacted),
                Watch(kv._core, kv._driver, news) as watch,
            ):
                while not line.may_have_item(watch.batch(time_left(until))):
                    pass
            found = kv._do(claim, None)
        return found


class PriorityQueue(Queue):
    """A queue in which items of lower priority come first; see `Client.priority_queue`."""

    _kind: Literal["queue", "priority queue"] = "priority queue"

    def put(self, value: Value, priority: int = 100, *, timeout: float | None = None) -> int:
        """Put an item behind those of the same priority, from 0 (first) to 65,535."""
        return self._kv._do(Enqueue(self._line.priority(priority), [value]), timeout)

    def put_many(
        self, values: Iterable[Value], priority: int = 100, *, timeout: float | None = None
    ) -> int:
        """Put items of one priority, in this order; see `Queue.put_many`."""
        return self._kv._do(Enqueue(self._line.priority(priority), values), timeout)
