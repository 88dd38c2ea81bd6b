"""Which watches an event concerns: an index of those that this server keeps (no replicated state).

A written key is looked up: among the watches of single keys, among those of prefixes once for each
length that occurs (up to 32), and in trees of all other spans. So idle watches cost a write next to
nothing, however many there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from heapq import heappop, heappush
from typing import Any

import msgspec

from paxon.kvstore.store.events import answer_events
from paxon.kvstore.store.history import History
from paxon.kvstore.store.lately import Lately
from paxon.kvstore.store.operations import (
    Events,
    decode_operations,
    encode_operations,
    encode_results,
    refusal,
)
from paxon.kvstore.store.refusals import Refusal
from paxon.kvstore.store.spans import end_of, prefix_span, united
from paxon.kvstore.store.state import State

__all__ = ["Tree", "Trees", "Watches"]

_LENGTHS = 32
"""Of prefixes; those of further lengths are looked up like any other span."""
_FEW_SPANS = 4
"""Watches of so many spans are always kept; those of more while all that are kept …"""
_MANY_SPANS = 50_000
"""… have no more together: else one client's watches could take all memory."""
_MANY_EVENTS = 256
"""With more since its position a watch is not answered by a look at each."""
_SHARED = 64
"""So many different answers to the events at hand are kept, for watches that ask the same."""


