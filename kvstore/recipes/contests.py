"""Who contends for a name, in which order, and when one's turn has come. No I/O.

A contender is a key `name/<lease id in hex>` that goes with this very lease: the layout of etcd's
own client. They hold in the order of the revisions that made their keys. A lock's contenders have
an empty value that was written once; an election's have another, or had one before (others' clients
may proclaim nothing). So a lock and an election of one name do not touch each other. The keys of
all other recipes stand in a segment of their own below the name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from paxon.kvstore.client.arguments import Key, Value, as_text, check_key, check_value
from paxon.kvstore.client.calls.answers import Entry, RangeResult, TxnResult
from paxon.kvstore.client.calls.calls import Call, Put, Range, Txn
from paxon.kvstore.client.calls.comparing import Comparing
from paxon.kvstore.client.calls.conditions import Guard
from paxon.kvstore.client.calls.keys import Leased
from paxon.kvstore.client.checks import check_wait
from paxon.kvstore.client.leases.requests import Grant, LeaseInfo, ReadLease
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.errors import InvalidRequest, LeaseExpired, LockLost, NotAcquired, TooLarge
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.operations import Result
from paxon.kvstore.store.ranges import MAX_SORTED
from paxon.kvstore.store.spans import prefix_span

__all__ = [
    "Contender",
    "Contest",
    "Living",
    "Look",
    "Plan",
    "Standing",
    "Step",
    "Until",
    "Statement",
    "check_proposal",
    "enter",
    "first_of",
    "patience",
    "time_left",
    "until_of",
    "why_gone",
]

T = TypeVar("T")
_FEW = 4
"""So many more keys are read at first than decide: one's own, and odd other ones."""
_EACH = 3
"""So many keys are watched one by one, besides one's own: servers always hold so short a watch."""


class Contender(msgspec.Struct, frozen=True):
    """Somebody who holds, or waits."""

    key: str
    value: bytes
    lease: int
    """The id of the lease with which the key goes."""
    fence: int
    """The revision that made the key: rises from holder to holder."""


class Stating(Guard, Protocol):
    """A leader or a member, for those who change the value that it stands for."""

    @property
    def key(self) -> str:
        """Its key in the store."""

    @property
    def lease(self) -> Leased:
        """With which the key goes."""


class Living(Protocol):
    """A lease, to those who wait under it."""

    def time_left(self) -> float:
        """Seconds for which it certainly lives on."""


class Until:
    """A step of a plan: wait until few enough of these keys are left, or one's own is gone."""

    def __init__(
        self,
        contest: Contest,
        own: str,
        keys: Sequence[str],
        *,
        most: int,
        revision: int,
        again: Range,
    ) -> None:
        """The keys, in their order, were there in that revision; `most` of them may stay.

        `again` is read then.
        """
        self._own = own
        self._most = most
        self._question = again
        spans: list[tuple[bytes, bytes | None]]
        look: wire.Range | None = None
        if most < _EACH:
            # Of any `most + 1` of them one has to go first, and the last ones most likely go last.
            self._keys = set(keys[-most - 1 :])
            spans = [(check_key(key), None) for key in (own, *self._keys)]
            look = again.operation  # (with a crowd that is woken each would have it looked at)
        else:
            self._keys = set(keys)
            spans = [prefix_span(check_key(contest.prefix))]
        self.wanted = wire.Events(revision, spans, puts=False, look=look)
        """The deletions to wait for."""
        self.told = 0
        """The revision of the last of them that was told of."""
        self.found: RangeResult | None = None
        """What came of `again`, if the news brought it along."""

    def over(self, events: Iterable[Event], looked: Result = None) -> bool:
        """Whether it is time to look again, now that these were told too.

        `looked`: what the server that told of them saw.
        """
        gone = set()
        for event in events:
            gone.add(event.key)
            self.told = event.revision
        self._keys -= gone
        self.found = None if looked is None else self._question.answer(looked)
        return self._own in gone or len(self._keys) <= self._most


class Look(NamedTuple):
    """A step of a plan: a read that may be older than the store, whose age the asker checks.

    So the leader answers it without a round, as a "lease" read.
    """

    call: Range


Step: TypeAlias = Call[Any] | Look | Until
Plan: TypeAlias = Generator[Step, Any, T]
"""What to ask the store for, or to wait for, step by step; is given the answers."""


