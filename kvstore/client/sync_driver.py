"""Drives a client core for threads that block: a waiting thread does the I/O, for all.

The client has no thread of its own, so a lone caller needs no hop between threads. (One thread of
the process looks after all clients that nobody is using: servers may move meanwhile.) One of the
waiting threads at a time is the *driver*: it sleeps on the sockets' file descriptors, takes
in what comes, completes everybody's tickets and, once its own is done, hands the role to another.
Sockets and core are touched only under the lock, which the driver does not hold while it sleeps, so
that any thread can send at once.

A signal handler or a finalizer may use the client in the midst of a call. Where it strikes while
the lock is held, what the lock guards is half done: the call is refused at once (`ClientBusy`).
Where the thread sleeps as the driver, the handler's wait drives in its place.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from paxon.actors.messages import ServerReply
from paxon.kvstore.client.command_core import CommandCore
from paxon.kvstore.client.keys import learner
from paxon.kvstore.client.links import Link, Secure, links_to
from paxon.kvstore.client.outcomes import CLOSED, FORKED
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.errors import ClientBusy, ClientClosed
from paxon.transport.wake import Waker

__all__ = ["SyncDriver"]

AnyTicket = Ticket[Any, Any]

_LONGEST_SLEEP_MS = 60_000.0
_LAST_SECONDS = 1.0
"""How long the program's end and a thread that still uses a client may wait for each other."""
_LOOK_SECONDS = 0.5
"""How often clients that nobody uses are looked after."""
_ENDED = "the program ends"


