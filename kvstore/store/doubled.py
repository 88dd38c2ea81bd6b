"""A transaction may not write the same key twice: which of the two would be its revision's?"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Writes", "joined", "either"]

Span = tuple[bytes, bytes]


class Writes(NamedTuple):
    """The keys that operations may write."""

    puts: dict[bytes, None]
    """Keys, in order: an error has to name the same one everywhere."""
    deleted: list[Span]


class _Spans:
    """A union of spans."""

    def __init__(self) -> None:
        self._firsts: list[bytes] = []
        self._ends: list[bytes] = []

    def add(self, span: Span) -> None:
        first, end = span
        if first >= end:
            return
        at, after = bisect_left(self._ends, first), bisect_right(self._firsts, end)
        if at < after:  # those it touches become one with it
            first, end = min(first, self._firsts[at]), max(end, self._ends[after - 1])
        self._firsts[at:after] = [first]
        self._ends[at:after] = [end]

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._firsts, key) - 1
        return at >= 0 and key < self._ends[at]


def joined(parts: Sequence[Writes]) -> Writes:
    """The writes of operations that are all carried out.

    Raises ValueError if a key is put twice, or put by one and deleted by another. (Deletions may
    overlap: what is gone stays gone.)
    """
    puts: dict[bytes, None] = {}
    for part in parts:
        for key in part.puts:
            if key in puts:
                raise _doubled(key)
            puts[key] = None
    if puts and any(part.deleted for part in parts):
        _check_deletions(parts)
        _check_deletions(reversed(parts))
    return Writes(puts, [span for part in parts for span in part.deleted])


def either(one: Writes, other: Writes) -> Writes:
    """The writes of operations of which only one or the other are carried out."""
    return Writes(one.puts | other.puts, one.deleted + other.deleted)


def _check_deletions(parts: Iterable[Writes]) -> None:
    """Whether a part puts what one before it deletes."""
    deleted = _Spans()
    for part in parts:
        for key in part.puts:
            if key in deleted:
                raise _doubled(key)
        for span in part.deleted:
            deleted.add(span)


def _doubled(key: bytes) -> ValueError:
    return ValueError(f"a transaction writes the key {key!r} twice")