class Contest:
    """A name that processes contend for.

    Of locks and elections the oldest contender holds, and each other waits for the one before it.
    """

    value = b""
    """What a contender's key has, but for elections."""
    reading = 1
    """So many contenders are read at first."""

    def __init__(self, name: Key, kind: str, ttl: float, segment: str = "") -> None:
        """`segment`: below which the keys stand, with a slash at its end."""
        self.name = as_text(check_key(name))
        self.kind = kind
        self.ttl = ttl
        self.prefix = f"{self.name}/{segment}"
        self.keys = (f"{self.prefix}0", f"{self.prefix}g")
        """Between which theirs are. (A segment of another recipe, with all its keys, is not.)"""
        Grant(1, ttl)  # raises InvalidRequest
        check_key(self.key(1 << 62))

    def key(self, number: int) -> str:
        """Of the contender with this lease."""
        return f"{self.prefix}{number:x}"

    def _is_ours(self, entry: Entry) -> bool:
        """Whether a contender of this kind has such an entry."""
        return (bool(entry.value) or entry.version > 1) is (self.kind == "election")

    def holding(self, contenders: Sequence[Contender]) -> Sequence[Contender]:
        """Those among all contenders, in their order, that hold."""
        return contenders[:1]

    def before(self, earlier: Sequence[Contender]) -> tuple[Sequence[Contender], int]:
        """For whose ends a new contender waits, and how many of them may stay; none: it holds.

        Raises:
            InvalidRequest: it does not agree with them on what they contend for.
        """
        return earlier[-1:], 0

    def decides(self, earlier: Sequence[Contender]) -> bool:
        """Whether these, who came just before one, say enough without all who came before them."""
        return bool(earlier)

    def waits(self, contenders: Sequence[Contender]) -> bool:
        """Whether who comes after all these has to wait."""
        others, most = self.before(contenders)
        return len(others) > most

    def contender(self, entry: Entry) -> Contender | None:
        """The contender of a key; None for a key of something else below the name."""
        if not entry.lease or entry.key != self.key(entry.lease):
            return None
        if not self._is_ours(entry):
            return None
        return Contender(entry.key, entry.value, entry.lease, entry.created)

    def contenders(self, entries: Iterable[Entry]) -> list[Contender]:
        """Those among these, in the order in which they hold."""
        found = filter(None, map(self.contender, entries))
        return sorted(found, key=lambda contender: contender.fence)

    def all(self) -> Range:
        """Asks for all of them."""
        return Range(range=self.keys)

    def upto(self, fence: int, limit: int) -> Range:
        """Asks for the last ones that were made up to a revision; 0: for the very last."""
        return Range(range=self.keys, sort="created", reverse=True, limit=limit, max_created=fence)

    def lost(self, why: str) -> LockLost:
        """The error of a holder that no longer holds."""
        return LockLost(f"{self.kind} {self.name!r} is lost: {why}")

    def late(self) -> NotAcquired:
        """The error of one that waits when its time is up."""
        return NotAcquired(
            f"{self.kind} {self.name!r} was not to be had in the time given: others hold it"
        )

    def full(self) -> TooLarge:
        """The error of one that comes when the store cannot put more of them in their order."""
        return TooLarge(
            f"{self.kind} {self.name!r} has more contenders than can be put in order "
            f"({MAX_SORTED}), or longer ones than fit into a reply"
        )

    def expired(self) -> LeaseExpired:
        """The error of one that waits when its lease has ended, or was revoked."""
        return LeaseExpired(f"the place in {self.kind} {self.name!r} is lost: its lease has ended")


class _Arrival(Txn):
    """A contender's key is made, and those before it are read, in one revision."""

    __slots__ = ("_contest",)

    def __init__(self, contest: Contest, key: str, put: Put, reading: int) -> None:
        super().__init__([Comparing.created(key) == 0], [put, contest.upto(0, reading)])
        self._contest = contest

    def answer(self, result: Result) -> TxnResult:
        """Raises `TooLarge`: there are more than the store puts in order; nobody was added."""
        try:
            return super().answer(result)
        except TooLarge:
            raise self._contest.full() from None


def why_gone(contest: Contest, number: int) -> Plan[LeaseExpired | LockLost]:
    """The error of one whose key is gone while it waited."""
    # Asked only now: the lease of a key that is there was alive then.
    lease: LeaseInfo | None = yield ReadLease(number)
    if lease is None:
        return contest.expired()
    return contest.lost("its key was deleted while it waited")


