"""The state as a snapshot's bytes, and back.

Of history only what was replaced is written: what an event made of its key is what the next one
replaced, or what is there now. So a value that is there now is written once.
"""

from __future__ import annotations

from collections import deque

import msgspec

from paxon.kvstore.store.history import Block
from paxon.kvstore.store.items import Item, Prefix, tombstone
from paxon.kvstore.store.leases import Lease
from paxon.kvstore.store.state import State, leased_bytes

__all__ = ["FORMAT", "decode_state", "encode_history", "encode_state"]

FORMAT = 2

_Before = tuple[bytes | int, int, int, int, int]
"""Value, created, modified, version, lease. The value is a number if it is the first bytes of the
one that replaced it."""
_Event = tuple[int, bytes, _Before | None]
"""Revision, key, what was replaced."""


class _Image(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    format: int
    revision: int
    oldest: int
    compacted: int
    now: int
    aged: int
    marks: list[tuple[int, int]]
    bytes: int
    blocks: list[Block]
    leases: list[tuple[int, int, int]]
    """Id, time to live, when it is due: nanoseconds."""
    history: list[_Event]
    items: list[Item]
    """In the dict's order, on which the digest depends."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Image)


def encode_state(state: State) -> bytes:
    """All of the state. (Values are encoded alike, whether bytes or bytearray.)"""
    history = state.history
    return _encoder.encode(
        _Image(
            FORMAT, state.revision, history.oldest, history.compacted, history.now, history.aged,
            list(history.marks), history.bytes, list(history.blocks),
            [(lease.id, lease.ttl, lease.due) for lease in state.leases],
            encode_history(state),
            list(state.data.values()),
        )
    )  # fmt: skip


def encode_history(state: State, last: int | None = None) -> list[_Event]:
    """The events kept, or the last of them, as they are written."""
    history = state.history
    start = history.start if last is None else max(history.start, len(history.items) - last)
    return [
        (item.modified, item.key, None if before is None else _before(before))
        for item, before in zip(history.items[start:], history.befores[start:], strict=True)
    ]


def _before(item: Item) -> _Before:
    value: bytes | Prefix = item.value
    written = value.size if type(value) is Prefix else value
    return written, item.created, item.modified, item.version, item.lease  # type: ignore[return-value]


def decode_state(image: bytes) -> State:
    """The state that was encoded. Raises ValueError for anything else."""
    try:
        found = _decoder.decode(image)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        older = _format_of(image)
        if older not in (None, FORMAT):
            raise _wrong_format(older) from None
        raise ValueError(f"not a snapshot of a key-value store: {error}") from None
    if found.format != FORMAT:
        raise _wrong_format(found.format)
    state = State()
    state.revision = found.revision
    state.data.update({item.key: item for item in found.items})
    history = state.history
    history.oldest, history.compacted = found.oldest, found.compacted
    history.now, history.aged, history.marks = found.now, found.aged, deque(found.marks)
    history.bytes, history.blocks = found.bytes, deque(found.blocks)
    for event in _events(found.history, state.data):
        history.add(*event)
    for number, ttl, due in found.leases:
        state.leases.add(Lease(number, ttl, due, {}))
    if found.leases:
        _attach(state)
    return state


def _events(written: list[_Event], data: dict[bytes, Item]) -> list[tuple[Item, Item | None]]:
    """The events, what each made of its key found from the next one of the same key."""
    events: list[tuple[Item, Item | None]] = []
    after: dict[bytes, Item | None] = {}
    for revision, key, before in reversed(written):
        item = after[key] if key in after else data.get(key)
        if item is None:
            item = tombstone(key, revision)
        if item.modified != revision:
            raise ValueError(
                f"not a snapshot of a key-value store: the key {key!r} was changed in revision "
                f"{revision}, and is of {item.modified}"
            )
        held = None if before is None else _item(key, before, item)
        events.append((item, held))
        after[key] = held
    events.reverse()
    return events


def _item(key: bytes, before: _Before, item: Item) -> Item:
    value, created, modified, version, lease = before
    if isinstance(value, int):
        whole: bytes | bytearray | Prefix = item.value
        prefix = Prefix(whole.whole if type(whole) is Prefix else whole, value)  # type: ignore[arg-type]
        return Item(item.key, prefix, created, modified, version, lease)  # type: ignore[arg-type]
    return Item(item.key, value, created, modified, version, lease)


def _attach(state: State) -> None:
    for item in state.data.values():
        if item.lease:
            lease = state.leases.get(item.lease)
            if lease is None:
                raise ValueError(
                    f"not a snapshot of a key-value store: the key {item.key!r} has a lease that "
                    "there is not"
                )
            lease.keys[item.key] = None
            lease.bytes += leased_bytes(item)


def _format_of(image: bytes) -> int | None:
    """The number that a snapshot begins with, whatever follows."""
    try:
        whole = msgspec.msgpack.decode(image)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    number = whole[0] if isinstance(whole, list) and whole else None
    return number if isinstance(number, int) else None


def _wrong_format(number: int | None) -> ValueError:
    return ValueError(
        f"the snapshot has format {number}, this release reads {FORMAT}: "
        "run the release that wrote it"
    )
