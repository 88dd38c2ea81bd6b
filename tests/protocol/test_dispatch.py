"""Each message that a server may get has one handler: who handles a P2B is read in one place."""

from __future__ import annotations

from typing import get_args

from paxon.actors import PaxosServer
from paxon.actors.messages import (
    ClientMessage,
    CountAnswer,
    CountQuestion,
    DigestReply,
    DigestRequest,
    Introduction,
    PeerMessage,
    Rehearsal,
    Rehearsed,
    SlotRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    StatusRequest,
    Stranger,
    Unwatch,
    Watch,
    WatchCheck,
    Whereabouts,
)
from tests.harness import Cluster


def test_all_messages_of_servers_and_of_clients_have_a_handler_and_nothing_else_has() -> None:
    server = Cluster(1).start().servers[1]
    assert set(server._peer_handlers) == set(get_args(PeerMessage))
    assert set(server._client_handlers) == set(get_args(ClientMessage))


BESIDE = {
    Introduction, CountQuestion, CountAnswer, Whereabouts, DigestRequest, DigestReply, Watch,
    Unwatch, WatchCheck, Rehearsal, Rehearsed, SnapshotOffer, SnapshotRequest, SnapshotChunk,
    StatusRequest, SlotRequest, Stranger,
}  # fmt: skip
"""What decides nothing on ballots and slots: the parts of a server handle these themselves."""


def test_no_handler_takes_two_kinds_of_messages_and_the_protocol_is_the_server_s_own() -> None:
    server = Cluster(1).start().servers[1]
    handlers = server._peer_handlers | server._client_handlers
    names = [handler.__name__ for handler in handlers.values()]
    assert len(set(names)) == len(names)
    for kind, handler in handlers.items():
        own = handler.__name__ in vars(PaxosServer)
        assert own == (kind not in BESIDE), f"{kind.__name__}: {handler.__module__}"
        assert own or handler.__module__.startswith("paxon.actors.parts.")
