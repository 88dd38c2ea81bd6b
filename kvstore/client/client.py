"""`Client`: the blocking client of the key-value store; `CommandClient`: of any state machine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NoReturn, Self, TypeVar

import msgspec

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.arguments import (
    Key,
    as_text,
    check_key,
    check_optional_value,
    check_prefix,
    check_value,
)
from paxon.kvstore.client.calls import calls
from paxon.kvstore.client.calls.calls import Call, Steps
from paxon.kvstore.client.calls.faces import StoreCalls
from paxon.kvstore.client.calls.keys import Leased
from paxon.kvstore.client.checks import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT,
    call_back,
    check_callable,
    check_client,
    check_limit,
    check_mode,
    check_payload,
    check_timeout,
    check_wait,
)
from paxon.kvstore.client.cluster_calls import ClusterCalls
from paxon.kvstore.client.core import ClientCore, CoreOptions, KVTicket, RawCore, RawTicket
from paxon.kvstore.client.leases.lease import LeaseCalls
from paxon.kvstore.client.links import Secure, server_addresses
from paxon.kvstore.client.pipelining import BasePipeline, OfferRetry, in_users_terms, only_result
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.client.sync_driver import SyncDriver
from paxon.kvstore.client.watches.faces import WatchCalls
from paxon.kvstore.errors import PaxonError, RequestTimeout
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

__all__ = ["Client", "CommandClient", "Future", "Pipeline"]

T = TypeVar("T")
_LEAST_WAIT = 0.001
"""Seconds that a later step of a call may take when the call's time is up already."""


