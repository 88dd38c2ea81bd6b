"""Which keys have changed lately: for watches that go on from a while ago, most for nothing.

After a failover every client asks for its watches anew, each from a position of its own. To look at
each event since would cost as much as there are events, times watches.
"""

from __future__ import annotations

from itertools import islice

from paxon.kvstore.store.history import History, key_of
from paxon.kvstore.store.key_index import KeyIndex
from paxon.kvstore.store.spans import united

__all__ = ["Lately"]

_AT_ONCE = 20_000
"""Events that are taken in for one question, each way."""


class Lately:
    """When each key changed last, as far back as anybody has asked.

    Brought up to date when it is asked: writes do not know of it.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._begin()

    def _begin(self) -> None:
        self._from = self._upto = self.history.end
        """The numbers of the events that are in here: from, and up to."""
        self._last: dict[bytes, int] = {}
        self._index: KeyIndex | None = None
        """Of the same keys, once a range is asked for."""

    def may_have_changed(
        self, spans: list[tuple[bytes, bytes | None]], after: int, number: int
    ) -> bool:
        """Whether any of these keys has changed after a revision, as far as is soon told.

        `number` is that of the first event after it. Where there are fewer events than keys to look
        at, it is for the events to tell.
        """
        if not self._covers(number):
            return True
        last, left = self._last, self.history.end - number
        if any(last.get(first, 0) > after for first, end in spans if end is None):
            return True
        ranges = united(spans)
        if ranges and self._index is None:
            self._index = KeyIndex(last)
        for first, end in ranges:
            assert self._index is not None
            left -= self._index.count(first, end)
            if left < 0:
                return True
            if any(last[key] > after for key in self._index.between(first, end)):
                return True
        return False

    def _covers(self, number: int) -> bool:
        """Take in events from this number on that are not in here yet; whether all are now."""
        history = self.history
        if history.first - self._from > max(1024, len(history)):
            self._begin()  # most of it is of events that are gone
        first = max(number, self._from - _AT_ONCE)
        if first < self._from:
            self._take_in(first, self._from - first)
            self._from = first
        count = min(history.end - self._upto, _AT_ONCE)
        self._take_in(self._upto, count)
        self._upto += count
        return self._from <= number and self._upto == history.end

    def _take_in(self, number: int, count: int) -> None:
        last, index = self._last, self._index
        for revision, before in islice(self.history.changes(number), count):
            key = key_of(before)
            known = last.get(key, 0)
            if revision > known:
                last[key] = revision
            if index is not None and not known:
                index.add(key)
