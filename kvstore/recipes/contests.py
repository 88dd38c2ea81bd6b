"""Who contends for a name, in which order, and when one's turn has come. No I/O.

A contender is a key `name/<lease id in hex>` that goes with this very lease: the layout of etcd's
own client. They hold in the order of the revisions that made their keys. A lock's contenders have
an empty value and an election's have another, so that a lock and an election of one name do not
touch each other.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from paxon.kvstore.client.arguments import Key, Value, as_text, check_key, check_value
from paxon.kvstore.client.calls.answers import Entry, RangeResult
from paxon.kvstore.client.calls.calls import Call, Put, Range, Txn
from paxon.kvstore.client.calls.comparing import Comparing
from paxon.kvstore.client.calls.conditions import Guard
from paxon.kvstore.client.calls.keys import Leased
from paxon.kvstore.client.checks import check_wait
from paxon.kvstore.client.leases.requests import Grant
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.errors import InvalidRequest, LockLost, NotAcquired

__all__ = [
    "Contender",
    "Contest",
    "Deleted",
    "Plan",
    "Standing",
    "check_proposal",
    "enter",
    "patience",
    "proclamation",
    "until_of",
]

T = TypeVar("T")
_FEW = 4
"""So many earlier keys are read at first: one of them is a contender, but for odd other keys."""


class Contender(msgspec.Struct, frozen=True):
    """Somebody who holds, or waits."""

    key: str
    value: bytes
    lease: int
    """The id of the lease with which the key goes."""
    fence: int
    """The revision that made the key: rises from holder to holder."""


class Leading(Guard, Protocol):
    """Who leads, to those who change the value that it stands for."""

    @property
    def key(self) -> str:
        """Its key in the store."""

    @property
    def lease(self) -> Leased:
        """With which the key goes."""


class Deleted(NamedTuple):
    """A step of a plan: wait until this key is deleted after that revision."""

    key: str
    after: int


Plan: TypeAlias = Generator[Call[Any] | Deleted, Any, T]
"""What to ask the store for, or to wait for, step by step; is given the answers."""


class Contest:
    """A name that processes contend for."""

    def __init__(self, name: Key, kind: Literal["lock", "election"], ttl: float) -> None:
        self.name = as_text(check_key(name))
        self.kind = kind
        self.ttl = ttl
        Grant(1, ttl)  # raises InvalidRequest
        check_key(self.key(1 << 62))

    def key(self, number: int) -> str:
        """Of the contender with this lease."""
        return f"{self.name}/{number:x}"

    def contender(self, entry: Entry) -> Contender | None:
        """Who that is; None for a key of something else below the name."""
        if not entry.lease or entry.key != self.key(entry.lease):
            return None
        if bool(entry.value) is not (self.kind == "election"):
            return None
        return Contender(entry.key, entry.value, entry.lease, entry.created)

    def contenders(self, entries: Iterable[Entry]) -> list[Contender]:
        """Those among these, in the order in which they hold."""
        found = filter(None, map(self.contender, entries))
        return sorted(found, key=lambda contender: contender.fence)

    def all(self) -> Range:
        """Asks for all of them."""
        return Range(prefix=f"{self.name}/", sort="created")

    def upto(self, fence: int, limit: int) -> Range:
        """Asks for the last ones that were made up to a revision; 0: for the very last."""
        return Range(
            prefix=f"{self.name}/", sort="created", reverse=True, limit=limit, max_created=fence
        )

    def lost(self, why: str) -> LockLost:
        """What is raised to a holder that holds no more."""
        return LockLost(f"{self.kind} {self.name!r} is lost: {why}")


def enter(contest: Contest, number: int, value: bytes) -> Plan[int]:
    """Contend under a lease and wait for one's turn; the fence."""
    key = contest.key(number)
    put = Txn(
        [Comparing.created(key) == 0],
        [Put(key, value, lease=number), contest.upto(0, 1 + _FEW)],
    )
    done = yield put
    if not done.succeeded:
        raise InvalidRequest(f"{key!r} is there already: its lease was not drawn for this alone")
    fence: int = done.revision
    found: RangeResult = done.results[1]
    while True:
        before = _predecessor(contest, key, fence, found)
        if before is None and found.more:
            found = yield contest.upto(fence, 0)
            before = _predecessor(contest, key, fence, found)
        if before is None:
            return fence
        yield Deleted(before.key, found.revision)
        found = yield contest.upto(fence, 1 + _FEW)


def _predecessor(contest: Contest, key: str, fence: int, found: RangeResult) -> Contender | None:
    """Who is to hold just before; None: nobody. Raises `LockLost` if one's own key is gone."""
    contenders = contest.contenders(found)
    if not any(each.key == key and each.fence == fence for each in contenders):
        raise contest.lost("its key was deleted while it waited")
    earlier = [each for each in contenders if each.fence < fence]
    return earlier[-1] if earlier else None


def check_proposal(value: Value) -> bytes:
    """What a contender in an election stands for. Raises `InvalidRequest`."""
    checked = check_value(value)
    if not checked:
        raise InvalidRequest("an election's value is not empty: say who, or where, you are")
    return checked


def proclamation(leading: Leading, value: Value) -> Txn:
    """Another value for a leader's key, if it leads still."""
    put = Put(leading.key, check_proposal(value), lease=leading.lease.id)
    return Txn([leading], [put])


def until_of(timeout: float | None) -> float:
    """When waiting ends, by the monotonic clock. Raises `InvalidRequest`."""
    checked = check_wait(timeout)
    return float("inf") if checked is None else time.monotonic() + checked


def patience(contest: Contest, until: float, lease_left: float) -> float:
    """Seconds to wait for a deletion before one looks again.

    Raises:
        LockLost: the lease has not lived to see its turn.
        NotAcquired: the time is up.
    """
    if lease_left <= 0:
        raise contest.lost("its lease ended while it waited")
    left = until - time.monotonic()
    if left <= 0:
        raise NotAcquired(
            f"{contest.kind} {contest.name!r} was not to be had in the time given: others hold it"
        )
    return min(left, lease_left)


class Standing:
    """Who leads, as events tell. Begins with what was read, and can begin again."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._contenders: dict[str, Contender] = {}
        self._told: Contender | None = None
        self._begun = False

    def begin(self, found: RangeResult) -> list[Contender | None]:
        """All were read; whom to tell of: nobody, if that is known."""
        self._contenders = {each.key: each for each in self._contest.contenders(found)}
        return self._changes()

    def after(self, events: Iterable[Event]) -> list[Contender | None]:
        """Events have come; whom to tell of, for each revision in which that changed."""
        changes: list[Contender | None] = []
        revision = 0
        for event in events:
            if event.revision != revision:
                changes += self._changes() if revision else []
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

    def _changes(self) -> list[Contender | None]:
        leader = min(self._contenders.values(), key=lambda each: each.fence, default=None)
        if self._begun and leader == self._told:
            return []
        self._begun, self._told = True, leader
        return [leader]
