"""Every socket leaves it to TCP to notice a vanished host, and none to ZeroMQ's heartbeats."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from paxon.kvstore.client.links import Links
from paxon.transport.vanished import end_when_vanished


def check(socket: zmq.Socket[bytes]) -> None:
    """Heartbeats of ZeroMQ's own may abort the process (transport/vanished.py)."""
    assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
    assert int(socket.getsockopt(zmq.TCP_KEEPALIVE)) == 1
    assert 0 < int(socket.getsockopt(zmq.TCP_KEEPALIVE_IDLE)) <= 30
    assert 0 < int(socket.getsockopt(zmq.TCP_MAXRT)) <= 30_000


@pytest.mark.parametrize(("seconds", "pause"), [(10, 2), (20, 5), (1, 1)])
def test_a_silent_connection_is_asked_three_times_and_then_ended(seconds: int, pause: int) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        end_when_vanished(socket, seconds)
        check(socket)
        assert socket.getsockopt(zmq.TCP_KEEPALIVE_IDLE) == pause
        assert socket.getsockopt(zmq.TCP_KEEPALIVE_INTVL) == pause
        assert socket.getsockopt(zmq.TCP_KEEPALIVE_CNT) == 3
        assert socket.getsockopt(zmq.TCP_MAXRT) == 1000 * seconds


def test_a_servers_sockets(tcp_wire: Any) -> None:
    server = tcp_wire.servers(2)[1]
    sockets = [socket for socket in server._context.unclosed if socket.type != zmq.PAIR]
    assert sorted(socket.type for socket in sockets) == [zmq.DEALER, zmq.ROUTER, zmq.ROUTER]
    for socket in sockets:
        check(socket)


def test_a_clients_sockets() -> None:
    with ExitStack() as stack:
        links = Links(
            lambda link: None,
            lambda address, replies: None,
            trouble=lambda address, text: False,
        )
        stack.callback(links.close)
        (link,) = links.send([("tcp://127.0.0.1:9", [])], 0)
        check(link.socket)