class Watches:
    """The watches kept, by number and by what they watch."""

    def __init__(self) -> None:
        self._kept: dict[int, Events] = {}
        """Each is complete through its `after`, and through `_seen`, whichever is higher."""
        self._by_key: dict[bytes, set[int]] = {}
        self._by_prefix: dict[bytes, set[int]] = {}
        self._lengths: Counter[int] = Counter()
        """Of the prefixes that are watched."""
        self._by_span: dict[tuple[bytes, bytes], set[int]] = {}
        self._trees = Trees()
        """All of these spans."""
        self._spans = 0
        """Of all that are kept."""
        self._no_puts = set[int]()
        self._no_deletes = set[int]()
        """Those that do not care for puts, and for deletions."""
        self._ahead: dict[int, int] = {}
        """Positions of those that wait for a revision to come: nothing concerns them before …"""
        self._reached: list[tuple[int, int]] = []
        """… and a heap of the same, with some that were dropped."""
        self._seen = 0
        """The revision up to which all that is kept has been looked at …"""
        self._next = 0
        """… and the number (since the server started) of the first event after it."""
        self._anew = False
        """The state was replaced: every watch has to be looked at."""
        self._ready: list[tuple[int, bytes]] = []
        self._told: set[int] = set()
        """Watches with an answer among those."""
        self._lately: Lately | None = None

    def __len__(self) -> int:
        return len(self._kept)

    # --- keeping -----------------------------------------------------------------------------

    def ask(self, number: int, query: bytes, state: State, max_bytes: int) -> bytes | None:
        """Answer a watch, or keep it. Raises ValueError if it is none."""
        wanted = _decode(query)
        if not self._is_quiet(wanted, state):
            try:
                result, events, _ = answer_events(state, wanted, max_bytes)
            except Refusal as refused:
                return encode_results([refused.result])
            if events or result[0] < state.revision:
                return encode_results([result])
        if not self._kept:
            self._look_from(state)
        if wanted.after < state.revision:
            wanted = msgspec.structs.replace(wanted, after=state.revision)
        if len(wanted.spans) > _FEW_SPANS and self._spans + len(wanted.spans) > _MANY_SPANS:
            return encode_results(
                [refusal(f"watch {_FEW_SPANS} spans at once: many are kept here")]
            )
        self._kept[number] = wanted
        self._spans += len(wanted.spans)
        if not wanted.puts:
            self._no_puts.add(number)
        if not wanted.deletes:
            self._no_deletes.add(number)
        if wanted.after > state.revision:
            self._ahead[number] = wanted.after
            heappush(self._reached, (wanted.after, number))
        else:
            self._enter(number, wanted)
        return None

    def _is_quiet(self, wanted: Events, state: State) -> bool:
        """Whether it is known, without a look at many events, that there is nothing for a watch."""
        history = state.history
        if not history.oldest - 1 <= wanted.after < state.revision:
            return False
        number = history.number_after(wanted.after)
        if history.end - number <= _MANY_EVENTS:
            return False
        if self._lately is None or self._lately.history is not history:
            self._lately = Lately(history)
        return not self._lately.may_have_changed(wanted.spans, wanted.after, number)

    def _enter(self, number: int, wanted: Events) -> None:
        """From now on what happens to its keys concerns a watch."""
        fresh = []
        for index, key in self._places(wanted):
            if index is self._by_prefix:
                self._lengths[len(key)] += 1
            elif index is self._by_span and key not in index:
                fresh.append(key)
            index.setdefault(key, set()).add(number)
        if fresh:
            self._trees.add(fresh)

    def _enter_reached(self, revision: int) -> set[int]:
        """Those whose position the store has passed: they may be concerned."""
        reached = set[int]()
        while self._reached and self._reached[0][0] < revision:
            after, number = heappop(self._reached)
            if self._ahead.get(number) == after:
                del self._ahead[number]
                self._enter(number, self._kept[number])
                reached.add(number)
        return reached

    def drop(self, number: int) -> None:
        """Forget a watch."""
        wanted = self._kept.pop(number, None)
        if wanted is None:
            return
        self._spans -= len(wanted.spans)
        if not self._kept:
            self._lately = None
        self._no_puts.discard(number)
        self._no_deletes.discard(number)
        if self._ahead.pop(number, 0):
            if len(self._reached) > 2 * len(self._ahead) + 64:
                self._reached = sorted((after, held) for held, after in self._ahead.items())
            return
        for index, key in self._places(wanted, number):
            numbers = index[key]
            numbers.discard(number)
            if index is self._by_prefix:
                self._lengths[len(key)] -= 1
                if not self._lengths[len(key)]:
                    del self._lengths[len(key)]
            if not numbers:
                del index[key]
        self._trees.tidy(self._by_span)

    def _places(
        self, wanted: Events, number: int | None = None
    ) -> Iterator[tuple[dict[Any, set[int]], Any]]:
        """An index and a key there, for each span: where a watch is entered, or `number` is."""
        for key in {first for first, end in wanted.spans if end is None}:
            yield self._by_key, key
        for span in united(wanted.spans):
            first = span[0]
            if number is not None:
                other = number in self._by_span.get(span, ())
                yield (self._by_span, span) if other else (self._by_prefix, first)
            elif span == prefix_span(first) and (
                len(first) in self._lengths or len(self._lengths) < _LENGTHS
            ):
                yield self._by_prefix, first
            else:
                yield self._by_span, span

    def keeps(self, number: int) -> bool:
        """Whether a watch is kept."""
        return number in self._kept

    # --- what happens ------------------------------------------------------------------------

    def start_anew(self) -> None:
        """The state was replaced by another: each watch goes on from its own position."""
        self._anew = True
        self._lately = None  # it would keep all of the old one

    def happened(self, state: State, max_bytes: int) -> list[tuple[int, bytes]]:
        """Answers for which something has happened."""
        self.look(state, max_bytes)
        ready, self._ready = self._ready, []
        self._told.clear()
        return ready

    def look(self, state: State, max_bytes: int) -> None:
        """Answer what the events since the last call concern: before history is cut, at the latest.

        (Whoever compacts to the head, in the same slot as a write, takes no event from a watch.)
        """
        if not self._kept:
            return
        history = state.history
        follows = not self._anew and self._next >= history.first
        concerned = self._concerned(history) if follows else set(self._kept)
        if self._reached:
            concerned |= self._enter_reached(state.revision)
        shared: dict[bytes, tuple[bytes, bool] | None] | None = {} if len(concerned) > 1 else None
        for number in sorted(concerned):
            if number in self._told:  # compacting often must not make answers without bound
                self.drop(number)
                continue
            wanted = self._kept[number]
            if wanted.after < self._seen:
                wanted = self._kept[number] = msgspec.structs.replace(wanted, after=self._seen)
            at = self._next if follows and wanted.after == self._seen else None
            answer = _answer(state, wanted, max_bytes, shared, at)
            if answer is not None:
                payload, whole = answer
                if not whole:
                    self.drop(number)
                self._ready.append((number, payload))
                self._told.add(number)
        self._look_from(state)

    def _look_from(self, state: State) -> None:
        """All that is kept is complete through the store's revision."""
        self._seen = state.revision
        self._next = state.history.end
        self._anew = False

    def _concerned(self, history: History) -> set[int]:
        """The watches that the events since the last look may concern."""
        if not self._no_puts and not self._no_deletes:
            return self._watching(set(history.keys(self._next)))
        put, deleted = set[bytes](), set[bytes]()
        for item, _ in history.since(self._next):
            (put if item.version else deleted).add(item.key)
        return (self._watching(put) - self._no_puts) | (self._watching(deleted) - self._no_deletes)

    def _watching(self, keys: set[bytes]) -> set[int]:
        """The watches of any of these keys."""
        by_key, found = self._by_key, set[int]()
        for key in keys:
            if key in by_key:
                found |= by_key[key]
        for length in self._lengths:
            for start in {key[:length] for key in keys if length <= len(key)}:
                found |= self._by_prefix.get(start, set())
        if self._by_span:
            for span in self._trees.holding(sorted(keys)):
                found |= self._by_span.get(span, set())
        return found


