"""A server's sockets: one ROUTER for peers, one ROUTER for clients, one DEALER per peer.

All belong to the thread that made the endpoint. Nothing here blocks except `wait`, and `close` for
a bounded time: what cannot be sent at once is dropped and counted, because the protocol sends
again what matters. A dead or silent peer costs one failed call a frame and no memory: DEALERs
queue only for finished connections (IMMEDIATE).

Routers hand out a fresh routing id per connection. ROUTER_HANDOVER stays off: with it a stranger
that claims another client's id would get that client's replies.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import zmq

from paxon.transport.binding import bind, is_host_name
from paxon.transport.burst import Burst
from paxon.transport.codec import FrameCodec
from paxon.transport.context import Context
from paxon.transport.descriptors import DescriptorGuard
from paxon.transport.errors import (
    ForeignFrame,
    FrameError,
    MalformedFrame,
    OtherVersion,
    OversizedFrame,
    TransportError,
)
from paxon.transport.intake import (
    FRAMING_BYTES,
    LOOK_SECONDS,
    Brake,
    Ledger,
    Share,
    Unread,
    check_count,
    check_sender,
    unexpected,
)
from paxon.transport.keys import (
    CurveSecurity,
    KeyKeeper,
    PeerKeys,
    check_key,
    require_curve,
    secure_client,
    secure_port,
)
from paxon.transport.monitor import LinkMonitor, PortMonitor
from paxon.transport.options import EndpointOptions
from paxon.transport.outgoing import LargeFrames
from paxon.transport.vanished import end_when_vanished

__all__ = ["ZmqEndpoint"]

PeerT = TypeVar("PeerT")
ClientT = TypeVar("ClientT")
ReplyT = TypeVar("ReplyT")

_NOBLOCK = int(zmq.NOBLOCK)
_POLLIN = int(zmq.POLLIN)
_EVENTS = zmq.EVENTS  # (of a number pyzmq would look up the constant each time)
_MORE_NOBLOCK = int(zmq.NOBLOCK | zmq.SNDMORE)
_PEER_PORT = "peer port"
_CLIENT_PORT = "client port"
_CLIENTS = frozenset((0,))
"""What the header of a client's frame names as its sender."""
_HARD_LIMIT_FACTOR = 2
"""A frame of more than this many times `max_frame_bytes` ends its connection."""
_BACKLOG = 1024
"""Connections that may knock at a port at once (all clients of a leader that died)."""

_NOT_READING_SECONDS = 0.02
"""For so long a client whose queue of replies was full gets no service."""
_REMEMBERED = 4096
"""Clients remembered as not reading."""
_ASKED_FRAMES = 2
"""After so many frames of a burst the port is asked whether there is another …"""
_LONE_BURSTS = 16
"""… unless it gave one in each of so many bursts, and this thread slept until this one came. (To
ask takes three microseconds of the 25 in which a frame becomes a step.)"""
_SLEPT_SECONDS = 20e-6
_COPIED_BYTES = 4096
"""To copy a frame up to this size takes less than a view of it."""
_LIKELY_NAMES = 2
_HOUSEKEEPING_EVERY = 64
"""Bursts between two looks at the monitors while the loop never sleeps."""


class _Port:
    """One bound ROUTER: what is received on it, decoded by which codec, from whom."""

    __slots__ = (
        "count", "decode", "keys", "lone_bursts", "max_messages", "name", "sender", "senders",
        "socket", "unread",
    )  # fmt: skip

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        codec: FrameCodec[Any, Any],
        senders: Collection[int],
        name: str,
        *,
        keys: PeerKeys | None,
        max_messages: int,
        unread: Unread,
    ) -> None:
        self.socket = socket
        self.unread = unread
        self.decode = codec.decode
        self.count = codec.count
        self.sender = codec.sender
        self.max_messages = max_messages
        self.senders = senders
        self.name = name
        self.keys = keys
        """By which each sender's connection must have been opened; None: by any."""
        self.lone_bursts = 0
        """How many in a row were of one frame."""

    def has_more(self) -> bool:
        """Whether another frame can be received now."""
        events: int = self.socket.getsockopt(_EVENTS)  # type: ignore[assignment]
        return bool(events & _POLLIN)

    def skip_parts(self) -> None:
        """Take the parts that should not be there, so that the next frame begins where it does."""
        while self.socket.recv(_NOBLOCK, False).more:
            pass
        raise MalformedFrame("it has more than one part: send the header and body as one")

    def check_count(self, buffer: bytes | memoryview) -> None:
        """Raise `OversizedFrame` for a frame of too many messages: they take far more in memory."""
        check_count(self.count(buffer), self.max_messages)

    def check_sender(self, sender: int, frame: zmq.Frame) -> None:
        """Raise `ForeignFrame` for a sender that may not speak here, or not under this key."""
        check_sender(sender, self.senders, self.name)
        if self.keys is not None and frame.get("User-Id") != self.keys.of(sender):
            raise ForeignFrame(f"it names server {sender} as its sender, but has another's key")

    def who_else(self, frame: zmq.Frame) -> int | None:
        """The sender of a frame, if one of our own kind took this port for another; else None."""
        sender = self.sender(frame.buffer)
        return None if sender in self.senders else sender

    def origin(self, frame: zmq.Frame) -> str:
        """The sender of a frame, for the log: the remote host, as far as the transport tells."""
        try:
            host = frame.get("Peer-Address")
        except zmq.ZMQError:
            host = ""  # Connections over ipc, or by ZeroMQ's oldest protocol, have no address.
        return f"{host or 'an unnamed sender'} ({self.name})"


