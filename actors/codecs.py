"""The codecs of servers and clients: which messages travel where, and what passes unidentified."""

from __future__ import annotations

from typing import TypeAlias

from paxon.actors.ballot import ServerId
from paxon.actors.messages import (
    PROTOCOL_VERSION,
    ClientMessage,
    Introduction,
    OtherCluster,
    PeerMessage,
    PortOfServers,
    ServerReply,
    Stranger,
)
from paxon.transport import FrameCodec

__all__ = [
    "PeerCodec", "ClientPortCodec", "ClientCodec", "peer_codec", "port_codec", "client_codec",
]  # fmt: skip

PeerCodec: TypeAlias = FrameCodec[PeerMessage, PeerMessage]
ClientPortCodec: TypeAlias = FrameCodec[ServerReply, ClientMessage]
ClientCodec: TypeAlias = FrameCodec[ClientMessage, ServerReply]


def peer_codec(server: ServerId, incarnation: int) -> PeerCodec:
    """Between servers: only introductions pass while they are not of one cluster."""
    return FrameCodec(
        PeerMessage,
        PeerMessage,
        protocol_version=PROTOCOL_VERSION,
        introductions=(Introduction,),
        sender=server,
        incarnation=incarnation,
    )


def port_codec(server: ServerId) -> ClientPortCodec:
    """A server's, for clients: of a frame that names another cluster only that is handed over."""
    return FrameCodec(
        ServerReply,
        ClientMessage,
        protocol_version=PROTOCOL_VERSION,
        sender=server,
        accept_any_cluster=True,
        stranger=Stranger,
    )


def client_codec(*, pins: bool = True) -> ClientCodec:
    """A client's: with `pins` it belongs to the cluster that answers first, and to no other."""
    return FrameCodec(
        ClientMessage,
        ServerReply,
        protocol_version=PROTOCOL_VERSION,
        accept_any_cluster=True,
        pins=pins,
        introductions=(OtherCluster, PortOfServers),
    )