def enter(contest: Contest, number: int, value: bytes) -> Plan[int]:
    """Contend under a lease and wait for one's turn; the fence."""
    key = contest.key(number)
    some = contest.reading + _FEW
    done = yield _Arrival(contest, key, Put(key, value, lease=number), some)
    if not done.succeeded:
        raise InvalidRequest(f"{key!r} is there already: its lease was not drawn for this alone")
    fence: int = done.revision
    found: RangeResult = done.results[1]
    while True:
        earlier = contest.contenders(found)
        if not earlier or earlier.pop().fence != fence:  # one's own is the last
            raise (yield from why_gone(contest, number))
        if found.more and not contest.decides(earlier):
            found = yield contest.upto(fence, 0)
            continue
        others, most = contest.before(earlier)
        if len(others) <= most:
            return fence
        again = contest.upto(fence, some)
        keys = [each.key for each in others]
        wait = Until(contest, key, keys, most=most, revision=found.revision, again=again)
        yield wait
        # What knows of the end that was told is new enough: nobody comes in before us any more.
        if wait.found is not None:
            found = wait.found
        elif wait.told:
            found = yield Look(again)
        if not wait.told or found.revision < wait.told:
            found = yield again


def check_proposal(value: Value) -> bytes:
    """Check the value that a contender stands for. Raises `InvalidRequest`."""
    checked = check_value(value)
    if not checked:
        raise InvalidRequest("an election's value is not empty: say who, or where, you are")
    return checked


class Statement(Call[int]):
    """Another value for the key of a leader or member, if it is one still. Result: the revision."""

    __slots__ = ("_lost", "_txn")

    def __init__(self, held: Stating, value: Value, lost: Callable[[str], LockLost]) -> None:
        self._lost = lost
        self._txn = Txn([held], [Put(held.key, value, lease=held.lease.id)])
        super().__init__(self._txn.operation)

    def answer(self, result: Result) -> int:
        """Raises `LockLost`: nothing was written."""
        done = self._txn.answer(result)
        if not done.succeeded:
            raise self._lost("its key is gone")
        return done.revision


def until_of(timeout: float | None) -> float:
    """When waiting ends, by the monotonic clock. Raises `InvalidRequest`."""
    checked = check_wait(timeout)
    return float("inf") if checked is None else time.monotonic() + checked


def time_left(until: float) -> float:
    """Seconds until then."""
    return max(0.0, until - time.monotonic())


def patience(contest: Contest, until: float, lease_left: float) -> float:
    """Seconds to wait for a deletion before one looks again.

    Raises:
        LeaseExpired: the lease has not lived to see its turn.
        NotAcquired: the time is up.
    """
    if lease_left <= 0:
        raise contest.expired()
    left = time_left(until)
    if not left:
        raise contest.late()
    return min(left, lease_left)


class Standing(Generic[T]):
    """The contenders' standing, as events tell. Begins with a reading, and can begin again."""

    def __init__(self, contest: Contest, view: Callable[[list[Contender]], T]) -> None:
        """`view`: what is told of the contenders, who are in their order."""
        self._contest = contest
        self._view = view
        self._contenders: dict[str, Contender] = {}
        self._told: list[T] = []

    def begin(self, found: RangeResult) -> list[T]:
        """All were read; what to tell: nothing, if that is known."""
        self._contenders = {each.key: each for each in self._contest.contenders(found)}
        return self._changes()

    def after(self, events: Iterable[Event]) -> list[T]:
        """Events have come; what to tell, for each revision in which that changed."""
        changes: list[T] = []
        revision = 0
        for event in events:
            if event.revision != revision:
                changes += self._changes()
                revision = event.revision
            self._take_in(event)
        return changes + self._changes()

    def _take_in(self, event: Event) -> None:
        self._contenders.pop(event.key, None)
        if event.kind == "put":
            entry = Entry(
                event.key, event.value, event.created, event.revision, event.version, event.lease
            )
            contender = self._contest.contender(entry)
            if contender is not None:
                self._contenders[event.key] = contender

    def _changes(self) -> list[T]:
        now = [self._view(sorted(self._contenders.values(), key=lambda each: each.fence))]
        if now == self._told:
            return []
        self._told = now
        return now


def first_of(contenders: Sequence[Contender]) -> Contender | None:
    """The leader of an election; None: there is none."""
    return contenders[0] if contenders else None
