"""What a fork of a server's program must not keep: its data directory's lock, and its ports.

A fork inherits every descriptor, and keeps open what its parent closes: the directory would stay
locked, the port taken, and the other ends of connections would not notice their end, for as long as
the fork lives, whoever made it (`os.fork`, multiprocessing's "fork"). No server runs in a fork, for
its thread is not in it. So these are closed there at once, which does not close them in the parent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["as_socket", "keep_from_forks", "closed_here"]

_kept: set[int] = set()
"""Locks and listening sockets."""


def keep_from_forks(descriptor: int) -> None:
    """Have every process forked from now on close this descriptor."""
    _kept.add(descriptor)


def closed_here(descriptor: int) -> None:
    """This one is closed, or about to be: its number may soon be somebody else's."""
    _kept.discard(descriptor)


def _in_fork() -> None:
    """Close them, and the connections that came in at these ports."""
    ports = {_local_port(descriptor) for descriptor in _kept} - {None}
    for descriptor in _kept:
        with suppress(OSError):
            os.close(descriptor)
    _kept.clear()
    if not ports:
        return
    with suppress(OSError):
        for entry in list(Path("/dev/fd").iterdir()):
            descriptor = int(entry.name)
            if _local_port(descriptor) in ports:
                with suppress(OSError):
                    os.close(descriptor)


def _local_port(descriptor: int) -> object:
    """The port, or path, that a socket of this machine is bound to; None for anything else."""
    try:
        with as_socket(descriptor) as found:
            name = found.getsockname()
    except OSError:
        return None
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return name[1] or None
    return name or None


@contextmanager
def as_socket(descriptor: int) -> Iterator[socket.socket]:
    """A socket that somebody else has open, who may have closed it: `OSError` if it is none.

    Its number may be a file's by then. A copy of that, left open, would keep the room of a
    snapshot that has been deleted.
    """
    copy = os.dup(descriptor)
    try:
        found = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with found:
        yield found


os.register_at_fork(after_in_child=_in_fork)