class SyncDriver:
    """Sockets, lock and waiting threads of one blocking client."""

    def __init__(self, core: CommandCore[Any, Any], *, secure: Secure | None = None) -> None:
        self.lock = threading.RLock()
        """Guards the core, the sockets and all below. Never held while waiting or calling users."""
        self.held: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        """Whether this very thread holds the lock: ask before taking it, or `enter`."""
        self._core = core
        core.search.on_addresses = learner(secure, core, time.monotonic)
        links = links_to(core.search.servers)
        self._links = links(
            self._on_open, self._receive, trouble=core.sightings.trouble, secure=secure
        )
        self._poll = select.poll()
        self._by_fd: dict[int, Link] = {}
        self._by_lost_fd: dict[int, Link] = {}
        self._waker = Waker()
        self._poll.register(self._waker.descriptor, select.POLLIN)
        self._driver: int | None = None
        """The thread that drives, if any does."""
        self._driven_for: AnyTicket | None = None
        self._sleeps_until = -math.inf
        self._gates: dict[AnyTicket, list[threading.Lock]] = {}
        """Threads that wait without driving, by ticket; opening a gate wakes one."""
        self._watched: dict[AnyTicket, list[Callable[[], object]]] = {}
        self._callbacks: list[Callable[[], object]] = []
        """Due; run by whichever thread next holds no lock."""
        self.refusal = ""
        """Why nothing is taken in any more; "" while it is."""
        self._unusable = False
        """The sockets are closed, or are as soon as nobody drives."""
        self._released = False
        self._pumped = False
        """The core has nothing more to send until something comes or is due."""
        _drivers.add(self)
        _look_after_all()

    # --- for clients -------------------------------------------------------------------------

    def enter(self) -> None:
        """Raise `ClientBusy` where a handler or finalizer has interrupted this thread inside."""
        if self.held():
            raise ClientBusy(
                "the client is at work in this very thread, which a signal handler or finalizer "
                "interrupts: use another client there; this call had no effect"
            )

    def check(self) -> None:
        """Raise `ClientClosed` if the client can no longer be used."""
        if self.refusal:
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self.refusal is _ENDED and threading.current_thread() is not threading.main_thread():
            with self.lock:  # given back meanwhile: as a rule we do not wake up again
                threading.Condition(self.lock).wait(_LAST_SECONDS)
        raise ClientClosed(self.refusal)

    def pump(self) -> None:
        """Send what the core wants sent, take in what is there. With the lock held."""
        core = self._core
        while True:
            outgoing = core.poll(time.monotonic())
            if not outgoing:
                break
            came = False
            for link in self._links.send(outgoing, core.search.changes):
                came |= self._links.drain(link)
            if not came:
                break
        self._pumped = True
        self.nudge()

    def pump_if_usable(self) -> None:
        """`pump`, unless the client is closed. With the lock held."""
        if not self._unusable:
            self.pump()

    def gather(self) -> None:
        """What was submitted may wait for more: who drives next sends it. With the lock held."""
        self._pumped = False
        if self._driver is not None:
            self.nudge()

    def nudge(self) -> None:
        """Wake the driver if it would sleep past something that is due. With the lock held."""
        sleeping = self._driver is not None and self._sleeps_until > -math.inf
        if sleeping and self._sleeps_until > self._core.next_deadline():
            self._wake()

    def look(self) -> None:
        """Take in what is there and send what is gathered, without waiting. Without the lock."""
        self.enter()
        with self.lock:
            if self._unusable:
                return
            for link in self._by_fd.values():
                self._links.drain(link)
            others_wait = self._driver is not None or self._gates
            if others_wait or not self._core.holds_back(time.monotonic()):
                self.pump()
        self.call_back()

    def watch(self, ticket: AnyTicket, callback: Callable[[], object]) -> None:
        """Call back, without the lock, in whichever thread completes the ticket. With the lock."""
        self._watched.setdefault(ticket, []).append(callback)
        ticket.on_done = self._on_done

    def wait(self, ticket: AnyTicket, until: float = math.inf) -> bool:
        """Wait until the ticket is done, or this time has come; whether it is done.

        Raises `ClientClosed` in a forked child.
        """
        gate: threading.Lock | None = None
        drives: int | None = None
        me = threading.get_ident()
        self.enter()
        try:
            while not ticket.done:
                with self.lock:
                    if ticket.done:
                        break
                    if self._released:
                        self._refuse()
                    ticket.on_done = self._on_done
                    interrupted = self._driven_for if self._driver == me else None
                    if self._driver is None:
                        gate, drives = None, me
                        self._driver, self._driven_for = me, ticket
                    elif interrupted is not None:
                        gate, self._driven_for = None, ticket
                    else:
                        gate = threading.Lock()
                        gate.acquire()
                        self._gates.setdefault(ticket, []).append(gate)
                if gate is not None:
                    self._wait_at(gate, ticket, until)
                else:
                    self._drive(ticket, until, interrupted)
                    if self._callbacks:
                        self.call_back()
                if not ticket.done and time.monotonic() >= until:
                    break
        except BaseException:
            self._abandon(gate, drives, ticket)
            raise
        if gate is not None and self._gates:
            with self.lock:
                self._hand_over()  # we may have been woken to drive, and will not
        if self._callbacks:
            self.call_back()
        return ticket.done

    def call_back(self) -> None:
        """Run the callbacks of completed tickets; one that raises takes no other's turn.

        Without the lock.
        """
        while self._callbacks:
            with self.lock:
                callbacks, self._callbacks = self._callbacks, []
            with contextlib.ExitStack() as stack:
                for callback in reversed(callbacks):
                    stack.callback(callback)

    def look_after(self) -> None:
        """Nobody uses the client: hear where servers are by now, and which connections ended."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            if self._driver is None and not (self._unusable or self._core.wants_leader):
                self._take_in(self._poll.poll(0))
                self.pump()
        finally:
            self.lock.release()

    @property
    def serves(self) -> bool:
        """Whether what is submitted without `check` is carried; until `close`, or in a child."""
        return not self._unusable

    def refuse(self) -> None:
        """Fail everything that is waited for, and what is asked for later."""
        self.enter()
        with self.lock:
            if not self.refusal:
                self.refusal = CLOSED
                self._core.fail_all(ClientClosed(CLOSED))

    def close(self) -> None:
        """`refuse`, and close the sockets; may be called twice."""
        self.refuse()
        with self.lock:
            if self._unusable:
                return
            self._unusable = True
            self._core.fail_all(ClientClosed(CLOSED))  # and what another `close` waits for
            if self._driver is None:
                self._release()
            else:
                self._wake()  # the driver closes the sockets when it has left them
        self.call_back()

    def end(self) -> None:
        """The program ends: close the sockets unless a thread is at work, which ends with it.

        Daemon threads go on until the very end. None may find its sockets closed under it, which
        libzmq does not tolerate, and none may complain of what it was doing.
        """
        if not self.lock.acquire(timeout=_LAST_SECONDS):
            return
        try:
            self.refusal = self.refusal or _ENDED
            self._unusable = True
            if self._driver is None:
                self._release()
            else:
                self._wake()
        finally:
            self.lock.release()

    # --- waiting -----------------------------------------------------------------------------

    def _on_done(self, ticket: AnyTicket) -> None:
        """A ticket that somebody waits for is done (called by the core, with the lock held)."""
        if self._gates:
            for gate in self._gates.pop(ticket, ()):
                gate.release()
        if self._watched:
            self._callbacks.extend(self._watched.pop(ticket, ()))
        if ticket is self._driven_for:
            self._wake()

    def _wait_at(self, gate: threading.Lock, ticket: AnyTicket, until: float) -> None:
        """Sleep until the gate is opened: the ticket is done, or it is our turn to drive."""
        if gate.acquire(timeout=_seconds(min(until, ticket.deadline))):
            return
        with self.lock:
            self._leave(gate, ticket)
            if not self._unusable:
                self.pump()  # the ticket's deadline may have passed

    def _leave(self, gate: threading.Lock, ticket: AnyTicket) -> None:
        """Nobody is to be woken at this gate any more. With the lock."""
        gates = self._gates.get(ticket, [])
        if gate in gates:
            gates.remove(gate)
            if not gates:
                del self._gates[ticket]
        else:
            self._hand_over()  # it was opened meanwhile, maybe for us to drive

    def _abandon(self, gate: threading.Lock | None, drives: int | None, ticket: AnyTicket) -> None:
        """An exception ends our waiting, at whatever step: leave nothing that others wait for."""
        with self.lock:
            if gate is not None:
                self._leave(gate, ticket)
            if drives is not None and self._driver == drives:
                self._step_down()
            self._hand_over()

    def _hand_over(self) -> None:
        """Wake one waiting thread, which finds that nobody drives and does."""
        if self._driver is not None:
            return
        for ticket, gates in self._gates.items():
            gates.pop().release()
            if not gates:
                del self._gates[ticket]
            return

    # --- driving -----------------------------------------------------------------------------

    def _drive(self, ticket: AnyTicket, until: float, interrupted: AnyTicket | None) -> None:
        """Do the client's I/O until the ticket is done or the time has come.

        `interrupted`: this thread drove for that ticket already, and goes on when we return.
        """
        ready: Sequence[tuple[int, int]] | None = None  # (nobody has looked yet)
        try:
            while True:
                with self.lock:
                    self._sleeps_until = -math.inf
                    if self._unusable:
                        return
                    self._take_in(ready or ())
                    # Our caller has pumped, as a rule. But another driver may have taken in answers
                    # since and left, and what waited for those would stay unsent.
                    if (not ticket.done or self._gates) and not (ready is None and self._pumped):
                        self.pump()
                    if ticket.done or (ready is not None and time.monotonic() >= until):
                        return
                    if self._callbacks:
                        return  # they may wait for something themselves, which needs a driver
                    sleep = self._plan_sleep(until)
                    poll = self._poll if interrupted is None else self._another_poll()
                ready = poll.poll(sleep)
        finally:
            with self.lock:
                if interrupted is None:
                    self._step_down()
                    self._hand_over()
                else:
                    self._driven_for = interrupted
                    self._poke()  # its answer may have come meanwhile

    def _another_poll(self) -> select.poll:
        """For a handler's turn: the interrupted one sleeps in the first."""
        poll = select.poll()
        for fd in (self._waker.descriptor, *self._by_fd, *self._by_lost_fd):
            poll.register(fd, select.POLLIN)
        return poll

    def _step_down(self) -> None:
        """Leave the sockets to others, or close them if that has been asked for. With the lock."""
        self._sleeps_until = -math.inf
        self._driver = self._driven_for = None
        if self._unusable:
            self._release()

    def _plan_sleep(self, until: float) -> float:
        """How long to sleep, in milliseconds."""
        due = min(self._core.next_deadline(), until)
        self._sleeps_until = due
        return min(math.ceil(_seconds(due) * 1000), _LONGEST_SLEEP_MS)

    def _take_in(self, ready: Sequence[tuple[int, int]]) -> None:
        for fd, _ in ready:
            if fd == self._waker.descriptor:
                self._waker.clear()
                continue
            link = self._by_fd.get(fd)
            if link is not None:
                self._links.drain(link)
                continue
            link = self._by_lost_fd[fd]
            self._links.drain(link)  # first: where others are by now may be the last it said
            if self._links.ended(link):
                self._pumped = False
                self._core.lost(link.address, time.monotonic())

    def _on_open(self, link: Link) -> None:
        self._by_fd[link.fd] = link
        self._poll.register(link.fd, select.POLLIN)
        self._by_lost_fd[link.lost_fd] = link
        self._poll.register(link.lost_fd, select.POLLIN)
        if self._driver is not None:
            self._wake()

    def _receive(self, address: str, replies: Sequence[ServerReply]) -> None:
        self._pumped = False
        self._core.receive(address, replies, time.monotonic())

    def _wake(self) -> None:
        """Make the driver look again."""
        if self._driver is None:
            return
        if self._driver == threading.get_ident() and self._sleeps_until == -math.inf:
            return  # it is looking: only below a signal handler it may be asleep
        self._poke()

    def _poke(self) -> None:
        self._sleeps_until = -math.inf
        self._waker.wake()

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        self._links.close()
        self._waker.close()

    # --- forks -------------------------------------------------------------------------------

    def forked(self) -> None:
        """In a forked child: the sockets are the parent's, and the lock may be held for ever."""
        self.lock = threading.RLock()
        self.held = self.lock._is_owned  # type: ignore[attr-defined]
        self._driver = None
        self._released = True
        self._unusable = True
        self.refusal = FORKED


