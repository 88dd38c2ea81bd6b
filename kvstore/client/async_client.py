"""`AsyncClient`: the store's client for asyncio; `AsyncCommandClient`: of any state machine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Self, TypeVar

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.arguments import (
    Key,
    as_text,
    check_key,
    check_optional_value,
    check_prefix,
    check_value,
)
from paxon.kvstore.client.async_driver import AsyncDriver
from paxon.kvstore.client.calls import calls
from paxon.kvstore.client.calls.async_faces import AsyncStoreCalls
from paxon.kvstore.client.calls.calls import Call, Steps
from paxon.kvstore.client.calls.keys import Leased
from paxon.kvstore.client.checks import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT,
    check_client,
    check_limit,
    check_mode,
    check_payload,
    check_timeout,
)
from paxon.kvstore.client.cluster_calls import AsyncClusterCalls
from paxon.kvstore.client.core import ClientCore, CoreOptions, KVTicket, RawCore, RawTicket
from paxon.kvstore.client.leases.async_lease import AsyncLeaseCalls
from paxon.kvstore.client.links import Secure, server_addresses
from paxon.kvstore.client.pipelining import BasePipeline, OfferRetry, in_users_terms
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.client.watches.faces import AsyncWatchCalls
from paxon.kvstore.errors import RequestTimeout
from paxon.kvstore.store.operations import (
    MAX_SCAN_ITEMS,
    Append,
    CompareAndSet,
    Delete,
    Get,
    Operation,
    Put,
    Result,
    Scan,
)

__all__ = ["AsyncClient", "AsyncCommandClient", "AsyncPipeline"]

T = TypeVar("T")
_LEAST_WAIT = 0.001
"""Seconds that a later step of a call may take when the call's time is up already."""


