"""Counts what happens to the connections of a port, from libzmq's own events."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import math
import struct
import threading
from collections.abc import Sequence

import zmq

from paxon.transport.binding import dial, dialled, is_host_name, others_of
from paxon.transport.context import COMMON, Context
from paxon.transport.descriptors import DescriptorGuard
from paxon.transport.inherited import as_socket
from paxon.transport.intake import Ledger, Unread

__all__ = ["PortMonitor", "LinkMonitor"]

_EVENT = struct.Struct("=hi")
_LISTENING = int(zmq.EVENT_LISTENING)
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_FAILED = int(
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_CONNECTED = int(zmq.EVENT_CONNECTED)
_RETRIED = int(zmq.EVENT_CONNECT_RETRIED)
_CUT = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_HUNG_UP = {errno.EPIPE, errno.ECONNRESET}
_WITHOUT_KEYS = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
_REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_IN_A_ROW = 3
"""So many connections that end amid their handshake are no accident: a server that was killed takes
no more of them, until it shakes hands again."""
_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_NO_SERVER = "what answers there does not speak ZeroMQ's protocol: it is no server of Paxon"
_HANGS_UP = (
    "it ends every connection at once: it is no server of Paxon, or has no room for one more"
)
_ANOTHER_KEY = (
    "it ends every connection amid the handshake, as a server does whose public key is not the one "
    "that was given for it here: compare them (docs/running/keys.md), unless it is a port "
    "forwarder whose server is down, which does the same"
)
SOCKADDR_BYTES = 16
_libc = ctypes.CDLL(None)
_numbers = itertools.count()


class PortMonitor:
    """Tells connections that never spoke ZMTP properly from those that just ended.

    libzmq reports some broken handshakes as such and others (bytes that look like its oldest
    protocol) only as a disconnection. So this keeps the descriptors that were accepted and have
    not finished their handshake. A finished handshake is reported without its descriptor; it is
    taken for the newest pending one, since a proper client finishes at once and only a silent one
    stays pending.
    """

    def __init__(
        self,
        port: zmq.Socket[bytes],
        name: str,
        ledger: Ledger,
        guard: DescriptorGuard,
        unread: Unread,
    ) -> None:
        """Make one before the port is bound; `guard` may refuse connections."""
        self._unread = unread
        self._port = port
        self._name = name
        self._ledger = ledger
        self._guard = guard
        self._pending: dict[int, None] = {}
        self._refused: set[int] = set()
        """Descriptors of connections that the guard has ended."""
        self._failed = False
        self._left = False
        """Whether that one was ended by the other side: a command that was done, say."""
        events = _LISTENING | _ACCEPTED | _SUCCEEDED | _DISCONNECTED | _FAILED
        self.socket = _events_of(port, events)

    def drain(self) -> None:
        """Take in all events that have happened."""
        while self.socket.poll(0):
            event, value = _EVENT.unpack(self.socket.recv_multipart()[0])
            if event == _ACCEPTED:
                if self._guard.refuses(self._name, value):
                    self._refused.add(value)
                else:
                    self._pending[value] = None
                    self._unread.begun(value)
            elif event == _LISTENING:
                self._guard.listening(self._name, value)
            elif event == _SUCCEEDED:
                if self._pending:
                    self._pending.popitem()
            elif event & _FAILED:
                self._failed = True  # Its disconnection follows at once and names the descriptor.
                self._left = event == _CUT and value in _HUNG_UP
            elif event == _DISCONNECTED:
                self._ended(value)

    def _ended(self, descriptor: int) -> None:
        self._unread.ended(descriptor)
        if descriptor in self._refused:
            self._refused.discard(descriptor)
            self._failed = False
            return
        unfinished = descriptor in self._pending
        self._pending.pop(descriptor, None)
        if not unfinished and not self._failed:
            self._ledger.counters.disconnects += 1
            return
        self._ledger.counters.handshake_failures += 1
        if not (self._failed and self._left):
            self._ledger.say(
                "handshake",
                self._name,
                f"Closed a connection to the {self._name}: it did not speak ZeroMQ's protocol, "
                "or not with an allowed key",
            )
        self._failed = False

    def close(self) -> None:
        """Stop watching; the port itself stays open."""
        self._port.disable_monitor()
        self.socket.close(0)


class LinkMonitor:
    """Dials a server, and tells when the connection to it has ended.

    When a process dies its kernel closes its connections at once, long before a timeout says so.

    A refused handshake (a key that is not known, no key where one is wanted) is told apart, for
    libzmq takes it for final, as it does words that are not its own: only whoever made the link can
    try again, by `redial`. So is a host's name that is tried in vain: it may have another address
    that answers. And a server may have been told to be at several addresses: these are tried in
    turn.
    """

    def __init__(
        self, link: zmq.Socket[bytes], redial_seconds: float = 1.0, own: str = "client"
    ) -> None:
        """Watch a socket that has dialled nobody yet.

        Args:
            link: the socket.
            redial_seconds: how long a refusal is left alone; another address is tried sooner.
            own: what this end is called in `wrong`.
        """
        self._link = link
        self._own = own
        self._pause = redial_seconds
        self.redial_at = math.inf
        """When `attend` tries again; infinite where that is not wanted."""
        self._addresses: Sequence[str] = ()
        self._others = _Others()
        self._ways: list[tuple[str, int]] = []
        """What can be dialled: each address, and for a name which kind of its addresses."""
        self._way = 0
        self._thread = COMMON
        """libzmq's, that serves the link and looks up its names (transport/context.py)."""
        self.refused = False
        """Whether the other end has refused us since the last `redial`, so that libzmq gave up."""
        self.wrong = ""
        """Why nothing comes about with whoever takes our connections, as the end of a sentence."""
        self._connection = -1
        """The descriptor of the connection that was made last."""
        self._dialled = self._shakes = self._cut = False
        """Whether it is one since libzmq tried last; has no handshake yet; lost it."""
        self._unfinished = 0
        """Connections in a row that ended amid their handshake."""
        self.in_vain = False
        """Whether no connection came about, to one of several addresses."""
        self._gave_up = False
        """Whether libzmq, after the end of a connection, has not said that it tries again."""
        self.socket = _events_of(
            link, _DISCONNECTED | _REFUSED | _CUT | _CONNECTED | _SUCCEEDED | _RETRIED
        )

    def drain(self) -> bool:
        """Whether the connection has ended since the last call."""
        ended = False
        while self.socket.poll(0):
            event, value = _EVENT.unpack(self.socket.recv_multipart()[0])
            if event & _REFUSED:
                self.refused, self._shakes, self._unfinished = True, False, 0
                self.wrong = self._refusal(event, value)
            elif event == _CUT:
                self._cut = True
                self._shakes = value != errno.EAGAIN  # (else it stands still)
            elif event == _CONNECTED:
                self._connection, self._dialled = value, True
                self._cut = self._gave_up = False
                self._shakes = not _end_if_with_itself(value)
            elif event == _SUCCEEDED:
                self.in_vain = self._shakes = False
                self.wrong, self._unfinished = "", 0
            elif event == _RETRIED:
                self.in_vain = len(self._ways) > 1
                if not self._dialled:  # nobody is there
                    self._unfinished = 0
                    self.wrong = self.wrong if self.in_vain else ""
                self._dialled = self._gave_up = False
            else:
                ended = True
                if value == self._connection:
                    self._gave_up = True
                    self._count_unfinished()
        return ended

    def _refusal(self, event: int, value: int) -> str:
        if event != _AUTH and value != _WITHOUT_KEYS:
            return _NO_SERVER
        if event == _AUTH:
            return f"it refuses the key of this {self._own} (docs/running/keys.md)"
        if self._has_keys():
            own = self._own
            return f"it has no key, and this {own} was given one for it (docs/running/keys.md)"
        return f"it refuses a {self._own} without a key (docs/running/keys.md)"

    def _count_unfinished(self) -> None:
        if not self._shakes:
            return
        self._shakes = False
        self._unfinished += 1
        if not self._cut:  # libzmq hung up
            self.wrong = _NO_SERVER
        elif self._unfinished >= _IN_A_ROW and not self.wrong:  # (else it has said why)
            self.wrong = _ANOTHER_KEY if self._has_keys() else _HANGS_UP
            if self._has_keys():  # (without, a refusal that is told in full may follow)
                self._leave(self._ways[self._way])  # libzmq would try again forty times a second
                self.refused = True

    def _has_keys(self) -> bool:
        return self._link.getsockopt(zmq.MECHANISM) == zmq.CURVE

    def attend(self, now: float) -> bool:
        """`drain`, and try again what was refused, or in vain, long enough ago.

        Until then the other end may have found its way, or got to know our key.
        """
        ended = self.drain()
        final = self.refused or self._gave_up
        if not (final or self.in_vain):
            self.redial_at = math.inf
        elif self.redial_at == math.inf:
            self.redial_at = now + (self._pause if final else self._pause / 5)
        elif now >= self.redial_at:
            self.redial_at = math.inf
            self.redial()
        return ended

    def dial(self, *addresses: str) -> None:
        """Start to connect, to the first. Raises `TransportError` for one of the wrong form."""
        self._addresses, self._ways = addresses, _ways(addresses)
        self._dial()

    @property
    def addresses(self) -> Sequence[str]:
        """Those that are tried."""
        return self._addresses

    def reach(self, addresses: Sequence[str]) -> None:
        """From now on these are to be tried, without leaving the present one if it is among them.

        One that stays the first again goes before a later one only when that fails.
        """
        if list(addresses) == list(self._addresses):
            return
        present = self._ways[self._way]
        self._addresses, self._ways = addresses, _ways(addresses)
        if present in self._ways:
            self._way = self._ways.index(present)
        else:
            self._leave(present)
            self._way = 0
            self._dial()

    def redial(self) -> None:
        """Connect anew, where the other end may know our key by now, or elsewhere."""
        present = self._ways[self._way]
        self._leave(present)
        if self.in_vain or self.refused or self._gave_up:
            self._ways = _ways(self._addresses) + self._others.of(self._addresses)
            after = self._ways.index(present) + 1 if present in self._ways else 0
            self._way = after % len(self._ways)
        self.refused = self.in_vain = self._gave_up = False
        self._dial()

    def elsewhere(self) -> None:
        """Try another address, if there is one: whoever is there does not answer as it should."""
        if len(self._ways) > 1:
            self.in_vain = True
            self.redial()

    def _dial(self) -> None:
        address, turn = self._ways[self._way]
        context = self._link.context
        if self._thread == COMMON and is_host_name(address) and isinstance(context, Context):
            self._thread = context.take_thread()
        self._link.setsockopt(zmq.AFFINITY, self._thread)
        dial(self._link, address, turn)

    def _leave(self, way: tuple[str, int]) -> None:
        with contextlib.suppress(zmq.ZMQError):  # nothing is left of it
            self._link.disconnect(dialled(way[0]))

    def close(self) -> None:
        """Stop watching; the link itself stays open."""
        if isinstance(self._link.context, Context):
            self._link.context.give_thread(self._thread)
            self._thread = COMMON
        self._link.disable_monitor()
        self.socket.close(0)


