"""What watches of etcd's clients are told: those of one span share one of Paxon's own.

An event comes from the cluster once, then, and is put into etcd's form once, however many wait for
it. One that reads too slowly leaves the others, and goes on by itself from where it is.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from functools import cached_property
from itertools import takewhile
from typing import Any

from msgspec import structs

from paxon.kvstore.client.watches.side import Watched
from paxon.kvstore.errors import ClientClosed
from paxon.kvstore.etcd.errors import accepted
from paxon.kvstore.etcd.front import Front
from paxon.kvstore.etcd.kv import key_value
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store.items import Row
from paxon.kvstore.store.operations import Events, is_refusal

__all__ = ["Answers", "Batch", "Feeds", "Gone", "Subscription"]

MOST_WAITING = 16
"""Batches that a watch may be behind the others of its span."""


class Answers:
    """The answers of a watch of Paxon's, as they come: whole rows, of before as well."""

    def __init__(self, front: Front, wanted: Events) -> None:
        self._core, self._driver = front.kv._core, front.kv._driver
        self._driver.enter()
        self._watched: Watched = self._core.start_watch(wanted)
        self._driver.plan_pump()
        self._next = 0
        """The answers that `next` has put together."""
        self.told = wanted.after
        """All events up to this revision have been taken …"""

    @property
    def position(self) -> int:
        """… and as there are none, up to this one."""
        return self.told if self._watched.answer is not None else self._watched.position

    async def next(self) -> tuple[int, list[tuple[Row, Row | None]]]:
        """Wait for events: through which revision, and all of them up to there.

        Raises `Refused` if history does not reach back to where it is.
        """
        watched = self._watched
        ticket = self._core.next_answer(watched, now=self._driver.enter(), deadline=math.inf)
        self._driver.plan_pump()
        await self._driver.wait(ticket)
        watched.ticket = None
        answer = watched.answer
        if answer is None:
            raise watched.error or ClientClosed("the watch is closed")
        if is_refusal(answer):
            raise Gone(answer.get("oldest", 0))
        # All that there are: told one by one, in one go, they would be too many for any listener.
        whole = list(takewhile(lambda each: not is_refusal(each), watched.answers))
        self._next = len(whole)
        return accepted(whole[-1])[0], [event for each in whole for event in accepted(each)[1]]

    def taken(self, through: int) -> None:
        """Note that what `next` returned was passed on: only then is there more."""
        self.told = through
        del self._watched.answers[: self._next]
        if self._core.watches.taken(self._watched):
            self._driver.plan_pump()

    def close(self) -> None:
        """End it."""
        self._core.watches.drop(self._watched, ClientClosed("the watch is closed"))
        self._driver.plan_pump()


class Gone(Exception):
    """History begins at a later revision than the one that is watched from."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest


class Batch:
    """Events as they came: all from where a watch was, through one revision."""

    def __init__(self, through: int, rows: list[tuple[Row, Row | None]]) -> None:
        self.through = through
        self.rows = rows

    @cached_property
    def events(self) -> list[Any]:
        """In etcd's form."""
        return [_event(row, previous) for row, previous in self.rows]

    def after(self, revision: int) -> Batch:
        """The part of it that is later than that."""
        rows = self.rows
        if not rows or rows[0][0][3] > revision:
            return self
        return Batch(self.through, [row for row in rows if row[0][3] > revision])


def _event(row: Row, previous: Row | None) -> Any:
    if row[4]:
        event = message("Event")(kv=key_value(row))
    else:  # of what is deleted, etcd says the key and the revision
        event = message("Event")(type=1, kv=message("KeyValue")(key=row[0], mod_revision=row[3]))
    if previous is not None:
        event.prev_kv.CopyFrom(key_value(previous))
    return event


class Feeds:
    """The watches of Paxon's that etcd's clients share, by what they tell of."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self._feeds: dict[tuple[object, ...], Feed] = {}
        self.watches = 0
        """Of all clients."""

    def join(self, subscription: Subscription, wanted: Events) -> Feed | None:
        """The feed that tells this, which is begun if there is none; None: it is past that."""
        of = (*wanted.spans, wanted.puts, wanted.deletes, wanted.previous)
        feed = self._feeds.get(of)
        if feed is None:
            feed = self._feeds[of] = Feed(self.front, wanted, lambda: self._feeds.pop(of))
        if feed.answers.told > wanted.after:
            return None
        feed.listeners[subscription] = None
        return feed


class Feed:
    """One watch of Paxon's that is told to all who listen; it ends with the last of them."""

    def __init__(self, front: Front, wanted: Events, at_end: Callable[[], object]) -> None:
        self.answers = Answers(front, wanted)
        self.listeners: dict[Subscription, None] = {}
        self._at_end = at_end
        self._task = asyncio.create_task(self._run())

    def leave(self, subscription: Subscription) -> None:
        """It no longer listens."""
        self.listeners.pop(subscription, None)
        if not self.listeners and not self._task.done():
            self._end()
            self._task.cancel()

    def _end(self) -> None:
        self._at_end()
        self._at_end = _nothing
        self.answers.close()

    async def _run(self) -> None:
        try:
            while self.listeners:
                through, rows = await self.answers.next()
                batch = Batch(through, rows)
                for listener in list(self.listeners):
                    listener.offer(batch)
                if self.listeners:
                    self.answers.taken(through)
        except Exception as error:
            self._end()
            for listener in self.listeners:
                listener.fail(error)


def _nothing() -> None: ...


class Subscription:
    """The events for one watch of a client."""

    def __init__(self, feeds: Feeds, wanted: Events, *, current: bool) -> None:
        """Args: `current`: history before `wanted.after` does not matter to the answer."""
        self._front, self._wanted = feeds.front, wanted
        self._feeds = feeds
        feeds.watches += 1
        self._told = wanted.after
        self._batches: deque[Batch] = deque()
        """Not yet passed on."""
        self._error: Exception | None = None
        """What comes after them."""
        self._wake: asyncio.Future[None] | None = None
        self._feed = feeds.join(self, wanted) if current else None
        self._own: Answers | None = None
        """It reads for itself: from further back, or too slowly for the others."""

    @property
    def position(self) -> int:
        """All that happened up to this revision was passed on."""
        if self._batches:
            return self._told
        source = self._own or (self._feed and self._feed.answers)
        return max(self._told, source.position) if source else self._told

    async def next(self) -> Batch:
        """Wait for events. Raises `Gone` if history does not reach back to where it is."""
        while not self._batches:
            if self._feed is not None:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            elif self._error is not None:
                raise self._error
            else:
                if self._own is None:
                    after = structs.replace(self._wanted, after=self._told)
                    self._own = Answers(self._front, after)
                self._batches.append(Batch(*await self._own.next()))
        return self._batches[0]

    def taken(self) -> None:
        """Note that what `next` returned was passed on."""
        self._told = self._batches.popleft().through
        if self._own is not None:
            self._own.taken(self._told)

    def close(self) -> None:
        """End it, once."""
        self._feeds.watches -= 1
        if self._feed is not None:
            self._feed.leave(self)
        if self._own is not None:
            self._own.close()

    # --- what a feed says --------------------------------------------------------------------

    def offer(self, batch: Batch) -> None:
        """This happened; unless it is too much, and it had better go on by itself."""
        if len(self._batches) >= MOST_WAITING:
            feed, self._feed = self._feed, None
            assert feed is not None
            feed.leave(self)
        elif batch.through > self._told:
            self._batches.append(batch.after(self._wanted.after))
        self._awake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        self._feed, self._error = None, error
        self._awake()

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
