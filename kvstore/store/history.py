"""What the store was: every change with what it replaced, up to a bound, oldest first.

Part of the replicated state: it decides what reads of the past and watches are answered. So it is
cut by executing commands alone, by rules that depend on nothing but the log.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import attrgetter

import msgspec

from paxon.kvstore.store.items import Item, Prefix

__all__ = [
    "FIRST_REVISION",
    "KEPT_BYTES",
    "KEPT_EVENTS",
    "KEPT_NS",
    "Block",
    "History",
    "event_bytes",
]

FIRST_REVISION = 1
"""That of the empty store, as in etcd: the first write makes it 2."""
# Parts of the format: servers of two releases have to cut alike.
KEPT_EVENTS = 100_000
"""So many of the last events are kept …"""
KEPT_NS = 10_000_000_000
"""… and all that are younger than this by the log's time, nanoseconds …"""
KEPT_BYTES = 16 << 20
"""… but no more than this in bytes, the newest revision excepted, which is always kept."""
EVENT_BYTES = 128
"""What an event counts for beside the value that it replaced, and the key that it deleted."""
_BLOCK_EVENTS = 1024
"""Events are dropped in blocks of about so many …"""
_BLOCK_BYTES = 1 << 20
"""… or so many bytes."""
_MARK_NS = 100_000_000
"""How closely the age of events is known."""
_GONE = Item(b"", b"", 0, 0, 0, 0)
"""In place of an event that is kept no more."""

_modified = attrgetter("modified")


def event_bytes(item: Item, before: Item | None) -> int:
    """What an event counts for in history: about the memory that it keeps from being freed."""
    if before is None:
        return EVENT_BYTES
    size = EVENT_BYTES if item.version else EVENT_BYTES + len(item.key)
    value: bytes | Prefix = before.value
    return size if type(value) is Prefix else size + len(value)  # type: ignore[arg-type]


class Block(msgspec.Struct, array_like=True):
    """Events that are dropped together: those of whole revisions."""

    events: int
    bytes: int
    last: int
    """The last of their revisions."""


class History:
    """Events in the order in which they happened; those of a revision come and go together."""

    __slots__ = ("aged", "befores", "blocks", "bytes", "compacted", "dropped", "items", "marks",
                 "now", "oldest", "start")  # fmt: skip

    def __init__(self) -> None:
        self.items: list[Item] = []
        """What each event made of its key; a tombstone if it deleted it."""
        self.befores: list[Item | None] = []
        """What it replaced."""
        self.start = 0
        """The first event that is kept has this index in the lists."""
        self.dropped = 0
        """Events before the lists' first one, since the server started: index + dropped is an
        event's number here. (No part of the state.)"""
        self.blocks: deque[Block] = deque()
        """The events kept, oldest first."""
        self.bytes = 0
        """What they count for."""
        self.oldest = FIRST_REVISION
        """The oldest revision that can be read, and watched from: its own events are kept."""
        self.compacted = 0
        """The highest revision that somebody asked to compact to."""
        self.now = 0
        """The log's time, nanoseconds."""
        self.marks: deque[tuple[int, int]] = deque()
        """Times of the log, each with the store's revision when it had come."""
        self.aged = 0
        """Revisions up to this one are older than `KEPT_NS`."""

    def __len__(self) -> int:
        return len(self.items) - self.start

    def advance(self, now: int, revision: int) -> None:
        """The log's time has come to `now`, with the store at `revision`."""
        if now <= self.now:
            return
        self.now = now
        marks = self.marks
        if not marks or now - marks[-1][0] >= _MARK_NS:
            marks.append((now, revision))
            while marks[0][0] <= now - KEPT_NS:
                self.aged = marks.popleft()[1]

    def add(self, item: Item, before: Item | None) -> None:
        """An event of the newest revision, which has to be `count`ed with the others of its."""
        self.items.append(item)
        self.befores.append(before)

    def count(self, events: int, size: int, revision: int) -> None:
        """So many events with so many bytes were added, up to this revision; drop what is too much.

        Args:
            events: those of one or more whole revisions.
            size: the sum of their `event_bytes`.
            revision: the last of them.
        """
        blocks = self.blocks
        block = blocks[-1] if blocks else None
        if block is not None and block.events < _BLOCK_EVENTS and block.bytes < _BLOCK_BYTES:
            block.events += events
            block.bytes += size
            block.last = revision
        else:
            blocks.append(Block(events, size, revision))
        self.bytes += size
        first = blocks[0]
        if self.bytes > KEPT_BYTES or (
            first.last <= self.aged and len(self.items) - self.start - first.events >= KEPT_EVENTS
        ):
            self._trim()

    def _trim(self) -> None:
        """Drop blocks, oldest first, down to what is to be kept; the newest one stays."""
        blocks = self.blocks
        at = self.start
        while len(blocks) > 1:
            first = blocks[0]
            spare = first.last <= self.aged and len(self.items) - at - first.events >= KEPT_EVENTS
            if not spare and self.bytes <= KEPT_BYTES:
                break
            blocks.popleft()
            at += first.events
            self.bytes -= first.bytes
            self.oldest = first.last + 1
        self._drop_to(at)

    def compact(self, revision: int) -> None:
        """Drop what happened before `revision`."""
        self.oldest = max(self.oldest, revision)
        at, end, blocks = self.start, self.index_after(revision - 1), self.blocks
        while blocks and at + blocks[0].events <= end:
            first = blocks.popleft()
            at += first.events
            self.bytes -= first.bytes
        if at < end:  # the rest is part of a block
            pairs = zip(self.items[at:end], self.befores[at:end], strict=True)
            size = sum(event_bytes(item, before) for item, before in pairs)
            blocks[0].events -= end - at
            blocks[0].bytes -= size
            self.bytes -= size
        self._drop_to(end)

    def _drop_to(self, at: int) -> None:
        """Let go of the events before `at`; the lists are cut now and then only."""
        if at > len(self.items) // 2:
            del self.items[:at], self.befores[:at]
            self.dropped += at
            self.start = 0
            return
        count = at - self.start
        self.items[self.start : at] = [_GONE] * count
        self.befores[self.start : at] = [None] * count
        self.start = at

    def index_after(self, revision: int) -> int:
        """The index of the first event kept that happened after this revision."""
        return bisect_left(self.items, revision + 1, lo=self.start, key=_modified)
