"""Counts what happens to the connections of a port, from libzmq's own events."""

from __future__ import annotations

import contextlib
import itertools
import struct

import zmq

from paxon.transport.descriptors import DescriptorGuard
from paxon.transport.intake import Ledger

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
_REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
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
        self, port: zmq.Socket[bytes], name: str, ledger: Ledger, guard: DescriptorGuard
    ) -> None:
        """Make one before the port is bound; `guard` may refuse connections."""
        self._port = port
        self._name = name
        self._ledger = ledger
        self._guard = guard
        self._pending: dict[int, None] = {}
        self._refused: set[int] = set()
        """Descriptors of connections that the guard has ended."""
        self._failed = False
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
            elif event == _LISTENING:
                self._guard.listening(self._name, value)
            elif event == _SUCCEEDED:
                if self._pending:
                    self._pending.popitem()
            elif event & _FAILED:
                self._failed = True  # Its disconnection follows at once and names the descriptor.
            elif event == _DISCONNECTED:
                self._ended(value)

    def _ended(self, descriptor: int) -> None:
        if descriptor in self._refused:
            self._refused.discard(descriptor)
            self._failed = False
            return
        unfinished = descriptor in self._pending
        self._pending.pop(descriptor, None)
        if not unfinished and not self._failed:
            self._ledger.counters.disconnects += 1
            return
        self._failed = False
        self._ledger.counters.handshake_failures += 1
        self._ledger.say(
            "handshake",
            self._name,
            f"Closed a connection to the {self._name}: it did not speak ZeroMQ's protocol, "
            "or not with an allowed key",
        )

    def close(self) -> None:
        """Stop watching; the port itself stays open."""
        self._port.disable_monitor()
        self.socket.close(0)


class LinkMonitor:
    """Tells when the connection to a peer has ended.

    When a process dies its kernel closes its connections at once, long before a timeout says so.

    A refused handshake (a key that is not known, no key where one is wanted) is told apart, for
    libzmq takes it for final: only whoever made the link can try again, by `redial`.
    """

    def __init__(self, link: zmq.Socket[bytes]) -> None:
        self._link = link
        self.refused = False
        """Whether the other end has refused us since the last `redial`."""
        self.socket = _events_of(link, _DISCONNECTED | _REFUSED)

    def drain(self) -> bool:
        """Whether the connection has ended since the last call."""
        ended = False
        while self.socket.poll(0):
            event, _ = _EVENT.unpack(self.socket.recv_multipart()[0])
            if event & _REFUSED:
                self.refused = True
            else:
                ended = True
        return ended

    def redial(self, address: str) -> None:
        """Connect to `address` anew, where the other end may know our key by now."""
        self.refused = False
        with contextlib.suppress(zmq.ZMQError):  # nothing is left of the old one
            self._link.disconnect(address)
        self._link.connect(address)

    def close(self) -> None:
        """Stop watching; the link itself stays open."""
        self._link.disable_monitor()
        self.socket.close(0)


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
