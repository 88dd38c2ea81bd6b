"""`async_proxy`: your class on the servers, from asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar

from paxon.actors.messages import ReadMode
from paxon.kvstore.client.async_client import AsyncCommandClient
from paxon.kvstore.client.checks import DEFAULT_TIMEOUT, check_mode, check_timeout
from paxon.kvstore.client.core import CoreOptions, RawTicket
from paxon.kvstore.client.links import Secure
from paxon.kvstore.errors import PipelineError
from paxon.kvstore.objects.calls import encode
from paxon.kvstore.objects.definition import Body, Definition
from paxon.kvstore.objects.machine import VERSION
from paxon.kvstore.objects.replicated import Replicated
from paxon.kvstore.objects.requests import (
    Gathered,
    Later,
    ObjectCore,
    body_of,
    definition_of,
    outcomes_of,
    prepare,
    value_of,
)

__all__ = ["AsyncCalls", "AsyncProxy", "async_proxy"]

R = TypeVar("R", bound=Replicated)
T = TypeVar("T")
P = ParamSpec("P")


def async_proxy(
    servers: str | Iterable[str],
    cls: type[R],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    mode: ReadMode = "linearizable",
    options: CoreOptions | None = None,
    secure: Secure | None = None,
) -> AsyncProxy[R]:
    """Your class on the servers, for one event loop; arguments and errors as for `proxy`.

    async with async_proxy("127.0.0.1:7111", Flags) as flags:
        await flags.set("dark", True)
        await flags.call(Flags.set, "dark", True)     # the same, and type checkers see it
    """

    definition = definition_of(cls)
    client = _ObjectClient(servers, definition, timeout, options, secure)
    return AsyncProxy(definition, client, client.timeout, check_mode(mode))


class _ObjectClient(AsyncCommandClient):
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
        self, payload: bytes, mode: ReadMode | None, timeout: float, after: RawTicket | None = None
    ) -> RawTicket:
        """Send calls, without waiting."""
        now = self._driver.enter()
        ticket: RawTicket = self._core.submit(
            payload, now=now, deadline=now + timeout, mode=mode, after=after, size=len(payload)
        )
        ticket.keeps = True
        self._driver.plan_pump()
        return ticket

    async def wait(self, ticket: RawTicket, answer: Callable[[bytes], T]) -> T:
        """Wait for the reply, and return what `answer` makes of it."""
        return await self._finish(ticket, answer)


class AsyncProxy(Generic[R]):
    """See `async_proxy`. A task that is cancelled in a call does not call it back."""

    _definition: Definition
    _client: _ObjectClient
    _timeout: float
    _mode: ReadMode

    def __init__(
        self, definition: Definition, client: _ObjectClient, timeout: float, mode: ReadMode
    ) -> None:
        self.__dict__.update(_definition=definition, _client=client, _timeout=timeout, _mode=mode)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a proxy of {self._definition.name} has no {name} to set: write a command"
        )

    async def call(
        self, method: Callable[Concatenate[R, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method of the class: `await flags.call(Flags.set, "dark", True)`."""
        result: T = await self._call(self._body(method), args, kwargs)
        return result

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """A command or query of the class: `await flags.set("dark", True)`."""
        if name.startswith("__") and name not in self._definition.attributes:
            raise AttributeError(name)
        body = body_of(self._definition, name)

        def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            return self._call(body, args, kwargs)

        return call

    async def _call(self, body: Body, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        definition, client = self._definition, self._client
        _, record = prepare(definition, body, args, kwargs)
        mode = self._mode if body.kind == "query" else None
        ticket = client.send(encode([record]), mode, self._timeout)
        return await client.wait(ticket, _answer(definition, body))

    def batch(self, *, timeout: float | None = None) -> AsyncBatch[R]:
        """Calls that are executed together, in order; see `Calls.batch`.

        async with flags.batch() as batch:
            first = batch.add(Flags.set, "dark", True)
        first.result()
        """
        limit = check_timeout(timeout, self._timeout)
        return AsyncBatch(self._definition, self._client, limit)

    def pipeline(self, *, timeout: float | None = None) -> AsyncPipelineOfCalls[R]:
        """Calls that are executed in the order in which they are added; see `Calls.pipeline`."""
        limit = check_timeout(timeout, self._timeout)
        return AsyncPipelineOfCalls(self._definition, self._client, limit)

    def _body(self, method: Callable[..., Any]) -> Body:
        return body_of(self._definition, getattr(method, "__name__", repr(method)))

    @property
    def __paxon_calls__(self) -> AsyncCalls[R]:
        return AsyncCalls(self)

    def __reduce__(self) -> NoReturn:
        self._client.__reduce__()

    async def close(self) -> None:
        """Close the connections. Calls under way in other tasks fail with `ClientClosed`."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncCalls(Generic[R]):
    """The rest of an asyncio proxy, whose own names are its class's: see `calls`."""

    def __init__(self, proxy: AsyncProxy[R]) -> None:
        self._proxy = proxy

    def options(
        self, *, timeout: float | None = None, mode: ReadMode | None = None
    ) -> AsyncProxy[R]:
        """The same proxy, connections and all, with another timeout or mode of queries."""
        of = self._proxy
        limit = check_timeout(timeout, of._timeout)
        return AsyncProxy(
            of._definition, of._client, limit, of._mode if mode is None else check_mode(mode)
        )

    @property
    def client(self) -> AsyncCommandClient:
        """For `status`, `settings` and `change_settings`."""
        return self._proxy._client

    async def version(self) -> int:
        """The version of the class that is in force."""
        agreed = await self.client.settings(timeout=self._proxy._timeout)
        return int(agreed.values[VERSION])

    async def raise_version(self, version: int | None = None) -> int:
        """Put a version of the class in force, by default this program's; see `Calls`."""
        new = self._proxy._definition.newest if version is None else version
        if type(new) is int and new == await self.version():
            return new
        limit = self._proxy._timeout
        agreed = await self.client.change_settings(timeout=limit, **{VERSION: new})
        return int(agreed.values[VERSION])


class AsyncBatch(Generic[R]):
    """See `AsyncProxy.batch`."""

    def __init__(self, definition: Definition, client: _ObjectClient, timeout: float) -> None:
        self._definition = definition
        self._client = client
        self._timeout = timeout
        self._gathered = Gathered(definition)

    def add(
        self, method: Callable[Concatenate[R, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Later[T]:
        """Another call."""
        body = body_of(self._definition, getattr(method, "__name__", repr(method)))
        return self._gathered.take(body, args, kwargs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send all, unless the block raised: then nothing is sent."""
        if kind is None and len(self._gathered):
            ticket = self._client.send(self._gathered.payload(), None, self._timeout)
            await self._client.wait(ticket, self._gathered.deliver)


class AsyncPipelineOfCalls(Generic[R]):
    """See `AsyncProxy.pipeline`. Used by one task."""

    def __init__(self, definition: Definition, client: _ObjectClient, timeout: float) -> None:
        self._definition = definition
        self._client = client
        self._timeout = timeout
        self._last: RawTicket | None = None
        self._sent: list[tuple[Body, RawTicket, Later[Any]]] = []

    def add(
        self, method: Callable[Concatenate[R, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Later[T]:
        """Send another call, to be executed after the one before."""
        definition = self._definition
        body = body_of(definition, getattr(method, "__name__", repr(method)))
        _, record = prepare(definition, body, args, kwargs)
        later: Later[T] = Later()
        self._last = self._client.send(encode([record]), None, self._timeout, self._last)
        self._sent.append((body, self._last, later))
        return later

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all answers. Raises `PipelineError` if any call failed."""
        errors: dict[int, Exception] = {}
        for index, (body, ticket, later) in enumerate(self._sent):
            try:
                value = await self._client.wait(ticket, _answer(self._definition, body))
            except Exception as failed:
                errors[index] = failed
                later.value = partial(_raise, failed)
            else:
                later.value = partial(_same, value)
        if errors and kind is None:
            raise PipelineError(errors)


def _answer(definition: Definition, body: Body) -> Callable[[bytes], Any]:
    """Makes of the reply to a call what it returns."""
    return lambda payload: value_of(definition, body, outcomes_of(payload, 1)[0])


def _raise(error: Exception) -> Any:
    raise error


def _same(value: T) -> T:
    return value
