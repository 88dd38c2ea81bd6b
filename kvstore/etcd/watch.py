"""The service Watch: streams of watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from paxon.kvstore.errors import ClientClosed, PaxonError
from paxon.kvstore.etcd.calls import TIMEOUT, Call, Method
from paxon.kvstore.etcd.errors import Code, Refused
from paxon.kvstore.etcd.feeds import Batch, Feeds, Gone, Subscription
from paxon.kvstore.etcd.front import Front, span_end
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store.operations import Events
from paxon.kvstore.store.spans import TO_THE_END

__all__ = ["WatchService"]

_NO_PUT, _NO_DELETE = 0, 1
_PROGRESS_SECONDS = 600.0
"""How often an idle watch says how far it is, where it was asked to."""
_LOOKS, _LOOK_SECONDS = 60, 0.05
"""So often, and with such pauses, one looks whether all watches are as far as the store."""
_FRAGMENT_BYTES = 1 << 20
"""Of one part of an answer, where the client wants parts."""
_MAX_WATCHES = 10_000
"""In one stream."""
_MOST_WATCHES = 100_000
"""In all of them."""
_NO_WATCH = -1


class _Watch(msgspec.Struct):
    """One watch of a stream."""

    id: int
    answers: Subscription
    fragment: bool
    progress: bool
    task: asyncio.Task[None] | None = None
    said_at: float = 0.0
    """When it last said something, by the monotonic clock."""


class _Stream:
    """The watches of one call."""

    def __init__(self, front: Front, feeds: Feeds, call: Call) -> None:
        self._front, self._feeds, self._call = front, feeds, call
        self._watches: dict[int, _Watch] = {}
        self._next = 0
        self._answer = message("WatchResponse")
        self._sending = asyncio.Lock()
        self._failed = asyncio.get_running_loop().create_future()
        """What ends the whole stream."""

    async def run(self) -> None:
        """Until the client has said all, and its watches have ended."""
        reading = asyncio.create_task(self._read())
        ticking = asyncio.create_task(self._tell_progress())
        try:
            done, _ = await asyncio.wait(
                {reading, ticking, self._failed}, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                each.result()
        finally:
            tasks = [reading, ticking]
            for watch in self._watches.values():
                watch.answers.close()
                if watch.task is not None:
                    tasks.append(watch.task)
            for task in tasks:
                task.cancel()
            self._failed.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, answer: Any) -> None:
        async with self._sending:
            await self._call.send(answer)

    async def _read(self) -> None:
        while (request := await self._call.receive()) is not None:
            match request.WhichOneof("request_union"):
                case "create_request":
                    await self._create(request.create_request)
                case "cancel_request":
                    await self._cancel(request.cancel_request.watch_id)
                case "progress_request":
                    await self._say_progress()
                case _:
                    pass
        # What was begun goes on, as long as the client takes it.
        await asyncio.get_running_loop().create_future()

    # --- making and ending -------------------------------------------------------------------

    async def _create(self, request: Any) -> None:
        now = await self._front.now(TIMEOUT)
        first, end = request.key or b"\0", request.range_end
        if end and end != TO_THE_END and end <= first:
            number, problem = 0, "mvcc: watcher range is empty"
        else:
            number, problem = self._number(request)
        if problem:
            await self._send(self._answer(
                header=self._front.header(now), watch_id=_NO_WATCH, created=True, canceled=True,
                cancel_reason=problem,
            ))  # fmt: skip
            return
        after = request.start_revision - 1 if request.start_revision else now
        wanted = Events(
            max(0, after),
            [(first, span_end(end))],
            _NO_PUT not in request.filters,
            _NO_DELETE not in request.filters,
            request.prev_kv,
        )
        # (One of a revision to come would begin its span's feed there, where nobody else is.)
        answers = Subscription(self._feeds, wanted, current=after == now)
        watch = _Watch(number, answers, request.fragment, request.progress_notify)
        watch.said_at = time.monotonic()
        self._watches[number] = watch
        await self._send(self._answer(
            header=self._front.header(now), watch_id=number, created=True
        ))  # fmt: skip
        watch.task = asyncio.create_task(self._follow(watch))

    def _number(self, request: Any) -> tuple[int, str]:
        """The watch's number, and what is wrong with it."""
        if len(self._watches) >= _MAX_WATCHES:
            return 0, f"a stream has at most {_MAX_WATCHES} watches"
        if self._feeds.watches >= _MOST_WATCHES:
            return 0, f"there are {_MOST_WATCHES} watches here already: try another gateway"
        if request.watch_id:
            if request.watch_id in self._watches:
                return 0, "mvcc: duplicate watch ID provided on the WatchStream"
            return request.watch_id, ""
        while self._next in self._watches:
            self._next += 1
        self._next += 1
        return self._next - 1, ""

    async def _cancel(self, number: int) -> None:
        watch = self._watches.pop(number, None)
        if watch is None:
            return
        await self._end(watch)
        await self._send(self._answer(
            header=self._front.header(), watch_id=number, canceled=True
        ))  # fmt: skip

    async def _end(self, watch: _Watch) -> None:
        watch.answers.close()
        if watch.task is not None:
            watch.task.cancel()
            await asyncio.wait([watch.task])  # (not of itself: its waiter may be cancelled, too)

    # --- telling -----------------------------------------------------------------------------

    async def _follow(self, watch: _Watch) -> None:
        try:
            while True:
                batch = await watch.answers.next()
                for answer in self._answers(watch, batch):
                    await self._send(answer)
                watch.said_at = time.monotonic()
                watch.answers.taken()
        except Gone as gone:
            self._watches.pop(watch.id, None)
            watch.answers.close()
            await self._send(self._answer(
                header=self._front.header(0), watch_id=watch.id, canceled=True,
                compact_revision=gone.oldest,
            ))  # fmt: skip
        except (PaxonError, Refused) as error:
            if not self._failed.done():
                self._failed.set_exception(error)
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    def _answers(self, watch: _Watch, batch: Batch) -> Iterator[Any]:
        """The events for a watch, in parts where it wants them."""
        events = batch.events
        if not events:
            return
        self._front.header(batch.rows[-1][0][3])
        if watch.fragment:
            part: list[Any] = []
            size = 0
            for event in events:
                size += event.ByteSize()
                if part and size > _FRAGMENT_BYTES:
                    yield self._told(watch, batch.through, part, more=True)
                    part, size = [], event.ByteSize()
                part.append(event)
            events = part
        yield self._told(watch, batch.through, events)

    def _told(self, watch: _Watch, through: int, events: list[Any], *, more: bool = False) -> Any:
        return self._answer(
            header=self._front.header(through), watch_id=watch.id, events=events, fragment=more
        )

    # --- progress ----------------------------------------------------------------------------

    async def _say_progress(self) -> None:
        """How far all watches of the stream have told all."""
        now = await self._front.now(TIMEOUT)
        self._front.hurry()
        for _ in range(_LOOKS):
            if self._least(now) >= now:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        header = self._front.header(self._least(now))
        await self._send(self._answer(header=header, watch_id=_NO_WATCH))

    def _least(self, now: int) -> int:
        return min([now, *(watch.answers.position for watch in self._watches.values())])

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for watch in list(self._watches.values()):
                if watch.progress and now - watch.said_at >= _PROGRESS_SECONDS:
                    watch.said_at = now
                    position = watch.answers.position
                    await self._send(self._answer(
                        header=self._front.header(position), watch_id=watch.id
                    ))  # fmt: skip


class WatchService:
    """Answers the calls of this service."""

    def __init__(self, front: Front) -> None:
        self._front, self._feeds = front, Feeds(front)
        self.methods = [
            Method("/etcdserverpb.Watch/Watch", "/v3/watch", "WatchRequest", None, self.watch)
        ]

    async def watch(self, call: Call) -> None:
        """A stream of watches."""
        try:
            await _Stream(self._front, self._feeds, call).run()
        except ClientClosed:
            raise Refused(Code.UNAVAILABLE, "etcdserver: server stopped") from None
