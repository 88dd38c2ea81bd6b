"""What the store was: every change with what it replaced, up to a bound, oldest first.

Part of the replicated state: it decides what reads of the past and watches are answered. So it is
cut by executing commands alone, by rules that depend on nothing but the log.

Nearly all of it is never looked at again, so a write does as little for it as can be: it keeps the
objects that the store had anyway (docs/design/store.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from itertools import groupby, islice, repeat
from operator import attrgetter

import msgspec

from paxon.kvstore.store.items import Item, Prefix, tombstone

__all__ = [
    "FIRST_REVISION",
    "KEPT_BYTES",
    "KEPT_EVENTS",
    "KEPT_NS",
    "Before",
    "History",
    "Written",
    "event_bytes",
    "key_of",
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
"""What an event counts for besides the value that it replaced."""
_BLOCK_EVENTS = 512
"""Events are dropped in blocks of about so many …"""
_BLOCK_BYTES = 1 << 20
"""… or so many bytes."""
_MARK_NS = 100_000_000
"""How closely the age of events is known."""

Before = Item | bytes
"""What an event replaced; the key alone if there was nothing."""


def event_bytes(item: Item, before: Before) -> int:
    """The bytes of an event in history: about the memory that it keeps from being freed.

    A key counts if it was deleted: else the store has it anyway.
    """
    if type(before) is not Item:
        return EVENT_BYTES
    value: bytes | Prefix = before.value
    size = EVENT_BYTES if item.version else EVENT_BYTES + len(before.key)
    # (The bytes of a `Prefix` are those of what replaced it.)
    return size if type(value) is Prefix else size + len(value)  # type: ignore[arg-type]


def key_of(before: Before) -> bytes:
    """The key that an event concerns."""
    return before.key if type(before) is Item else before  # type: ignore[return-value]


class Shared(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True, tag=2):
    """An item as it is written whose value is the first `size` bytes of what replaced it."""

    key: bytes
    size: int
    created: int
    modified: int
    version: int
    lease: int


class Written(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """Events as they are written. What each made of its key is found from what follows."""

    size: int
    """What they count for, in bytes."""
    runs: list[tuple[int, int, int]]
    """The first and the last revision of so many events in a row: all are of one, or each is of the
    one after."""
    befores: list[Item | Shared | bytes]

    def is_sound(self) -> bool:
        """Whether its parts go together."""
        return 0 < len(self.befores) == sum(events for *_, events in self.runs) and all(
            first == last or first + events == last + 1 for first, last, events in self.runs
        )

    def revisions(self) -> Iterator[int]:
        """That of each event."""
        for first, last, events in self.runs:
            yield from repeat(first, events) if first == last else range(first, last + 1)


_encoder = msgspec.msgpack.Encoder()
_modified = attrgetter("modified")


class Block:
    """Events that are dropped together: those of whole revisions."""

    __slots__ = ("befores", "count", "first", "items", "size")

    def __init__(self, first: int, items: list[Item], befores: list[Before]) -> None:
        self.first = first
        """The number of its first event, counted since the server started. (No part of the state.)
        """
        self.count = 0
        """Its events."""
        self.size = 0
        """What they count for, in bytes."""
        self.items = items
        """What each event made of its key; a tombstone if it deleted it."""
        self.befores = befores
        """What it replaced."""

    @property
    def last(self) -> int:
        """The last of the revisions; 0 if there is none."""
        return self.items[self.count - 1].modified if self.count else 0

    def written(self) -> bytes:
        """The events as a snapshot takes them.

        (Nearly always without touching them: the child that encodes has no pages of its own then.)
        """
        written = Written(self.size, _runs(self.items), self.befores)  # type: ignore[arg-type]
        try:
            return _encoder.encode(written)
        except TypeError:  # a value shared with its successor: nothing encodes a `Prefix`
            written.befores = list(map(_shared, self.befores))
            return _encoder.encode(written)

    def revisions(self) -> list[int]:
        """That of each event."""
        return [item.modified for item in islice(self.items, self.count)]

    def restore(
        self, written: Written, after: dict[bytes, Before], data: dict[bytes, Item]
    ) -> None:
        """Take in what was written.

        `after` holds what later events replaced, and comes to hold what these did. Raises
        ValueError if that does not fit together.
        """
        items = self.items
        self.befores = written.befores  # type: ignore[assignment]
        self.count, self.size = len(self.befores), written.size
        events = list(zip(written.revisions(), self.befores, strict=True))
        for at in reversed(range(len(events))):
            revision, before = events[at]
            found: Before | Shared = before
            key = before if type(before) is bytes else before.key  # type: ignore[union-attr]
            item = after.get(key) or data.get(key)
            if type(found) is Shared:
                before = self.befores[at] = _restored(found, item)
            after[key] = before
            if type(item) is not Item:
                item = tombstone(key, revision)
            if item.modified != revision:
                raise ValueError(
                    f"not a snapshot of a key-value store: the key {key!r} was changed in "
                    f"revision {revision}, and is of {item.modified}"
                )
            items.append(item)
        items.reverse()


def _runs(items: list[Item]) -> list[tuple[int, int, int]]:
    """The revisions of events (`Written`). No revision is without one."""
    first, last, events = items[0].modified, items[-1].modified, len(items)
    if last - first + 1 == events:  # by far the most frequent: each is of its own
        return [(first, last, events)]
    return [(each, each, len(list(them))) for each, them in groupby(map(_modified, items))]


def _restored(shared: Shared, item: Item | bytes | None) -> Item:
    """What was written as a part of the value of what replaced it."""
    if type(item) is not Item:
        raise ValueError(
            f"not a snapshot of a key-value store: what replaced {shared.key!r} is missing"
        )
    whole: bytes | bytearray | Prefix = item.value
    value = Prefix(whole.whole if type(whole) is Prefix else whole, shared.size)  # type: ignore[arg-type]
    _, _, created, modified, version, lease = msgspec.structs.astuple(shared)
    return Item(item.key, value, created, modified, version, lease)  # type: ignore[arg-type]


def _shared(before: Before) -> Item | Shared | bytes:
    if type(before) is not Item:
        return before
    value: bytes | Prefix = before.value
    if type(value) is not Prefix:
        return before
    size = value.size
    return Shared(before.key, size, before.created, before.modified, before.version, before.lease)


class History:
    """Events in the order in which they happened; those of a revision come and go together."""

    __slots__ = ("aged", "befores", "blocks", "bytes", "compacted", "data", "items", "marks",
                 "now", "oldest")  # fmt: skip

    def __init__(self, data: dict[bytes, Item]) -> None:
        self.data = data
        """The store's keys as they are now."""
        self.items: list[Item] = []
        """Those of the newest block: what each event made of its key."""
        self.befores: list[Before] = []
        """What it replaced."""
        self.blocks: deque[Block] = deque([Block(0, self.items, self.befores)])
        """The events kept, oldest first. There is always one, if an empty one."""
        self.bytes = 0
        """What the events count for."""
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

    @property
    def first(self) -> int:
        """The number of the first event kept (`Block.first`)."""
        return self.blocks[0].first

    @property
    def end(self) -> int:
        """The number of the event that comes next."""
        return self.blocks[-1].first + len(self.items)

    def __len__(self) -> int:
        return self.end - self.first

    # --- changing -----------------------------------------------------------------------------

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

    def count(self, events: int, size: int) -> None:
        """So many events were added to `items` and `befores`; drop what is too much.

        `size` is the sum of their `event_bytes`.
        """
        block = self.blocks[-1]
        if block.count >= _BLOCK_EVENTS or block.size >= _BLOCK_BYTES:
            block = self._next_block(block)
        block.count += events
        block.size += size
        self.bytes += size
        if self.bytes > KEPT_BYTES:
            self._trim()

    def restore(self, written: list[Written]) -> None:
        """Take in what was written; `data` is complete. Raises ValueError if it does not fit."""
        after: dict[bytes, Before] = {}
        blocks: deque[Block] = deque()
        for found in reversed(written):
            if not found.is_sound():
                raise ValueError("not a snapshot of a key-value store: its history is damaged")
            block = Block(0, [], [])
            block.restore(found, after, self.data)
            if not blocks:
                self.items, self.befores = block.items, block.befores
            blocks.appendleft(block)
            self.bytes += block.size
        self.blocks = blocks or self.blocks
        number = 0
        for block in self.blocks:
            block.first = number
            number += block.count

    def _next_block(self, full: Block) -> Block:
        """Begin another with the events that are not counted yet."""
        at = full.count
        items, befores = self.items[at:], self.befores[at:]
        del self.items[at:], self.befores[at:]
        self.items, self.befores = items, befores
        block = Block(full.first + at, items, befores)
        self.blocks.append(block)
        self._trim()
        return block

    def _trim(self) -> None:
        """Drop blocks, oldest first, down to what is to be kept; the newest one stays."""
        blocks = self.blocks
        while len(blocks) > 1:
            first = blocks[0]
            spare = first.last <= self.aged and len(self) - first.count >= KEPT_EVENTS
            if not spare and self.bytes <= KEPT_BYTES:
                break
            self.bytes -= first.size
            self.oldest = first.last + 1
            blocks.popleft()

    def compact(self, revision: int) -> None:
        """Drop what happened before `revision`."""
        self.oldest = max(self.oldest, revision)
        blocks = self.blocks
        while len(blocks) > 1 and blocks[0].last < revision:
            self.bytes -= blocks.popleft().size
        if blocks[0].count:
            self._cut(blocks[0], revision)

    def _cut(self, block: Block, revision: int) -> None:
        """Drop what of a block happened before `revision`."""
        count = bisect_left(block.revisions(), revision)
        if not count:
            return
        size = sum(map(event_bytes, block.items[:count], block.befores[:count]))
        del block.items[:count], block.befores[:count]
        block.first += count
        block.count -= count
        block.size -= size
        self.bytes -= size

    # --- reading ------------------------------------------------------------------------------

    def number_after(self, revision: int) -> int:
        """The number of the first event kept that happened after this revision."""
        found = None
        for block in reversed(self.blocks):
            if block.last <= revision:
                break
            found = block
        if found is None:
            return self.end
        if found.items is not None:
            items, count = found.items, found.count
            return found.first + bisect_left(items, revision + 1, 0, count, key=_modified)
        return found.first + bisect_left(found.revisions(), revision + 1)

    def changes(self, number: int) -> Iterator[tuple[int, Before]]:
        """Revision and what was replaced, of each event from this number on."""
        for block in self._blocks_from(number):
            at = max(0, number - block.first)
            yield from islice(zip(block.revisions(), block.befores, strict=True), at, None)

    def keys(self, number: int) -> Iterator[bytes]:
        """Those that the events from this number on concern."""
        for block in self._blocks_from(number):
            yield from map(key_of, block.befores[max(0, number - block.first) :])

    def since(self, number: int) -> Iterator[tuple[Item, Item | None]]:
        """Each event from this number on: its key's new item, and the one that it replaced."""
        for block in self._blocks_from(number):
            for at in range(max(0, number - block.first), block.count):
                before = block.befores[at]
                yield block.items[at], before if type(before) is Item else None

    def _blocks_from(self, number: int) -> list[Block]:
        newest = self.blocks[-1]
        if number >= newest.first:
            return [newest]
        wanted: list[Block] = []
        for block in reversed(self.blocks):
            if block.first + block.count <= number:
                break
            wanted.append(block)
        wanted.reverse()
        return wanted
