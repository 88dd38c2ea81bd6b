"""The clients for asyncio, in the hands of threads: so that one test holds for both.

What a thread calls runs in a task of the thread's own, in the loop of another thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any, Literal, Self, cast

import pytest

import paxon
from paxon import AsyncClient, Client
from paxon.kvstore.client.leases.async_lease import AsyncLost
from paxon.testing import MemoryCluster

__all__ = ["BridgedCluster", "only"]

Call = tuple[Callable[[], Any], "concurrent.futures.Future[Any]"]


def only(kind: Literal["threads", "asyncio"]) -> pytest.MarkDecorator:
    """Marks a test that is about one kind of client alone."""
    return pytest.mark.parametrize("cluster", [kind], indirect=True)


class BridgedCluster(MemoryCluster):
    """One whose `client()` is an `AsyncClient` that looks like a `Client`."""

    def __init__(self) -> None:
        super().__init__()
        self._bridge = Bridge()

    def client(self, **options: Any) -> Client:
        made = self._bridge.do(lambda: AsyncClient(self.addresses, **options))
        return cast("Client", made)

    def stop(self) -> None:
        self._bridge.stop()
        super().stop()


class Bridge:
    """A loop in a thread, and a task in it for each thread that has something done there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._mine = threading.local()
        self._faces: weakref.WeakValueDictionary[int, Face] = weakref.WeakValueDictionary()

    def do(self, call: Callable[[], Any]) -> Any:
        """Have it called there, and what it returns awaited. An interrupt cancels the task."""
        if not hasattr(self._mine, "calls"):
            self._mine.calls = asyncio.Queue[Call]()
            made = asyncio.run_coroutine_threadsafe(self._begin(self._mine.calls), self._loop)
            self._mine.task = made.result()
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._mine.calls.put_nowait, (call, future))
        try:
            return self._face_of(future.result())
        except BaseException:
            if not future.done():
                self._loop.call_soon_threadsafe(self._mine.task.cancel)
                concurrent.futures.wait([future])
            raise

    async def _begin(self, calls: asyncio.Queue[Call]) -> asyncio.Task[None]:
        return asyncio.create_task(_work(calls))

    def _face_of(self, value: Any) -> Any:
        if not isinstance(value, AsyncLost) and not type(value).__name__.startswith("Async"):
            return value
        face = self._faces.get(id(value))
        if face is None:
            face = self._faces[id(value)] = Face(self, value)
        return face

    def stop(self) -> None:
        """Cancel what is left."""

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=10) if others else None

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(cancel(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _work(calls: asyncio.Queue[Call]) -> None:
    """A thread's task."""
    while True:
        call, future = await calls.get()
        try:
            result = call()
            future.set_result(await result if inspect.isawaitable(result) else result)
        except BaseException as error:
            future.set_exception(error)
            if isinstance(error, GeneratorExit):
                raise
        del call, future  # and with them what nobody else holds
        result = None


class Face:
    """An object of asyncio as its twin for threads."""

    def __init__(self, bridge: Bridge, of: Any) -> None:
        self._bridge, self._of = bridge, of

    @property
    def __class__(self) -> type:
        return cast("type", getattr(paxon, type(self._of).__name__.removeprefix("Async"), Face))

    @__class__.setter
    def __class__(self, _: type) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if not callable(value):
            return self._bridge._face_of(value)
        return lambda *args, **named: self._call(value, args, named)

    def _call(self, function: Callable[..., Any], args: Any = (), named: Any = None) -> Any:
        args, named = _plain(tuple(args)), _plain(named or {})
        return self._bridge.do(lambda: function(*args, **named))

    def __enter__(self) -> Any:
        enter = getattr(self._of, "__aenter__", None)  # (the result of `lease` was awaited before)
        return self if enter is None else self._call(enter)

    def __exit__(self, *failure: object) -> None:
        if hasattr(self._of, "__aexit__"):
            self._call(self._of.__aexit__, failure)
        else:
            self.revoke()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return self._call(self._of.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def __len__(self) -> int:
        if not hasattr(self._of, "size"):
            raise TypeError("it has no length")
        return cast("int", self.size())

    def __bool__(self) -> bool:
        return True


def _plain(value: Any) -> Any:
    """The same without faces."""
    if type(value) is Face:
        return value._of
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(each) for key, each in value.items()}
    return value
