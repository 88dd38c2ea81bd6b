"""`Mirror` and `AsyncMirror`: mappings that follow the keys with a prefix."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, Self, TypeVar

from paxon.kvstore.client.arguments import Key, as_text, check_prefix
from paxon.kvstore.client.async_driver import limited
from paxon.kvstore.client.calls.answers import RangeResult
from paxon.kvstore.client.checks import call_plain, check_wait
from paxon.kvstore.client.watches.async_watch import AsyncWatch
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.client.watches.watch import Watch
from paxon.kvstore.errors import (
    ClientClosed,
    Compacted,
    InvalidRequest,
    Overloaded,
    PaxonError,
    RequestTimeout,
)

__all__ = ["AsyncMirror", "Mirror", "Reflection"]

T = TypeVar("T")

_MARK_SECONDS = 1.0
"""How often a waiter looks again although nothing has happened: `revision` rises all the same."""


class Reflection(Mapping[str, bytes]):
    """The keys with a prefix and their values, as of `revision`. Reading it asks nobody."""

    def __init__(self, prefix: Key) -> None:
        self._prefix = check_prefix(prefix)
        self._read: dict[str, bytes] | None = None
        self.revision = 0
        """The store's, as of which this is true; it was true of all keys together."""

    def __repr__(self) -> str:
        held = "not entered" if self._read is None else f"{len(self)} key{'s' * (len(self) != 1)}"
        name, prefix = type(self).__name__, as_text(self._prefix)
        return f"<{name} {prefix!r}: {held}, revision {self.revision}>"

    @property
    def _values(self) -> dict[str, bytes]:
        if self._read is None:
            raise InvalidRequest("the mirror has read nothing yet: enter it by `async with`")
        return self._read

    def __getitem__(self, key: str | bytes) -> bytes:
        return self._values[as_text(check_prefix(key, "key"))]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def replace(self, read: RangeResult) -> None:
        """Become what was read."""
        self._read = {entry.key: entry.value for entry in read}
        self.revision = read.revision

    def follow(self, events: Iterable[Event], revision: int) -> None:
        """Take in events of whole revisions, the last of which are up to this one."""
        values = dict(self._values) if events else self._values
        for event in events:
            if event.kind == "put":
                values[event.key] = event.value
            else:
                values.pop(event.key, None)
        self._read = values  # in one step: readers see no revision in part
        self.revision = max(self.revision, revision)


class _Store(Protocol):
    def range(self, *, prefix: Key) -> RangeResult: ...

    def watch(self, *, prefix: Key, after: int) -> Watch: ...


class Mirror(Reflection):
    """A mapping that follows the keys with a prefix; made by `Client.mirror`.

    A thread of its own keeps it up to date, with each revision at once; while no server answers it
    shows what was (`revision` says as of when). Threads may share it. Once it is thrown away, the
    thread ends within a second. A forked child has what it held then: nobody follows there, and
    `wait` says so.
    """

    def __init__(self, store: _Store, prefix: Key) -> None:
        super().__init__(prefix)
        self._store = store
        self._changed = threading.Condition()
        self._error: PaxonError | None = None
        self._closed = False
        self._watch = self._begin()
        self._thread = threading.Thread(
            target=_follow, args=(weakref.ref(self),), name="paxon mirror", daemon=True
        )
        self._thread.start()
        _mirrors[id(self)] = self  # (a mapping has no hash)

    def _begin(self) -> Watch:
        read = self._store.range(prefix=self._prefix)
        with self._changed:
            self.replace(read)
        return self._store.watch(prefix=self._prefix, after=read.revision)

    def wait(self, condition: Callable[[Self], T], timeout: float | None = None) -> T:
        """Wait until `condition(mirror)` is true; returns what it returned.

        It is called with each change, in the caller's thread; it may look at `revision`.

        Args:
            condition: what is waited for.
            timeout: seconds; None: for ever.

        Raises:
            TimeoutError: it did not become true in that time.
            ClientClosed: the mirror, or its client, was closed.
        """
        timeout = check_wait(timeout)

        def look() -> tuple[T | None]:
            found = call_plain("the condition", condition, self)
            if not found and self._error is not None:
                raise self._error
            return (found,) if found else ()  # type: ignore[return-value]

        with self._changed:
            answer = self._changed.wait_for(look, timeout)
        if not answer:
            raise TimeoutError(f"the condition did not become true within {timeout:g} s")
        return answer[0]  # type: ignore[return-value]

    def close(self) -> None:
        """Stop following; what it holds stays readable. May be called twice."""
        self._closed = True
        self._watch.close()
        below = self._changed._is_owned()  # type: ignore[attr-defined]  # (a condition, say)
        if threading.current_thread() is not self._thread and not below:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forked(self) -> None:
        """In a forked child: the thread is the parent's, and the lock may be held for ever."""
        self._changed = threading.Condition()
        self._error = ClientClosed(
            "the mirror was made in the parent process and follows nothing after a fork: make a "
            "new one in this process"
        )

    def _take(self, events: Iterable[Event], error: PaxonError | None) -> None:
        """The changes since then, or how following ended."""
        try:
            if isinstance(error, Compacted):
                error = None
                self._begin_again()
        except PaxonError as ended:
            error = ended
        with self._changed:
            self.follow(events, self._watch.revision)
            if isinstance(error, ClientClosed):
                error = ClientClosed("the mirror is closed")
            self._error = error
            self._changed.notify_all()

    def _begin_again(self) -> None:
        """It was away for longer than history reaches back, and may still be."""
        while not self._closed:
            with contextlib.suppress(RequestTimeout, Overloaded):
                self._watch = self._begin()
                break
        if self._closed:  # meanwhile, and maybe the watch before this one alone
            self._watch.close()


