"""The state as a snapshot's bytes, and back.

Of history only what was replaced is written: what an event made of its key is what the next one
replaced, or what is there now. So a value that is there now is written once.
"""

from __future__ import annotations

from collections import deque

import msgspec

from paxon.kvstore.store.history import Written
from paxon.kvstore.store.items import Item
from paxon.kvstore.store.leases import Lease
from paxon.kvstore.store.state import State, leased_bytes

__all__ = ["FORMAT", "decode_state", "encode_history", "encode_state"]

FORMAT = 3


class _Image(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    format: int
    revision: int
    oldest: int
    compacted: int
    now: int
    aged: int
    marks: list[tuple[int, int]]
    leases: list[tuple[int, int, int]]
    """Id, time to live, when it is due: nanoseconds."""
    history: list[Written]
    """Blocks of events."""
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
            list(history.marks),
            [(lease.id, lease.ttl, lease.due) for lease in state.leases],
            encode_history(state),
            list(state.data.values()),
        )
    )  # fmt: skip


def encode_history(state: State) -> list[Written]:
    """The events kept, encoded already."""
    blocks = [block for block in state.history.blocks if block.count]
    return [msgspec.Raw(block.written()) for block in blocks]  # type: ignore[misc]


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
    history.restore(found.history)
    for number, ttl, due in found.leases:
        state.leases.add(Lease(number, ttl, due, {}))
    if found.leases:
        _attach(state)
    return state


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
