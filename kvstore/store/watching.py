"""Which watches an event concerns: an index of those that this server keeps (no replicated state).

A written key is looked up: among the watches of single keys, among those of prefixes once for each
length that occurs, and in every other span. So idle watches of keys and prefixes cost a write next
to nothing, however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from paxon.kvstore.store.events import answer_events
from paxon.kvstore.store.operations import (
    Events,
    decode_operations,
    encode_operations,
    encode_results,
)
from paxon.kvstore.store.refusals import Refusal
from paxon.kvstore.store.spans import contains, prefix_span
from paxon.kvstore.store.state import State

__all__ = ["Watches"]

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
        self._seen = 0
        """The revision up to which all that is kept has been looked at …"""
        self._next = 0
        """… and the number (since the server started) of the first event after it."""
        self._anew = False
        """The state was replaced: every watch has to be looked at."""
        self._ready: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._kept)

    # --- keeping -----------------------------------------------------------------------------

    def ask(self, number: int, query: bytes, state: State, max_bytes: int) -> bytes | None:
        """Answer a watch, or keep it. Raises ValueError if it is none."""
        wanted = _decode(query)
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
        self._kept[number] = wanted
        for index, key in self._places(wanted):
            index.setdefault(key, set()).add(number)
            if index is self._by_prefix:
                self._lengths[len(key)] += 1
        return None

    def drop(self, number: int) -> None:
        """Forget a watch."""
        wanted = self._kept.pop(number, None)
        if wanted is None:
            return
        for index, key in self._places(wanted):
            numbers = index[key]
            numbers.discard(number)
            if index is self._by_prefix:
                self._lengths[len(key)] -= 1
                if not self._lengths[len(key)]:
                    del self._lengths[len(key)]
            if not numbers:
                del index[key]

    def _places(self, wanted: Events) -> Iterator[tuple[dict[Any, set[int]], Any]]:
        """Where a watch is entered: an index and its key there, for each span."""
        for first, end in dict.fromkeys(wanted.spans):
            if end is None:
                yield self._by_key, first
            elif (first, end) == prefix_span(first):
                yield self._by_prefix, first
            else:
                yield self._by_span, (first, end)

    # --- what happens ------------------------------------------------------------------------

    def start_anew(self) -> None:
        """The state was replaced by another: each watch goes on from its own position."""
        self._anew = True

    def happened(self, state: State, max_bytes: int) -> list[tuple[int, bytes]]:
        """Answers for which something has happened; those watches are kept no more."""
        self.look(state, max_bytes)
        ready, self._ready = self._ready, []
        return ready

    def look(self, state: State, max_bytes: int) -> None:
        """Answer what the events since the last call concern: before history is cut, at the latest.

        (Whoever compacts to the head, in the same slot as a write, takes no event from a watch.)
        """
        if not self._kept:
            return
        history = state.history
        if self._anew or self._next < history.first:
            concerned = set(self._kept)
        else:
            concerned = self._watching(set(history.keys(self._next)))
        shared: dict[bytes, bytes | None] = {}
        for number in sorted(concerned):
            wanted = self._kept[number]
            if wanted.after < self._seen:
                wanted = msgspec.structs.replace(wanted, after=self._seen)
            answer = _answer(state, wanted, max_bytes, shared)
            if answer is not None:
                self.drop(number)
                self._ready.append((number, answer))
        self._look_from(state)
        history.pack()

    def _look_from(self, state: State) -> None:
        """All that is kept is complete through the store's revision."""
        self._seen = state.revision
        self._next = state.history.end
        self._anew = False

    def _watching(self, keys: set[bytes]) -> set[int]:
        """The watches of any of these keys."""
        by_key, found = self._by_key, set[int]()
        for key in keys:
            if key in by_key:
                found |= by_key[key]
        for length in self._lengths:
            for start in {key[:length] for key in keys if length <= len(key)}:
                found |= self._by_prefix.get(start, set())
        for (first, end), numbers in self._by_span.items():
            if any(contains(first, end, key) for key in keys):
                found |= numbers
        return found


def _decode(query: bytes) -> Events:
    operations = decode_operations(query)
    if len(operations) != 1 or type(operations[0]) is not Events:
        raise ValueError("a watch is one `Events` operation")
    return operations[0]


def _answer(
    state: State, wanted: Events, max_bytes: int, shared: dict[bytes, bytes | None]
) -> bytes | None:
    """The answer to a watch, None if there is nothing for it; many may ask the very same."""
    question = encode_operations((wanted,))
    if question in shared:
        return shared[question]
    try:
        result, events, _ = answer_events(state, wanted, max_bytes)
        quiet = not events and result[0] >= state.revision
    except Refusal as refused:
        result, quiet = refused.result, False
    answer = None if quiet else encode_results([result])
    if len(shared) < _SHARED:
        shared[question] = answer
    return answer
