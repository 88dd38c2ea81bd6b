"""How a connection to a host that has vanished without a word is ended: by TCP itself.

ZeroMQ has heartbeats of its own, but libzmq aborts the process when their timer meets a connection
that has ended while its receive queue was full (libzmq #4364, #4767, #3937, #4841): a server that
was stopped for seconds and goes on finds just that. So they stay off, at both ends. TCP does
without them: its keepalive asks on a silent connection, its user timeout limits how long anything
sent may stay unacknowledged. Neither needs a timer in libzmq, and a process that merely stands
still keeps its connections, for its kernel goes on answering.
"""

from __future__ import annotations

import zmq

__all__ = ["end_when_vanished"]

_PROBES = 3
"""Unanswered questions that end a silent connection, where TCP has no user timeout (macOS)."""


def end_when_vanished(socket: zmq.Socket[bytes], seconds: float) -> None:
    """Have TCP end each connection of `socket` whose other end was silent for about `seconds`.

    Call it before the socket binds or connects. A silent connection is asked every second at the
    least, so it may take a second or two more than that. Connections by ipc need none of this.
    """
    pause = max(1, round(seconds / (_PROBES + 1)))
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, pause)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, pause)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, _PROBES)
    socket.setsockopt(zmq.TCP_MAXRT, round(seconds * 1000))
