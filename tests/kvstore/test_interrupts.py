"""Ctrl-C strikes a client at any step: it ends at once, and nobody waits for ever."""

from __future__ import annotations

import pytest

from paxon.kvstore import Client
from paxon.kvstore.cluster_status import StatusProbe
from paxon.kvstore.sync_driver import SyncDriver
from tests.interrupts import ends, interrupt_in, interrupted_at_each_step
from tests.kvstore.fake_cluster import SocketCluster

# Python says so where a generator or a finalizer swallowed the interrupt; then the step is passed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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


def test_while_an_operation_waits(servers: SocketCluster) -> None:
    clients: list[Client] = []

    def action() -> None:
        clients.append(Client(servers.addresses))
        clients[-1].put("k", b"v")
        clients[-1].close()

    for _interrupt in interrupted_at_each_step(action):
        while clients:
            assert ends(clients.pop().close)


@pytest.mark.parametrize("struck", ["_drive", "_plan_sleep", "_take_in", "_stop_driving"])
def test_another_thread_can_go_on_with_the_client(servers: SocketCluster, struck: str) -> None:
    """Whoever is struck while it does the I/O for all leaves that to the next."""
    with Client(servers.addresses) as kv:
        with pytest.raises(KeyboardInterrupt), interrupt_in(getattr(SyncDriver, struck)):
            while True:  # an answer that is there at once needs no driver
                kv.put("k", b"v")
        assert kv._driver._driver is None

        def another() -> None:
            assert kv.get("k", timeout=10.0) in (None, b"v")

        assert ends(another)
