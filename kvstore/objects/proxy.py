"""`proxy`: an object that looks like your class and asks the servers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.checks import DEFAULT_TIMEOUT, check_mode, check_timeout
from paxon.kvstore.client.client import CommandClient, Future
from paxon.kvstore.client.core import CoreOptions, RawTicket
from paxon.kvstore.client.links import Secure
from paxon.kvstore.errors import InvalidRequest, PipelineError
from paxon.kvstore.objects.calls import encode
from paxon.kvstore.objects.definition import Body, Definition
from paxon.kvstore.objects.machine import VERSION
from paxon.kvstore.objects.replicated import Replicated
from paxon.kvstore.objects.requests import (
    CALLS,
    Gathered,
    Later,
    ObjectCore,
    Prepared,
    body_of,
    definition_of,
    outcomes_of,
    prepare,
    value_of,
)

if TYPE_CHECKING:
    from paxon.kvstore.objects.async_proxy import AsyncCalls, AsyncProxy

__all__ = ["Batch", "CallPipeline", "Calls", "calls", "proxy"]

R = TypeVar("R", bound=Replicated)
T = TypeVar("T")
P = ParamSpec("P")


def proxy(
    servers: str | Iterable[str],
    cls: type[R],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    mode: ReadMode = "linearizable",
    options: CoreOptions | None = None,
    secure: Secure | None = None,
) -> R:
    """An object of your class whose commands and queries are answered by the servers.

        with proxy("127.0.0.1:7111,127.0.0.1:7121", Flags) as flags:
            flags.set("dark", True)

    Threads may share it. `calls(flags)` has the rest: calls that are not waited for, batches,
    pipelines, other timeouts.

    Args:
        servers: client addresses of one or more servers, as for `Client`.
        cls: the class that the servers replicate.
        timeout: seconds that a call may take.
        mode: how queries are answered, as for `Client.get`.
        options: tunables, for special needs.
        secure: prepares each socket for encryption before it connects.

    Calls raise what the method declares to raise, and else:
        InvalidRequest: an argument is of a wrong type, the call is too large, or the servers have
            no such method (yet); nothing was executed.
        CallFailed: the method raised something else; the text names it.
        RequestTimeout: no answer in time; the outcome of a command is unknown.
        ClientClosed: the proxy is closed.
    """
    definition = definition_of(cls)
    client = _ObjectClient(servers, definition, timeout, options, secure)
    return _view(cls, Calls(cls, definition, client, client.timeout, check_mode(mode)))


@overload
def calls(proxy: R) -> Calls[R]: ...
@overload
def calls(proxy: AsyncProxy[R]) -> AsyncCalls[R]: ...
def calls(proxy: object) -> object:
    """The other calls of a proxy. Raises `InvalidRequest` for an object that is none."""
    found: object = getattr(proxy, CALLS, None)
    if found is None:
        raise InvalidRequest(f"{proxy!r} is no proxy of a replicated class: see paxon.proxy")
    return found


class _ObjectClient(CommandClient):
    """A client that waits for nothing by itself."""

    _core: ObjectCore
    _core_kind = ObjectCore

    def __init__(
        self,
        servers: str | Iterable[str],
        definition: Definition,
        timeout: float,
        options: CoreOptions | None,
        secure: Secure | None,
    ) -> None:
        super().__init__(servers, timeout=timeout, options=options, secure=secure)
        self.timeout = self._timeout
        self._core.speak(definition)

    def send(
        self,
        payload: bytes,
        value: Callable[[bytes], T],
        *,
        mode: ReadMode | None,
        timeout: float,
        after: RawTicket | None = None,
    ) -> tuple[Future[T], RawTicket]:
        """Send calls; `value` makes the result of the reply."""
        driver = self._driver
        driver.enter()
        with driver.lock:
            driver.check()
            now = time.monotonic()
            ticket: RawTicket = self._core.submit(
                payload, now=now, deadline=now + timeout, mode=mode, after=after, size=len(payload)
            )
            ticket.keeps = True
            driver.pump()
        return Future(self, ticket, value), ticket


class Calls(Generic[R]):
    """A proxy's calls besides those of its class: see `calls`."""

    def __init__(
        self,
        cls: type[R],
        definition: Definition,
        client: _ObjectClient,
        timeout: float,
        mode: ReadMode,
    ) -> None:
        self._cls = cls
        self._definition = definition
        self._client = client
        self._timeout = timeout
        self._mode: ReadMode = mode

    def submit(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call without waiting: `calls(flags).submit(flags.set, "dark", True)`.

        Calls submitted like this may be executed in any order: use a pipeline for order.
        """
        return self.start(_body(self._definition, method), args, kwargs)[0]

    def batch(self, *, timeout: float | None = None) -> Batch:
        """Calls that are executed together, in order, with nothing of others in between.

            with calls(flags).batch() as batch:
                first = batch.add(flags.set, "dark", True)
                batch.add(flags.set, "light", False)
            first.result()

        At most 50,000. One that raises keeps the others from nothing. At the end `PipelineError`
        says which failed.
        """
        return Batch(self._definition, self._client, check_timeout(timeout, self._timeout))

    def pipeline(self, *, max_in_flight: int = 1024, timeout: float | None = None) -> CallPipeline:
        """Many calls in flight, executed in the order in which they are added.

            with calls(flags).pipeline() as pipeline:
                futures = [pipeline.add(flags.set, name, True) for name in names]

        Queries go through the log with the commands. At the end `PipelineError` says which failed.
        """
        if type(max_in_flight) is not int or max_in_flight < 1:
            raise InvalidRequest(f"max_in_flight has to be an int from 1, not {max_in_flight!r}")
        return CallPipeline(self, max_in_flight, check_timeout(timeout, self._timeout))

    def options(self, *, timeout: float | None = None, mode: ReadMode | None = None) -> R:
        """The same proxy, connections and all, with another timeout or mode of queries."""
        other = Calls(
            self._cls,
            self._definition,
            self._client,
            check_timeout(timeout, self._timeout),
            self._mode if mode is None else check_mode(mode),
        )
        return _view(self._cls, other)

    @property
    def client(self) -> CommandClient:
        """For `status`, `settings` and `change_settings`."""
        return self._client

    def version(self) -> int:
        """The version of the class that is in force."""
        return int(self._client.settings(timeout=self._timeout).values[VERSION])

    def raise_version(self, version: int | None = None) -> int:
        """Put a version of the class in force, by default this program's; the version then.

        Raises `InvalidRequest` if not every server runs the code yet; the text says which.
        """
        new = self._definition.newest if version is None else version
        if type(new) is int and new == self.version():
            return new
        agreed = self._client.change_settings(timeout=self._timeout, **{VERSION: new})
        return int(agreed.values[VERSION])

    def close(self) -> None:
        """Close the connections, for all views of this proxy."""
        self._client.close()

    def start(
        self,
        body: Body,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        through_log: bool = False,
        timeout: float | None = None,
        after: RawTicket | None = None,
    ) -> tuple[Future[Any], RawTicket]:
        """Begin a call."""
        prepared: Prepared = prepare(self._definition, body, args, kwargs)
        definition = self._definition

        def value(payload: bytes) -> Any:
            return value_of(definition, body, outcomes_of(payload, 1)[0])

        is_query = body.kind == "query" and not through_log
        return self._client.send(
            encode([prepared[1]]),
            value,
            mode=self._mode if is_query else None,
            timeout=self._timeout if timeout is None else timeout,
            after=after,
        )


class Batch:
    """See `Calls.batch`."""

    def __init__(self, definition: Definition, client: _ObjectClient, timeout: float) -> None:
        self._definition = definition
        self._client = client
        self._timeout = timeout
        self._gathered = Gathered(definition)

    def add(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Later[T]:
        """Another call."""
        return self._gathered.take(_body(self._definition, method), args, kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send all, unless the block raised: then nothing is sent."""
        if kind is None and len(self._gathered):
            gathered = self._gathered
            self._client.send(
                gathered.payload(), gathered.deliver, mode=None, timeout=self._timeout
            )[0].result()


class CallPipeline:
    """See `Calls.pipeline`. Used by one thread."""

    def __init__(self, calls: Calls[Any], max_in_flight: int, timeout: float) -> None:
        self._calls = calls
        self._max_in_flight = max_in_flight
        self._timeout = timeout
        self._last: RawTicket | None = None
        self._futures: list[Future[Any]] = []

    def add(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send another call, to be executed after the one before; waits if too many are going."""
        body = _body(self._calls._definition, method)
        if len(self._futures) >= self._max_in_flight:
            self._futures[-self._max_in_flight]._wait(None)
        future, self._last = self._calls.start(
            body, args, kwargs, through_log=True, timeout=self._timeout, after=self._last
        )
        self._futures.append(future)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all answers. Raises `PipelineError` if any call failed."""
        errors: dict[int, Exception] = {}
        for index, future in enumerate(self._futures):
            try:
                future.result()
            except Exception as failed:
                errors[index] = failed
        if errors and kind is None:
            raise PipelineError(errors)


def _body(definition: Definition, method: Callable[..., Any]) -> Body:
    """Which method of the class this is, of a proxy or of the class itself."""
    return body_of(definition, getattr(method, "__name__", repr(method)))


# --- objects that look like the class ---------------------------------------------------------


def _view(cls: type[R], calls: Calls[R]) -> R:
    view: R = object.__new__(_proxy_class(cls))  # type: ignore[arg-type]  # a class is hashable
    view.__dict__[CALLS] = calls
    return view


@functools.cache
def _proxy_class(cls: Any) -> Any:
    """A subclass whose commands and queries are calls; everything else is as it was."""
    definition: Definition = cls.__paxon_definition__
    members: dict[str, Any] = {
        "__paxon_proxy__": True,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "close": lambda self: calls(self).close(),
        "__exit__": lambda self, *_: calls(self).close(),
        "__getattr__": _no_state,
        "__setattr__": _no_setting,
        "__reduce__": lambda self: calls(self).client.__reduce__(),
        "__repr__": lambda self: f"<proxy of {definition.name}>",
    }
    for name in ("now", "random", "timers", "snapshot", "restore"):
        members[name] = property(functools.partial(_no_state, name=name))
    for attribute, body in definition.attributes.items():
        members[attribute] = _caller(definition, attribute, body)
    return type(cls)(cls.__name__, (cls,), members)


def _caller(definition: Definition, attribute: str, body: Body) -> Callable[..., Any]:
    def start(self: Replicated, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        found = self.__dict__[CALLS]
        future: Future[Any] = found.start(body_of(definition, attribute), args, kwargs)[0]
        return future

    @functools.wraps(body.function)
    def call(self: Replicated, /, *args: Any, **kwargs: Any) -> Any:
        return start(self, args, kwargs).result()

    @functools.wraps(body.function)
    def holds(self: Replicated, value: object) -> Any:
        try:
            asked = start(self, (value,), {})
        except InvalidRequest:  # of a wrong type: it cannot be in it, as with any container
            return False
        return asked.result()

    return holds if attribute == "__contains__" else call


def _no_state(self: Replicated, name: str) -> Any:
    raise AttributeError(
        f"{type(self).__name__} has no command or query {name!r}, and a proxy has nothing else: "
        "the state is with the servers"
    )


def _no_setting(self: Replicated, name: str, value: object) -> None:
    raise AttributeError(f"a proxy of {type(self).__name__} has no {name} to set: write a command")
