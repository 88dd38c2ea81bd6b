"""The events of a watch as callers see them, and how far all were told."""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

import msgspec

from paxon.kvstore.client.arguments import Key, as_text
from paxon.kvstore.client.calls.answers import accepted
from paxon.kvstore.client.calls.keys import Bounds, check_number, span_of
from paxon.kvstore.client.checks import check_flag
from paxon.kvstore.client.watches.side import Watched, WatchSide
from paxon.kvstore.errors import InvalidRequest, PaxonError
from paxon.kvstore.store.items import Row
from paxon.kvstore.store.operations import Events, Result

__all__ = ["Event", "Told", "events_wanted"]

Kind: TypeAlias = Literal["put", "delete"]


class Event(msgspec.Struct, frozen=True):
    """A key was written or deleted."""

    kind: Kind
    key: str
    """Bytes that are not UTF-8 stand in it as surrogates, as in file names (`surrogateescape`)."""
    value: bytes
    """The value that was written; empty if the key was deleted."""
    revision: int
    """Of this change; all events of one transaction have the same."""
    created: int
    """The revision that made the key; 0 if it was deleted."""
    version: int
    """Writes since the key was made, from 1; 0 if it was deleted."""
    lease: int
    """The id of the lease with which the key goes; 0: none."""
    previous: bytes | None = None
    """The value before, where the watch asks for `previous` and the key was there."""


def _event(row: Row, previous: Row | None) -> Event:
    key, value, created, modified, version, lease = row
    before = None if previous is None else previous[1]
    if version:
        return Event("put", as_text(key), value, modified, created, version, lease, before)
    return Event("delete", as_text(key), b"", modified, 0, 0, 0, before)


def events_wanted(
    key: Key | None,
    prefix: Key | None,
    range_: Bounds | None,
    *,
    after: int,
    puts: bool,
    deletes: bool,
    previous: bool,
) -> Events:
    """The question of a watch. Raises `InvalidRequest` for wrong arguments."""
    span = span_of(key, prefix, range_)
    for name, value in (("puts", puts), ("deletes", deletes), ("previous", previous)):
        check_flag(name, value)
    if not puts and not deletes:
        raise InvalidRequest("a watch of neither puts nor deletes would tell nothing")
    return Events(check_number(after, "revision"), [span], puts, deletes, previous)


class Quiet(TimeoutError):
    """Nothing has happened in the time given. (Any other one is a signal handler's, say.)"""


class Told:
    """Events that have come and were not told yet, and how far all was told."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._events: deque[Event] = deque()
        self.error: PaxonError | None = None
        """Why no more will come, such as `Compacted`."""
        self.looked: Result = None
        """The last answer's look at something besides the events, if the watch takes one."""

    @property
    def revision(self) -> int:
        """Every event up to this revision was told: a watch after it goes on without a gap."""
        if self._events:
            return self._events[0].revision - 1
        answer = self.watched.answer
        if isinstance(answer, list):  # it has come, and nobody has looked
            first: int = answer[1][0][0][3]
            return first - 1
        return self.watched.position

    def settle(self, side: WatchSide) -> bool:
        """Take in what has come by now, once a wait is over; whether there is more to ask for."""
        watched = self.watched
        watched.ticket = None
        if not watched.answers:
            self.error = watched.error
            return True
        try:
            _, rows, *looked = accepted(watched.answers[0])
        except PaxonError as error:
            self.error = error
            return True
        events = deque(_event(row, previous) for row, previous in rows)
        self.looked = looked[0] if looked else None
        self._events = events  # (it was empty; and no interrupt comes between this …
        watched.answers.pop(0)  # … and this)
        return side.taken(watched)

    def __bool__(self) -> bool:
        """Whether there are events that were not told yet."""
        return bool(self._events)

    def next_event(self) -> Event:
        """The next one of those that are there."""
        return self._events.popleft()

    def rest_of_revisions(self) -> list[Event]:
        """All that are there: whole revisions."""
        events = list(self._events)
        self._events.clear()
        return events
