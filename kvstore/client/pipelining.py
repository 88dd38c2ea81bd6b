"""Pipelines: many operations in flight, executed in order, results in order.

Operations are gathered into chunks. Every chunk is one submission that has to be executed after the
one before, so that order survives lost messages and changes of leader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from types import NoneType
from typing import Any, TypeAlias

from paxon.actors.limits.allowances import CHARGED_BYTES
from paxon.actors.messages import ReadMode
from paxon.kvstore.client.arguments import (
    Key,
    as_text,
    check_key,
    check_optional_value,
    check_scan,
    check_value,
)
from paxon.kvstore.client.calls.answers import accepted
from paxon.kvstore.client.calls.calls import (
    Call,
    GetEntry,
    GetMany,
    Increment,
    Put,
    Txn,
    TxnOperation,
)
from paxon.kvstore.client.calls.conditions import Conditions
from paxon.kvstore.client.calls.keys import Leased
from paxon.kvstore.client.checks import check_in_flight
from paxon.kvstore.client.core import ClientCore, KVTicket
from paxon.kvstore.errors import InvalidRequest, PaxonError, PipelineError, RequestTimeout
from paxon.kvstore.store.operations import (
    MAX_VALUE_BYTES,
    Append,
    CompareAndSet,
    Delete,
    Get,
    Operation,
    Result,
    Scan,
    compares_ranges,
    is_refusal,
    only_reads,
    operation_bytes,
)
from paxon.kvstore.store.operations import Put as WirePut

__all__ = ["BasePipeline", "OfferRetry", "in_users_terms", "only_result"]

OfferRetry: TypeAlias = Callable[[RequestTimeout, Callable[[list[Result]], Any]], None]
"""Has an error ask again; the function picks the caller's result from those of the request."""

_CHUNK_BYTES = 256 << 10
_CHUNK_PUTS = 512
"""A chunk's operations at most: each chunk costs the servers about the same beside its puts …"""
_CHUNKS = 4
"""… and a quarter of what may be in flight, so that all sides work at once, …"""
_LEAST_CHUNK = 256
"""… unless that is less than this. With more it has at most …"""
_MUCH_BYTES = CHARGED_BYTES * 3 // 4
"""… so many bytes: a client of larger commands waits for snapshots (docs/design/overload.md)."""
_OTHERS_BYTES = 1024
"""An operation other than a put counts for at least this much: its result may be long."""
_PLAIN = frozenset({NoneType, bytes, int, bool})
"""Types of results that users see as they are."""


def in_users_terms(operation: Operation, result: Result) -> Result:
    """A result as users see it. Raises the error that it stands for if it was refused."""
    if is_refusal(result):
        accepted(result)
    if type(operation) is Scan:
        return [(as_text(key), value) for key, value in result[1]]
    return result


def only_result(results: list[Result]) -> Result:
    """Of an operation alone whose result users see as it is. Raises the error if it was refused."""
    result = results[0]
    if type(result) is dict:  # (`is_refusal` without a call)
        accepted(result)
    return result


