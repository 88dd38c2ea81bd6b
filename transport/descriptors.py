"""Descriptors: raise the process's limit, and keep the last ones from being taken by connections.

libzmq accepts whatever knocks. Once no descriptor is left it can accept no more, is told again and
again that somebody knocks, and spins; a snapshot or a log file finds none either. So the last
descriptors are a *reserve*. A connection that was given one of them is ended at once, and while
there is no room the port's listening socket lets no packet in: whoever knocks is not answered, and
may come again later. The clients' port gives way first: half of the reserve is the peers' alone.

Of asyncio's ports (metrics, the etcd API) a few connections are taken in a turn, or the reserve
would be gone before any of them is looked at; and a sentence is said in place of a traceback for
each that finds no room, ten megabytes of them for three hundred clients at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paxon.transport.inherited import closed_here, keep_from_forks
from paxon.transport.intake import Ledger, drop_all_packets, take_all_packets
from paxon.transport.log import background

__all__ = [
    "DescriptorGuard", "check_descriptor_limit", "raise_descriptor_limit", "takes_the_last",
    "AT_ONCE", "listen_longer", "say_once_that_none_are_taken",
]  # fmt: skip

_ENOUGH = 65_536
"""Descriptors beyond which the limit is not raised; each connection takes one."""
_LEAST_RESERVE, _MOST_RESERVE = 12, 64
_RESERVED_PART = 8
"""One in so many descriptors is reserved, within these bounds."""
_LOOK_SECONDS = 0.5
"""How often to look for room again while a port is shut."""

_libc = ctypes.CDLL(None, use_errno=True)


def raise_descriptor_limit() -> int:
    """Raise this process's limit as far as it may, within reason; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a bound of its own below "infinity"
            return soft
        return wanted
    return soft


def check_descriptor_limit(peers: int) -> str:
    """Why this process, once its ports are open, may open too few descriptors; "" if enough."""
    limit = _limit()
    needed = _in_use(_ENOUGH) + 2 * peers + _LEAST_RESERVE
    if limit >= needed:
        return ""
    return (
        f"this process may open {limit} files and connections, and needs {needed} at the least: "
        f"raise the limit (ulimit -n, LimitNOFILE= of a systemd unit)"
    )


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def _in_use(unknown: int) -> int:
    """How many descriptors are open; `unknown` if not even one is left to find out with."""
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir()) - 1
    except OSError:
        return unknown


def _reserve(limit: int) -> int:
    return max(_LEAST_RESERVE, min(limit // _RESERVED_PART, _MOST_RESERVE))


def takes_the_last(descriptor: int) -> bool:
    """Whether a descriptor just given out is of the reserve: the kernel gives out the lowest."""
    limit = _limit()
    return descriptor >= limit - _reserve(limit)


class DescriptorGuard:
    """Keeps connections to a server's ports from taking the process's last descriptors."""

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._listeners: dict[str, list[int]] = {}
        self._shut: set[str] = set()
        self.look_at: float | None = None
        """When to call `look`, on the monotonic clock (seconds); None: no port is shut."""

    def listening(self, port: str, descriptor: int) -> None:
        """`descriptor` is a listening socket of the port."""
        self._listeners.setdefault(port, []).append(descriptor)
        keep_from_forks(descriptor)

    def close(self) -> None:
        """The ports are about to be closed."""
        for listeners in self._listeners.values():
            for descriptor in listeners:
                closed_here(descriptor)

    def _bound(self, port: str) -> int:
        """Connections of this port may have descriptors below this number.

        The kernel gives out the lowest that is free: a number from there on says that all below are
        taken.
        """
        limit = _limit()
        return limit - (_reserve(limit) // 2 if "peer" in port else _reserve(limit))

    def refuses(self, port: str, descriptor: int) -> bool:
        """Whether a new connection took one of the last descriptors; then it is being ended."""
        if descriptor < self._bound(port):
            return False
        # libzmq owns it and closes it as soon as it finds it ended.
        _libc.shutdown(descriptor, socket.SHUT_RDWR)
        self._ledger.counters.refused_connections += 1
        self._ledger.say(
            "descriptors", port,
            f"Refused a connection to the {port}: of the {_limit()} files and connections that "
            f"this process may open only a reserve is left; raise the limit (ulimit -n)",
        )  # fmt: skip
        if port not in self._shut:
            self._shut.add(port)
            for listener in self._listeners.get(port, ()):
                drop_all_packets(listener)
        if self.look_at is None:
            self.look_at = self._monotonic() + _LOOK_SECONDS
        return True

    def look(self) -> None:
        """If it is time, open the ports again for which there is room."""
        now = self._monotonic()
        if self.look_at is None or now < self.look_at:
            return
        in_use = _in_use(_ENOUGH)
        for port in list(self._shut):
            if in_use + _LEAST_RESERVE // 4 < self._bound(port):
                self._shut.discard(port)
                for listener in self._listeners.get(port, ()):
                    take_all_packets(listener)
        self.look_at = now + _LOOK_SECONDS if self._shut else None


# --- asyncio's ports ------------------------------------------------------------------------------

AT_ONCE = 8
"""Connections that are taken in before any of them is looked at: asyncio's `backlog`."""
_BACKLOG = 1024
"""Connections that the kernel keeps meanwhile."""
_SAY_SECONDS = 60.0


def listen_longer(server: asyncio.Server) -> None:
    """Have the kernel keep more than `AT_ONCE`, once it serves."""
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as same:
            same.listen(_BACKLOG)


def say_once_that_none_are_taken(loop: asyncio.AbstractEventLoop) -> None:
    """Log a sentence a minute in place of asyncio's tracebacks; it tries again by itself."""
    said = float("-inf")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if "_start_serving" in context["message"]:
            return  # asyncio's own try, of a port that was closed meanwhile
        if not (isinstance(context.get("exception"), OSError) and "socket" in context):
            loop.default_exception_handler(context)
        elif loop.time() - said >= _SAY_SECONDS:
            said = loop.time()
            background.warning(
                "Cannot take in connections ({}): raise the limit (ulimit -n)",
                context["exception"].strerror,
            )

    loop.set_exception_handler(handle)
