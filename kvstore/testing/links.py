"""How a client reaches a server of this process: frames through the hub, no sockets."""

from __future__ import annotations

from collections import deque

from paxon.actors.codecs import client_codec
from paxon.kvstore.client.links import Link, Links
from paxon.kvstore.testing.server import MemoryServer, server_at
from paxon.transport import MemoryClient

__all__ = ["MemoryLink", "MemoryLinks"]


class MemoryLink(Link):
    """The connection to a server of this process."""

    __slots__ = ("end", "lost", "server")

    def __init__(self, address: str, server: MemoryServer) -> None:
        # Nothing of `Link.__init__`, which is about sockets.
        self.address = address
        self.server = server
        self.end = MemoryClient(server.hub, server.id, client_codec())
        self.fd = self.end.descriptor
        self.lost = server.watch()
        self.lost_fd = self.lost.descriptor
        self.backlog: deque[bytes] = deque()
        self.epoch = 0

    def attend(self) -> None:
        """Nobody refuses anybody here."""

    def close(self) -> None:
        """Leave the hub."""
        self.end.close()
        self.server.unwatch(self.lost)
        self.lost.close()


class MemoryLinks(Links):
    """All links of a client of `memory://…`."""

    def drain(self, link: Link) -> bool:
        """Take in all that has come; whether anything has."""
        assert isinstance(link, MemoryLink)
        came = False
        for frame in link.end.frames():
            came = True
            self._take(link, frame)
        return came

    def ended(self, link: Link) -> bool:
        """Whether the server has stopped since the last call."""
        assert isinstance(link, MemoryLink)
        link.lost.clear()
        return True

    def _flush(self, link: Link) -> None:
        """What a server does not take in now is lost, as it would be with a connection."""
        assert isinstance(link, MemoryLink)
        while link.backlog:
            link.end.send_frame(link.backlog.popleft())

    def _open(self, address: str) -> Link | None:
        server = server_at(address)
        if server is None:
            self._tell_trouble(address, "no server of that name is open in this process")
            return None
        link = MemoryLink(address, server)
        self._on_open(link)
        self._links[address] = link
        return link
