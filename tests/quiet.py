"""A server's network of which only what a test looks at does anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from paxon.actors import ServerId
from paxon.actors.messages import PeerMessage

__all__ = ["QuietNetwork"]


class QuietNetwork:
    """See `paxon.actors.environment.Network`; `send` and `reply` are a subclass's."""

    __slots__ = ()

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        raise NotImplementedError

    def broadcast(self, servers: Sequence[ServerId], messages: Sequence[PeerMessage]) -> None:
        for server in servers:
            self.send(server, messages)

    def identify(self, identity: int, *, in_force: bool) -> None:
        """Frames are not encoded here."""

    def meet(self, keys: Mapping[int, str]) -> None:
        """Everybody is within reach here."""

    def keys(self) -> dict[int, str]:
        return {}

    def reach(self, server: ServerId, addresses: Sequence[str]) -> None:
        """Nobody moves here."""

    def elsewhere(self, server: ServerId) -> None:
        """The same."""

    def ignore(self, clients: Collection[bytes]) -> None:
        """Nobody sends so much here."""

    def congested(self, client: bytes) -> bool:
        return False

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing to release."""