class _AsyncClient(AsyncClusterCalls):
    """The base of both asyncio clients: a core, a driver, a default timeout."""

    _core: ClientCore | RawCore
    _core_kind: type[ClientCore | RawCore]
    _driver: AsyncDriver
    _timeout: float

    def __init__(
        self,
        servers: str | Iterable[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        redirect: bool = True,
        options: CoreOptions | None = None,
        secure: Secure | None = None,
    ) -> None:
        """See `Client`."""
        self._timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        check_client(redirect, options, secure)
        self._core = self._core_kind(
            server_addresses(servers), random.SystemRandom(), options=options, redirect=redirect
        )
        self._driver = AsyncDriver(self._core, secure=secure)

    async def _finish(self, ticket: Ticket[Any, Any], answer: Callable[[Any], T]) -> T:
        """Wait for the servers' answer, and make of it what the caller is given."""
        await self._driver.wait(ticket)
        try:
            return answer(ticket.value())
        except RequestTimeout as error:
            self._offer_retry(error, answer)
            raise

    def _offer_retry(self, error: RequestTimeout, answer: Callable[[Any], Any]) -> None:
        """Have the error of a write of unknown outcome ask for it again; see the twin."""
        kept = error.kept
        if kept is not None:
            error.again = lambda timeout: self._ask_again(kept, timeout, answer)

    async def _ask_again(
        self, kept: object, timeout: float | None, answer: Callable[[Any], Any]
    ) -> Any:
        limit = check_timeout(timeout, self._timeout)
        now = self._driver.enter()
        ticket = self._core.ask_again(kept, now=now, deadline=now + limit)
        self._driver.plan_pump()
        return await self._finish(ticket, answer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client is neither copied nor pickled: make a new one, in each process")

    async def close(self) -> None:
        """Close the connections. Calls under way in other tasks fail with `ClientClosed`."""
        self._driver.close()


class AsyncCommandClient(_AsyncClient):
    """Client of a cluster that replicates an embedder's own `StateMachine`; see `CommandClient`."""

    _core: RawCore
    _core_kind = RawCore

    async def execute(self, command: bytes, *, timeout: float | None = None) -> bytes:
        """Have a command executed; see `CommandClient.execute`."""
        return await self._call(command, None, timeout)

    async def query(
        self, query: bytes, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> bytes:
        """Have a query answered from the state; see `CommandClient.query`."""
        return await self._call(query, check_mode(mode), timeout)

    async def _call(self, payload: bytes, mode: ReadMode | None, timeout: float | None) -> bytes:
        check_payload(payload)
        limit = check_timeout(timeout, self._timeout)
        now = self._driver.enter()
        ticket: RawTicket = self._core.submit(
            payload, now=now, deadline=now + limit, mode=mode, size=len(payload)
        )
        ticket.keeps = True
        self._driver.plan_pump()
        return await self._finish(ticket, bytes)


class AsyncClient(AsyncStoreCalls, AsyncLeaseCalls, AsyncWatchCalls, _AsyncClient):
    """Client of the replicated key-value store for asyncio; any number of tasks may share it.

    It belongs to the event loop in which it is first used. Operations that tasks submit in the same
    turn of the loop, or while answers are awaited, travel together. A task that is cancelled while
    it waits does not call its operation back: a write may still take effect.
    """

    _core: ClientCore
    _core_kind = ClientCore

    async def get(
        self,
        key: Key,
        *,
        revision: int = 0,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> bytes | None:
        """The key's value, None if it is missing; see `Client.get`."""
        if revision != 0:
            entry = await self.entry(key, revision=revision, mode=mode, timeout=timeout)
            return None if entry is None else entry.value
        result: bytes | None = await self._call(Get(check_key(key)), timeout, check_mode(mode))
        return result

    async def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        lease: Leased | int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Set the key's value; a str is encoded as UTF-8. Returns the store's revision then.

        With a `lease` the key goes when that ends; without, it loses the one it had.
        """
        if lease is not None:
            return await self._do(calls.Put(key, value, lease=lease), timeout)
        result: int = await self._call(Put(check_key(key), check_value(value)), timeout)
        return result

    async def append(self, key: Key, value: bytes | str, *, timeout: float | None = None) -> int:
        """Append to the key's value (a missing one counts as empty); the new length in bytes."""
        result: int = await self._call(Append(check_key(key), check_value(value)), timeout)
        return result

    async def delete(self, key: Key, *, timeout: float | None = None) -> bool:
        """Remove the key; whether it was there."""
        result: bool = await self._call(Delete(check_key(key)), timeout)
        return result

    async def compare_and_set(
        self,
        key: Key,
        expected: bytes | str | None,
        new: bytes | str | None,
        *,
        timeout: float | None = None,
    ) -> bool:
        """Replace the key's value if it is the expected one; see `Client.compare_and_set`."""
        operation = CompareAndSet(
            check_key(key),
            check_optional_value(expected, "expected value"),
            check_optional_value(new, "new value"),
        )
        result: bool = await self._call(operation, timeout)
        return result

    cas = compare_and_set

    async def scan(
        self,
        prefix: Key = "",
        *,
        limit: int = 1000,
        start_after: Key = "",
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> list[tuple[str, bytes]]:
        """Keys that begin with `prefix`, with their values, in order; see `Client.scan`."""
        checked = check_mode(mode)
        check_limit(limit)
        first, after = check_prefix(prefix), check_prefix(start_after, "start_after")
        found: list[tuple[str, bytes]] = []
        while True:
            page = Scan(first, min(limit - len(found), MAX_SCAN_ITEMS), after)
            more, pairs = await self._call_raw(page, timeout, checked)
            found.extend((as_text(key), value) for key, value in pairs)
            if not more or len(found) >= limit:
                return found
            after = pairs[-1][0]

    def pipeline(
        self,
        *,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        timeout: float | None = None,
        mode: ReadMode = "linearizable",
    ) -> AsyncPipeline:
        """Many operations in flight, executed in order; see `Client.pipeline`.

            async with kv.pipeline() as p:
                for i in range(1000):
                    p.put(f"k{i}", b"v")
            p.results           # the revision of each put

        Queueing never waits: beyond `max_in_flight` operations are kept until the block's end, or
        `await p.execute()`.
        """
        return AsyncPipeline(
            self._driver,
            self._core,
            max_in_flight=max_in_flight,
            timeout=check_timeout(timeout, self._timeout),
            mode=check_mode(mode),
            offer_retry=self._offer_retry,
        )

    async def _call(
        self, operation: Operation, timeout: float | None, mode: ReadMode = "linearizable"
    ) -> Any:
        ticket = self._submit(operation, timeout, mode)
        return await self._finish(ticket, lambda results: in_users_terms(operation, results[0]))

    async def _call_raw(
        self, operation: Operation, timeout: float | None, mode: ReadMode
    ) -> Result:
        ticket = self._submit(operation, timeout, mode)
        await self._driver.wait(ticket)
        return ticket.value()[0]

    def _submit(self, operation: Operation, timeout: float | None, mode: ReadMode) -> KVTicket:
        limit = check_timeout(timeout, self._timeout)
        now = self._driver.enter()
        ticket = self._core.submit_operation(
            operation, now=now, deadline=now + limit, mode=mode, keeps=True
        )
        self._driver.plan_pump()
        return ticket

    async def _ask_to_renew(self, body: bytes, timeout: float | None) -> bytes:
        limit = check_timeout(timeout, self._timeout)
        now = self._driver.enter()
        ticket = self._core.ask_leader("renew", body, now=now, deadline=now + limit)
        self._driver.plan_pump()
        await self._driver.wait(ticket)
        payload: bytes = ticket.value()
        return payload

    async def _do(self, call: Call[T], timeout: float | None, mode: ReadMode = "linearizable") -> T:
        if type(call).steps is not Call.steps:
            return await super()._do(call, timeout, mode)
        ticket = self._submit(call.operation, timeout, check_mode(mode))
        try:
            return call.answer((await self._answers(ticket))[0])
        except RequestTimeout as error:
            self._offer_retry(error, lambda results: call.answer(results[0]))
            raise

    async def _run(
        self, steps: Steps[T], until: float, mode: ReadMode, call: Call[T] | None = None
    ) -> T:
        """See `AsyncStoreCalls`."""
        try:
            operations = next(steps)
            while True:
                operations = steps.send(await self._ask(operations, until, mode))
        except StopIteration as stop:
            value: T = stop.value
            return value
        except RequestTimeout as error:
            if call is not None:
                self._offer_retry(error, lambda results: call.answer(results[0]))
            raise

    async def _ask(
        self, operations: Sequence[Operation], until: float, mode: ReadMode
    ) -> list[Result]:
        now = self._driver.enter()
        deadline = now + max(until - time.monotonic(), _LEAST_WAIT)
        ticket = self._core.submit_operations(operations, now=now, deadline=deadline, mode=mode)
        ticket.keeps = True
        self._driver.plan_pump()
        return await self._answers(ticket)

    async def _answers(self, ticket: KVTicket) -> list[Result]:
        try:
            await self._driver.wait(ticket)
        except BaseException:  # cancelled: whoever cleans up behind it is not to be overtaken
            self._core.abandon(ticket)
            raise
        return ticket.value()


class AsyncPipeline(BasePipeline):
    """See `AsyncClient.pipeline`. Used by one task."""

    def __init__(
        self,
        driver: AsyncDriver,
        core: ClientCore,
        *,
        max_in_flight: int,
        timeout: float,
        mode: ReadMode,
        offer_retry: OfferRetry,
    ) -> None:
        super().__init__(
            core, max_in_flight=max_in_flight, timeout=timeout, mode=mode, offer_retry=offer_retry
        )
        self._driver = driver

    async def execute(self) -> list[Result]:
        """Send what is queued, wait for all answers, and return the results in order.

        Raises:
            PipelineError: some operations failed; `results` has the outcomes of all.
        """
        self._close_chunk()
        while self._held or self._in_flight:
            self._submit_what_may()
            await self._driver.wait(self._in_flight[0][0])
            self._collect()
        return self._finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Execute, unless the block raised: then what has not been sent yet never is."""
        if kind is None:
            await self.execute()

    def _chunk_closed(self) -> None:
        while self._in_flight and self._in_flight[0][0].done:
            self._collect()
        self._submit_what_may()

    def _submit_what_may(self) -> None:
        self._submit_held(self._driver.enter())
        self._driver.plan_pump()
