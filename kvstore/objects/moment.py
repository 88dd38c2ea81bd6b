"""What an object may ask about the slot at hand: the time, chance, and timers. All replicated."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, MutableSequence, Sequence
from hashlib import blake2b
from typing import Any, ParamSpec, TypeVar

import msgspec

__all__ = ["Chance", "Moment", "Timer", "Timers"]

T = TypeVar("T")
P = ParamSpec("P")

_NANOSECONDS = 1_000_000_000
_BITS = 53
MAX_TIMERS = 100_000
SHORTEST = 1_000_000
"""Nanoseconds from now to a timer at the least: one that sets itself anew keeps no server busy."""


class Chance:
    """Random numbers that are the same on every server, and whichever Python it runs.

    They follow from a number drawn when the cluster was made, the slot, the command's position in
    it, and how many were drawn by that command before.
    """

    __slots__ = ("_drawn", "_key")

    def __init__(self, seed: int, slot: int, position: int) -> None:
        self._key = b"%d %d %d" % (seed, slot, position)
        self._drawn = 0

    def getrandbits(self, bits: int) -> int:
        """An int of so many random bits."""
        if bits < 0:
            raise ValueError("the number of bits has to be at least 0")
        value = 0
        for _ in range(0, bits, 512):
            self._drawn += 1
            link = blake2b(b"%d" % self._drawn, key=self._key[:64], digest_size=64)
            value = value << 512 | int.from_bytes(link.digest(), "big")
        return value >> (-bits % 512)

    def random(self) -> float:
        """A float from 0 to below 1."""
        return self.getrandbits(_BITS) / (1 << _BITS)

    def uniform(self, low: float, high: float) -> float:
        """A float from `low` to `high`."""
        return low + (high - low) * self.random()

    def randrange(self, start: int, stop: int | None = None) -> int:
        """An int from `start` (or 0) to below `stop`, each as likely as the others."""
        low, high = (0, start) if stop is None else (start, stop)
        width = high - low
        if width < 1:
            raise ValueError(f"there is no int from {low} to below {high}")
        bits = width.bit_length()
        while True:
            value = self.getrandbits(bits)
            if value < width:
                return low + value

    def randint(self, low: int, high: int) -> int:
        """An int from `low` to `high`, both included."""
        return self.randrange(low, high + 1)

    def randbytes(self, count: int) -> bytes:
        """So many random bytes."""
        return self.getrandbits(8 * count).to_bytes(count, "big")

    def choice(self, items: Sequence[T]) -> T:
        """One of them."""
        if not items:
            raise IndexError("nothing to choose from")
        return items[self.randrange(len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put them into a random order, in place."""
        for index in range(len(items) - 1, 0, -1):
            other = self.randrange(index + 1)
            items[index], items[other] = items[other], items[index]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """So many of them, none twice."""
        if not 0 <= count <= len(items):
            raise ValueError(f"cannot take {count} of {len(items)}")
        pool = list(items)
        self.shuffle(pool)
        return pool[:count]


class Timer(msgspec.Struct, array_like=True, forbid_unknown_fields=True, order=True):
    """A command that is to run at a time of the log."""

    due: int
    """Nanoseconds."""
    id: int
    method: str
    arguments: bytes
    """As in a call."""


class Timers:
    """The timers of one object: part of its replicated state. Set and cancelled by commands."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._encode: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any] = (
            _nowhere
        )
        self.waiting: list[Timer] = []
        """The next one first."""
        self.next_id = 1

    def at(self, time: int, method: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Call a command of this object at a time of the log (see `now`); the timer's number.

        Not before a millisecond from now, and when the log's time has come that far.
        What the command returns is dropped; what it raises is logged and changes nothing else.
        """
        if type(time) is not int or not -(1 << 63) <= time < 1 << 63:
            raise TypeError(f"a time of the log is an int of nanoseconds in 64 bits, not {time!r}")
        if self._moment.querying:
            raise RuntimeError("a query changes nothing: it sets no timers")
        if len(self.waiting) >= MAX_TIMERS:
            raise ValueError(f"there are {MAX_TIMERS} timers already")
        name, arguments = self._encode(method, args, kwargs)
        due = max(time, self._moment.now + SHORTEST)
        timer = Timer(due, self.next_id, name, arguments)
        self.next_id += 1
        insort(self.waiting, timer)
        return timer.id

    def after(
        self, seconds: float, method: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> int:
        """The same so many seconds from now."""
        if not isinstance(seconds, int | float) or not abs(seconds) < 1 << 63:
            raise TypeError(f"a timer is set by a number of seconds, not {seconds!r}")
        return self.at(self._moment.now + int(seconds * _NANOSECONDS), method, *args, **kwargs)

    def cancel(self, timer: int) -> bool:
        """Take a timer off; whether it was there."""
        if self._moment.querying:
            raise RuntimeError("a query changes nothing: it takes no timers off")
        for index, each in enumerate(self.waiting):
            if each.id == timer:
                del self.waiting[index]
                return True
        return False

    def __len__(self) -> int:
        """How many wait."""
        return len(self.waiting)

    def bind(
        self, encode: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
    ) -> None:
        """How calls become bytes."""
        self._encode = encode


def _nowhere(*_: Any) -> Any:
    raise RuntimeError("this object is not replicated, so it has no timers")


class Moment:
    """The slot at hand and the place in it; an object by itself stands before the first."""

    def __init__(self) -> None:
        self.seed = 0
        """Drawn when the cluster was made."""
        self.slot = 0
        self.position = 0
        """Commands and timers run in this slot so far."""
        self.now = 0
        """The log's time, nanoseconds."""
        self.querying = False
        self.timers = Timers(self)
        self._chance: Chance | None = None

    def next_call(self) -> None:
        """Another command begins."""
        self.position += 1
        self._chance = None

    @property
    def chance(self) -> Chance:
        """Of the command at hand."""
        if self.querying:
            raise RuntimeError("a query has no random numbers: they belong to commands")
        if self._chance is None:
            self._chance = Chance(self.seed, self.slot, self.position)
        return self._chance
