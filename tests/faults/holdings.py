"""What was held by whom and when, what was written under it, and whether that may be. No I/O.

All times are seconds of this machine's boot clock, by which the leases' owners count, too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Holding", "Holdings", "LeaseBook", "Told", "once_and_in_order"]


@dataclass(slots=True)
class Holding:
    """Somebody held something."""

    fence: int
    began: float
    """When it was told that it holds."""
    ended: float = float("inf")
    """When it let go, or had to take it for lost."""
    places: int = 1
    """How many of these may be held at once."""
    shares: bool = False
    """Whether others that share may hold it as well (readers)."""


@dataclass(slots=True)
class Holdings:
    """All that was held of one name."""

    name: str
    found: list[Holding] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    """The fences of guarded writes in the order of the store."""
    died: int = 0

    def complaints(self) -> list[str]:
        """What is wrong, in sentences."""
        wrong = []
        order = sorted(self.found, key=lambda each: each.fence)
        if len({each.fence for each in order}) < len(order):
            wrong.append(f"{self.name}: two holders with one fence")
        moments = sorted(order, key=lambda each: each.began)
        for index, one in enumerate(moments):
            with_it = [
                other
                for other in moments[:index]
                if other.ended > one.began and not (one.shares and other.shares)
            ]
            if len(with_it) >= one.places:
                wrong.append(f"{self.name}: {one} while {with_it[0]} held it")
        alone = all(each.places == 1 for each in order)
        if alone and not any(each.shares for each in order) and moments != order:
            wrong.append(f"{self.name}: fences fell")
        if alone:  # who shares does not write
            for before, after in pairwise(self.written):
                if after < before:
                    wrong.append(
                        f"{self.name}: {before} wrote, and then {after}, which had lost it"
                    )
        strangers = set(self.written) - {each.fence for each in order}
        if strangers:
            wrong.append(f"{self.name}: nobody held it with the fences {sorted(strangers)[:5]}")
        return wrong


@dataclass(slots=True)
class LeaseBook:
    """Leases that somebody renewed for a while, and when their keys went."""

    ends: dict[str, float] = field(default_factory=dict)
    """By key: the earliest that it may end."""
    ended: dict[str, float] = field(default_factory=dict)
    """By key: when a watcher was told that it has."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def alive_until(self, key: str, moment: float) -> None:
        """A grant or renewal was answered."""
        with self.lock:
            self.ends[key] = max(moment, self.ends.get(key, 0.0))

    def complaints(self) -> list[str]:
        """Those that ended early, and those that never did."""
        wrong = [
            f"{key} ended {self.ends[key] - moment:.3f} s early"
            for key, moment in self.ended.items()
            if key in self.ends and moment < self.ends[key]
        ]
        left = sorted(set(self.ends) - set(self.ended))
        return wrong + [f"{key} has not ended" for key in left]


@dataclass(slots=True)
class Told:
    """What a watcher was told: revision and key of each event."""

    events: list[tuple[int, str]] = field(default_factory=list)
    ended: str = ""
    """Why the watch ended, if it did."""


def once_and_in_order(
    watchers: Sequence[Told], written: Iterable[tuple[int, str]], unknown: int
) -> list[str]:
    """Whether each watcher was told each event once; of `unknown` writes nobody knows if they are.

    `written` is what was acknowledged.
    """
    wrong = [f"a watch ended: {told.ended}" for told in watchers if told.ended]
    acknowledged = set(written)
    for number, told in enumerate(watchers):
        doubled = [event for event, times in Counter(told.events).items() if times > 1]
        if doubled:
            wrong.append(f"watcher {number} was told {doubled[:3]} more than once")
        if told.events != sorted(told.events, key=lambda event: event[0]):
            wrong.append(f"watcher {number} was told of revisions out of order")
        missing = sorted(acknowledged - set(told.events))
        if missing:
            wrong.append(f"watcher {number} was not told of {missing[:3]}, {len(missing)} in all")
        if len(set(told.events) - acknowledged) > unknown:
            wrong.append(f"watcher {number} was told of what nobody wrote")
        if set(told.events) != set(watchers[0].events):
            wrong.append(f"watchers 0 and {number} were told different things")
    return wrong
