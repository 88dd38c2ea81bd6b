"""Ctrl-C strikes a client at any step: it ends at once, and nobody waits for ever."""

from __future__ import annotations

import threading

import pytest

from paxon.actors.messages import Command
from paxon.kvstore import Client
from paxon.kvstore.client.sync_driver import SyncDriver
from paxon.kvstore.cluster.status import StatusProbe
from tests.interrupts import ends, interrupt_in, interrupted_at_each_step
from tests.kvstore.client.fake_cluster import SocketCluster
from tests.waiting import wait_until

# Python says so where a generator or a finalizer swallowed the interrupt; then the step is passed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
def test_while_servers_are_asked_for_their_status(servers: SocketCluster) -> None:
    addresses = dict(enumerate(servers.addresses, 1))
    probes: list[StatusProbe] = []

    def action() -> None:
        probes.append(StatusProbe())
        assert len(probes[-1].ask(addresses, 5.0)) == 3
        probes[-1].close()

    for _interrupt in interrupted_at_each_step(action):
        while probes:
            assert ends(probes.pop().close)


@pytest.mark.slow
def test_while_an_operation_waits(servers: SocketCluster) -> None:
    clients: list[Client] = []

    def action() -> None:
        clients.append(Client(servers.addresses))
        clients[-1].put("k", b"v")
        clients[-1].close()

    for _interrupt in interrupted_at_each_step(action):
        while clients:
            assert ends(clients.pop().close)


@pytest.mark.parametrize("struck", ["_drive", "_plan_sleep", "_take_in", "_step_down"])
def test_the_next_thread_can_go_on_with_the_client(servers: SocketCluster, struck: str) -> None:
    """Whoever is struck while it does the I/O for all leaves that to the next."""
    with Client(servers.addresses) as kv:
        with pytest.raises(KeyboardInterrupt), interrupt_in(getattr(SyncDriver, struck)):
            while True:  # an answer that is there at once needs no driver
                kv.put("k", b"v")
        assert kv._driver._driver is None
        assert ends(lambda: kv.get("k", timeout=10.0))


@pytest.mark.parametrize("struck", ["_take_in", "_step_down", "_hand_over"])
def test_a_thread_that_waits_already_goes_on(servers: SocketCluster, struck: str) -> None:
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        driver = kv._driver
        servers.silent.update(servers.addresses)
        servers.drop = lambda message: isinstance(message, Command) and b"late" in message.command
        got: list[object] = []

        def wait() -> None:
            wait_until(lambda: driver._driver is not None)
            got.append(kv.append("late", b"v", timeout=60.0))

        def answer() -> None:
            wait_until(lambda: bool(driver._gates))
            servers.silent.clear()

        threads = [threading.Thread(target=target, daemon=True) for target in (wait, answer)]
        for thread in threads:
            thread.start()
        interrupt = interrupt_in(getattr(SyncDriver, struck), only_if=lambda: bool(driver._gates))
        with pytest.raises(KeyboardInterrupt), interrupt:
            kv.put("k", b"v", timeout=60.0)
        servers.drop = lambda message: False
        for thread in threads:
            thread.join(20.0)  # far less than it would sleep if nobody had woken it
        assert got == [1]


def test_a_thread_that_is_struck_as_it_begins_to_wait_is_not_woken(servers: SocketCluster) -> None:
    """A thread at a gate that nobody waits at any more would be chosen to go on, and would not."""
    with Client(servers.addresses) as kv:
        kv.put("k", b"v")
        servers.silent.update(servers.addresses)
        drives = threading.Thread(target=lambda: kv.get("k"), daemon=True)
        drives.start()
        wait_until(lambda: kv._driver._driver is not None)
        with pytest.raises(KeyboardInterrupt), interrupt_in(SyncDriver._wait_at):
            kv.get("k")
        assert kv._driver._driver is not None
        assert not kv._driver._gates
        servers.silent.clear()
        drives.join(20.0)
        assert not drives.is_alive()