def _seconds(due: float) -> float:
    """From now until then, never negative, and short enough for any system call."""
    return min(max(0.0, due - time.monotonic()), _LONGEST_SLEEP_MS / 1000)


_drivers: weakref.WeakSet[SyncDriver] = weakref.WeakSet()
_caretaker = [threading.Thread()]
"""The thread that looks after them; nobody's in a forked child, until it makes a client."""


def _look_after_all() -> None:
    """See to it that the thread runs that looks after clients which nobody uses."""
    if not _caretaker[0].is_alive():
        _caretaker[0] = threading.Thread(target=_take_care, name="paxon-clients", daemon=True)
        with contextlib.suppress(RuntimeError):  # (no thread to be had: perhaps with the next one)
            _caretaker[0].start()


def _take_care() -> None:
    while threading.current_thread() is _caretaker[0]:
        time.sleep(_LOOK_SECONDS)
        _look_once()


def _look_once() -> None:
    drivers: list[SyncDriver] = []
    with contextlib.suppress(RuntimeError):  # (a client was made meanwhile: the next time)
        drivers += _drivers
    for driver in drivers:
        driver.look_after()


def _after_fork() -> None:
    for driver in list(_drivers):
        driver.forked()


os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    for driver in list(_drivers):
        driver.end()


atexit.register(_at_exit)
