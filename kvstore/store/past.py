"""The store as it was after an older revision, and as it will be after a transaction."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from heapq import merge
from itertools import islice
from typing import Protocol

from paxon.kvstore.store.history import Before, History, key_of
from paxon.kvstore.store.items import Item
from paxon.kvstore.store.key_index import KeyIndex

__all__ = ["Changed", "Now", "Past", "Then", "View"]


class View(Protocol):
    """Something that reads like the store."""

    def get(self, key: bytes) -> Item | None:
        """The key's item, None if it is missing."""

    def items(self, first: bytes, end: bytes, *, backward: bool) -> Iterator[Item]:
        """Those of a span, in the order of keys."""

    def count(self, first: bytes, end: bytes) -> int:
        """How many there are."""

    def looks(self, first: bytes, end: bytes) -> int:
        """At how many keys counting them looks, one by one: the same on every server."""


class Now:
    """The store as it is."""

    def __init__(self, data: Mapping[bytes, Item], index: Callable[[], KeyIndex]) -> None:
        self._data = data
        self._index = index
        self.get = data.get

    def items(self, first: bytes, end: bytes, *, backward: bool) -> Iterator[Item]:
        data = self._data
        for key in self._index().between(first, end, backward=backward):
            yield data[key]

    def keys(self, first: bytes, end: bytes, *, backward: bool) -> Iterator[bytes]:
        return self._index().between(first, end, backward=backward)

    def count(self, first: bytes, end: bytes) -> int:
        return self._index().count(first, end)

    def looks(self, _first: bytes, _end: bytes) -> int:
        return 0


class Changed:
    """The store with some keys otherwise: as it will be after a transaction."""

    def __init__(self, now: Now, changes: dict[bytes, Item | None]) -> None:
        self._now = now
        self.changes = changes
        """None: deleted. Keys come and never go."""
        self._index = KeyIndex()
        self._indexed = 0
        """So many of the changed keys are in the index: the first ones."""

    def get(self, key: bytes) -> Item | None:
        return self.changes[key] if key in self.changes else self._now.get(key)

    def items(self, first: bytes, end: bytes, *, backward: bool) -> Iterator[Item]:
        if not self.looks(first, end):
            return self._now.items(first, end, backward=backward)
        changed = self._changed().between(first, end, backward=backward)
        keys = self._now.keys(first, end, backward=backward)
        return _merged(keys, changed, self.get, backward=backward)

    def count(self, first: bytes, end: bytes) -> int:
        count = self._now.count(first, end)
        for key in self._changed().between(first, end):
            count += (self.changes[key] is not None) - (self._now.get(key) is not None)
        return count

    def looks(self, first: bytes, end: bytes) -> int:
        return self._changed().count(first, end)

    def _changed(self) -> KeyIndex:
        """All keys that are otherwise, in order."""
        if self._indexed < len(self.changes):
            for key in islice(self.changes, self._indexed, None):
                self._index.add(key)
            self._indexed = len(self.changes)
        return self._index


class Past:
    """Finds by key what history holds of it.

    Built when the past is first asked for, brought up to date when it is asked for again: writes do
    not know of it.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._first = self._upto = history.first
        """The numbers of the events that are in here: from, and up to."""
        self._events: dict[bytes, tuple[list[int], list[Before]]] = {}
        """Per key: revisions in which it changed, and what it was before each."""
        self._index: KeyIndex | None = None

    @property
    def usable(self) -> bool:
        """False once most of it is of events that are gone: then make another."""
        gone = self._history.first - self._first
        return gone <= max(1024, len(self._history))

    def bring_up_to_date(self) -> None:
        """Take in what has happened since."""
        history, events = self._history, self._events
        for revision, before in history.changes(max(self._upto, history.first)):
            key = key_of(before)
            known = events.get(key)
            if known is None:
                known = events[key] = ([], [])
                if self._index is not None:
                    self._index.add(key)
            known[0].append(revision)
            known[1].append(before)
        self._upto = history.end

    def changed_since(self, key: bytes, revision: int) -> bool:
        """Whether the key has changed after this revision."""
        known = self._events.get(key)
        return known is not None and known[0][-1] > revision

    def before(self, key: bytes, revision: int) -> Item | None:
        """The item of a key after this revision, if it has changed since."""
        revisions, befores = self._events[key]
        before = befores[bisect_right(revisions, revision)]
        return before if type(before) is Item else None

    def remembered(self, first: bytes, end: bytes) -> int:
        """How many keys have changed as far back as history reaches.

        Others may be in here still, if this server was asked for the past before.
        """
        oldest = self._history.oldest
        return sum(self.changed_since(key, oldest) for key in self.index().between(first, end))

    def index(self) -> KeyIndex:
        """All keys that have changed."""
        if self._index is None:
            self._index = KeyIndex(self._events)
        return self._index


class Then:
    """The store as it was after a revision that history still knows."""

    def __init__(self, now: Now, past: Past, revision: int) -> None:
        self._now = now
        self._past = past
        self._revision = revision

    def get(self, key: bytes) -> Item | None:
        if self._past.changed_since(key, self._revision):
            return self._past.before(key, self._revision)
        return self._now.get(key)

    def items(self, first: bytes, end: bytes, *, backward: bool) -> Iterator[Item]:
        changed = self._past.index().between(first, end, backward=backward)
        keys = self._now.keys(first, end, backward=backward)
        return _merged(keys, changed, self.get, backward=backward)

    def count(self, first: bytes, end: bytes) -> int:
        count = self._now.count(first, end)
        for key in self._past.index().between(first, end):
            if self._past.changed_since(key, self._revision):
                before = self._past.before(key, self._revision)
                count += (before is not None) - (self._now.get(key) is not None)
        return count

    def looks(self, first: bytes, end: bytes) -> int:
        return self._past.remembered(first, end)


def _merged(
    keys: Iterator[bytes],
    others: Iterator[bytes],
    get: Callable[[bytes], Item | None],
    *,
    backward: bool,
) -> Iterator[Item]:
    """The items of the keys of both, in order."""
    last = None
    for key in merge(keys, others, reverse=backward):
        if key != last and (item := get(key)) is not None:
            yield item
        last = key
