"""Ports that belong to one test: no neighbour is given them, in whatever process it runs."""

from __future__ import annotations

import socket
from collections import deque

from paxon.kvstore.client.addresses import free_ports, hold_ports

__all__ = ["own_base", "own_ports"]

MOST = 100
"""So many ports are held; then those that were drawn first are let go, whose tests are over."""

_held: deque[socket.socket] = deque()


def own_ports(count: int) -> list[int]:
    """Ports on loopback for servers of this test, or for nobody: as if nobody listened there.

    A port that is merely free when it is drawn may be a neighbour's by the time a server binds it.
    """
    ports = free_ports(count)
    _keep(hold_ports(ports))
    return ports


def own_base(servers: int = 3) -> int:
    """A base port, as `paxon up --port` takes it, of which all servers' ports are free."""
    while True:
        (base,) = free_ports(1)
        wanted = [base + 10 * server + own for server in range(1, servers + 1) for own in (0, 1)]
        held = hold_ports(wanted) if _are_free(wanted) else []
        if len(held) == len(wanted):
            _keep(held)
            return base
        for one in held:
            one.close()


def _are_free(ports: list[int]) -> bool:
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def _keep(held: list[socket.socket]) -> None:
    _held.extend(held)
    while len(_held) > MOST:
        _held.popleft().close()