class BasePipeline:
    """The base of blocking and asyncio pipelines: everything but waiting."""

    def __init__(
        self,
        core: ClientCore,
        *,
        max_in_flight: int,
        timeout: float,
        mode: ReadMode,
        offer_retry: OfferRetry,
    ) -> None:
        self._core = core
        self._offer_retry = offer_retry
        self._max_in_flight = check_in_flight(max_in_flight)
        self._timeout = timeout
        self._mode: ReadMode = mode
        self._chunk_operations = self._full_at = min(
            max(_LEAST_CHUNK, max_in_flight // _CHUNKS), _CHUNK_PUTS, max_in_flight
        )
        """How many operations a chunk has at most, and how many there are once the open one has."""
        self._open: list[Operation] = []
        """The chunk that is being gathered."""
        self._open_bytes = 0
        self._held: deque[tuple[list[Operation], int]] = deque()
        """Chunks that may not be submitted yet, with their bytes."""
        self._in_flight: deque[tuple[KVTicket, list[Operation]]] = deque()
        self._flying = 0
        """Operations in flight."""
        self._last: KVTicket | None = None
        """The last write chunk."""
        self._results: list[Result] = []
        self._errors: dict[int, PaxonError] = {}
        self._count = 0
        self._calls: dict[int, Call[Any]] = {}
        """By index in the results, those whose answers look otherwise than their results."""

    # --- operations: each returns its index in the results ------------------------------------

    def put(self, key: Key, value: bytes | str, *, lease: Leased | int | None = None) -> int:
        """Queue setting a value; the result is the store's revision then."""
        if lease is not None:
            return self.call(Put(key, value, lease=lease))
        encoded = check_key(key)
        if type(value) is not bytes or len(value) > MAX_VALUE_BYTES:
            value = check_value(value)
        return self._add(WirePut(encoded, value), len(encoded) + len(value) + 16)

    def get(self, key: Key) -> int:
        """Queue reading a value; the result is the value or None."""
        encoded = check_key(key)
        return self._add(Get(encoded), max(len(encoded) + 24, _OTHERS_BYTES))

    def append(self, key: Key, value: bytes | str) -> int:
        """Queue appending to a value; the result is the new length in bytes."""
        return self._queue(Append(check_key(key), check_value(value)))

    def delete(self, key: Key) -> int:
        """Queue removing a key; the result says whether it was there."""
        return self._queue(Delete(check_key(key)))

    def compare_and_set(
        self, key: Key, expected: bytes | str | None, new: bytes | str | None
    ) -> int:
        """Queue replacing a value if it is the expected one; the result says whether it was."""
        return self._queue(
            CompareAndSet(
                check_key(key),
                check_optional_value(expected, "expected value"),
                check_optional_value(new, "new value"),
            )
        )

    cas = compare_and_set

    def scan(self, prefix: Key = "", *, limit: int = 1000, start_after: Key = "") -> int:
        """Queue a scan; the result is a list of pairs, cut at `limit` or about 1 MiB."""
        return self._queue(check_scan(prefix, limit, start_after))

    def increment(self, key: Key, by: int = 1) -> int:
        """Queue adding to a number; the result is the sum."""
        return self.call(Increment(key, by))

    def entry(self, key: Key, *, revision: int = 0) -> int:
        """Queue reading a key with all that belongs to it; the result is an `Entry` or None."""
        return self.call(GetEntry(key, revision))

    def txn(
        self,
        if_: Conditions = (),
        then: Sequence[TxnOperation] = (),
        else_: Sequence[TxnOperation] = (),
    ) -> int:
        """Queue a transaction; the result is a `TxnResult`."""
        return self.call(Txn(if_, then, else_))

    def call(self, call: Call[Any]) -> int:
        """Queue any request: `p.call(Range(prefix="a"))`. A range is cut at about 1 MiB here."""
        if not isinstance(call, Call) or isinstance(call, GetMany):
            raise InvalidRequest(f"a pipeline takes Put, Get, Delete, Range or Txn, not {call!r}")
        self._calls[self._count] = call
        return self._queue(call.operation)

    def __len__(self) -> int:
        """Operations queued so far."""
        return self._count

    def _queue(self, operation: Operation) -> int:
        size = max(operation_bytes(operation), _OTHERS_BYTES)
        if compares_ranges(operation):  # goes alone: its keys take the room in a reply of others
            size = max(size, self._core.options.batch_bytes)
        return self._add(operation, size)

    def _add(self, operation: Operation, size: int) -> int:
        chunk_bytes = self._open_bytes + size
        if chunk_bytes > _CHUNK_BYTES and self._open:  # a large one goes alone
            self._close_chunk()
            self._chunk_closed()
            chunk_bytes = size
        self._open.append(operation)
        self._open_bytes = chunk_bytes
        self._count = count = self._count + 1
        if count >= self._full_at or (
            chunk_bytes >= _MUCH_BYTES
            and (chunk_bytes >= _CHUNK_BYTES or len(self._open) >= _LEAST_CHUNK)
        ):
            self._close_chunk()
            self._chunk_closed()
        return count - 1

    def _chunk_closed(self) -> None:
        """A chunk is full: send it, and wait if too much is in flight."""
        raise NotImplementedError

    # --- chunks --------------------------------------------------------------------------------

    def _close_chunk(self) -> None:
        if self._open:
            self._held.append((self._open, self._open_bytes))
            self._open, self._open_bytes = [], 0
            self._full_at = self._count + self._chunk_operations

    def _submit_held(self, now: float) -> None:
        """Give the core what it may have now."""
        while self._held:
            operations, size = self._held[0]
            if self._flying and self._flying + len(operations) > self._max_in_flight:
                return
            reads = self._last is None and only_reads(operations)
            if not reads and self._last is None and self._in_flight:
                return  # the reads in flight are not to see what this chunk writes
            self._held.popleft()
            ticket = self._core.submit_operations(
                operations,
                now=now,
                deadline=now + self._timeout,
                ordered_after=self._last,
                command=not reads,
                mode=self._mode,
                size=size,
            )
            ticket.keeps = True
            if not reads:
                self._last = ticket
            self._in_flight.append((ticket, operations))
            self._flying += len(operations)

    def _collect(self) -> None:
        """Take over the results of the oldest chunk, which is done."""
        ticket, operations = self._in_flight.popleft()
        self._flying -= len(operations)
        results = self._results
        if ticket.error is not None:
            for index, operation in enumerate(operations):
                error = self._error_of(ticket.error, operation, index)
                self._errors[len(results)] = error
                results.append(error)
            return
        values = ticket.value()
        if _PLAIN.issuperset(map(type, values)):  # as nearly always
            results += values
            return
        for operation, result in zip(operations, values, strict=True):
            if type(result) in _PLAIN:
                results.append(result)
                continue
            call = self._calls.pop(len(results), None)
            try:
                results.append(
                    in_users_terms(operation, result) if call is None else call.answer(result)
                )
            except PaxonError as error:
                self._errors[len(results)] = error
                results.append(error)

    def _error_of(self, error: PaxonError, operation: Operation, index: int) -> PaxonError:
        """The error of a chunk, as that of its operation at `index`: it asks again for this one."""
        call = self._calls.pop(len(self._results), None)
        if not isinstance(error, RequestTimeout) or error.kept is None:
            return error

        def answer(results: list[Result]) -> Any:
            result = results[index]
            return in_users_terms(operation, result) if call is None else call.answer(result)

        own = copy(error)
        self._offer_retry(own, answer)
        return own

    def _finish(self) -> list[Result]:
        """All is collected: the results, or the errors. Raises `PipelineError`."""
        if self._errors:
            raise PipelineError(dict(self._errors))
        return self._results

    @property
    def results(self) -> list[Result]:
        """The results so far, in the order of the operations; complete after `execute`.

        An operation that failed has its error here.
        """
        return self._results

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)
