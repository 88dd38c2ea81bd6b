"""The transport within one process: same contract, same bytes, no sockets.

A `MemoryHub` stands for the network. Every message is still encoded and decoded by the codec, so
what works here works on the wire. For embedding several servers in one process and for tests.
"""

from __future__ import annotations

import itertools
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from paxon.transport.burst import Burst
from paxon.transport.codec import FrameCodec
from paxon.transport.errors import FrameError, OversizedFrame, TransportError
from paxon.transport.intake import Ledger, Share, check_count, check_sender
from paxon.transport.options import EndpointOptions
from paxon.transport.wake import Waker

__all__ = ["MemoryHub", "MemoryEndpoint", "MemoryClient"]

PeerT = TypeVar("PeerT")
ClientT = TypeVar("ClientT")
ReplyT = TypeVar("ReplyT")


class _Mailbox:
    """A bounded queue of frames, each with who it is from, that any thread may fill."""

    def __init__(self, waker: Waker, lock: threading.Lock, capacity: int) -> None:
        self._waker = waker
        self._lock = lock
        self._capacity = capacity
        self._frames: deque[tuple[bytes, bytes]] = deque()
        self._closed = False

    def push(self, token: bytes, frame: bytes) -> bool:
        """Add a frame; False if there is no room or nobody reads any more."""
        with self._lock:
            if self._closed or len(self._frames) >= self._capacity:
                return False
            self._frames.append((token, frame))
            self._waker.wake()
            return True

    @property
    def is_full(self) -> bool:
        """Whether nothing more gets in."""
        return len(self._frames) >= self._capacity

    def pop(self) -> tuple[bytes, bytes] | None:
        """The oldest frame; None if there is none."""
        return self._frames.popleft() if self._frames else None

    def close(self) -> None:
        """Stop taking anything, and forget what is there."""
        with self._lock:
            self._closed = True
            self._frames.clear()

    def __bool__(self) -> bool:
        return bool(self._frames)


class MemoryHub:
    """Knows the open endpoints and clients by name; any thread may use it."""

    def __init__(self) -> None:
        self._peer_ports: dict[int, _Mailbox] = {}
        self._client_ports: dict[int, _Mailbox] = {}
        self._clients: dict[bytes, _Mailbox] = {}
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()

    def to_server(self, server: int, frame: bytes) -> bool:
        """Put a raw frame into a server's peer port; False if it is closed or full."""
        port = self._peer_ports.get(server)
        return port is not None and port.push(b"", frame)

    def to_client_port(self, server: int, token: bytes, frame: bytes) -> bool:
        """Put a raw frame from a client into a server's client port; False if closed or full."""
        port = self._client_ports.get(server)
        return port is not None and port.push(token, frame)

    def to_client(self, token: bytes, frame: bytes) -> bool:
        """Put a raw frame into a client's queue; False if it is gone or its queue is full."""
        client = self._clients.get(token)
        return client is not None and client.push(b"", frame)

    def is_full(self, token: bytes) -> bool:
        """Whether a client's queue takes nothing more."""
        client = self._clients.get(token)
        return client is not None and client.is_full

    def open_server(self, server: int, peers: _Mailbox, clients: _Mailbox) -> None:
        """Register a server's ports. Raises `TransportError` if its id is taken."""
        with self._lock:
            if server in self._peer_ports:
                raise TransportError(f"server {server} is open on this hub already: close it first")
            self._peer_ports[server] = peers
            self._client_ports[server] = clients

    def close_server(self, server: int) -> None:
        """Forget a server."""
        with self._lock:
            del self._peer_ports[server], self._client_ports[server]

    def open_client(self, mailbox: _Mailbox) -> bytes:
        """Register a client; gives the token that servers reply to."""
        token = next(self._tokens).to_bytes(8, "big")
        self._clients[token] = mailbox
        return token

    def close_client(self, token: bytes) -> None:
        """Forget a client."""
        self._clients.pop(token, None)


