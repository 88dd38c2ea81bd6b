"""Drives a client core inside an asyncio event loop: no thread, no polling."""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from paxon.actors.messages import ServerReply
from paxon.kvstore.client.command_core import CommandCore
from paxon.kvstore.client.keys import learner
from paxon.kvstore.client.links import Link, Secure, links_to
from paxon.kvstore.client.outcomes import CLOSED, FORKED
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.errors import ClientClosed, InvalidRequest

__all__ = ["AsyncDriver", "limited"]

AnyTicket = Ticket[Any, Any]


@asynccontextmanager
async def limited(timeout: asyncio.Timeout) -> AsyncIterator[None]:
    """An `asyncio.timeout` that ends in TimeoutError, whatever befell the task before.

    A task group that fails can leave its task counted as cancelled, and from then on Python 3.11.2
    takes the end of each timeout in it for a cancellation.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        async with timeout:
            yield
    except asyncio.CancelledError:
        if not timeout.expired() or task.cancelling() > before:
            raise
        raise TimeoutError from None


class AsyncDriver:
    """Sockets and timer of one asyncio client; all in the thread of its event loop."""

    def __init__(self, core: CommandCore[Any, Any], *, secure: Secure | None = None) -> None:
        self._core = core
        core.search.on_addresses = learner(secure, core, lambda: asyncio.get_running_loop().time())
        links = links_to(core.search.servers)
        self._links = links(
            self._on_open, self._receive, trouble=core.sightings.trouble, secure=secure
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: list[Link] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        """When it fires: not every loop's handles can tell (uvloop's cannot)."""
        self._pump_planned = False
        self._woke_tasks = False
        """What came last was waited for by tasks, which may submit what comes next."""
        self._refusal = ""
        """Why nothing is taken in any more; "" while it is."""
        self._unusable = False
        """The sockets are closed, or another process's."""
        _drivers.add(self)

    def enter(self) -> float:
        """Begin an operation: the loop's time, in seconds.

        Raises `ClientClosed` if the client is closed, or was used in another event loop before, and
        `InvalidRequest` without one.
        """
        if self._refusal:
            raise ClientClosed(self._refusal)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidRequest(
                "an AsyncClient is for coroutines that asyncio runs: trio, or whoever else runs "
                "this one, has no event loop for it"
            ) from None
        if self._loop is not loop:
            if self._loop is not None:
                raise ClientClosed("an AsyncClient belongs to one event loop: make one in each")
            self._loop = loop
        return loop.time()

    def plan_pump(self) -> None:
        """Send once the tasks that are ready now have had their turn: theirs travels along."""
        if not self._pump_planned and self._loop is not None:
            self._pump_planned = True
            self._loop.call_soon(self._pump)

    def pump_or_plan(self) -> None:
        """Send now what comes alone: a turn of the loop costs it more than its neighbours save."""
        if self._core.gathering:
            self.plan_pump()
        elif not self._pump_planned:
            self._pump()

    async def wait(self, ticket: AnyTicket) -> None:
        """Wait until the ticket is done. If cancelled, the operation goes on by itself."""
        if ticket.done:
            return
        assert self._loop is not None
        future = self._loop.create_future()

        def done(_: AnyTicket) -> None:
            if not future.done():
                future.set_result(None)
                self._woke_tasks = True

        ticket.on_done = done
        await future

    @property
    def serves(self) -> bool:
        """Whether what is submitted without `enter` is carried: in its loop, until `close`."""
        try:
            return not self._unusable and asyncio.get_running_loop() is self._loop
        except RuntimeError:  # of somebody else's coroutines
            return False

    def refuse(self) -> None:
        """Fail everything that is waited for, and what is asked for later."""
        if not self._refusal:
            self._refusal = CLOSED
            self._core.fail_all(ClientClosed(CLOSED))

    def close(self) -> None:
        """`refuse`, and close the sockets; may be called twice."""
        self.refuse()
        if self._unusable:
            return
        self._unusable = True
        self._core.fail_all(ClientClosed(CLOSED))  # and what another `close` waits for
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            for link in self._watched:
                self._loop.remove_reader(link.fd)
                self._loop.remove_reader(link.lost_fd)
        self._links.close()

    def end(self) -> None:
        """The program ends: close the sockets, unless a loop goes on with them in some thread."""
        if not self._unusable and (self._loop is None or not self._loop.is_running()):
            self._links.close()

    def forked(self) -> None:
        """In a forked child: the sockets, and the loop's selector, are the parent's."""
        self._unusable = True
        self._refusal = FORKED

    def _on_open(self, link: Link) -> None:
        assert self._loop is not None
        self._watched.append(link)
        self._loop.add_reader(link.fd, self._on_readable, link)
        self._loop.add_reader(link.lost_fd, self._on_ended, link)

    def _on_readable(self, link: Link) -> None:
        if not self._links.drain(link):
            return
        if self._woke_tasks or not self._core.idle or self._core.search.asks_addresses:
            self._woke_tasks = False
            self.plan_pump()  # after those tasks, in the same turn of the loop

    def _on_ended(self, link: Link) -> None:
        assert self._loop is not None
        if self._links.ended(link):
            self._core.lost(link.address, self._loop.time())
            self.plan_pump()

    def _receive(self, address: str, replies: Sequence[ServerReply]) -> None:
        assert self._loop is not None
        self._core.receive(address, replies, self._loop.time())

    def _pump(self) -> None:
        """Send what the core wants sent, take in what is there, and set the timer."""
        self._pump_planned = False
        loop = self._loop
        if loop is None or self._unusable:
            return
        core = self._core
        outgoing = core.poll(loop.time())
        came = False
        for link in self._links.send(outgoing, core.search.changes):
            came |= self._links.drain(link)
        if came:
            self.plan_pump()
        due = core.next_deadline()
        if self._timer is not None:
            if self._timer_at <= due:
                return  # it may fire early, which costs less than a new one each time
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            self._timer, self._timer_at = loop.call_at(due, self._on_timer), due

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()


_drivers: weakref.WeakSet[AsyncDriver] = weakref.WeakSet()


def _after_fork() -> None:
    for driver in list(_drivers):
        driver.forked()


os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    for driver in list(_drivers):
        driver.end()


atexit.register(_at_exit)
