"""A sorted set of keys in blocks, for scans: changes cost a bisection and a short memmove."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

__all__ = ["KeyIndex"]

_BLOCK = 1024
"""Keys in a block when the index is built; twice as many split it."""


class KeyIndex:
    """Sorted, without duplicates. Keys are compared by code points, as their UTF-8 forms would."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        ordered = sorted(keys)
        self._blocks = [ordered[i : i + _BLOCK] for i in range(0, len(ordered), _BLOCK)]
        self._last = [block[-1] for block in self._blocks]
        """The last key of each block, none of which is empty."""

    def add(self, key: str) -> None:
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

    def discard(self, key: str) -> None:
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

    def starting(self, key: str, *, after: bool) -> Iterator[str]:
        """The keys from `key` on, or after it, in order. The index must not change meanwhile."""
        bisect = bisect_right if after else bisect_left
        at = bisect(self._last, key)
        if at == len(self._blocks):
            return
        first = self._blocks[at]
        for place in range(bisect(first, key), len(first)):
            yield first[place]
        for block in self._blocks[at + 1 :]:
            yield from block
