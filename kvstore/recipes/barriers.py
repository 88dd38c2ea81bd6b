"""How so many come together, and leave together. No I/O.

Each that has come is a key below `members/`, which goes with a lease of its own. Whoever sees that
all are there makes sure of the key `ready`: that lets in those who were cut off meanwhile, and
keeps out those who come later. Its revision tells one meeting from the next. The last to leave
removes it, or the next to come if nobody was left to do so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from paxon.kvstore.client.arguments import Key, check_key
from paxon.kvstore.client.calls.answers import Entry
from paxon.kvstore.client.calls.calls import Delete, Put, Range, Txn, TxnOperation
from paxon.kvstore.client.calls.comparing import Comparing
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.errors import InvalidRequest, NotAcquired
from paxon.kvstore.recipes.contests import Contender, Contest, Plan, Until, why_gone
from paxon.kvstore.store.operations import Events, Result
from paxon.kvstore.store.spans import prefix_span

__all__ = ["Hall", "Unbound", "meet", "part"]

Meeting = tuple[int, int]
"""The revisions of one's own key and of the meeting."""


class Hall(Contest):
    """Where so many meet. A member's value is their number: all have to agree on it."""

    def __init__(
        self, name: Key, kind: Literal["barrier", "double barrier"], parties: int, ttl: float
    ) -> None:
        segment = f".{kind.split()[0]}/"
        super().__init__(name, kind, ttl, f"{segment}members/")
        if type(parties) is not int or parties < 1:
            raise InvalidRequest(f"a barrier is for an int of parties from 1, not {parties!r}")
        self.parties = parties
        self.value = b"%d" % parties
        self.base = f"{self.name}/{segment}"
        self.ready = f"{self.base}ready"
        self.nobody = Comparing.version(prefix=self.prefix) == 0

    def _is_ours(self, entry: Entry) -> bool:
        return entry.value.isdigit()

    def agreeing(self, entries: Iterable[Entry]) -> list[Contender]:
        """Who is there: one that says another number is about to be refused."""
        return [each for each in self.contenders(entries) if each.value == self.value]

    def late(self) -> NotAcquired:
        return NotAcquired(f"the others were not at {self.kind} {self.name!r} in the time given")

    def left_late(self) -> NotAcquired:
        """The error of one that waits for the others to leave."""
        return NotAcquired(f"others are still in {self.kind} {self.name!r} after the time given")


class Unbound:
    """Stands for a lease where there is none whose end would matter."""

    def time_left(self) -> float:
        """For ever."""
        return float("inf")


class _Arrivals(Until):
    """Until so many are there, whatever happens to them next."""

    def __init__(self, hall: Hall, own: str, members: Iterable[str], revision: int) -> None:
        self._hall, self._own, self._members = hall, own, set(members)
        self.wanted = Events(revision, [prefix_span(check_key(hall.base))])
        self.full = False

    def over(self, events: Iterable[Event], _looked: Result = None) -> bool:
        over = False
        for event in events:
            if event.key == self._hall.ready:
                over = True
            elif event.kind == "delete":
                self._members.discard(event.key)
                over = over or event.key == self._own
            elif event.key == self._hall.key(event.lease) and event.value == self._hall.value:
                self._members.add(event.key)
                self.full = self.full or len(self._members) >= self._hall.parties
        return over or self.full


class _Departures(Until):
    """Until nobody is there, or `ready` is gone."""

    def __init__(self, hall: Hall, members: Iterable[str], revision: int) -> None:
        self._hall, self._members = hall, set(members)
        self.wanted = Events(revision, [prefix_span(check_key(hall.base))], puts=False)

    def over(self, events: Iterable[Event], _looked: Result = None) -> bool:
        gone = {event.key for event in events}
        self._members -= gone
        return not self._members or self._hall.ready in gone


def meet(hall: Hall, number: int) -> Plan[Meeting]:
    """Come under a lease, and wait until all are there."""
    key = hall.key(number)
    who = Range(prefix=hall.prefix)
    come: list[TxnOperation] = [Put(key, hall.value, lease=number), who]
    while True:  # the last meeting may not be over
        done = yield Txn(
            [Comparing.version(hall.ready) == 0],
            come,
            [Txn([hall.nobody], [Delete(hall.ready), *come], [who])],
        )
        if done.succeeded or done.results[0].succeeded:
            break
        yield _Departures(hall, [each.key for each in done.results[0].results[0]], done.revision)
    fence: int = done.revision
    mine = Comparing.created(key) == fence
    found = (done if done.succeeded else done.results[0]).results[-1]
    first = hall.contenders(found)[0]
    if first.value != hall.value:
        raise InvalidRequest(
            f"{hall.kind} {hall.name!r} is for {first.value.decode()} to others who are there, "
            f"not for {hall.parties}"
        )
    here = hall.agreeing(found)
    full = len(here) >= hall.parties
    while True:
        if full:
            ensure = Txn([Comparing.version(hall.ready) == 0], [Put(hall.ready, "")])
            done = yield Txn([mine], [ensure, Range(hall.ready)])
            if done.succeeded:
                return fence, done.results[1].entries[0].created
            raise (yield from why_gone(hall, number))
        arrivals = _Arrivals(hall, key, [each.key for each in here], found.revision)
        yield arrivals
        done = yield Txn([mine], [Range(hall.ready), who])
        if not done.succeeded:
            raise (yield from why_gone(hall, number))
        ready, found = done.results
        here = hall.agreeing(found)
        full = arrivals.full or bool(ready.count) or len(here) >= hall.parties


def part(hall: Hall, meeting: int, *, wait: bool) -> Plan[None]:
    """One's own key is gone: remove what is left if nobody else is there, else wait if wanted."""
    while True:
        last = Txn([hall.nobody], [Delete(hall.ready)], [Range(prefix=hall.prefix, keys_only=True)])
        done = yield Txn([Comparing.created(hall.ready) == meeting], [last])
        if not done.succeeded or done.results[0].succeeded or not wait:
            return
        members = done.results[0].results[0]
        yield _Departures(hall, [each.key for each in members], done.revision)
