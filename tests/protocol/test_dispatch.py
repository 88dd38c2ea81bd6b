"""Each message that a server may get has one handler: that of a P2B is the method `on_p2b`."""

from __future__ import annotations

from typing import get_args

from paxon.actors import PaxosServer
from paxon.actors.members import AskMembers, ChangeMembers, Rehearsal, Rehearsed
from paxon.actors.messages import (
    ChangeSettings,
    ClientMessage,
    CountAnswer,
    CountQuestion,
    DigestReply,
    DigestRequest,
    Introduction,
    OpenSession,
    PeerMessage,
    Renew,
    SlotRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    StatusRequest,
    Stranger,
    TellAddresses,
    Unwatch,
    Watch,
    WatchCheck,
)
from paxon.actors.parts.host import Part
from tests.harness import Cluster

BESIDE = {
    Introduction, CountQuestion, CountAnswer, DigestRequest, DigestReply, Watch,
    Unwatch, WatchCheck, Rehearsal, Rehearsed, SnapshotOffer, SnapshotRequest, SnapshotChunk,
    StatusRequest, SlotRequest, Stranger, ChangeMembers, AskMembers, OpenSession, ChangeSettings,
    Renew, TellAddresses,
}  # fmt: skip
"""What decides nothing on ballots and slots: the parts of a server handle these themselves."""
OTHERWISE = {"on_connection_lost", "on_local", "on_timer", "on_places_timer"}
"""Methods that are called by their names."""


def test_each_message_has_one_handler_and_the_protocol_is_the_server_s_own() -> None:
    server = Cluster(1).start().servers[1]
    assert set(server._peer_handlers) == set(get_args(PeerMessage))
    assert set(server._client_handlers) == set(get_args(ClientMessage))
    handlers = server._peer_handlers | server._client_handlers
    for kind, handler in handlers.items():
        assert next(iter(handler.__annotations__.values())) == kind.__name__
        own = handler.__name__ in vars(PaxosServer)
        assert own == (kind not in BESIDE), f"{kind.__name__}: {handler.__module__}"
        assert own or handler.__module__.startswith("paxon.actors.parts.")
    parts = {type(part) for part in vars(server).values() if isinstance(part, Part)}
    methods = [m for owner in (PaxosServer, *parts) for m in vars(owner) if m.startswith("on_")]
    found = sorted(set(methods) - OTHERWISE)
    assert found == sorted(handler.__name__ for handler in handlers.values())
    assert len(found) == len([m for m in methods if m not in OTHERWISE])