class Future(msgspec.Struct, Generic[T], eq=False):
    """The outcome of an operation that was submitted without waiting.

    Like `concurrent.futures.Future`, but with no thread behind it: answers are taken in while some
    thread is inside a call of the client (waiting for this or anything else).
    """

    _client: _BlockingClient
    _ticket: Ticket[Any, Any]
    _value: Callable[[Any], T]

    def __repr__(self) -> str:
        """Like any object's: not all that a client has under way."""
        return object.__repr__(self)

    def done(self) -> bool:
        """Whether the outcome is known; takes in what answers are there, without waiting."""
        if not self._ticket.done:
            self._client._driver.look()
        return self._ticket.done

    def result(self, timeout: float | None = None) -> T:
        """Wait for the outcome; raises what the operation raises.

        With a `timeout` (seconds) below what is left of the operation's own, TimeoutError means
        that it is still going on.
        """
        ticket = self._ticket
        if timeout is not None or not ticket.done:
            self._wait(timeout)
        if ticket.error is not None:
            self._fail(ticket.error)
        return self._value(ticket.result)

    def exception(self, timeout: float | None = None) -> PaxonError | None:
        """Wait for the outcome; the error, or None if there is none. See `result`."""
        if timeout is not None or not self._ticket.done:
            self._wait(timeout)  # (what this raises is no outcome)
        try:
            self.result()
        except PaxonError as error:
            return error
        return None

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call `callback` with this future once it is done, in the thread that finds out; or now.

        What it raises is logged. Raises `InvalidRequest` for what cannot be called so.
        """
        check_callable("a future's callback", callback)
        driver = self._client._driver
        driver.enter()
        with driver.lock:
            if not self._ticket.done:
                driver.watch(self._ticket, lambda: self._call(callback))
                return
        self._call(callback)

    def _call(self, callback: Callable[[Future[T]], object]) -> None:
        """That thread may be the one that renews leases, or in a write that it is to know of."""
        call_back("a future is done", callback, self)

    def _wait(self, timeout: float | None) -> None:
        timeout = check_wait(timeout)
        if self._ticket.done:
            return
        if timeout is None:
            self._client._driver.wait(self._ticket)
        elif not self._client._driver.wait(self._ticket, time.monotonic() + timeout):
            raise TimeoutError(f"not done after {timeout:g} s; the operation is still going on")

    def _fail(self, error: PaxonError) -> NoReturn:
        if isinstance(error, RequestTimeout):
            self._client._offer_retry(error, self._value)
        raise error


class _BlockingClient(ClusterCalls):
    """The base of both blocking clients: a core, a driver, a default timeout."""

    _core: ClientCore | RawCore
    _core_kind: type[ClientCore | RawCore]
    _driver: SyncDriver
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
        """Make a client; nothing is sent before the first operation.

        Args:
            servers: client addresses of one or more servers of the cluster, as a list or separated
                by commas; the others are learnt from them.
            timeout: seconds that an operation may take by default.
            redirect: whether to follow to the leader; if not, what the first server will not do
                fails with `NotLeader`.
            options: tunables, for special needs.
            secure: prepares each socket for encryption before it connects.

        Raises:
            InvalidRequest: an address or the timeout is wrong.
        """
        self._timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        check_client(redirect, options, secure)
        self._core = self._core_kind(
            server_addresses(servers), random.SystemRandom(), options=options, redirect=redirect
        )
        self._driver = SyncDriver(self._core, secure=secure)

    def _offer_retry(self, error: RequestTimeout, answer: Callable[[Any], Any]) -> None:
        """Have the error of a write of unknown outcome ask for it again.

        `answer` makes of what the servers answer what the caller is given; it may raise.
        """
        kept = error.kept
        if kept is not None:
            error.again = lambda timeout: self._ask_again(kept, timeout, answer)

    def _ask_again(self, kept: object, timeout: float | None, answer: Callable[[Any], Any]) -> Any:
        limit = check_timeout(timeout, self._timeout)
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            now = time.monotonic()
            ticket = self._core.ask_again(kept, now=now, deadline=now + limit)
            driver.pump()
        driver.wait(ticket)
        try:
            return answer(ticket.value())
        except RequestTimeout as error:
            self._offer_retry(error, answer)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client is neither copied nor pickled: make a new one, in each process")

    def close(self) -> None:
        """Close the connections. Calls under way in other threads fail with `ClientClosed`."""
        self._driver.close()


class CommandClient(_BlockingClient):
    """Client of a cluster that replicates an embedder's own `StateMachine`. Threads may share it.

    Each command is executed at most once, however often it has to be sent.
    """

    _core: RawCore
    _core_kind = RawCore

    def execute(self, command: bytes, *, timeout: float | None = None) -> bytes:
        """Have a command executed; the state machine's reply.

        Raises:
            OperationFailed: the state machine raised; the text is its error.
            RequestTimeout: no answer in time; the outcome is unknown.
            InvalidRequest: the command is empty, not bytes, or too large for the servers.
        """
        return self.submit_execute(command, timeout=timeout).result()

    def query(
        self, query: bytes, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> bytes:
        """Have a query answered from the state; the state machine's answer. Errors as above."""
        return self.submit_query(query, mode=mode, timeout=timeout).result()

    def submit_execute(self, command: bytes, *, timeout: float | None = None) -> Future[bytes]:
        """`execute` without waiting."""
        return self._submit(command, None, timeout)

    def submit_query(
        self, query: bytes, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> Future[bytes]:
        """`query` without waiting."""
        return self._submit(query, check_mode(mode), timeout)

    def _submit(
        self, payload: bytes, mode: ReadMode | None, timeout: float | None
    ) -> Future[bytes]:
        check_payload(payload)
        limit = check_timeout(timeout, self._timeout)
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            now = time.monotonic()
            ticket: RawTicket = self._core.submit(
                payload, now=now, deadline=now + limit, mode=mode, size=len(payload)
            )
            ticket.keeps = True
            driver.pump()
        return Future(self, ticket, bytes)


class Client(StoreCalls, LeaseCalls, WatchCalls, _BlockingClient):
    """Client of the replicated key-value store. Threads may share it; a forked child may not.

    Finds the leader by itself, tries again by itself, and has each write take effect at most once.
    What several threads submit meanwhile travels together.
    """

    _core: ClientCore
    _core_kind = ClientCore

    # --- operations --------------------------------------------------------------------------
    # Each raises InvalidRequest (before anything is sent), RequestTimeout (for writes: outcome
    # unknown), ClusterUnavailable (no server answered), and PaxonError's other children.

    def get(
        self,
        key: Key,
        *,
        revision: int = 0,
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> bytes | None:
        """The key's value, None if it is missing.

        `mode` "linearizable" sees every write that was acknowledged before; "lease" saves a round
        between servers and relies on their clocks' speeds; "stale" may be old, from any server.
        With a `revision` it is what the key was after that one (`entry` says what that may raise).
        """
        if revision != 0:
            entry = self.entry(key, revision=revision, mode=mode, timeout=timeout)
            return None if entry is None else entry.value
        result: bytes | None = self._call(Get(check_key(key)), timeout, check_mode(mode))
        return result

    def put(
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
            return self._do(calls.Put(key, value, lease=lease), timeout)
        result: int = self._call(Put(check_key(key), check_value(value)), timeout)
        return result

    def append(self, key: Key, value: bytes | str, *, timeout: float | None = None) -> int:
        """Append to the key's value (a missing one counts as empty); the new length in bytes."""
        result: int = self._call(Append(check_key(key), check_value(value)), timeout)
        return result

    def delete(self, key: Key, *, timeout: float | None = None) -> bool:
        """Remove the key; whether it was there."""
        result: bool = self._call(Delete(check_key(key)), timeout)
        return result

    def compare_and_set(
        self,
        key: Key,
        expected: bytes | str | None,
        new: bytes | str | None,
        *,
        timeout: float | None = None,
    ) -> bool:
        """Replace the key's value if it is the expected one; whether it was.

        `expected` None: the key has to be missing. `new` None: remove the key.
        """
        operation = CompareAndSet(
            check_key(key),
            check_optional_value(expected, "expected value"),
            check_optional_value(new, "new value"),
        )
        result: bool = self._call(operation, timeout)
        return result

    cas = compare_and_set

    def scan(
        self,
        prefix: Key = "",
        *,
        limit: int = 1000,
        start_after: Key = "",
        mode: ReadMode = "linearizable",
        timeout: float | None = None,
    ) -> list[tuple[str, bytes]]:
        """Keys that begin with `prefix`, with their values, in the order of keys.

        At most `limit` of them, and only those after `start_after` if that is given: pass the last
        key of one call to the next to read on. More than 10,000 keys or about 1 MiB take several
        requests; each sees the store at one moment, but not all at the same moment.
        """
        checked = check_mode(mode)
        check_limit(limit)
        first, after = check_prefix(prefix), check_prefix(start_after, "start_after")
        found: list[tuple[str, bytes]] = []
        while True:
            page = Scan(first, min(limit - len(found), MAX_SCAN_ITEMS), after)
            more, pairs = self._call_raw(page, timeout, checked)
            found.extend((as_text(key), value) for key, value in pairs)
            if not more or len(found) >= limit:
                return found
            after = pairs[-1][0]

    def _call(
        self, operation: Operation, timeout: float | None, mode: ReadMode = "linearizable"
    ) -> Any:
        try:
            return in_users_terms(operation, self._call_raw(operation, timeout, mode))
        except RequestTimeout as error:
            self._offer_retry(error, lambda results: in_users_terms(operation, results[0]))
            raise

    def _call_raw(self, operation: Operation, timeout: float | None, mode: ReadMode) -> Result:
        ticket = self._submit(operation, timeout, mode, at_once=True)
        if not ticket.done:
            self._driver.wait(ticket)
        return ticket.value()[0]

    def _ask_to_renew(self, body: bytes, timeout: float | None) -> bytes:
        limit = check_timeout(timeout, self._timeout)
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            now = time.monotonic()
            ticket = self._core.ask_leader("renew", body, now=now, deadline=now + limit)
            driver.pump()
        driver.wait(ticket)
        payload: bytes = ticket.value()
        return payload

    def _run(self, steps: Steps[T], until: float, mode: ReadMode, call: Call[T] | None = None) -> T:
        """See `StoreCalls`."""
        try:
            operations = next(steps)
            while True:
                operations = steps.send(self._ask(operations, until, mode))
        except StopIteration as stop:
            value: T = stop.value
            return value
        except RequestTimeout as error:
            if call is not None:
                self._offer_retry(error, lambda results: call.answer(results[0]))
            raise

    def _ask(self, operations: Sequence[Operation], until: float, mode: ReadMode) -> list[Result]:
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            now = time.monotonic()
            deadline = max(until, now + _LEAST_WAIT)
            ticket = self._core.submit_operations(operations, now=now, deadline=deadline, mode=mode)
            ticket.keeps = True
            driver.pump()
        try:
            driver.wait(ticket)
        except BaseException:  # Ctrl-C: whoever cleans up behind it is not to be overtaken
            with driver.lock:
                self._core.abandon(ticket)
            raise
        return ticket.value()

    def _submit(
        self,
        operation: Operation,
        timeout: float | None,
        mode: ReadMode = "linearizable",
        *,
        at_once: bool = False,
    ) -> KVTicket:
        limit = self._timeout if timeout is None else check_timeout(timeout, self._timeout)
        driver, core = self._driver, self._core
        if driver.held():  # (first looked at here: each operation comes this way)
            driver.enter()
        with driver.lock:
            if driver.refusal:
                driver.check()
            now = time.monotonic()
            ticket = core.submit_operation(
                operation, now=now, deadline=now + limit, mode=mode, keeps=True
            )
            if at_once or not core.gathering:
                driver.pump()
            else:
                driver.gather()
        return ticket

    # --- many at once ------------------------------------------------------------------------

    def submit_get(
        self, key: Key, *, mode: ReadMode = "linearizable", timeout: float | None = None
    ) -> Future[bytes | None]:
        """`get` without waiting.

        Operations submitted like this may be executed in any order: use a pipeline for order.
        """
        operation = Get(check_key(key))
        return Future(self, self._submit(operation, timeout, check_mode(mode)), only_result)

    def submit_put(
        self, key: Key, value: bytes | str, *, timeout: float | None = None
    ) -> Future[int]:
        """`put` without waiting; see `submit_get`."""
        operation = Put(check_key(key), check_value(value))
        return Future(self, self._submit(operation, timeout), only_result)

    def submit_append(
        self, key: Key, value: bytes | str, *, timeout: float | None = None
    ) -> Future[int]:
        """`append` without waiting; see `submit_get`."""
        return self._future(Append(check_key(key), check_value(value)), timeout)

    def submit_delete(self, key: Key, *, timeout: float | None = None) -> Future[bool]:
        """`delete` without waiting; see `submit_get`."""
        return self._future(Delete(check_key(key)), timeout)

    def submit_compare_and_set(
        self,
        key: Key,
        expected: bytes | str | None,
        new: bytes | str | None,
        *,
        timeout: float | None = None,
    ) -> Future[bool]:
        """`compare_and_set` without waiting; see `submit_get`."""
        operation = CompareAndSet(
            check_key(key),
            check_optional_value(expected, "expected value"),
            check_optional_value(new, "new value"),
        )
        return self._future(operation, timeout)

    def _future(self, operation: Operation, timeout: float | None) -> Future[Any]:
        return Future(self, self._submit(operation, timeout), only_result)

    def pipeline(
        self,
        *,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        timeout: float | None = None,
        mode: ReadMode = "linearizable",
    ) -> Pipeline:
        """Many operations in flight, executed in the order in which they are queued.

            with kv.pipeline() as p:
                for i in range(1000):
                    p.put(f"k{i}", b"v")
            p.results           # the revision of each put

        Args:
            max_in_flight: operations under way at most; queueing more waits for answers.
            timeout: seconds that each operation may take once it is under way.
            mode: how reads are answered in a pipeline that has had no writes so far. (Reads after
                writes are executed with them, in order.)
        """
        return Pipeline(
            self._driver,
            self._core,
            max_in_flight=max_in_flight,
            timeout=check_timeout(timeout, self._timeout),
            mode=check_mode(mode),
            offer_retry=self._offer_retry,
        )


class Pipeline(BasePipeline):
    """See `Client.pipeline`. Used by one thread."""

    def __init__(
        self,
        driver: SyncDriver,
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

    def execute(self) -> list[Result]:
        """Send what is queued, wait for all answers, and return the results in order.

        Raises:
            PipelineError: some operations failed; `results` has the outcomes of all.
        """
        self._close_chunk()
        while self._held or self._in_flight:
            self._submit_what_may()
            self._wait_for_oldest()
        return self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Execute, unless the block raised: then what has not been sent yet never is."""
        if kind is None:
            self.execute()

    def _chunk_closed(self) -> None:
        while True:
            self._submit_what_may()
            while self._in_flight and self._in_flight[0][0].done:
                self._collect()
            if not self._held:
                return
            if self._in_flight:
                self._wait_for_oldest()

    def _submit_what_may(self) -> None:
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            self._submit_held(time.monotonic())
            driver.pump()

    def _wait_for_oldest(self) -> None:
        self._driver.wait(self._in_flight[0][0])
        self._collect()
