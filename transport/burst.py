"""What a server receives in one go."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

__all__ = ["Burst"]

PeerT = TypeVar("PeerT")
ClientT = TypeVar("ClientT")


class Burst(msgspec.Struct, Generic[PeerT, ClientT]):
    """All that could be received without blocking, bounded; empty when only a timer is due."""

    peers: list[tuple[int, int, list[PeerT]]] = []
    """From other servers, a frame each: sender's id, sender's incarnation, messages in order."""
    clients: list[tuple[bytes, list[ClientT]]] = []
    """From clients, a frame each: the token to reply to, messages in order."""

    client_bytes: int = 0
    """What the frames of clients come to."""

    lost: list[int] = []
    """Servers whose connection has just ended: their process died, or the network cut it."""

    refused: list[bytes] = []
    """Clients of which a frame was thrown away, undecoded, for it holds too many messages."""

    ignored: set[bytes] = set()
    """Clients of which frames were thrown away, undecoded, as the server wished."""

    gone: list[bytes] = []
    """Clients that are no longer there, as a reply to them showed."""

    def __bool__(self) -> bool:
        return bool(
            self.peers or self.clients or self.lost or self.refused or self.ignored or self.gone
        )
