"""A sorted set of keys in blocks, for ranges: changes cost a bisection and a short memmove."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from paxon.kvstore.store.spans import TO_THE_END

__all__ = ["KeyIndex"]

_BLOCK = 1024
"""Keys in a block when the index is built; twice as many split it."""


class KeyIndex:
    """Sorted, without duplicates. It must not change while one of its iterators is in use."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        ordered = sorted(keys)
        self._blocks = [ordered[i : i + _BLOCK] for i in range(0, len(ordered), _BLOCK)]
        self._last = [block[-1] for block in self._blocks]
        """The last key of each block, none of which is empty."""

    def add(self, key: bytes) -> None:
        """Put a key in; does nothing if it is there."""
        if not self._blocks:
            self._blocks.append([key])
            self._last.append(key)
            return
        at = min(bisect_left(self._last, key), len(self._blocks) - 1)
        block = self._blocks[at]
        place = bisect_left(block, key)
        if place < len(block) and block[place] == key:
            return
        insort(block, key, place)
        if len(block) > 2 * _BLOCK:
            upper = block[_BLOCK:]
            del block[_BLOCK:]
            self._blocks.insert(at + 1, upper)
            self._last.insert(at + 1, upper[-1])
        self._last[at] = block[-1]

    def discard(self, key: bytes) -> None:
        """Take a key out; does nothing if it is not there."""
        at = bisect_left(self._last, key)
        if at == len(self._blocks):
            return
        block = self._blocks[at]
        place = bisect_left(block, key)
        if block[place] != key:
            return
        del block[place]
        if block:
            self._last[at] = block[-1]
        else:
            del self._blocks[at], self._last[at]

    def between(self, first: bytes, end: bytes, *, backward: bool = False) -> Iterator[bytes]:
        """The keys from `first` on and before `end`, in order; the end as in spans.py."""
        at, place = self._place(first)
        last_at, last_place = self._end(end)
        if backward:
            yield from self._backward(at, place, last_at, last_place)
            return
        while at < last_at:
            block = self._blocks[at]
            yield from block[place:] if place else block
            at, place = at + 1, 0
        if at == last_at and place < last_place:
            yield from self._blocks[at][place:last_place]

    def _backward(self, at: int, place: int, last_at: int, last_place: int) -> Iterator[bytes]:
        while last_at > at:
            if last_place:
                yield from reversed(self._blocks[last_at][:last_place])
            last_at -= 1
            last_place = len(self._blocks[last_at])
        if last_at == at and place < last_place:
            yield from reversed(self._blocks[at][place:last_place])

    def count(self, first: bytes, end: bytes) -> int:
        """How many keys `between` would give: as much work as there are blocks between the ends."""
        at, place = self._place(first)
        last_at, last_place = self._end(end)
        if (last_at, last_place) <= (at, place):
            return 0
        return sum(map(len, self._blocks[at:last_at])) - place + last_place

    def _end(self, end: bytes) -> tuple[int, int]:
        return (len(self._blocks), 0) if end == TO_THE_END else self._place(end)

    def _place(self, key: bytes) -> tuple[int, int]:
        """Block and place of the first key that is not below this one."""
        at = bisect_left(self._last, key)
        return (at, 0) if at == len(self._blocks) else (at, bisect_left(self._blocks[at], key))
