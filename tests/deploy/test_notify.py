"""A service manager is told when a server is ready, that its thread works, and that it stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest

from paxon.kvstore.client.client import CommandClient
from paxon.kvstore.cluster.notify import Notifier
from tests.cluster.commands.test_metrics import Stuck, serving
from tests.cluster.helpers import PAXON, environment, wait_until
from tests.ports import own_ports


@contextmanager
def manager(path: str) -> Iterator[socket.socket]:
    """Where a service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + path[1:] if path.startswith("@") else path)
        listening.settimeout(60)
        yield listening


def heard(listening: socket.socket) -> bool:
    """Whether anything was told since the last look."""
    listening.setblocking(False)
    try:
        return bool(listening.recv(4096))
    except BlockingIOError:
        return False


def test_only_a_server_whose_thread_works_feeds_the_watchdog(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    machine = Stuck()
    with manager(path) as listening, serving(machine) as (reference, address):
        notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "60000000"})

        def fed() -> bool:
            notifier.feed(reference)
            return heard(listening)

        wait_until(fed)
        with CommandClient(address) as client:
            asked = threading.Thread(target=client.execute, args=(b"wait",))
            asked.start()
            machine.entered.wait(60)
            fed()  # what was asked before the command may have been answered
            assert not any(fed() for _ in range(20))
            machine.may.set()
            asked.join()
        wait_until(fed)


def test_nothing_is_told_where_nobody_asked(tmp_path: Path) -> None:
    with serving() as (reference, _):
        Notifier({}).feed(reference)
        Notifier({}).tell("READY=1")
        gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1"})
        gone.tell("READY=1")  # the manager is gone: no matter
        gone.feed(reference)


def test_what_the_manager_has_no_room_for_is_told_later(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    notifier = Notifier({"NOTIFY_SOCKET": path})
    with manager(path) as listening:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
            others.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    others.sendto(b"X=1", path)
        notifier.tell("READY=1")
        while heard(listening):
            pass
        for told in (b"READY=1", b""):
            notifier.feed(mock.Mock())
            assert (listening.recv(9) if told else heard(listening)) == (told or False)


@pytest.mark.process
def test_a_server_process_says_ready_and_stopping(tmp_path: Path) -> None:
    path = f"@paxon-test-{tmp_path.name}-{id(tmp_path)}"
    file = tmp_path / "cluster.toml"
    peer, client = own_ports(2)
    file.write_text(
        f'[cluster]\nid = "x"\n[[server]]\nid = 1\npeer_port = {peer}\nclient_port = {client}\n',
        encoding="utf-8",
    )
    more = environment(NOTIFY_SOCKET=path, WATCHDOG_USEC="60000000")
    with manager(path) as listening:
        process = subprocess.Popen(
            [*PAXON, "server", "-c", str(file), "-i", "1"], env=more, stderr=subprocess.DEVNULL
        )
        try:
            assert listening.recv(4096).startswith(b"READY=1\nSTATUS=")
            assert listening.recv(4096) == b"WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            while (told := listening.recv(4096)) == b"WATCHDOG=1":
                pass
            assert told == b"STOPPING=1"
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
