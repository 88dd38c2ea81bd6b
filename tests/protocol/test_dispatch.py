"""Each message that a server may get has one handler: who handles a P2B is read in one place."""

from __future__ import annotations

from typing import get_args

from paxon.actors import PaxosServer
from paxon.actors.messages import ClientMessage, PeerMessage
from tests.harness import Cluster


def test_all_messages_of_servers_and_of_clients_have_a_handler_and_nothing_else_has() -> None:
    server = Cluster(1).start().servers[1]
    assert set(server._peer_handlers) == set(get_args(PeerMessage))
    assert set(server._client_handlers) == set(get_args(ClientMessage))


def test_no_handler_takes_two_kinds_of_messages_and_all_are_the_server_s_own() -> None:
    server = Cluster(1).start().servers[1]
    handlers = [*server._peer_handlers.values(), *server._client_handlers.values()]
    names = [handler.__name__ for handler in handlers]
    assert len(set(names)) == len(names)
    for name in names:
        assert name in vars(PaxosServer), f"{name} is not in actors/server.py"
