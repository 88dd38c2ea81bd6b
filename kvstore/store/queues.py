"""Queues: values in the order in which they were put, and who has which of them.

An item is a key; that somebody has claimed it is another key, which goes with the claimer's lease.
So an item whose claimer has died is there for the next one as soon as the lease ends, in its place.
"""

from __future__ import annotations

from paxon.kvstore.store.items import Item, row, value_bytes
from paxon.kvstore.store.operations import MAX_CLAIMED, Claim, Enqueue, Result, Unclaimed
from paxon.kvstore.store.ranges import ROW_BYTES
from paxon.kvstore.store.refusals import Refusal, Room
from paxon.kvstore.store.spans import prefix_span
from paxon.kvstore.store.state import State
from paxon.kvstore.store.transactions import Bounds

__all__ = ["claim", "enqueue", "look", "looking"]

_LOOK_BYTES = 128
"""What passing over a claimed item counts for, for it takes about as long as to copy that."""


def enqueue(state: State, bounds: Bounds, operation: Enqueue) -> Result:
    """Put values at the end. Raises `Refusal`, with nothing changed."""
    revision = state.revision + 1
    changes: dict[bytes, Item | None] = {}
    bounds.check_key(operation.prefix)
    for place, value in enumerate(operation.values):
        key = b"%b%016x%04x" % (operation.prefix, revision, place)
        bounds.check_key(key)
        bounds.check_value(len(value))
        if key in state.data:
            raise Refusal("the key of an item is there already: nothing else may put there")
        changes[key] = Item(key, value, revision, revision, 1, 0)
    state.commit(changes)
    return revision


def look(state: State, room: Room, operation: Unclaimed) -> Result:
    """The first item that nobody has, and how many there are in all."""
    item = _first(state, room, operation)
    count = state.now.count(*prefix_span(operation.items))
    return [state.revision, count, None if item is None else row(item)]


def claim(state: State, bounds: Bounds, room: Room, operation: Claim) -> Result:
    """Have the first item that nobody has. Raises `Refusal`, with nothing changed."""
    if state.leases.get(operation.lease) is None:
        raise Refusal(f"there is no lease {operation.lease:x}: it has ended", "lease")
    item = _first(state, room, operation)
    if item is None:
        return [state.revision, None]
    key = operation.claims + item.key[len(operation.items) :]
    bounds.check_key(key)
    revision = state.revision + 1
    state.commit({key: Item(key, b"", revision, revision, 1, operation.lease)})
    return [revision, row(item)]


def looking(state: State, operation: Claim | Unclaimed) -> int:
    """The most bytes that looking for an item will count for."""
    claims = state.now.count(*prefix_span(operation.claims))
    return min(claims, MAX_CLAIMED) * _LOOK_BYTES


def _first(state: State, room: Room, operation: Claim | Unclaimed) -> Item | None:
    """The first item that nobody has; what it took is taken from the reply's room."""
    data, claims, start = state.data, operation.claims, len(operation.items)
    room.look()
    passed = 0
    for key in state.now.keys(*prefix_span(operation.items), backward=False):
        if claims + key[start:] not in data:
            item = data[key]
            room.spend(ROW_BYTES + passed * _LOOK_BYTES + len(key) + value_bytes(item.value))
            return item
        passed += 1
        if passed > MAX_CLAIMED:
            room.spend(passed * _LOOK_BYTES)
            raise Refusal(f"more than {MAX_CLAIMED} items are claimed: finish some first", "large")
    room.spend(ROW_BYTES + passed * _LOOK_BYTES)
    return None
