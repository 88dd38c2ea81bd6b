"""A client's sockets: a DEALER to each server, opened when first needed. No thread of its own.

The thread that holds the client's lock does all of this. Another thread may wait for a socket's
file descriptor meanwhile. ZeroMQ signals it by edges, so after any use of a socket its events have
to be looked at again (`drain`) before anyone waits.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import zmq

from paxon.actors.codecs import client_codec
from paxon.actors.messages import OtherCluster, ServerReply
from paxon.kvstore.client.addresses import check_address, split_addresses
from paxon.kvstore.client.requests import Outgoing
from paxon.kvstore.errors import InvalidRequest
from paxon.transport import (
    Context,
    ForeignCluster,
    FrameError,
    LinkMonitor,
    OtherVersion,
    TransportError,
    end_when_vanished,
)
from paxon.transport.binding import is_host_name

__all__ = ["Link", "Links", "MEMORY", "Receive", "Secure", "links_to", "server_addresses"]

Receive = Callable[[str, Sequence[ServerReply]], None]
"""Takes in a frame: the server's address and its messages."""

Trouble = Callable[[str, str], bool]
"""Is told of a server's address and what is wrong with it ("": nothing any more); says whether that
is news."""

Secure = Callable[["zmq.Socket[bytes]", str], None]
"""Prepares a socket for encryption before it connects to the address."""

# As plain ints: an operation on zmq's own flags makes a new enumeration member each time.
_NOBLOCK = int(zmq.NOBLOCK)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_NAMES = 1
"""Links that have a thread of libzmq's each, if the first address is a name; others share one."""
_OWN_NAME = "tcp://localhost:"
"""Nobody far away has to be asked for it."""
_REDIAL_SECONDS = 0.5
"""How long to leave a server alone that has refused us."""
_VANISHED_AFTER = 6.0
"""Seconds after which a server's machine that answers nothing counts as gone."""

_OPTIONS = {
    zmq.LINGER: 0,
    zmq.IMMEDIATE: 1,  # queue for finished connections only: what is stale is never delivered late
    zmq.RCVHWM: 0,  # bounded by what was asked for
    zmq.RECONNECT_IVL: 20,
    zmq.RECONNECT_IVL_MAX: 200,
    zmq.CONNECT_TIMEOUT: 500,
    zmq.HANDSHAKE_IVL: 3000,
    zmq.IPV6: 1,
}
"""Times in milliseconds."""


def server_addresses(servers: str | Iterable[str]) -> list[str]:
    """Addresses from a comma-separated text or a list of them. Raises `InvalidRequest`."""
    try:
        if isinstance(servers, str):
            return split_addresses(servers)
        texts = list(servers)
    except TypeError:
        texts = [servers]  # type: ignore[list-item]  # whatever it is, it is named below
    except ValueError as error:
        raise InvalidRequest(f"servers: {error}") from None
    found: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequest(f"servers: an address has to be text, not {servers!r}")
        try:
            found += split_addresses(text)
        except ValueError as error:
            raise InvalidRequest(f"servers: {error}") from None
    return found


class Link:
    """The connection to one server."""

    __slots__ = (
        "address",
        "backlog",
        "epoch",
        "fd",
        "lost_fd",
        "monitor",
        "socket",
        "wrong",
    )

    def __init__(self, address: str, socket: zmq.Socket[bytes]) -> None:
        self.address = address
        self.socket = socket
        self.fd = int(socket.getsockopt(zmq.FD))
        try:
            self.monitor = LinkMonitor(socket, _REDIAL_SECONDS)
        except zmq.ZMQError:  # no descriptors left, for one
            socket.close()
            raise
        self.lost_fd = int(self.monitor.socket.getsockopt(zmq.FD))
        """Becomes readable when the connection ends; then ask `Links.ended`."""
        self.wrong = ""
        """What was last told of it, as `LinkMonitor.wrong`."""
        self.backlog: deque[bytes] = deque()
        """Frames that wait for the connection."""
        self.epoch = 0
        """Frames that were not ones of a server of this release."""

    def attend(self) -> None:
        """Try a server again that has refused us: it may know our key by now, or be elsewhere."""
        if self.monitor.redial_at < math.inf and time.monotonic() >= self.monitor.redial_at:
            self.monitor.attend(time.monotonic())

    def close(self) -> None:
        """Close it at once."""
        self.monitor.close()
        self.socket.close()