def _follow(of: weakref.ref[Mirror]) -> None:
    """Keep a mirror up to date for as long as anybody holds it: while it waits, this does not."""
    while (mirror := of()) is not None and mirror._error is None:
        watch = mirror._watch
        events: list[Event] = []
        error: PaxonError | None = None
        del mirror
        try:
            with contextlib.suppress(TimeoutError):
                events = watch.batch(_MARK_SECONDS)
        except PaxonError as ended:
            error = ended
        if (mirror := of()) is not None:
            mirror._take(events, error)
        del mirror


_mirrors: weakref.WeakValueDictionary[int, Mirror] = weakref.WeakValueDictionary()


def _after_fork() -> None:
    for mirror in list(_mirrors.values()):
        mirror.forked()


os.register_at_fork(after_in_child=_after_fork)


class _AsyncStore(Protocol):
    async def range(self, *, prefix: Key) -> RangeResult: ...

    def watch(self, *, prefix: Key, after: int) -> AsyncWatch: ...


class AsyncMirror(Reflection):
    """The same for asyncio; made by `AsyncClient.mirror`. A task keeps it up to date."""

    def __init__(self, store: _AsyncStore, prefix: Key) -> None:
        super().__init__(prefix)
        self._store = store
        self._changed = asyncio.Condition()
        self._error: PaxonError | None = None
        self._entered = self._closed = False
        self._watch: AsyncWatch | None = None
        self._task: asyncio.Task[None] | None = None

    async def wait(self, condition: Callable[[Self], T], timeout: float | None = None) -> T:
        """Wait until `condition(mirror)` is true; see `Mirror.wait`."""
        timeout = check_wait(timeout)
        len(self)  # (raises if it was not entered)
        until = None if timeout is None else asyncio.get_running_loop().time() + timeout
        async with self._changed:
            while not (found := call_plain("the condition", condition, self)):
                if self._error is not None:
                    raise self._error
                try:
                    async with limited(asyncio.timeout_at(until)):
                        await self._changed.wait()
                except TimeoutError:
                    raise TimeoutError(
                        f"the condition did not become true within {timeout:g} s"
                    ) from None
            return found

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InvalidRequest("the mirror was entered before: make another one")
        self._entered = True
        try:
            await self._begin()
        except BaseException:
            self._entered = False
            raise
        if self._closed:  # meanwhile
            await self.close()
            raise ClientClosed("the mirror is closed")
        self._task = asyncio.create_task(self._run(), name="paxon mirror")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following; what it holds stays readable. May be called twice."""
        self._closed = True
        if self._watch is not None:
            await self._watch.close()
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])  # (not of itself: its waiter may be cancelled, too)

    async def _begin(self) -> None:
        read = await self._store.range(prefix=self._prefix)
        self.replace(read)
        self._watch = await self._store.watch(prefix=self._prefix, after=read.revision).__aenter__()

    async def _run(self) -> None:
        while self._error is None:
            error: PaxonError | None = None
            try:
                await self._follow_once()
            except PaxonError as ended:
                error = ended
            async with self._changed:
                if isinstance(error, ClientClosed):
                    error = ClientClosed("the mirror is closed")
                self._error = error
                self._changed.notify_all()

    async def _follow_once(self) -> None:
        assert self._watch is not None
        try:
            events = await self._watch.batch(_MARK_SECONDS)
        except Compacted:
            await self._begin_again()
            return
        except TimeoutError:
            events = []
        async with self._changed:
            self.follow(events, self._watch.revision)

    async def _begin_again(self) -> None:
        """See the twin."""
        while not self._closed:
            with contextlib.suppress(RequestTimeout, Overloaded):
                await self._begin()
                break
        if self._closed and self._watch is not None:
            await self._watch.close()
