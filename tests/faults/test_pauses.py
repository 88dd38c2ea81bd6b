"""Processes that stand still live on, and hosts that vanish without a word are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from paxon.transport import Context, LinkMonitor, end_when_vanished
from tests.cluster.helpers import wait_until
from tests.faults.networks.namespaces import PEER_PORT, Switch, inside, no_namespaces
from tests.faults.pauses import pauses
from tests.soak import SOAK

pytestmark = [pytest.mark.process, pytest.mark.slow]

VANISHED_AFTER = 2.0
PATIENCE = 60.0
"""Seconds; by TCP's own defaults it would take from a quarter of an hour to two hours."""


def test_many_pauses_are_survived(tmp_path: Path) -> None:
    """A hundred in the long form, else twenty; with ZeroMQ's heartbeats one in ten aborts."""
    outcome = pauses(tmp_path, SOAK)
    assert outcome.faults >= (100 if SOAK else 20)
    assert outcome.verified.lost == 0
    assert outcome.verified.acknowledged > 0


@contextmanager
def socket_on(switch: Switch, host: str, kind: int) -> Iterator[zmq.Socket[bytes]]:
    """A socket whose connections belong to a host."""

    def make() -> zmq.Socket[bytes]:  # the context's threads start with its first socket
        socket = Context().socket(kind)
        end_when_vanished(socket, VANISHED_AFTER)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, 500)
        return socket

    socket = inside(switch.namespace(host), make)
    try:
        yield socket
    finally:
        socket.context.destroy(linger=0)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "sending"])
def test_a_host_that_vanishes_without_a_word_is_noticed_at_both_ends(silent: bool) -> None:
    if no_namespaces():
        pytest.skip(no_namespaces())
    with (
        Switch(["a", "b"]) as switch,
        socket_on(switch, "a", zmq.ROUTER) as port,
        socket_on(switch, "b", zmq.DEALER) as link,
    ):
        port_ended, link_ended = LinkMonitor(port), LinkMonitor(link)
        inside(switch.namespace("a"), lambda: port.bind(f"tcp://*:{PEER_PORT}"))
        link.connect(f"tcp://{switch.address('a')}:{PEER_PORT}")
        link.send(b"hello")
        name, _ = port.recv_multipart()
        switch.partition(["a"], ["b"])
        if not silent:
            link.send(b"late")
            port.send_multipart([name, b"late"])
        wait_until(link_ended.drain, "the link has ended", PATIENCE)
        wait_until(port_ended.drain, "the connection to the port has ended", PATIENCE)
        switch.heal()
        link.send(b"again")
        wait_until(lambda: bool(port.poll(50)), "a new connection was made", PATIENCE)
        port_ended.close()
        link_ended.close()
