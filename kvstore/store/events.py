"""What happened to keys after a revision: what watches ask for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from paxon.kvstore.store.items import Row, row, value_bytes
from paxon.kvstore.store.operations import Events, Result
from paxon.kvstore.store.ranges import read_range
from paxon.kvstore.store.refusals import Refusal
from paxon.kvstore.store.spans import end_of, united
from paxon.kvstore.store.state import State

__all__ = ["answer_events", "matcher", "read_events"]

_LOOKED_AT = 20_000
"""Events that one answer looks at; whole revisions, at least one."""
_LOOK_BYTES = 64
"""What looking at an event counts for in the room that a reply has, though it does not match."""
_EVENT_BYTES = 256
"""What an event counts for besides its keys and values."""

Event = tuple[Row, Row | None]


def read_events(
    state: State, wanted: Events, max_bytes: int, number: int | None = None
) -> tuple[int, list[Event], int]:
    """Through which revision this is complete, the events up to there, and what they count for.

    Cut between revisions once it holds `max_bytes`, or has looked at enough. A position beyond the
    store's own is answered with itself: there is nothing yet. `number` is that of the first event
    after `wanted.after`, if it is known. Raises `Refusal` if history does not reach back to there.
    """
    history = state.history
    if wanted.after >= state.revision:
        return wanted.after, [], 0
    if wanted.after + 1 < history.oldest:
        raise state.compacted(wanted.after + 1)
    matches = matcher(wanted.spans)
    found: list[Event] = []
    through, size, looked_at = wanted.after, 0, 0
    if number is None:
        number = history.number_after(wanted.after)
    for item, before in history.since(number):
        if item.modified != through:
            if looked_at and (size >= max_bytes or looked_at >= _LOOKED_AT):
                break
            through = item.modified
        looked_at += 1
        if not (wanted.puts if item.version else wanted.deletes) or not matches(item.key):
            continue
        size += _EVENT_BYTES + len(item.key) + value_bytes(item.value)
        previous = None
        if wanted.previous and before is not None:
            previous = row(before)
            size += value_bytes(before.value)
        found.append((row(item), previous))
    else:
        through = state.revision
    return through, found, size + looked_at * _LOOK_BYTES


def answer_events(
    state: State, wanted: Events, max_bytes: int, number: int | None = None
) -> tuple[Result, list[Event], int]:
    """The result of `Events`; its events and their bytes by themselves. See `read_events`."""
    through, events, size = read_events(state, wanted, max_bytes, number)
    if wanted.look is None:
        return [through, events], events, size
    if not events:  # nobody looks as long as nothing has happened
        return [through, events, None], events, size
    try:
        page = read_range(
            state.at(0), wanted.look, max_items=wanted.look.limit + 1, max_bytes=max_bytes
        )
    except Refusal:
        return [through, events, None], events, size
    looked = [state.revision, page.count, page.more, page.rows, page.rest]
    return [through, events, looked], events, size + page.work


def matcher(spans: list[tuple[bytes, bytes | None]]) -> Callable[[bytes], bool]:
    """Whether a key is in one of the spans: as quick for a thousand of them as for one."""
    if len(spans) == 1 and spans[0][1] is None:
        return spans[0][0].__eq__
    single = frozenset(key for key, end in spans if end is None)
    ranges = united(spans)
    firsts, ends = [first for first, _ in ranges], [end_of(end) for _, end in ranges]
    if not firsts:
        return single.__contains__

    def matches(key: bytes) -> bool:
        at = bisect_right(firsts, key)
        return (at > 0 and key < ends[at - 1]) or key in single

    return matches