class _Others:
    """Looks up, in a thread of its own, which addresses of names `dial` does not come to."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._thread = threading.Thread()

    def of(self, addresses: Sequence[str]) -> list[tuple[str, int]]:
        """What was found the last time, to be dialled in turn; asks again, for that may change."""
        names = [address for address in addresses if is_host_name(address)]
        if names and not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._look_up, name="paxon-names", args=(names,), daemon=True
            )
            with contextlib.suppress(RuntimeError):  # (no thread to be had: another time)
                self._thread.start()
        return [(address, 0) for address in self._found]

    def _look_up(self, names: list[str]) -> None:
        self._found = [each for name in names for each in others_of(name)]


def _ways(addresses: Sequence[str]) -> list[tuple[str, int]]:
    """A name is tried with its IPv6 addresses and with IPv4 alone (see `dial`)."""
    return [
        (address, turn)
        for address in addresses
        for turn in ((0, 1) if is_host_name(address) else (0,))
    ]


def _end_if_with_itself(descriptor: int) -> bool:
    """End a connection whose two ends are one: TCP makes such if nobody listens (see `dialled`)."""
    try:
        with as_socket(descriptor) as link:
            if link.getsockname() != link.getpeername():
                return False
            # Not in good order, after which the port would stay taken for a minute.
            nowhere = ctypes.create_string_buffer(SOCKADDR_BYTES)
            _libc.connect(link.fileno(), nowhere, SOCKADDR_BYTES)
            return True
    except OSError:
        return False  # it has ended already, or is of another kind


def _events_of(watched: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A socket from which the named events of another can be read."""
    address = f"inproc://paxon-monitor-{next(_numbers)}"
    reader: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
    try:
        watched.monitor(address, events)
    except zmq.ZMQError:
        reader.close()
        raise
    # libzmq's I/O thread would block on a full queue of events, so the queue has no limit.
    reader.setsockopt(zmq.RCVHWM, 0)
    reader.setsockopt(zmq.LINGER, 0)
    reader.connect(address)
    reader.getsockopt(zmq.EVENTS)  # its descriptor is signalled by edges: begin without one
    return reader
