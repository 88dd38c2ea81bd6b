"""The inbox of an actor that is fed by sockets: one thread, one loop (theory of operation).

Pykka's actor loop calls `get` for its next envelope. An ordinary inbox sleeps on a queue; this one
also receives from sockets and watches the next timer, so no second thread has to hand messages
over. `get` goes round this loop:

1. an envelope that another thread put here (tell, ask, stop, a proxy's call), if it is its turn;
2. a burst from the sockets, wrapped in an envelope without anyone to reply to;
3. an empty burst if the deadline has passed;
4. else sleep until a socket, the deadline or a `put` wakes it.

After a small burst there is most often no other yet: step 2 is left out then, for to sleep looks as
well.

Turns alternate: after a burst local envelopes go first, after a few of those the sockets are asked,
so neither can starve the other. A timer that falls due while bursts keep coming gets no empty burst
of its own: the actor looks at its timers at every burst anyway.

A `put` writes to the wake descriptor only when the actor's thread has said that it is about to
sleep, so while the loop is busy a `put` costs no system call. No wake-up is lost: the thread looks
for envelopes after it has said so, and a `put` looks whether it has after the envelope is there.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from pykka._envelope import Envelope

from paxon.transport.burst import Burst
from paxon.transport.wake import Waker

__all__ = ["BurstInbox", "BurstSource", "ample_stacks"]

_SMALL_BURST = 2
"""Frames; a server that is busy gets more at once."""
_LOCAL_TURNS = 16
"""Local envelopes handed out in a row before the sockets are asked again."""


@runtime_checkable
class BurstSource(Protocol):
    """Where bursts come from: an endpoint, used by the actor's thread alone."""

    def receive(self) -> Burst[Any, Any]:
        """All that can be received without blocking, bounded; empty if there is nothing."""

    def wait(self, timeout_seconds: float | None, wake_fd: int) -> bool:
        """Sleep until something can be received, `wake_fd` is readable or the time is up.

        Returns whether `wake_fd` is readable.
        """


class BurstInbox:
    """Pykka's inbox protocol for an actor with sockets; a plain queue until `attach`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local: deque[Envelope[Any]] = deque()
        self._sleeping = False
        self._closed = False
        self._local_turns = _LOCAL_TURNS
        self._source: BurstSource | None = None
        self._deadline: Callable[[], float | None] = _never
        self._monotonic: Callable[[], float] = _zero
        self._waker = Waker()
        self._look_first = True
        """Whether to look for the next burst before going to sleep."""

    # --- pykka's protocol --------------------------------------------------------------------

    def put(self, envelope: Envelope[Any], /) -> None:
        """Add an envelope; any thread may call this, also after `close`."""
        with self._lock:
            self._local.append(envelope)
            if not self._sleeping or self._closed:
                return
            self._sleeping = False
            # Inside the lock, so that `close` cannot hand the descriptor to someone else.
            self._waker.wake()

    def get(self) -> Envelope[Any]:
        """The actor's next envelope; sleeps until there is one. Only for the actor's thread."""
        while True:
            if self._local and self._local_turns > 0:
                self._local_turns -= 1
                return self._local.popleft()
            self._local_turns = _LOCAL_TURNS
            source = self._source
            if source is None:
                if not self._local:
                    self._sleep(None, None)
                continue
            if self._look_first:
                burst = source.receive()
                if burst:
                    return Envelope(burst)
            self._look_first = True
            deadline = self._deadline()
            if deadline is None:
                remaining = None
            else:
                remaining = deadline - self._monotonic()
                if remaining <= 0:
                    return Envelope(source.receive())
            if not self._local:
                self._sleep(source, remaining)
                burst = source.receive()
                if burst:
                    # After a small burst there is most often none yet, which waiting finds out too.
                    self._look_first = len(burst.peers) + len(burst.clients) > _SMALL_BURST
                    return Envelope(burst)

    def empty(self) -> bool:
        """Whether no local envelope waits (sockets do not count). Never blocks."""
        return not self._local

    # --- the actor's side --------------------------------------------------------------------

    def attach(
        self,
        source: BurstSource,
        deadline: Callable[[], float | None],
        monotonic: Callable[[], float],
    ) -> None:
        """Feed the actor from `source` as well; call from its `on_start`.

        Args:
            source: asked for bursts whenever the actor is free.
            deadline: when `get` is to give an empty burst at the latest, on the `monotonic` clock
                (seconds); None for no such time. Asked before each sleep.
            monotonic: the clock that `deadline` refers to.
        """
        self._deadline = deadline
        self._monotonic = monotonic
        self._source = source

    def detach(self) -> None:
        """Be a plain queue again; call before the source is closed."""
        self._source = None
        self._deadline = _never
        self._monotonic = _zero

    def close(self) -> None:
        """Give the wake descriptor back; envelopes put here stay readable. May be called twice.

        For the actor's own thread at its end: after it `get` must be called only while not `empty`.
        """
        self.detach()
        with self._lock:
            self._closed = True
            self._waker.close()

    def _sleep(self, source: BurstSource | None, timeout_seconds: float | None) -> None:
        if self._closed:
            raise RuntimeError("the inbox is closed and empty: nothing can wake its reader")
        self._sleeping = True
        if self._local:  # put before that could be seen
            woken = False
        elif source is None:
            woken = self._wait_for_put()
        else:
            woken = source.wait(timeout_seconds, self._waker.descriptor)
        self._sleeping = False
        if woken:
            self._waker.clear()

    def _wait_for_put(self) -> bool:
        poll = select.poll()
        poll.register(self._waker.descriptor, select.POLLIN)
        return bool(poll.poll())


def _never() -> float | None:
    return None


def _zero() -> float:
    return 0.0


_STACK_BYTES = 8 << 20
_stack_size_lock = threading.Lock()


@contextmanager
def ample_stacks() -> Iterator[None]:
    """Threads that are started inside have room, whatever `ulimit -s` and the program give others.

    What nests too deep in a state machine has to meet Python's limit, which is a command's error on
    every server, before the end of a stack, which is one process's end.
    """
    with _stack_size_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            yield
        finally:
            threading.stack_size(before)
