"""Spans of keys, written as etcd does: a first key and an end that is no longer part of it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["EVERYTHING", "TO_THE_END", "contains", "end_of", "prefix_span", "united"]

TO_THE_END = b"\0"
"""As an end: all keys from the first one on. (No span needs it otherwise: no key is below it.)"""

_ABOVE_ALL = b"\xff" * 5000
"""Keys are shorter."""

EVERYTHING = (b"\0", TO_THE_END)


def prefix_span(prefix: bytes) -> tuple[bytes, bytes]:
    """First key and end of all keys that begin with `prefix`."""
    if not prefix:
        return EVERYTHING
    end = prefix.rstrip(b"\xff")
    if not end:
        return prefix, TO_THE_END
    return prefix, end[:-1] + bytes((end[-1] + 1,))


def end_of(end: bytes) -> bytes:
    """An end that compares with keys: above all of them for `TO_THE_END`."""
    return _ABOVE_ALL if end == TO_THE_END else end


def united(spans: Iterable[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes]]:
    """The spans of more than a key, in order, those that overlap as one."""
    found: list[tuple[bytes, bytes]] = []
    for first, end in sorted((first, end) for first, end in spans if end is not None):
        if first >= end_of(end):
            continue  # it holds no key
        if found and first <= end_of(found[-1][1]):
            found[-1] = found[-1][0], max(found[-1][1], end, key=end_of)
        else:
            found.append((first, end))
    return found


def contains(first: bytes, end: bytes | None, key: bytes) -> bool:
    """Whether a key is in the span; without an end that is the one key."""
    if end is None:
        return key == first
    return first <= key and (key < end or end == TO_THE_END)