class Trees:
    """Spans, to find those that hold one of many keys: balanced trees laid out in lists.

    A tree is never changed. New spans make a small one, and take in those that are not larger, so
    that there are few. (Bentley & Saxe, "Decomposable Searching Problems", 1980)
    """

    def __init__(self) -> None:
        self._trees: list[Tree] = []

    def add(self, spans: list[tuple[bytes, bytes]]) -> None:
        while self._trees and len(self._trees[-1].spans) <= len(spans):
            spans = spans + self._trees.pop().spans
        self._trees.append(Tree(spans))

    def tidy(self, left: Collection[tuple[bytes, bytes]]) -> None:
        """Only these are left: forget the others once they are more."""
        if sum(len(tree.spans) for tree in self._trees) > 2 * len(left) + 64:
            self._trees = [Tree(list(left))]

    def holding(self, keys: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Those that hold a key, some of which may have gone; `keys` are in order."""
        found: list[tuple[bytes, bytes]] = []
        for tree in self._trees:
            tree.find(keys, (0, len(keys)), (0, len(tree.spans)), found)
        return found


class Tree:
    """Spans by their first keys; each node knows the highest end below it."""

    def __init__(self, spans: list[tuple[bytes, bytes]]) -> None:
        self.spans = sorted(spans)
        self._ends = [end_of(end) for _, end in self.spans]
        self._highest = self._ends.copy()
        self._rise(0, len(spans))

    def _rise(self, low: int, high: int) -> bytes:
        if low >= high:
            return b""
        middle = (low + high) // 2
        highest = max(self._ends[middle], self._rise(low, middle), self._rise(middle + 1, high))
        self._highest[middle] = highest
        return highest

    def find(
        self,
        keys: list[bytes],
        among: tuple[int, int],
        nodes: tuple[int, int],
        found: list[tuple[bytes, bytes]],
    ) -> None:
        """Of the spans `nodes` (from, to) those that hold one of the keys `among` (from, to)."""
        (i, j), (low, high) = among, nodes
        while low < high:
            middle = (low + high) // 2
            j = bisect_left(keys, self._highest[middle], i, j)
            if i == j:
                return
            self.find(keys, (i, j), (low, middle), found)
            i = bisect_left(keys, self.spans[middle][0], i, j)
            if i == j:
                return
            if keys[i] < self._ends[middle]:
                found.append(self.spans[middle])
            low = middle + 1


def _decode(query: bytes) -> Events:
    operations = decode_operations(query)
    if len(operations) != 1 or type(operations[0]) is not Events:
        raise ValueError("a watch is one `Events` operation")
    return operations[0]


def _answer(
    state: State, wanted: Events, max_bytes: int,
    shared: dict[bytes, tuple[bytes, bool] | None] | None, number: int | None,
) -> tuple[bytes, bool] | None:  # fmt: skip
    """The answer to a watch, and whether that is all; None if there is nothing for it.

    Many may ask the very same. `number`: see `read_events`.
    """
    question = b"" if shared is None else encode_operations((wanted,))
    if shared is not None and question in shared:
        return shared[question]
    try:
        result, events, _ = answer_events(state, wanted, max_bytes, number)
        whole = result[0] >= state.revision
        quiet = whole and not events
    except Refusal as refused:
        result, quiet, whole = refused.result, False, False
    answer = None if quiet else (encode_results([result]), whole)
    if shared is not None and len(shared) < _SHARED:
        shared[question] = answer
    return answer
