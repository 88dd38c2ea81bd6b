"""A ZeroMQ context that can always be ended, wherever Ctrl-C struck before.

libzmq ends a context only once its last socket is closed, and waits for that without limit. pyzmq
notes a socket after it has made it, and forgets it before it has closed it. An interrupt in between
leaves a socket that nobody knows and that the interrupt's own traceback keeps alive: whoever then
ends the context, as a `finally` would, sleeps for ever, and Ctrl-C seems to do nothing.

libzmq's threads begin with a context's first socket, and abort the process if they cannot, or if no
descriptor is left for them.

One thread serves all sockets, and asks for a name's address itself: while a resolver is silent, as
for seconds when it is down, nothing is sent or received. So each link that dials a name can have a
thread of its own.
"""

from __future__ import annotations

import _thread
import errno
import os
from contextlib import suppress
from typing import Any

import zmq

__all__ = ["COMMON", "TOO_FEW_FILES", "TOO_FEW_THREADS", "Context"]

TOO_FEW_FILES = (
    "this process may open too few files and connections: raise the limit (ulimit -n, LimitNOFILE= "
    "of a systemd unit)"
)
TOO_FEW_THREADS = (
    "this process may start too few threads: raise the limit (ulimit -u, TasksMax= of a systemd "
    "unit, a container's limit of pids)"
)
_THREADS = 3
"""libzmq's two, and one that may be about to end."""
_STAY_SECONDS = 1.0
_PIPES = 6
"""Two descriptors each: libzmq takes seven for its threads and the first socket …"""
_MOST_APART = 8
"""… and another two for each thread that serves a name. Links beyond these share one."""
COMMON = 1
"""The AFFINITY of whatever has no thread of its own."""


def _need_descriptors(apart: int) -> None:
    """Raise `zmq.ZMQError` if too few descriptors are left for libzmq's threads to begin."""
    pipes: list[int] = []
    try:
        for _ in range(_PIPES + apart):
            pipes += os.pipe()
    except OSError as error:
        raise zmq.ZMQError(error.errno) from None
    finally:
        for end in pipes:
            os.close(end)


def _need_threads(apart: int) -> None:
    """Raise `zmq.ZMQError` if this process may start too few threads."""
    go, left = _thread.allocate_lock(), []
    go.acquire()

    def stay(ended: _thread.LockType) -> None:
        go.acquire(timeout=_STAY_SECONDS)  # (if an interrupt strikes, nobody lets it go)
        with suppress(RuntimeError):
            go.release()
        ended.release()

    try:
        for _ in range(_THREADS + apart):
            ended = _thread.allocate_lock()
            ended.acquire()
            _thread.start_new_thread(stay, (ended,))
            left.append(ended)
    except RuntimeError:
        raise zmq.ZMQError(errno.EAGAIN, TOO_FEW_THREADS) from None
    finally:
        go.release()
        for ended in left:
            ended.acquire(timeout=_STAY_SECONDS)


class _Socket(zmq.Socket[bytes]):
    """A socket that its context knows from before it is made until after it is closed."""

    def __init__(self, context: Context, kind: int, **options: Any) -> None:
        if not context.begun:
            _need_descriptors(len(context.spare))
            _need_threads(len(context.spare))
            context.begun = True
        context.unclosed.add(self)
        try:
            super().__init__(context, kind, **options)
            self.setsockopt(zmq.AFFINITY, COMMON)
        except zmq.ZMQError:
            context.unclosed.discard(self)  # there is none: descriptors have run out, for one
            raise

    def close(self, linger: int | None = None) -> None:
        super().close(linger)
        if isinstance(self.context, Context):  # it has none before it is made
            self.context.unclosed.discard(self)


class Context(zmq.Context[zmq.Socket[bytes]]):
    """As pyzmq's, but `destroy` closes every socket that was ever begun and not closed."""

    _socket_class = _Socket
    unclosed: set[zmq.Socket[bytes]]
    """Those begun and not yet closed."""
    begun: bool
    """Whether libzmq's threads run."""
    spare: list[int]
    """The AFFINITY of each thread that serves no name yet; the first one is for latecomers."""

    def __init__(self, names: int = 0) -> None:
        """`names`: how many links are known to dial names (`apart`)."""
        self.unclosed = set()
        self.begun = False
        super().__init__()
        self.apart(names)

    def apart(self, names: int) -> None:
        """So many links that dial names have a thread of their own, and later ones share another.

        To be called before the first socket is made.
        """
        threads = min(names, _MOST_APART) + (names > 0)
        self.spare = [COMMON << number for number in range(1, 1 + threads)]
        self.set(zmq.IO_THREADS, 1 + threads)

    def take_thread(self) -> int:
        """The AFFINITY of a link that dials names, to be given back by `give_thread`."""
        if not self.spare:
            return COMMON
        return self.spare.pop() if len(self.spare) > 1 else self.spare[0]

    def give_thread(self, affinity: int) -> None:
        """The link is gone."""
        if affinity not in (COMMON, *self.spare):
            self.spare.append(affinity)

    def destroy(self, linger: int | None = None) -> None:
        """Close all sockets, with this LINGER in milliseconds if it is given, and end the context.

        Waits for what may linger; may be called twice.
        """
        try:
            self._end(linger)
        finally:
            self._end(linger)  # has nothing to do, unless an interrupt cut the first one short

    def _end(self, linger: int | None) -> None:
        if self.closed:
            return
        unclosed: set[zmq.Socket[bytes]] = getattr(self, "unclosed", set())  # if begun just now
        for socket in tuple(unclosed):
            socket.close(linger)
            unclosed.discard(socket)
        self.term()
