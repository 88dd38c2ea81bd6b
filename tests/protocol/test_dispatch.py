"""Each message has one handler (of a P2B it is `on_p2b`), and each form of them a version."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from paxon.actors import PaxosServer
from paxon.actors.ballot import Ballot, Wire
from paxon.actors.members import AskMembers, ChangeMembers, Rehearsal, Rehearsed
from paxon.actors.messages import (
    PROTOCOL_VERSION,
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
from paxon.kvstore.store.operations import Put
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
SPOKEN = {
    "paxon.actors.messages", "paxon.actors.members", "paxon.actors.slot_values",
    "paxon.kvstore.store.operations",
}  # fmt: skip
"""Where that is what servers and clients send to each other."""


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


def lines_of(base: type[msgspec.Struct]) -> Iterator[str]:
    """A line for each struct that goes over the wire: its tag, its fields in order, defaults."""
    for kind in base.__subclasses__():
        if kind.__module__ in SPOKEN:
            yield f"{kind.__struct_config__.tag} {kind.__name__} {fields_of(kind)}"


def fields_of(kind: type[msgspec.Struct]) -> str:
    written: dict[str, Any] = inspect.get_annotations(kind)
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    named = {name: f": {written[name]} = {defaults[name]!r}" for name in kind.__struct_fields__}
    return ", ".join(name + rest for name, rest in named.items())


def test_other_messages_or_operations_are_another_version_of_the_protocol() -> None:
    """A server refuses other versions' frames, so none executes what another cannot read.

    If this fails, raise `PROTOCOL_VERSION` (unless only names have changed: they are not sent),
    and write down here what the assertion shows.
    """
    store = Put.__base__
    assert store is not None
    lines = [fields_of(Ballot), *sorted(lines_of(Wire)), *sorted(lines_of(store))]
    form = hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
    assert (PROTOCOL_VERSION, form) == (13, "53fa961bb52b0414")