def _names_among(peers: Mapping[int, str]) -> int:
    """How many links are likely to dial names: a server that is to join knows nobody yet."""
    return sum(map(is_host_name, peers.values())) if peers else _LIKELY_NAMES


class ZmqEndpoint(Generic[PeerT, ClientT, ReplyT]):
    """The `Network` of a server, and the source of its bursts. One thread."""

    def __init__(
        self,
        *,
        peer_address: str,
        client_address: str,
        peers: Mapping[int, str],
        peer_codec: FrameCodec[PeerT, PeerT],
        client_codec: FrameCodec[ReplyT, ClientT],
        at_peer_port: ReplyT | None = None,
        options: EndpointOptions | None = None,
        security: CurveSecurity | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        given_up: Callable[[], bool] = bool,
    ) -> None:
        """Bind both ports and start connecting to every peer.

        Args:
            peer_address: where other servers reach this one (`tcp://host:port`, `ipc://path`).
            client_address: where clients do.
            peers: the other servers' ids and peer addresses.
            peer_codec: with this server as sender.
            client_codec: encodes replies, decodes requests.
            at_peer_port: what a client is told that has dialled the port for servers.
            options: limits and times.
            security: keys; None: nothing is encrypted and everyone may connect.
            monotonic: clock in seconds, for the rate limit of log lines.
            given_up: whether nobody wants the ports any more, if they are still waited for.

        Raises:
            TransportError: an address or the keys cannot be used; nothing stays open then.
        """
        self._options = options or EndpointOptions()
        self._monotonic, self._ledger = monotonic, Ledger(monotonic)
        self._guard, self._brake = DescriptorGuard(self._ledger, monotonic), Brake(monotonic)
        self._large = LargeFrames(self._options.large_queue_bytes)
        self._large_replies = LargeFrames(
            self._options.client_large_queue_bytes, self._options.clients_queue_bytes
        )
        self._gone: list[bytes] = []
        self._ignored: Collection[bytes] = frozenset()
        self._not_reading: dict[bytes, float] = {}
        """Clients whose queue of replies was full, and until when they count as such."""
        self._security, self._given_up = security, given_up
        self._keys = None if security is None else PeerKeys(security.peers)
        self._peer_codec, self._client_codec = peer_codec, client_codec
        self._at_peer_port = at_peer_port
        self._buffer = bytearray()
        self._dealers: dict[int, zmq.Socket[bytes]] = {}
        self._monitors: list[PortMonitor] = []
        self._links: dict[int, LinkMonitor] = {}
        self._lost: list[int] = []
        self._redial_at = math.inf
        """When to try a server again that has refused us."""
        self._bursts_to_housekeeping = _HOUSEKEEPING_EVERY
        self._closed, self._slept, self._wake_fd, self._look_at = False, False, -1, 0.0
        self._keeper: KeyKeeper | None = None
        self._context = Context(_names_among(peers))
        self._ports: dict[int, _Port] = {}  # by the descriptor that a sleeper looks at
        self._asked: list[tuple[zmq.Socket[bytes], int]] = []
        self._awaited = select.poll()
        self._ready: list[_Port] = []
        try:
            self._keeper = self._open_keeper()
            self._peers = self._open_port(peer_address, peer_codec, _PEER_PORT)
            self._clients = self._open_port(client_address, client_codec, _CLIENT_PORT)
            for server, address in peers.items():
                self.connect(server, address)
        except BaseException:
            self.close()
            raise

    # --- sending -----------------------------------------------------------------------------

    def send(self, server: int, messages: Sequence[PeerT]) -> None:
        """Send one frame to a server, or drop it if it cannot leave now."""
        self.broadcast((server,), messages)

    def broadcast(self, servers: Sequence[int], messages: Sequence[PeerT]) -> None:
        """Send the same messages to several servers, encoded once."""
        try:
            self._peer_codec.encode_into(messages, self._buffer)
        except OversizedFrame as error:
            for part in self._ledger.split(messages, error):
                self.broadcast(servers, part)
            return
        body = self._buffer
        large = len(body) >= self._options.large_frame_bytes
        if large:
            self._buffer = bytearray()  # the other is ZeroMQ's from now on
        sent = 0
        for server in servers:
            dealer = self._dealers.get(server)
            if dealer is not None and self._push(dealer, server, body, large):
                sent += 1
            else:
                self._ledger.counters.dropped_frames += 1
        self._ledger.sent(len(messages), len(body), sent)

    def reply(self, client: bytes, messages: Sequence[ReplyT]) -> None:
        """Send replies to the client that a burst's token names, or drop them if it is gone."""
        try:
            self._client_codec.encode_into(messages, self._buffer)
        except OversizedFrame as error:
            for part in self._ledger.split(messages, error):
                self.reply(client, part)
            return
        body = self._buffer
        large = len(body) >= self._options.client_large_frame_bytes
        if self._push_reply(client, body, large):
            self._ledger.sent(len(messages), len(body))
        else:
            self._ledger.counters.dropped_replies += 1
        if large:
            self._buffer = bytearray()  # the other is ZeroMQ's from now on

    def ignore(self, clients: Collection[bytes]) -> None:
        """From now on throw away, undecoded, what those clients send that are in this set then."""
        self._ignored = clients

    def congested(self, client: bytes) -> bool:
        """Whether a client has so much to read that what it asks for had better wait."""
        until = self._not_reading.get(client)
        if until is not None:
            if self._monotonic() < until:
                return True
            del self._not_reading[client]
        return not self._large_replies.has_room(client, 1)

    def _push(self, socket: zmq.Socket[bytes], server: int, body: bytearray, large: bool) -> bool:
        """Queue a frame for a server; False: it cannot be sent."""
        if large and not self._large.has_room(server, len(body)):
            return False
        try:
            if large:
                self._large.send(socket, server, body, _NOBLOCK)
            else:
                socket.send(body, _NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        return True

    def _push_reply(self, client: bytes, body: bytearray, large: bool) -> bool:
        """Queue a frame for a client; False: it is gone, or has too much to read already."""
        if large and not self._large_replies.has_room(client, len(body)):
            return False
        socket = self._clients.socket
        try:
            socket.send(client, _MORE_NOBLOCK)
            if large:
                self._large_replies.send(socket, client, body, _NOBLOCK)
            else:
                socket.send(body, _NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN:
                self._not_reading[client] = self._monotonic() + _NOT_READING_SECONDS
            elif error.errno != zmq.EHOSTUNREACH:
                raise
            elif len(self._gone) < _REMEMBERED:
                self._gone.append(client)
            return False
        return True

    # --- receiving ---------------------------------------------------------------------------

    def receive(self) -> Burst[PeerT, ClientT]:
        """All that can be received without blocking, bounded on each port by itself."""
        now = self._monotonic()
        self._bursts_to_housekeeping -= 1
        if self._bursts_to_housekeeping <= 0:
            self._keep_house()
        if now >= self._redial_at:
            self._attend_links()
        if self._guard.look_at is not None:
            self._guard.look()
        if self._brake.look_at is not None:
            self._brake.look()
        ready = self._ready or self._with_more()
        lone = self._slept and now < self._look_at
        self._ready, self._slept = [], False
        burst: Burst[PeerT, ClientT] = Burst()
        if self._gone:
            burst.gone, self._gone = self._gone, []
        if self._lost:
            burst.lost, self._lost = self._lost, []
        taken_all = True
        for port in ready:
            if not self._drain(port, burst, lone):
                taken_all = False
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._peers.unread.look(taken_all)
            self._clients.unread.look(taken_all)
        return burst

    def _drain(self, port: _Port, burst: Burst[PeerT, ClientT], lone: bool) -> bool:
        """Take frames from a port until it has no more or the burst's limits are reached.

        Returns whether it is known to have no more. `lone`: the first may well be the last.

        To ask whether there is another frame takes a third of the time of the final `Again`: so a
        burst of a few frames, as most are, ends by asking, and a longer one by trying.
        The body comes as a ZeroMQ frame, which carries "more parts follow" and spares long ones
        the copy; asking the socket for it costs more than the frame object.
        """
        recv, options, known = port.socket.recv, self._options, port.unread.known
        share = Share(options, self._brake) if port is self._clients else None
        ignored = self._ignored if share is not None else ()
        frames = size = messages = 0
        taken_all = False
        try:
            while frames < options.burst_frames and size < options.burst_bytes:
                token = recv(_NOBLOCK)
                frame = recv(_NOBLOCK, False)
                frames += 1
                size += (length := len(frame))
                buffer = frame.bytes if length <= _COPIED_BYTES else frame.buffer
                connection = known.get(token) or port.unread.meet(token, frame)
                connection.taken += length + FRAMING_BYTES
                try:
                    if frame.more:
                        port.skip_parts()
                    if ignored and token in ignored and share is not None:
                        burst.ignored.add(token)
                        if share.is_wasted(frame, length):
                            break
                        continue
                    if length > port.max_messages:  # (each takes a byte at least)
                        port.check_count(buffer)
                    decoded = sender, _, received = port.decode(buffer)
                    if sender not in port.senders or port.keys is not None:
                        port.check_sender(sender, frame)
                except FrameError as error:
                    self._refuse(port, token, frame, error, burst)
                    if share is not None and share.is_wasted(frame, length):
                        break
                    continue
                messages += (count := len(received))
                if share is None:
                    burst.peers.append(decoded)
                else:
                    burst.clients.append((token, received))
                    if share.is_spent(token, count):
                        break
                if frames <= _ASKED_FRAMES and (
                    (lone and port.lone_bursts >= _LONE_BURSTS)
                    or (taken_all := not port.has_more())
                ):
                    break
        except zmq.Again:
            taken_all = True  # Nothing more to take: the usual end of a burst.
        port.lone_bursts = port.lone_bursts + 1 if frames == 1 else 0
        self._ledger.received(messages, frames, size)
        if share is not None:
            burst.client_bytes = size
        return taken_all

    def _refuse(
        self,
        port: _Port,
        token: bytes,
        frame: zmq.Frame,
        error: FrameError,
        burst: Burst[PeerT, ClientT],
    ) -> None:
        """Count and log a frame that cannot be taken in; note a client's that is merely too large.

        A client that has dialled the port for servers is told so, and one of another release gets a
        frame that names this one's version: else it would find out nothing.
        """
        oversized = isinstance(error, OversizedFrame)
        sender = None if oversized else port.who_else(frame)
        if sender is not None and isinstance(error, MalformedFrame):
            error = unexpected(sender, port.name)
        self._ledger.refuse(error, port.origin(frame))
        wrong_door = [self._at_peer_port] if sender == 0 and self._at_peer_port is not None else []
        if wrong_door or (port is self._clients and isinstance(error, OtherVersion)):
            with suppress(zmq.ZMQError):  # it is gone, or reads nothing
                port.socket.send(token, _MORE_NOBLOCK)
                port.socket.send(self._client_codec.encode(wrong_door), _NOBLOCK)
        if oversized and port is self._clients:
            burst.refused.append(token)

    def wait(self, timeout_seconds: float | None, wake_fd: int) -> bool:
        """Sleep until something arrives, `wake_fd` is readable (True) or the time is up (1 ms)."""
        if wake_fd != self._wake_fd:
            self._wake_fd = wake_fd
            self._awaited.register(wake_fd, select.POLLIN)
        guard, brake = self._guard.look_at, self._brake.look_at
        if self._redial_at < math.inf or guard is not None or brake is not None:
            times = (self._redial_at, guard or math.inf, brake or math.inf)
            until = max(0.0, min(times) - self._monotonic())
            timeout_seconds = min(until, math.inf if timeout_seconds is None else timeout_seconds)
        self._ready = ready = self._with_more()
        if ready:
            return False
        woken, ports, began = False, self._ports, self._monotonic()
        timeout_ms = None if timeout_seconds is None else max(0.0, timeout_seconds * 1000)
        for descriptor, _ in self._awaited.poll(timeout_ms):
            if descriptor in ports:
                ready.append(ports[descriptor])
            elif descriptor == wake_fd:
                woken = True
            else:
                self._keep_house()
        self._slept = self._monotonic() - began >= _SLEPT_SECONDS
        return woken

    def _with_more(self) -> list[_Port]:
        """The ports from which a frame can be received now."""
        # (ZeroMQ's own poll takes half the time of asking one port, as `has_more` does.)
        found = zmq.zmq_poll(self._asked, 0)
        peers, clients = self._peers, self._clients
        return [peers if each is peers.socket else clients for each, _ in found] if found else []

    def _keep_house(self) -> None:
        self._bursts_to_housekeeping = _HOUSEKEEPING_EVERY
        if self._keeper is not None:
            self._keeper.drain()
        for monitor in self._monitors:
            monitor.drain()
        self._attend_links()
        self._large.prune()
        self._large_replies.prune()
        if len(self._not_reading) > _REMEMBERED:
            self._not_reading.clear()

    def _attend_links(self) -> None:
        now, self._redial_at = self._monotonic(), math.inf
        for server, link in self._links.items():
            if link.attend(now):
                self._lost.append(server)
            self._ledger.lasts(f"server {server} at {' or '.join(link.addresses)}", link.wrong)
            self._redial_at = min(self._redial_at, link.redial_at)

    # --- the rest ----------------------------------------------------------------------------

    @property
    def peer_address(self) -> str:
        """Where the peer port really listens (a port number of 0 or * was replaced)."""
        return self._peers.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def client_address(self) -> str:
        """Where the client port really listens."""
        return self._clients.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def identify(self, identity: int, *, in_force: bool) -> None:
        """Name this cluster to servers from now on, and once it is in force to clients too."""
        self._peer_codec.identify(identity)
        if in_force:
            self._client_codec.identify(identity)

    def connect(self, server: int, address: str) -> None:
        """Take `server` for a peer that listens at `address`. Raises `TransportError`."""
        key = None if self._keys is None else self._keys.of(server)
        if self._keys is not None and key is None:
            raise TransportError(f"there is no public key of server {server}: add it to the keys")
        if key is not None:
            check_key(key)  # before anything is made for it
        options = self._options
        dealer = self._socket(zmq.DEALER, self._peer_codec.max_frame_bytes)
        self._dealers[server] = dealer
        end_when_vanished(dealer, options.vanished_after)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.SNDHWM, options.peer_queue_frames)
        dealer.setsockopt(zmq.RECONNECT_IVL, _ms(options.reconnect_first))
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, _ms(options.reconnect_max))
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, _ms(options.connect_timeout))
        if self._security is not None and key is not None:
            secure_client(dealer, self._security.keys, key)
        self._links[server] = LinkMonitor(dealer, own="server")
        self._awaited.register(_descriptor(self._links[server].socket), select.POLLIN)
        self._links[server].dial(address)

    def meet(self, keys: Mapping[int, str]) -> None:
        """These are the other servers from now on, each with its key; "": the one given before.

        Nobody else is dialled any more, and what waits for such a one is dropped. Whoever has a new
        key is dialled anew, and what it sends under the old one counts no longer.
        """
        before = {server: self._key_of(server) for server in self._dealers}
        if self._keys is not None:
            self._keys.tell(keys)
        for server, key in before.items():
            if server in keys and key == self._key_of(server):
                continue
            addresses = self._links[server].addresses
            self.drop(server)
            if server in keys:
                self.reach(server, addresses)

    def keys(self) -> dict[int, str]:
        """By which public key each server is known now, this one too; empty if there are none."""
        if self._security is None or self._keys is None:
            return {}
        return self._keys.all() | {self._peer_codec.own: self._security.keys.public}

    def _key_of(self, server: int) -> str | None:
        return None if self._keys is None else self._keys.of(server)

    def drop(self, server: int) -> None:
        """Stop dialling a server; forget what waits for it. (It may still speak: see `meet`.)"""
        dealer = self._dealers.pop(server, None)
        if dealer is None:
            return
        link = self._links.pop(server)
        self._awaited.unregister(_descriptor(link.socket))
        link.close()
        dealer.close(0)
        self._lost = [other for other in self._lost if other != server]

    def reach(self, server: int, addresses: Sequence[str]) -> None:
        """A server may be at any of these addresses: dial them in turn until one answers."""
        if not addresses:
            return  # one of old times, of which nobody has told
        try:
            if server in self._links:
                self._links[server].reach(addresses)
                return
            self.connect(server, addresses[0])
            self._links[server].reach(addresses)
        except TransportError as error:
            self._ledger.say("reach", str(server), f"Server {server} cannot be dialled: {error}")

    def elsewhere(self, server: int) -> None:
        """A server does not answer where it is dialled: try another of its addresses, if any."""
        if server in self._links:
            self._links[server].elsewhere()

    def counters(self) -> dict[str, int]:
        """Totals by name (`paxon.transport.intake.Counters`)."""
        if not self._closed:
            self._keep_house()
        return self._ledger.as_dict()

    def close(self) -> None:
        """Close everything; waits at most `linger` for the last replies. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._guard.close()
        if self._keeper is not None:
            self._keeper.close()
        for monitor in self._monitors:
            monitor.close()
        for link in self._links.values():
            link.close()
        self._context.destroy()  # closes each socket with the LINGER that it was opened with

    def _open_keeper(self) -> KeyKeeper | None:
        security = self._security
        if security is None or self._keys is None:
            return None
        require_curve()
        clients = security.clients
        allowed = {
            _PEER_PORT: self._keys.knows,
            _CLIENT_PORT: lambda key: clients is None or key in clients,
        }
        keeper = KeyKeeper(self._context, allowed)
        self._awaited.register(_descriptor(keeper.socket), select.POLLIN)
        return keeper

    def _open_port(self, address: str, codec: FrameCodec[Any, Any], name: str) -> _Port:
        options = self._options
        servers = frozenset(range(1, options.most_servers + 1)) - {codec.own}
        senders = servers if name == _PEER_PORT else _CLIENTS
        socket = self._socket(zmq.ROUTER, codec.max_frame_bytes)
        if 0 in senders:
            queue_frames = options.client_queue_frames
            intake_frames = options.client_intake_frames
            max_messages = options.client_frame_messages
            end_when_vanished(socket, options.client_vanished_after)
            socket.setsockopt(zmq.LINGER, _ms(options.linger))
        else:
            queue_frames = intake_frames = options.peer_queue_frames
            max_messages = options.peer_frame_messages
            end_when_vanished(socket, options.vanished_after)
        socket.setsockopt(zmq.BACKLOG, _BACKLOG)
        socket.setsockopt(zmq.RCVHWM, intake_frames)
        socket.setsockopt(zmq.SNDHWM, queue_frames)
        # Report what cannot be sent instead of dropping it in silence.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        most = 2 * _HARD_LIMIT_FACTOR * codec.max_frame_bytes
        unread = Unread(most, self._ledger, name, self._monotonic)
        self._monitors.append(PortMonitor(socket, name, self._ledger, self._guard, unread))
        if self._security is not None:
            secure_port(socket, self._security.keys, name)
        bind(socket, address, name, self._given_up)
        bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        unread.port = int(bound.rpartition(":")[2]) if bound.startswith("tcp:") else 0
        if 0 in senders:
            self._brake.port, unread.holds = unread.port, True
        self._monitors[-1].drain()  # that it listens: nobody need wake up for that
        self._awaited.register(_descriptor(self._monitors[-1].socket), select.POLLIN)
        keys = None if 0 in senders else self._keys
        port = _Port(
            socket, codec, senders, name, keys=keys, max_messages=max_messages, unread=unread
        )
        self._ports[_descriptor(socket)] = port
        self._asked.append((socket, _POLLIN))
        self._awaited.register(_descriptor(socket), select.POLLIN)
        return port

    def _socket(self, kind: int, max_frame_bytes: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        # Between the two limits a frame is refused and counted as what it is; beyond this one
        # libzmq closes the connection before it takes any memory, and does not say why.
        socket.setsockopt(zmq.MAXMSGSIZE, _HARD_LIMIT_FACTOR * max_frame_bytes)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _ms(self._options.handshake_timeout))
        return socket


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    """The descriptor to sleep on for a socket's events.

    To ask ZeroMQ about each socket at every sleep would cost tens of microseconds. The descriptor
    is signalled by edges: it tells only of what has happened since the socket was used last.
    `drain`, which alone touches a monitor's or the key keeper's, goes on until there is no event
    left, and the ports are asked before each sleep.
    """
    return int(socket.getsockopt(zmq.FD))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
