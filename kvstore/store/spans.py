"""Spans of keys, written as etcd does: a first key and an end that is no longer part of it."""

from __future__ import annotations

__all__ = ["EVERYTHING", "TO_THE_END", "contains", "prefix_span"]

TO_THE_END = b"\0"
"""As an end: all keys from the first one on. (No span needs it otherwise: no key is below it.)"""

EVERYTHING = (b"\0", TO_THE_END)


def prefix_span(prefix: bytes) -> tuple[bytes, bytes]:
    """First key and end of all keys that begin with `prefix`."""
    if not prefix:
        return EVERYTHING
    end = prefix.rstrip(b"\xff")
    if not end:
        return prefix, TO_THE_END
    return prefix, end[:-1] + bytes((end[-1] + 1,))


def contains(first: bytes, end: bytes | None, key: bytes) -> bool:
    """Whether a key is in the span; without an end that is the one key."""
    if end is None:
        return key == first
    return first <= key and (key < end or end == TO_THE_END)
