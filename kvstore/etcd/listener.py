"""One port for all: gRPC (HTTP/2 by prior knowledge), and JSON over HTTP/1.1."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from paxon.kvstore.etcd.calls import Method
from paxon.kvstore.etcd.grpc import GrpcCall
from paxon.kvstore.etcd.http2 import PREFACE, ConnectionFault, Http2, Stream, Tally
from paxon.transport.binding import why_not_listening
from paxon.transport.descriptors import AT_ONCE, listen_longer, say_once_that_none_are_taken

if TYPE_CHECKING:
    from paxon.kvstore.etcd.http1 import Http1, Page

__all__ = ["Listener"]

_MAX_CONNECTIONS = 20_000
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between two questions, and how many: a machine that vanished is
gone after a minute, and who merely does not read stays."""
_RESERVED = 64
"""Descriptors, or a quarter of those that the process may have."""
_HANDSHAKE_SECONDS = 20.0
"""So long a client may take to begin TLS."""
_MAX_UNREAD = 1 << 20
"""Bytes that the socket may owe a client before nothing more is taken from it."""
_MUCH_OWED, _MAX_OWED, _STALLED_SECONDS = 8 << 20, 160 << 20, 0.5
"""If so many bytes of answers wait for a client, and none of them left for so long, or more wait
than one answer may have, its new calls are refused."""


def _last_descriptor() -> int:
    """The first of those that connections may not take: links to servers and files need some, too.

    The kernel gives out the lowest number that is free.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(limit // 4, _RESERVED)


def _end_when_vanished(link: socket.socket) -> None:
    """Have TCP ask whether the client's machine is there, and give it up if it is not."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            link.setsockopt(socket.IPPROTO_TCP, option, value)


class _Connection(asyncio.Protocol):
    """One client: HTTP/2 or HTTP/1.1, as its first bytes say."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._speaks: Http2 | None = None
        self._first = b""
        self._http1: Http1 | None = None
        self._planned = False
        self._moved, self._moved_at = 0, 0.0
        """How much of its answers had left when it called, and since when."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connections = self._listener.connections
        link: socket.socket = transport.get_extra_info("socket")
        if len(connections) >= _MAX_CONNECTIONS or link.fileno() >= _last_descriptor():
            self._transport.abort()
            return
        _end_when_vanished(link)
        connections.add(self)
        self._transport.set_write_buffer_limits(high=_MAX_UNREAD)

    def data_received(self, data: bytes) -> None:
        if self._http1 is not None:
            self._http1.receive(data)
            return
        if self._speaks is None:
            self._first += data
            data = self._first
            if not PREFACE.startswith(data[: len(PREFACE)]):
                if data[:1].isalpha() or data[:1] in b"\r\n":
                    self._become_http1(data)
                elif self._transport is not None:  # TLS or ZeroMQ, whose clients wait for an answer
                    self._transport.close()
                return
            if len(data) < len(PREFACE):
                return
            self._first = b""
            self._speaks = Http2(self._accept, self._plan, self._send, self._listener.tally)
        try:
            self._speaks.receive(data)
        except ConnectionFault as fault:
            self._end(fault)

    def _become_http1(self, data: bytes) -> None:
        from paxon.kvstore.etcd.http1 import Http1  # noqa: PLC0415 (part of an extra)

        assert self._transport is not None
        listener = self._listener
        self._first = b""
        self._http1 = Http1(
            listener.count, listener.methods, listener.pages, self._transport, listener.tally
        )
        self._http1.receive(data)

    def _accept(self, stream: Stream) -> GrpcCall:
        assert self._speaks is not None
        self._listener.count()
        return GrpcCall(stream, self._listener.methods, busy=self._is_stalled(self._speaks))

    def _is_stalled(self, speaks: Http2) -> bool:
        """Whether too much waits for a client that takes too little."""
        owed, now = speaks.blocked_bytes, asyncio.get_running_loop().time()
        if owed <= _MUCH_OWED or speaks.moved != self._moved:
            self._moved, self._moved_at = speaks.moved, now
        return owed > _MAX_OWED or now - self._moved_at > _STALLED_SECONDS

    def _plan(self) -> None:
        """Send at the end of this turn of the loop: what others have to say by then, too."""
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._planned = False
        self._send()

    def _send(self) -> None:
        speaks, transport = self._speaks, self._transport
        if speaks is None or transport is None or transport.is_closing():
            return
        if speaks.fault is not None:
            self._end(speaks.fault)
            return
        if speaks.outgoing:
            data, speaks.outgoing = speaks.outgoing, bytearray()
            transport.write(data)
            speaks.sent()

    def _end(self, fault: ConnectionFault) -> None:
        """Say why, and close."""
        assert self._speaks is not None and self._transport is not None
        self._speaks.go_away(fault)
        self._transport.write(self._speaks.outgoing)
        self._speaks.outgoing = bytearray()
        self._transport.close()

    def pause_writing(self) -> None:
        assert self._transport is not None
        if self._speaks is not None:
            self._speaks.paused = True
        if self._http1 is not None:
            self._http1.room.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()
        if self._speaks is not None:
            self._speaks.resumed()
        if self._http1 is not None:
            self._http1.room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.connections.discard(self)
        if self._speaks is not None:
            self._speaks.lost()
        if self._http1 is not None:
            self._http1.lost()
        self._speaks = self._http1 = self._transport = None  # (they would be circles)

    def close(self) -> None:
        """The gateway stops."""
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """Takes in connections."""

    def __init__(self, methods: Mapping[str, Method], pages: Mapping[str, Page]) -> None:
        self.methods, self.pages = methods, pages
        self.requests = 0
        """Calls that came."""
        self.tally = Tally()
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    def count(self) -> None:
        """A call has come."""
        self.requests += 1

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Have the port, which is returned, but take nobody in yet. Raises OSError."""
        loop = asyncio.get_running_loop()
        say_once_that_none_are_taken(loop)
        handshake = None if tls is None else _HANDSHAKE_SECONDS
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self), host, port, ssl=tls, backlog=AT_ONCE,
                start_serving=False, ssl_handshake_timeout=handshake,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise OSError(f"cannot listen at {host}:{port}: {why_not_listening(error)}") from None
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def serve(self) -> None:
        """Take clients in."""
        assert self._server is not None
        await self._server.start_serving()
        listen_longer(self._server)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
