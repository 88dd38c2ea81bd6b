"""Where a queue's keys stand, what is asked of the store for it, and when to ask again. No I/O.

Items are the keys below `name/.queue/items/` (`.priority` of a `PriorityQueue`), in the order of
the revisions that made them. An item's worker has the key of the same name below `claims/`, which
goes with a lease of its own. `turn` is a lock: of those who find nothing to do one alone waits
for the next item, and the others wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from paxon.kvstore.client.arguments import Key, Value, as_text, check_key, check_value
from paxon.kvstore.client.calls.answers import Entry, accepted, entry_of
from paxon.kvstore.client.calls.calls import Call, Delete, Steps, Txn, TxnOperation
from paxon.kvstore.client.calls.conditions import Guard
from paxon.kvstore.client.calls.keys import Leased
from paxon.kvstore.client.leases.requests import Grant
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.errors import InvalidRequest, LockLost, NotAcquired, TooLarge
from paxon.kvstore.recipes.contests import Contest, time_left
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.operations import Result, is_split
from paxon.kvstore.store.spans import prefix_span
from paxon.kvstore.store.state import MAX_REVISION_EVENTS

__all__ = [
    "Claim",
    "Claimed",
    "Enqueue",
    "Finish",
    "Found",
    "Line",
    "MAX_PRIORITY",
    "Peek",
]

MAX_PRIORITY = 65535
_TURN_TTL = 2.0
"""Seconds for which one that waits and has died keeps those behind it from seeing items."""
_KEY_BYTES = 48
"""At most so many follow the name in a key."""


class Line:
    """A queue's keys."""

    def __init__(self, name: Key, kind: Literal["queue", "priority queue"], ttl: float) -> None:
        self.name = as_text(check_key(name))
        self.kind = kind
        self.ttl = ttl
        self.base = f"{self.name}/.{kind.split()[0]}/"
        self.items, self.claims = f"{self.base}items/", f"{self.base}claims/"
        Grant(1, ttl)  # raises InvalidRequest
        check_key(self.base + _KEY_BYTES * "-")
        self.turn = Contest(f"{self.base}turn", "lock", _TURN_TTL)

    def priority(self, priority: int) -> str:
        """The prefix of the items that have it. Raises `InvalidRequest`."""
        if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
            raise InvalidRequest(f"a priority is an int from 0 to {MAX_PRIORITY}, not {priority!r}")
        return f"{self.items}{priority:04x}/"

    def time_left(self, until: float) -> float:
        """Seconds to wait for an item. Raises `NotAcquired`: the time is up."""
        left = time_left(until)
        if not left:
            raise NotAcquired(f"{self.kind} {self.name!r} had no item in the time given")
        return left

    def news(self, revision: int) -> wire.Events:
        """The watch of a taker that found nothing in that revision."""
        spans = [prefix_span(check_key(prefix)) for prefix in (self.items, self.claims)]
        return wire.Events(revision, [*spans])

    def may_have_item(self, events: Iterable[Event]) -> bool:
        """Whether, after these events, there may be one: put just now, or let go of undone."""
        free: set[str] = set()
        gone: set[str] = set()
        for event in events:
            is_item = event.key.startswith(self.items)
            item = event.key if is_item else self.items + event.key.removeprefix(self.claims)
            if is_item and event.kind == "delete":
                gone.add(item)
            if is_item is (event.kind == "put"):
                free.add(item)
            else:
                free.discard(item)
        return bool(free - gone)


class Claimed(NamedTuple):
    """An item that somebody has, as `Held` knows what is held."""

    line: Line
    item: str
    """Its key."""

    def key(self, number: int) -> str:
        """Of the claim."""
        return self.line.claims + self.item.removeprefix(self.line.items)

    def lost(self, why: str) -> LockLost:
        """The error of one that no longer has it."""
        return LockLost(f"an item of {self.line.kind} {self.line.name!r} is lost: {why}")


class Enqueue(Call[int]):
    """Put values at the end. Result: the revision."""

    __slots__ = ()

    def __init__(self, prefix: str, values: Iterable[Value]) -> None:
        one = isinstance(values, str | bytes | bytearray | memoryview)
        if one or not isinstance(values, Iterable):
            raise InvalidRequest(f"give a list of values, not {values!r}")
        checked = [check_value(value) for value in values]
        if not checked:
            raise InvalidRequest("there is no value to put")
        if len(checked) > MAX_REVISION_EVENTS:
            raise TooLarge(f"at most {MAX_REVISION_EVENTS} items can be put at once")
        super().__init__(wire.Enqueue(check_key(prefix), checked))


class Found(msgspec.Struct, frozen=True):
    """The outcome of a claim."""

    revision: int
    """Of the claim, or in which there was nothing to claim."""
    item: Entry | None


class Claim(Call[Found]):
    """Have the first item that nobody has, under a lease."""

    __slots__ = ()

    def __init__(self, line: Line, number: int) -> None:
        super().__init__(wire.Claim(check_key(line.items), check_key(line.claims), number))

    def steps(self) -> Steps[Found]:
        """Asked for again if other claims of the same command left no room for its answer."""
        while True:
            [result] = yield (self.operation,)
            if not is_split(result):
                return self.answer(result)

    def answer(self, result: Result) -> Found:
        revision, row = accepted(result)
        return Found(revision, None if row is None else entry_of(row))


class Peek(Call["tuple[int, bytes | None]"]):
    """How many items there are, and the value of the first one that nobody has."""

    __slots__ = ()

    def __init__(self, line: Line) -> None:
        super().__init__(wire.Unclaimed(check_key(line.items), check_key(line.claims)))

    def answer(self, result: Result) -> tuple[int, bytes | None]:
        _, count, row = accepted(result)
        return count, None if row is None else row[1]


class _Lease(Leased, Protocol):
    """A lease, to those who let it go."""

    def lose(self, reason: str, *, ended: bool = False) -> None:
        """Nobody renews it any more."""


class _Item(Guard, Protocol):
    """An item that is held, to those who finish it."""

    @property
    def key(self) -> str:
        """Of the claim."""

    @property
    def lease(self) -> _Lease:
        """With which the claim goes."""


class Finish(Call[int]):
    """Remove an item and its claim, if that is there still; its lease ends either way."""

    __slots__ = ("_claimed", "_lease", "_txn")

    def __init__(self, held: _Item, claimed: Claimed, then: Sequence[TxnOperation]) -> None:
        if not isinstance(then, Sequence):
            raise InvalidRequest(f"then has to be a list of operations, not {then!r}")
        self._claimed, self._lease = claimed, held.lease
        self._txn = Txn([held], [Delete(claimed.item), Delete(held.key), *then])
        super().__init__(self._txn.operation)

    def steps(self) -> Steps[int]:
        """Both in one command."""
        done, _ = yield (self.operation, wire.Revoke(self._lease.id))
        return self.answer(done)

    def answer(self, result: Result) -> int:
        """The revision. Raises `LockLost`: it is somebody else's by now, or done."""
        self._lease.lose("it was let go of", ended=True)
        done = self._txn.answer(result)
        if not done.succeeded:
            raise self._claimed.lost(
                "its claim has ended: its lease ran out, or it was done or let go of before"
            )
        return done.revision