class Links:
    """All links of a client."""

    def __init__(
        self,
        on_open: Callable[[Link], None],
        receive: Receive,
        *,
        trouble: Trouble,
        secure: Secure | None = None,
        pins: bool = True,
    ) -> None:
        """Open nothing yet.

        Args:
            on_open: told of each new link, whose `fd` has to be waited for.
            receive: gets what comes in.
            trouble: told what is wrong with a server's address; says whether that is news.
            secure: prepares each socket for encryption.
            pins: belong to the cluster that answers first, and to no other.
        """
        self._contexts = [Context()]
        """The second one, if any, is for names that are told to a client of numbers."""
        self._links: dict[str, Link] = {}
        # A client that nobody closed must not wait for its sockets when it is collected.
        self._release = weakref.finalize(self, _close_all, self._links, self._contexts, os.getpid())
        self._release.atexit = False  # other threads may be at work with them: drivers see to it
        self._on_open = on_open
        self._receive = receive
        self._tell_trouble = trouble
        self._secure = secure
        self._codec = client_codec(pins=pins)

    def send(self, outgoing: Iterable[Outgoing], epoch: int) -> list[Link]:
        """Send frames, or keep them until the connection is there; returns the links used.

        A link whose frames belong to an earlier `epoch` forgets them: all in them that still
        matters is in later frames too.
        """
        used: dict[str, Link] = {}
        for address, messages in outgoing:
            link = self._links.get(address) or self._open(address)
            if link is None:
                continue
            link.attend()
            if link.epoch != epoch:
                link.backlog.clear()
                link.epoch = epoch
            link.backlog.append(self._codec.encode(messages))
            used[address] = link
        for link in used.values():
            self._flush(link)
        return list(used.values())

    def drain(self, link: Link) -> bool:
        """Take in all that has come, send what could not be before; whether anything came."""
        socket = link.socket
        came = False
        while True:
            events = int(socket.getsockopt(zmq.EVENTS))
            if events & _POLLIN:
                came = True
                self._take(link, socket.recv(_NOBLOCK))
            elif link.backlog and events & _POLLOUT:
                self._flush(link)
            else:
                return came

    def ended(self, link: Link) -> bool:
        """Whether the link's connection has ended since the last call (a new one is under way)."""
        monitor, now = link.monitor, time.monotonic()
        ended = monitor.attend(now)
        # The monitor's descriptor is signalled by edges too: see to it that no edge is left over.
        while int(monitor.socket.getsockopt(zmq.EVENTS)) & _POLLIN:
            ended |= monitor.attend(now)
        if link.wrong != monitor.wrong:
            link.wrong = monitor.wrong
            self._tell_trouble(link.address, link.wrong)
        return ended

    def _take(self, link: Link, frame: bytes) -> None:
        try:
            _, _, replies = self._codec.decode(frame)
        except ForeignCluster as error:
            self._receive(link.address, [OtherCluster("", error.identity, self._codec.identity)])
            return
        except OtherVersion as error:
            self._tell_trouble(link.address, str(error))
            return
        except FrameError as error:
            self._tell_trouble(link.address, f"what it sends cannot be read ({error})")
            return
        self._receive(link.address, replies)

    def _flush(self, link: Link) -> None:
        backlog = link.backlog
        try:
            while backlog:
                link.socket.send(backlog[0], _NOBLOCK)
                backlog.popleft()
        except zmq.Again:
            return  # `drain` goes on once the socket can be written to

    def _open(self, address: str) -> Link | None:
        """A new link; None for an address that cannot be used (a server may hint at any)."""
        link: Link | None = None
        try:
            check_address(address)
            link = Link(address, self._context_for(address).socket(zmq.DEALER))
            for option, value in _OPTIONS.items():
                link.socket.setsockopt(option, value)
            end_when_vanished(link.socket, _VANISHED_AFTER)
            if self._secure is not None:
                self._secure(link.socket, address)
            link.monitor.dial(address)
        except (ValueError, zmq.ZMQError, TransportError) as error:
            self._tell_trouble(address, f"it cannot be connected to ({error})")
            if link is not None:
                link.close()
            return None
        self._on_open(link)  # first: a link that nobody waits for must not be found and used
        self._links[address] = link
        return link

    def _context_for(self, address: str) -> Context:
        """That whose threads dial the address: looking up a far name holds up no other link."""
        first = self._contexts[0]
        if not is_host_name(address) or address.startswith(_OWN_NAME):
            return first
        if not first.begun:
            first.apart(_NAMES)
        elif not first.spare and len(self._contexts) == 1:
            self._contexts.append(Context(_NAMES))
        return self._contexts[-1]

    def close(self) -> None:
        """Close all sockets at once; what has not left is dropped. May be called twice."""
        self._release()


MEMORY: list[type[Links]] = []
"""The links to servers in this process, whose addresses are memory://NAME (paxon.testing)."""


def links_to(servers: Iterable[str]) -> type[Links]:
    """The kind of links for these servers. Raises `InvalidRequest` for addresses that none fit."""
    in_memory = sum(address.startswith("memory://") for address in servers)
    if in_memory and not MEMORY:
        raise InvalidRequest("memory://… is a server of paxon.testing, which is not imported here")
    return MEMORY[0] if in_memory else Links


def _close_all(links: dict[str, Link], contexts: list[Context], owner: int) -> None:
    """Close all sockets and contexts, unless they are a parent process's."""
    if os.getpid() != owner:
        return
    try:
        for link in links.values():
            link.close()
    finally:
        links.clear()
        for context in contexts:
            context.destroy(linger=0)
