"""Hosts behind address translation, without any rule of the kernel's.

Each server is in a namespace that has no network but its own loopback. Its host has an inside
address there, and the outside addresses of all hosts are there as well. A relay of plain TCP
listens at those and passes on to the real ones; outside it listens at the host's own, at other port
numbers, and passes on to the inside. So a server binds an address that means nothing to anybody
else, at ports that nobody dials, and never sees who dials it: what a NAT with mapped ports makes.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterable, Mapping

from tests.faults.networks.namespaces import Switch, enter, inside, ip

__all__ = ["INSIDE", "Translator", "translated"]

INSIDE = "192.168.7.2"
"""The address that every server has in its own network: the same one."""
Place = tuple[str, str, int]
"""A namespace, and an address and port there."""


def translated(switch: Switch, host: str, outside: Iterable[str]) -> str:
    """A namespace for the server behind `host`, where these addresses are at hand; its name.

    Whoever makes it has to remove it.
    """
    name = f"{switch.namespace(host)}-in"
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")
    for address in (INSIDE, *outside):
        ip("-n", name, "address", "add", f"{address}/32", "dev", "lo")
    return name


class Translator:
    """Passes on whatever is dialled at some places to others."""

    def __init__(self, ways: Mapping[Place, Place]) -> None:
        self._stop, self._stopped = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        self._other: dict[socket.socket, socket.socket] = {}
        self._listeners: list[socket.socket] = []
        for (namespace, address, port), target in ways.items():
            listener = inside(namespace, lambda where=(address, port): _listen(where))  # type: ignore[misc]
            self._listeners.append(listener)
            self._selector.register(listener, selectors.EVENT_READ, target)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End all connections."""
        self._stop.close()
        self._thread.join()
        for each in (*self._listeners, *self._other, self._stopped):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._stopped:
                    return
                if key.data is not None:
                    self._accept(found, key.data)
                elif found in self._other:  # (the other end may have ended it in this round)
                    self._pass_on(found)

    def _accept(self, listener: socket.socket, target: Place) -> None:
        near, _ = listener.accept()
        try:
            enter(target[0])
            far = socket.create_connection(target[1:], timeout=5)
        except OSError:
            near.close()  # as a port that is mapped to nobody
            return
        for one, other in ((near, far), (far, near)):
            one.settimeout(30)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._other[one] = other
            self._selector.register(one, selectors.EVENT_READ, None)

    def _pass_on(self, source: socket.socket) -> None:
        target = self._other[source]
        with contextlib.suppress(OSError):
            data = source.recv(1 << 16)
            if data:
                target.sendall(data)
                return
        for each in (source, target):
            self._selector.unregister(each)
            del self._other[each]
            each.close()


def _listen(where: tuple[str, int]) -> socket.socket:
    return socket.create_server(where, backlog=64)
