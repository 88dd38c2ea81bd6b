"""How so many come together, and leave together. No I/O.

Each that has come is a key below `members/`, which goes with a lease of its own. Whoever sees that
all are there makes sure of the key `ready`. Its value is a revision in which they were: that lets
in those who were cut off meanwhile, and keeps out those who come later. Its own revision tells one
meeting from the next. The last to leave removes it, or the next to come if nobody was left to do
so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from paxon.kvstore.client.arguments import Key, check_key
from paxon.kvstore.client.calls.answers import Entry, RangeResult
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
        self.full = 0
        """The last revision in which all were there; 0: none yet."""

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
                if len(self._members) >= self._hall.parties:
                    self.full = event.revision
        return over or self.full > 0


class _Departures(Until):
    """Until nobody is there: before that, nobody removes `ready` or comes."""

    def __init__(self, hall: Hall, members: Iterable[str], revision: int) -> None:
        self._members = set(members)
        self.wanted = Events(revision, [prefix_span(check_key(hall.prefix))], puts=False)

    def over(self, events: Iterable[Event], _looked: Result = None) -> bool:
        self._members -= {event.key for event in events}
        return not self._members


def meet(hall: Hall, number: int) -> Plan[Meeting]:
    """Come under a lease, and wait until all are there."""
    while True:
        fence, found = yield from _come(hall, number)
        first = hall.contenders(found)[0]
        if first.value != hall.value:
            raise InvalidRequest(
                f"{hall.kind} {hall.name!r} is for {first.value.decode()} to others who are there, "
                f"not for {hall.parties}"
            )
        meeting = yield from _wait(hall, number, fence, found)
        if meeting:
            return fence, meeting


def _come(hall: Hall, number: int) -> Plan[tuple[int, RangeResult]]:
    """Come as soon as the last meeting is over: the revision, and who is there."""
    who = Range(prefix=hall.prefix)
    come: list[TxnOperation] = [Put(hall.key(number), hall.value, lease=number), who]
    while True:
        done = yield Txn(
            [Comparing.version(hall.ready) == 0],
            come,
            [Txn([hall.nobody], [Delete(hall.ready), *come], [who])],
        )
        came = done if done.succeeded else done.results[0]
        if came.succeeded:
            return done.revision, came.results[-1]
        yield _Departures(hall, [each.key for each in came.results[0]], done.revision)


def _wait(hall: Hall, number: int, fence: int, found: RangeResult) -> Plan[int]:
    """Wait until all are there; the revision of `ready`. 0: all were there before one came."""
    key = hall.key(number)
    mine = Comparing.created(key) == fence
    here = hall.agreeing(found)
    full = found.revision if len(here) >= hall.parties else 0
    while not full:
        arrivals = _Arrivals(hall, key, [each.key for each in here], found.revision)
        yield arrivals
        done = yield Txn([mine], [Range(hall.ready), Range(prefix=hall.prefix)])
        if not done.succeeded:
            raise (yield from why_gone(hall, number))
        ready, found = done.results
        here = hall.agreeing(found)
        full = found.revision if len(here) >= hall.parties else arrivals.full
        if ready.count and not full:
            told = ready.entries[0].value
            full = int(told) if told.isdigit() else fence  # (somebody else's: it lets all in)
            if full < fence:  # those who meet may wait for all to leave
                yield Txn([mine], [Delete(key)])
                return 0
    ensure = Txn([Comparing.version(hall.ready) == 0], [Put(hall.ready, b"%d" % full)])
    done = yield Txn([mine], [ensure, Range(hall.ready)])
    if not done.succeeded:
        raise (yield from why_gone(hall, number))
    meeting: int = done.results[1].entries[0].created
    return meeting


def part(hall: Hall, meeting: int, *, wait: bool) -> Plan[None]:
    """One's own key is gone: remove what is left if nobody else is there, else wait if wanted."""
    while True:
        last = Txn([hall.nobody], [Delete(hall.ready)], [Range(prefix=hall.prefix, keys_only=True)])
        done = yield Txn([Comparing.created(hall.ready) == meeting], [last])
        if not done.succeeded or done.results[0].succeeded or not wait:
            return
        members = done.results[0].results[0]
        yield _Departures(hall, [each.key for each in members], done.revision)