class MemoryEndpoint(Generic[PeerT, ClientT, ReplyT]):
    """A server's endpoint on a hub: same methods and meaning as `ZmqEndpoint`."""

    def __init__(
        self,
        hub: MemoryHub,
        server: int,
        *,
        peer_codec: FrameCodec[PeerT, PeerT],
        client_codec: FrameCodec[ReplyT, ClientT],
        options: EndpointOptions | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open both ports under the server's id. Raises `TransportError` if it is taken."""
        self._hub = hub
        self._server = server
        self._peer_codec = peer_codec
        self._client_codec = client_codec
        self._options = options or EndpointOptions()
        self._senders = frozenset(range(1, self._options.most_servers + 1)) - {server}
        self._ledger = Ledger(monotonic)
        self._waker = Waker()
        lock = threading.Lock()
        self._peer_port = _Mailbox(self._waker, lock, self._options.peer_queue_frames)
        self._client_port = _Mailbox(self._waker, lock, _CLIENT_PORT_FRAMES)
        self._closed = False
        hub.open_server(server, self._peer_port, self._client_port)

    def send(self, server: int, messages: Sequence[PeerT]) -> None:
        """Send one frame to a server, or drop it if it cannot be delivered now."""
        self.broadcast((server,), messages)

    def broadcast(self, servers: Sequence[int], messages: Sequence[PeerT]) -> None:
        """Send the same messages to several servers, encoded once."""
        try:
            frame = self._peer_codec.encode(messages)
        except OversizedFrame as error:
            for part in self._ledger.split(messages, error):
                self.broadcast(servers, part)
            return
        for server in servers:
            if self._hub.to_server(server, frame):
                self._ledger.sent(len(messages), len(frame))
            else:
                self._ledger.counters.dropped_frames += 1

    def reply(self, client: bytes, messages: Sequence[ReplyT]) -> None:
        """Send replies to the client that a burst's token names, or drop them if it is gone."""
        try:
            frame = self._client_codec.encode(messages)
        except OversizedFrame as error:
            for part in self._ledger.split(messages, error):
                self.reply(client, part)
            return
        if self._hub.to_client(client, frame):
            self._ledger.sent(len(messages), len(frame))
        else:
            self._ledger.counters.dropped_replies += 1

    def receive(self) -> Burst[PeerT, ClientT]:
        """All that has arrived, bounded on each port by itself. Never blocks."""
        burst: Burst[PeerT, ClientT] = Burst()
        peers = self._drain(self._peer_port, self._peer_codec, self._senders, burst)
        clients = self._drain(self._client_port, self._client_codec, _CLIENTS, burst)
        burst.peers = [decoded for _, decoded in peers]
        burst.clients = [(token, decoded[2]) for token, decoded in clients]
        return burst

    def _drain(
        self,
        port: _Mailbox,
        codec: FrameCodec[Any, Any],
        senders: frozenset[int],
        burst: Burst[PeerT, ClientT],
    ) -> list[tuple[bytes, tuple[int, int, list[Any]]]]:
        counters = self._ledger.counters
        options = self._options
        bytes_left = options.burst_bytes
        share = Share(options) if senders is _CLIENTS else None
        most = options.peer_frame_messages if share is None else options.client_frame_messages
        name = "peer port" if share is None else "client port"
        taken: list[tuple[bytes, tuple[int, int, list[Any]]]] = []
        for _ in range(options.burst_frames):
            arrived = port.pop() if bytes_left > 0 else None
            if arrived is None:
                break
            token, frame = arrived
            bytes_left -= len(frame)
            counters.frames_received += 1
            counters.bytes_received += len(frame)
            try:
                check_count(codec.count(frame), most)
                decoded = codec.decode(frame)
                check_sender(decoded[0], senders, name)
            except FrameError as error:
                self._ledger.refuse(error, f"an unnamed sender ({name})")
                if share is not None and isinstance(error, OversizedFrame):
                    burst.refused.append(token)
                continue
            counters.messages_received += len(decoded[2])
            taken.append((token, decoded))
            if share is not None and share.is_spent(token, len(decoded[2])):
                break
        return taken

    def wait(self, timeout_seconds: float | None, wake_fd: int) -> bool:
        """Sleep until something arrives, `wake_fd` is readable or the time is up (to 1 ms).

        Returns whether `wake_fd` is readable.
        """
        # Cleared before looking: what arrives after the look wakes the poll.
        self._waker.clear()
        if self._peer_port or self._client_port:
            return False
        return wake_fd in _poll((self._waker.descriptor, wake_fd), timeout_seconds)

    def identify(self, identity: int, *, in_force: bool) -> None:
        """Name this cluster to servers from now on, and once it is in force to clients too."""
        self._peer_codec.identify(identity)
        if in_force:
            self._client_codec.identify(identity)

    def meet(self, keys: Mapping[int, str]) -> None:
        """Everybody is within reach here."""

    def keys(self) -> dict[int, str]:
        """Nobody has one here."""
        return {}

    def reach(self, server: int, addresses: Sequence[str]) -> None:
        """Nobody moves here."""

    def elsewhere(self, server: int) -> None:
        """The same."""

    def ignore(self, clients: Collection[bytes]) -> None:
        """Nobody sends so much here."""

    def congested(self, client: bytes) -> bool:
        """Whether a client has so much to read that what it asks for had better wait."""
        return self._hub.is_full(client)

    def counters(self) -> dict[str, int]:
        """Totals by name (`paxon.transport.intake.Counters`)."""
        return self._ledger.as_dict()

    def close(self) -> None:
        """Leave the hub; frames not yet received are lost. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._hub.close_server(self._server)
        self._peer_port.close()
        self._client_port.close()
        self._waker.close()


class MemoryClient(Generic[ClientT, ReplyT]):
    """A client of one server on a hub. Used by one thread."""

    def __init__(self, hub: MemoryHub, server: int, codec: FrameCodec[ClientT, ReplyT]) -> None:
        self._hub = hub
        self._server = server
        self._codec = codec
        self._waker = Waker()
        self._mailbox = _Mailbox(
            self._waker, threading.Lock(), EndpointOptions().client_queue_frames
        )
        self._token = hub.open_client(self._mailbox)

    def send(self, messages: Sequence[ClientT]) -> bool:
        """Send one frame; False if the server is not there or too busy."""
        return self.send_frame(self._codec.encode(messages))

    def send_frame(self, frame: bytes) -> bool:
        """Send bytes that are a frame, or are not."""
        return self._hub.to_client_port(self._server, self._token, frame)

    def receive(self, timeout_seconds: float) -> list[ReplyT] | None:
        """The replies of the next frame; None if none came in time. Raises `FrameError`."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._waker.clear()
            arrived = self._mailbox.pop()
            if arrived is not None:
                return self._codec.decode(arrived[1])[2]
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            _poll((self._waker.descriptor,), remaining)

    @property
    def descriptor(self) -> int:
        """Readable once something has come; until `frames` is asked."""
        return self._waker.descriptor

    def frames(self) -> Iterator[bytes]:
        """The frames that have come, as they came. Never blocks."""
        self._waker.clear()
        while (arrived := self._mailbox.pop()) is not None:
            yield arrived[1]

    def close(self) -> None:
        """Leave the hub. May be called twice."""
        self._hub.close_client(self._token)
        self._mailbox.close()
        self._waker.close()


_CLIENT_PORT_FRAMES = 1024
"""Frames of all clients that may wait for a server."""
_CLIENTS = frozenset((0,))
"""What the header of a client's frame names as its sender."""


def _poll(descriptors: Sequence[int], timeout_seconds: float | None) -> list[int]:
    """Sleep until one is readable or the time is up. Returns those that are."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    timeout_ms = None if timeout_seconds is None else max(0.0, timeout_seconds * 1000)
    return [descriptor for descriptor, _ in poll.poll(timeout_ms)]
