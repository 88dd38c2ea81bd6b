"""Requests to the store about leases, checked before they are sent, and its answers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from paxon.kvstore.client.arguments import as_text
from paxon.kvstore.client.calls.answers import accepted
from paxon.kvstore.client.calls.calls import Call, Steps
from paxon.kvstore.client.calls.keys import Leased, check_lease
from paxon.kvstore.errors import InvalidRequest, LeaseExpired, OperationFailed
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.leases import MAX_TTL_MS
from paxon.kvstore.store.operations import (
    Result,
    decode_results,
    encode_operations,
    is_refusal,
    is_split,
)

__all__ = [
    "Grant", "GrantFor", "LeaseIds", "LeaseInfo", "ReadLease", "Revoke", "RevokeAll", "new_id",
    "renewal", "still_alive",
]  # fmt: skip

T = TypeVar("T")
_AT_ONCE = 100
"""So many leases end in one command: as many as end by themselves in one slot."""


class LeaseInfo(msgspec.Struct, frozen=True):
    """A lease as the store has it."""

    id: int
    ttl: float
    """Seconds that it lives from each renewal."""
    left: float
    """Seconds that it lived on when it was asked for; 0 while its keys go."""
    keys: list[str]
    """What goes with it."""


def new_id() -> int:
    """An id that nobody else draws: the client chooses it before it asks for the lease."""
    return secrets.randbelow((1 << 63) - 1) + 1


class Grant(Call[float]):
    """Make a lease of so many seconds. Result: how many were granted, at least."""

    __slots__ = ()

    def __init__(self, number: int, ttl: float) -> None:
        if isinstance(ttl, bool) or not isinstance(ttl, int | float):
            raise InvalidRequest(f"ttl has to be a number of seconds, not {ttl!r}")
        milliseconds = math.ceil(max(0, min(ttl, MAX_TTL_MS)) * 1000)  # (0 of what is no number)
        if not 0 < milliseconds <= MAX_TTL_MS:
            raise InvalidRequest(f"ttl has to be above 0 and at most {MAX_TTL_MS // 1000} seconds")
        super().__init__(wire.Grant(check_lease(number), milliseconds))

    def answer(self, result: Result) -> float:
        milliseconds: int = accepted(result)
        return milliseconds / 1000


class GrantFor(Call["tuple[float, T]"]):
    """A lease, and what is done under it first, in one command. Result: as of both."""

    __slots__ = ("_call", "_grant")

    def __init__(self, number: int, ttl: float, call: Call[T]) -> None:
        self._grant, self._call = Grant(number, ttl), call
        super().__init__(self._grant.operation)

    def steps(self) -> Steps[tuple[float, T]]:
        """The second is asked for again if there was no room for its answer."""
        granted, result = yield (self.operation, self._call.operation)
        ttl = self._grant.answer(granted)
        if is_split(result):
            return ttl, (yield from self._call.steps())
        return ttl, self._call.answer(result)


class Revoke(Call[int]):
    """End a lease, and all keys that go with it. Result: the store's revision."""

    __slots__ = ()

    def __init__(self, lease: Leased | int) -> None:
        super().__init__(wire.Revoke(check_lease(lease)))


class RevokeAll(Call[None]):
    """End all of these, one or more, that there are still."""

    __slots__ = ("_all",)

    def __init__(self, numbers: Iterable[int]) -> None:
        self._all = [wire.Revoke(number) for number in numbers]
        super().__init__(self._all[0])

    def steps(self) -> Steps[None]:
        """A hundred in each command."""
        for first in range(0, len(self._all), _AT_ONCE):
            yield self._all[first : first + _AT_ONCE]


class ReadLease(Call["LeaseInfo | None"]):
    """The time left of a lease. Result: None if there is no such lease."""

    __slots__ = ()

    def __init__(self, lease: Leased | int) -> None:
        super().__init__(wire.TimeLeft(check_lease(lease), keys=True))

    def answer(self, result: Result) -> LeaseInfo | None:
        found = accepted(result)
        if found is None:
            return None
        assert isinstance(self.operation, wire.TimeLeft)
        left, ttl, keys = found
        return LeaseInfo(self.operation.lease, ttl / 1000, left / 1000, list(map(as_text, keys)))


class LeaseIds(Call["list[int]"]):
    """The ids of all leases, in order."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(wire.Leases())


def renewal(numbers: Sequence[int]) -> bytes:
    """A request to let these leases live on; it belongs to no session."""
    return encode_operations([wire.KeepAlive(number) for number in numbers])


def still_alive(payload: bytes, numbers: Sequence[int]) -> list[float | LeaseExpired]:
    """For each lease its time to live in seconds, or that it has ended.

    Raises `OperationFailed` if that is no answer to a renewal.
    """
    try:
        results = decode_results(payload)
        if len(results) != len(numbers):
            raise ValueError("another number of results than of leases")
    except ValueError as error:
        raise OperationFailed(f"the servers' answer is malformed: {error}") from None
    return [
        LeaseExpired(f"lease {number:x} has ended") if is_refusal(result) else result / 1000
        for number, result in zip(numbers, results, strict=True)
    ]
