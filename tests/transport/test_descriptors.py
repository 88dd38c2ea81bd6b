"""Descriptors: the last ones are no connection's, and a fork keeps none that is a server's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxon.transport import descriptors, inherited
from paxon.transport.descriptors import DescriptorGuard
from paxon.transport.inherited import as_socket, closed_here, keep_from_forks
from paxon.transport.intake import Ledger

LIMIT = 80
"""Its reserve is 12 descriptors, and half of these are the peers' alone."""


class Kernel:
    """A limit, what is open, and which listening sockets let nothing in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.in_use = 1000.0, LIMIT
        self.shut: list[int] = []
        monkeypatch.setattr(descriptors, "_limit", lambda: LIMIT)
        monkeypatch.setattr(descriptors, "_in_use", lambda _unknown: self.in_use)
        monkeypatch.setattr(descriptors, "drop_all_packets", self.shut.append)
        monkeypatch.setattr(descriptors, "take_all_packets", self.shut.remove)


def test_connections_take_none_of_the_last_descriptors(
    monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    """The clients' port is shut first; each is opened again once it has room, and no sooner."""
    kernel = Kernel(monkeypatch)
    ledger = Ledger(lambda: kernel.now)
    guard = DescriptorGuard(ledger, lambda: kernel.now)
    for port, listener in (("client port", -3), ("client port", -4), ("peer port", -5)):
        guard.listening(port, listener)  # (numbers that nothing has)
    assert [guard.refuses("client port", LIMIT - n) for n in (13, 12)] == [False, True]
    assert [guard.refuses("peer port", LIMIT - n) for n in (12, 7)] == [False, False]
    assert kernel.shut == [-3, -4] and guard.look_at == 1000.5
    kernel.now = 1000.1
    assert guard.refuses("peer port", LIMIT - 6) and guard.refuses("client port", LIMIT - 1)
    assert kernel.shut == [-3, -4, -5] and guard.look_at == 1000.5
    assert ledger.counters.refused_connections == 3
    assert len(log_lines) == 2 and f"of the {LIMIT} files" in log_lines[0]

    kernel.in_use = 0
    guard.look()
    assert kernel.shut == [-3, -4, -5]  # not yet
    kernel.now, kernel.in_use = 1000.5, LIMIT - 12  # room for peers, not for clients
    guard.look()
    assert kernel.shut == [-3, -4] and guard.look_at == 1001.0
    kernel.now, kernel.in_use = 1001.0, LIMIT - 15  # a little less than what shut it
    guard.look()
    assert kernel.shut == [-3, -4] and guard.look_at == 1001.5
    kernel.now, kernel.in_use = 1001.5, LIMIT - 16
    guard.look()
    assert kernel.shut == [] and guard.look_at is None
    guard.look()
    guard.close()


def test_a_port_without_room_ends_who_was_let_in_and_lets_nobody_in(
    tcp_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tcp_wire.servers(1)[1]
    kernel = Kernel(monkeypatch)
    monkeypatch.setattr(descriptors, "_limit", lambda: 0)
    address = ("127.0.0.1", int(server.client_address.rpartition(":")[2]))
    with socket.create_connection(address, timeout=2) as stranger:
        tcp_wire.until(server, lambda: server.counters()["refused_connections"])
        while stranger.recv(1000):  # what libzmq says at once, and then the end
            pass
    (listener,) = kernel.shut
    with as_socket(listener) as found:
        assert found.getsockname() == address
    assert listener in inherited._kept
    server.close()
    assert listener not in inherited._kept


def in_a_fork(asked: Callable[[], bytes]) -> bytes:
    """What is answered there; "" if that failed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, asked())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as answer:
        return answer.read()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_fork_closes_what_is_a_servers_and_nothing_else(tmp_path: Path, kind: str) -> None:
    at: object = ("", 0) if kind == "tcp" else str(tmp_path / "port")
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    lock, other_file = (os.open(tmp_path / name, os.O_CREAT) for name in ("lock", "other"))
    with (
        socket.socket(family) as listener,
        socket.socket(family) as dialled,
        socket.socket(socket.AF_INET) as unbound,
        socket.socket(socket.AF_UNIX) as nameless,
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
    ):
        listener.bind(at)  # type: ignore[arg-type]  # of its family
        listener.listen()
        dialled.connect(listener.getsockname())
        accepted, _ = listener.accept()
        keep_from_forks(lock)
        keep_from_forks(listener.fileno())
        keep_from_forks(other_file)
        closed_here(other_file)  # its number is somebody else's now
        servers = [lock, listener.fileno(), accepted.fileno()]
        opened = len(list(Path("/dev/fd").iterdir()))
        with pytest.raises(OSError, match="non-socket"), as_socket(lock):
            pass
        assert len(list(Path("/dev/fd").iterdir())) == opened
        others = [other_file, *(s.fileno() for s in (dialled, unbound, nameless, elsewhere))]

        def looked() -> bytes:
            found = [[is_open(one) for one in ones] for ones in (servers, others)]
            os.dup2(other_file, lock)  # a number is taken anew, and forked once more
            return repr((found, in_a_fork(lambda: repr(is_open(lock)).encode()))).encode()

        found = in_a_fork(looked)
        for descriptor in servers[:2]:
            closed_here(descriptor)
        assert found == repr(([[False] * 3, [True] * 5], b"True")).encode()
        assert all(is_open(one) for one in servers + others)
        accepted.close()
    os.close(lock)
    os.close(other_file)
