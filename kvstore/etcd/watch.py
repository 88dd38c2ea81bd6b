"""The service Watch: streams of watches, each of them one of Paxon's own (docs/watches.md)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from paxon.kvstore.client.watches.side import Watched
from paxon.kvstore.errors import ClientClosed, PaxonError
from paxon.kvstore.etcd.calls import TIMEOUT, Call, Method
from paxon.kvstore.etcd.errors import Code, Refused, accepted
from paxon.kvstore.etcd.front import Front, span_end
from paxon.kvstore.etcd.kv import key_value
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store.items import Row
from paxon.kvstore.store.operations import Events, is_refusal
from paxon.kvstore.store.spans import TO_THE_END

__all__ = ["Answers", "Gone", "WatchService"]

_NO_PUT, _NO_DELETE = 0, 1
_PROGRESS_SECONDS = 600.0
"""How often an idle watch says how far it is, where it was asked to."""
_LOOKS, _LOOK_SECONDS = 60, 0.05
"""So often, and with such pauses, one looks whether all watches are as far as the store."""
_FRAGMENT_BYTES = 1 << 20
"""Of one part of an answer, where the client wants parts."""
_MAX_WATCHES = 10_000
"""In one stream."""
_NO_WATCH = -1


class Answers:
    """What a watch of Paxon's tells, as it comes: whole rows, of before as well."""

    def __init__(self, front: Front, wanted: Events) -> None:
        self._core, self._driver = front.kv._core, front.kv._driver
        self._driver.enter()
        self._watched: Watched = self._core.start_watch(wanted)
        self._driver.plan_pump()
        self.told = wanted.after
        """All events up to this revision have been taken …"""

    @property
    def position(self) -> int:
        """… and as there are none, up to this one."""
        return self.told if self._watched.answer is not None else self._watched.position

    async def next(self) -> tuple[int, list[tuple[Row, Row | None]]]:
        """Wait for events: through which revision, and all of them up to there.

        Raises `Refused` if history does not reach back to where it is.
        """
        watched = self._watched
        ticket = self._core.next_answer(watched, now=self._driver.enter(), deadline=math.inf)
        self._driver.plan_pump()
        await self._driver.wait(ticket)
        watched.ticket = None
        answer = watched.answer
        if answer is None:
            raise watched.error or ClientClosed("the watch is closed")
        if is_refusal(answer):
            raise Gone(answer.get("oldest", 0))
        through, events = accepted(answer)
        return through, events

    def taken(self, through: int) -> None:
        """What `next` returned was passed on: only then is there more."""
        self.told = through
        self._watched.answer = None
        self._core.watches.taken(self._watched)
        self._driver.plan_pump()

    def close(self) -> None:
        """End it."""
        self._core.watches.drop(self._watched, ClientClosed("the watch is closed"))
        self._driver.plan_pump()


class Gone(Exception):
    """History begins at a later revision than the one that is watched from."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest


class _Watch(msgspec.Struct):
    """One watch of a stream."""

    id: int
    answers: Answers
    fragment: bool
    progress: bool
    task: asyncio.Task[None] | None = None
    said_at: float = 0.0
    """When it last said something, by the monotonic clock."""


class _Stream:
    """The watches of one call."""

    def __init__(self, front: Front, call: Call) -> None:
        self._front, self._call = front, call
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
        after = request.start_revision - 1 if request.start_revision > 0 else now
        wanted = Events(
            max(0, after),
            [(first, span_end(end))],
            _NO_PUT not in request.filters,
            _NO_DELETE not in request.filters,
            request.prev_kv,
        )
        answers = Answers(self._front, wanted)
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
            with contextlib.suppress(asyncio.CancelledError):
                await watch.task

    # --- telling -----------------------------------------------------------------------------

    async def _follow(self, watch: _Watch) -> None:
        try:
            while True:
                through, events = await watch.answers.next()
                for answer in self._answers(watch, through, events):
                    await self._send(answer)
                watch.said_at = time.monotonic()
                watch.answers.taken(through)
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

    def _answers(
        self, watch: _Watch, through: int, rows: list[tuple[Row, Row | None]]
    ) -> Iterator[Any]:
        """What a watch is told of, in parts where it wants them."""
        if rows:
            self._front.header(rows[-1][0][3])
        events: list[Any] = []
        size = 0
        for row, previous in rows:
            event = _event(row, previous)
            size += event.ByteSize()
            if events and watch.fragment and size > _FRAGMENT_BYTES:
                yield self._told(watch, through, events, more=True)
                events, size = [], event.ByteSize()
            events.append(event)
        if events:
            yield self._told(watch, through, events)

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


def _event(row: Row, previous: Row | None) -> Any:
    if row[4]:
        event = message("Event")(kv=key_value(row))
    else:  # of what is deleted, etcd says the key and the revision
        event = message("Event")(type=1, kv=message("KeyValue")(key=row[0], mod_revision=row[3]))
    if previous is not None:
        event.prev_kv.CopyFrom(key_value(previous))
    return event


class WatchService:
    """Answers the calls of this service."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.methods = [
            Method("/etcdserverpb.Watch/Watch", "/v3/watch", "WatchRequest", None, self.watch)
        ]

    async def watch(self, call: Call) -> None:
        """A stream of watches."""
        try:
            await _Stream(self._front, call).run()
        except ClientClosed:
            raise Refused(Code.UNAVAILABLE, "etcdserver: server stopped") from None
