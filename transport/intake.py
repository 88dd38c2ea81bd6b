"""What an endpoint counts and says of refused frames, and whom it does not listen to meanwhile."""

from __future__ import annotations

import ctypes
import math
import mmap
import socket
import struct
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import zmq

from paxon.transport.errors import ForeignFrame, FrameError, OversizedFrame
from paxon.transport.log import logger
from paxon.transport.options import EndpointOptions

__all__ = [
    "Brake",
    "Counters",
    "Ledger",
    "Share",
    "Unread",
    "check_count",
    "check_sender",
    "drop_all_packets",
    "return_large_blocks",
    "take_all_packets",
    "unexpected",
    "COMPLAINT_INTERVAL",
    "FRAMING_BYTES",
]

T = TypeVar("T")

COMPLAINT_INTERVAL = 5.0
"""Seconds between two log lines of the same kind about the same peer."""
_LASTING_SECONDS = 3.0
"""What is wrong with a link for so long is no matter of a restart."""
_WASTED_FRAMES = 2
"""After so many frames of clients that were thrown away a burst takes no more of them. A ROUTER
gives those of all in turns: whoever else had one has given it, and need not wait for the rest."""
_HELD_BYTES = 64 << 10
"""Whoever sent so much that was thrown away is not listened to …"""
_HELD_SECONDS = 0.5
"""… for so long. (TCP sends again what was not taken in, 0.2 and 0.6 seconds later.)"""
LOOK_SECONDS = 0.02
"""So often some connections are looked at: a few, …"""
_LOOKED_AT = 4
_LOOKS = 256
"""… or so many that each has its turn after so many looks."""
_MUCH = 1 << 20
"""Bytes that one connection may have unread without being noticed."""
_MOST_UNREAD = 256 << 20
"""Bytes that all connections to a port may have unread. Beyond it …"""
_GO_ON = 4
"""… so many of those with much are listened to, …"""
_PATIENCE = 10.0
"""… and who gives no message for so long, in seconds, is ended."""
_MOST_GROWTH = 512 << 20
"""Bytes by which this process may grow beyond what is unread, twice: each part of a message takes
64 bytes of libzmq, one without content two bytes of TCP. Beyond it …"""
_GROWTH_PATIENCE = 0.2
"""… who has much unread, and gave no message for so long, in seconds, is ended."""
_STOOD_STILL = 1.0
"""Seconds between two looks after which nobody is to blame for what it did not give."""
FRAMING_BYTES = 64
"""No message takes more on the wire beside its own bytes, encrypted or not."""
_TCP_INFO, _RECEIVED_AT = 11, 128
"""From <linux/tcp.h>, with where `tcpi_bytes_received` is."""
_MEMORY = Path("/proc/self/statm")
_REMEMBERED_PEERS = 256
"""Distinct (kind, peer) pairs with a line of their own; beyond it they share one per kind."""


@dataclass(slots=True)
class Counters:
    """Totals since the endpoint was opened."""

    messages_sent: int = 0
    messages_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    """All that arrived, refused frames included."""
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped_frames: int = 0
    """Not sent to a server: it is not connected or takes too long to read."""
    dropped_replies: int = 0
    """Not sent to a client: it is gone or takes too long to read."""
    malformed_frames: int = 0
    foreign_frames: int = 0
    oversized_frames: int = 0
    """Refused for their size, whether received or about to be sent."""
    handshake_failures: int = 0
    """Connections that ended before they spoke ZeroMQ's protocol properly."""
    refused_connections: int = 0
    """Connections ended at once because only a reserve of descriptors was left."""
    disconnects: int = 0
    """Connections to our ports that ended later, for whatever reason."""


@dataclass(slots=True)
class _Complaint:
    """When a kind of line was last written about a peer, and how many were held back since."""

    last: float
    suppressed: int = 0


class Ledger:
    """An endpoint's counters, and its log lines about bad input.

    There is at most one line per kind and peer in `COMPLAINT_INTERVAL` seconds.
    """

    __slots__ = ("_lasting", "_monotonic", "_recent", "counters")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.counters = Counters()
        self._monotonic = monotonic
        self._recent: dict[tuple[str, str], _Complaint] = {}
        self._lasting: dict[str, tuple[str, float]] = {}
        """What is wrong with whom, and since when; for ever once that was said."""

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self.counters)

    def sent(self, messages: int, size: int, times: int = 1) -> None:
        """Count a frame that left, perhaps for several."""
        counters = self.counters
        counters.frames_sent += times
        counters.messages_sent += times * messages
        counters.bytes_sent += times * size

    def received(self, messages: int, frames: int, size: int) -> None:
        """Count what a port has given, refused frames included."""
        counters = self.counters
        counters.messages_received += messages
        counters.frames_received += frames
        counters.bytes_received += size

    def split(self, messages: Sequence[T], error: OversizedFrame) -> Sequence[Sequence[T]]:
        """Halve what is too large for one frame; one message that is too large is dropped."""
        if len(messages) <= 1:
            self.counters.dropped_frames += 1
            self.refuse(error, "this server itself")
            return ()
        middle = len(messages) // 2
        return messages[:middle], messages[middle:]

    def refuse(self, error: FrameError, peer: str) -> None:
        """Count a refused frame by its kind and say so."""
        if isinstance(error, OversizedFrame):
            self.counters.oversized_frames += 1
            kind = "oversized"
        elif isinstance(error, ForeignFrame):
            self.counters.foreign_frames += 1
            kind = "foreign"
        else:
            self.counters.malformed_frames += 1
            kind = "malformed"
        self.say(kind, peer, f"Refused a frame ({kind}) from {peer}: {error}")

    def say(self, kind: str, peer: str, text: str) -> None:
        """Log a line unless one of its kind about this peer was written a moment ago."""
        now = self._monotonic()
        key = (kind, peer)
        if key not in self._recent and len(self._recent) >= _REMEMBERED_PEERS:
            self._forget(now)
            if len(self._recent) >= _REMEMBERED_PEERS:
                key = (kind, "")
        complaint = self._recent.get(key)
        if complaint is None:
            self._recent[key] = _Complaint(now)
        elif now - complaint.last < COMPLAINT_INTERVAL:
            complaint.suppressed += 1
            return
        else:
            if complaint.suppressed:
                text += f" ({complaint.suppressed} more like it were not logged)"
            complaint.last, complaint.suppressed = now, 0
        logger.warning("{}", text)

    def lasts(self, peer: str, wrong: str) -> None:
        """Log what is wrong with a peer ("": nothing is), once, if it has been so for a while."""
        if not wrong:
            self._lasting.pop(peer, None)
            return
        now = self._monotonic()
        before, since = self._lasting.get(peer, ("", now))
        if wrong != before:
            self._lasting[peer] = wrong, now
        elif now - since >= _LASTING_SECONDS:
            self._lasting[peer] = wrong, math.inf
            self.say("link", peer, f"No link to {peer}: {wrong}")

    def _forget(self, now: float) -> None:
        """Drop the pairs that have been quiet long enough to get a line again anyway."""
        self._recent = {
            key: complaint
            for key, complaint in self._recent.items()
            if now - complaint.last < COMPLAINT_INTERVAL
        }


class Share:
    """The clients' part in one burst, so that it takes no more than is good for all."""

    __slots__ = ("_brake", "_frames", "_messages_left", "_most", "_wasted")

    def __init__(self, options: EndpointOptions, brake: Brake | None = None) -> None:
        self._brake = brake
        self._frames: dict[bytes, int] = {}
        self._most = options.client_burst_frames
        self._wasted = 0
        self._messages_left = options.client_burst_messages

    def is_spent(self, client: bytes, messages: int) -> bool:
        """Count a frame; whether it was the burst's last."""
        frames = self._frames[client] = self._frames.get(client, 0) + 1
        self._messages_left -= messages
        return frames >= self._most or self._messages_left <= 0

    def is_wasted(self, frame: zmq.Frame, size: int) -> bool:
        """Count a frame of so many bytes that is thrown away; whether it was the burst's last."""
        if self._brake is not None:
            self._brake.hold(frame, size)
        self._wasted += 1
        return self._wasted >= _WASTED_FRAMES


class Brake:
    """Stops listening to a client whose frames are thrown away, for a moment.

    A ROUTER takes in the frames of all in turns: what is to be thrown away is received first, and
    of large frames that takes most of a core. TCP can be told of one connection alone that nothing
    more is to be taken in: its sender then waits as it would for a slow network.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._held: dict[int, float] = {}
        """Descriptors of connections, in the order in which they are let go, and when."""
        self.port = 0
        """The TCP port of clients; 0: they come by something else."""
        self.look_at: float | None = None
        """When to call `look`, on the monotonic clock (seconds); None: nobody is held."""

    def hold(self, frame: zmq.Frame, size: int) -> None:
        """A frame of so many bytes was thrown away: if it was large, do not listen on."""
        if size < _HELD_BYTES or sys.platform != "linux" or not self.port:
            return
        descriptor = _descriptor_of(frame)
        if descriptor in self._held or not _is_at_port(descriptor, self.port):
            return
        _filter_packets(descriptor, _DROP_DATA)
        until = self._held[descriptor] = self._monotonic() + _HELD_SECONDS
        if self.look_at is None:
            self.look_at = until

    def look(self) -> None:
        """If it is time, listen to clients again."""
        now = self._monotonic()
        while self._held:
            descriptor, until = next(iter(self._held.items()))
            if now < until:
                self.look_at = until
                return
            del self._held[descriptor]
            if _is_at_port(descriptor, self.port):
                take_all_packets(descriptor)
        self.look_at = None


class _Connection:
    """What is known of a connection that came in."""

    __slots__ = ("held", "since", "taken", "taken_before", "token", "unread")

    def __init__(self, taken: int, now: float) -> None:
        self.token = b""
        """By which the port names it, once it has given a message."""
        self.taken = self.taken_before = taken
        """Bytes of its messages that were received, now and when it was looked at."""
        self.unread = 0
        """Bytes that it had brought by then, beyond that."""
        self.since = now
        """When it was last seen to give a message, or to have next to nothing unread."""
        self.held = False


class Unread:
    """What connections to a port have brought of which no message was received yet: bounds it.

    libzmq bounds each part of a message, and hands a message over once its last part is there. So
    whoever sends parts without end, or on many connections the beginning of a long message each,
    would fill this process's memory; and messages that are whole wait there until a busy server
    receives them. TCP knows what a connection brought; the port knows what it was given of that.
    """

    def __init__(
        self, most_bytes: int, ledger: Ledger, name: str, monotonic: Callable[[], float]
    ) -> None:
        """Args: a message is smaller than so many bytes, at the port of this name."""
        self._most, self._ledger, self._name = most_bytes, ledger, name
        self._monotonic = monotonic
        self._open: dict[int, _Connection] = {}
        """By descriptor, those first that are to be looked at next."""
        self.known: dict[bytes, _Connection] = {}
        """Those that have given a message, by token."""
        self._large: dict[int, None] = {}
        """Connections with much that is unread, in the order in which they came to it."""
        self._all = 0
        """What all have unread, bytes."""
        self._small = 0
        """How much memory this process had when somebody came to have much unread, bytes."""
        self._looked_at = self._goes_since = -math.inf
        """When it looked last, and since when that has been often: this process may stand still."""
        self.port = 0
        """The TCP port; 0: they come by something else."""
        self.holds = False
        """Whether it may stop listening to a connection for a while."""

    def begun(self, descriptor: int) -> None:
        """A connection was accepted, and may have given a message already."""
        self._open.setdefault(descriptor, _Connection(0, self._monotonic()))

    def ended(self, descriptor: int) -> None:
        """A connection is gone."""
        self._large.pop(descriptor, None)
        if connection := self._open.pop(descriptor, None):
            self._all -= connection.unread
            self.known.pop(connection.token, None)

    def meet(self, token: bytes, frame: zmq.Frame) -> _Connection:
        """By which connection this message came, the first that names it so.

        Its descriptor may be another connection's by now, or still have been: what is not known for
        certain counts as received.
        """
        descriptor = _descriptor_of(frame)
        if descriptor < 0:
            return _Connection(0, 0.0)
        connection = self._open.get(descriptor)
        if connection is None:
            connection = _Connection(_received(descriptor), self._monotonic())
            self._open[descriptor] = connection
        self.known.pop(connection.token, None)
        connection.token = token
        self.known[token] = connection
        return connection

    def look(self, taken_all: bool) -> None:
        """Look at the next few; `taken_all`: all messages that are whole were received."""
        now = self._monotonic()
        if now - self._looked_at > _STOOD_STILL:
            self._goes_since = now
        self._looked_at = now
        many = _LOOKED_AT + len(self._open) // _LOOKS
        for descriptor in tuple(islice(self._open, 16 * many if self._large else many)):
            connection = self._open[descriptor] = self._open.pop(descriptor)
            received = _received(descriptor)
            unread = max(0, received - connection.taken)
            self._all += unread - connection.unread
            connection.unread = unread
            if unread < _MUCH or connection.taken != connection.taken_before:
                connection.since = now
            connection.taken = connection.taken_before = received - unread
            if unread >= _MUCH:
                if not self._large:
                    self._small = _resident()
                self._large[descriptor] = None
            elif descriptor in self._large:
                del self._large[descriptor]
            else:
                continue
            if why := self._is_too_much(connection, now, taken_all):
                self._end(descriptor, why)
            elif self.holds:
                self._hold(descriptor, connection)

    def _is_too_much(self, connection: _Connection, now: float, taken_all: bool) -> str:
        if connection.unread > self._most and taken_all:
            return f"it has more than {self._most} bytes, in parts without end"
        patience = _PATIENCE if self._all <= 2 * _MOST_UNREAD or not taken_all else _PATIENCE / 10
        waited = now - max(connection.since, self._goes_since)
        least = _GROWTH_PATIENCE if taken_all else _PATIENCE / 10
        if waited >= least:
            grown = _resident() - self._small
            if grown > _MOST_GROWTH + 2 * self._all and self._has_most(connection, now - least):
                self._small += grown
                return (
                    f"{connection.unread} bytes of it have come, and this process has grown by "
                    f"{grown >> 20} MiB meanwhile, as by parts without end"
                )
        if self._all > _MOST_UNREAD and waited >= patience:
            return (
                f"{connection.unread} bytes of it have come, and the rest has not for "
                f"{patience:g} s, while all that is unread comes to {self._all >> 20} MiB"
            )
        return ""

    def _has_most(self, connection: _Connection, since: float) -> bool:
        """Whether nobody else has more unread and gave no message since then.

        Bytes of TCP take at most 32 times as many of libzmq's (`_MOST_GROWTH`). So whoever alone
        makes this process grow so much has brought more than any client's message takes.
        """
        others = (self._open[descriptor] for descriptor in self._large)
        return all(each.unread <= connection.unread or each.since > since for each in others)

    def _end(self, descriptor: int, why: str) -> None:
        if _is_at_port(descriptor, self.port):
            _libc.shutdown(descriptor, socket.SHUT_RDWR)  # (libzmq closes it)
            self._ledger.refuse(OversizedFrame(why), f"somebody ({self._name})")
        self.ended(descriptor)

    def _hold(self, descriptor: int, connection: _Connection) -> None:
        """Those who began first go on, so that what is unread becomes messages."""
        hold = connection.unread > self._most // 2 or (
            self._all > _MOST_UNREAD and descriptor not in tuple(islice(self._large, _GO_ON))
        )
        if hold and connection.unread >= _MUCH and _is_at_port(descriptor, self.port):
            connection.held = True
            _filter_packets(descriptor, _DROP_DATA)
        elif connection.held:
            connection.held = False
            if _is_at_port(descriptor, self.port):
                take_all_packets(descriptor)


def _is_at_port(descriptor: int, port: int) -> bool:
    """Whether it is a connection to that port: libzmq may have closed the one that it was.

    If it is another one to that port by now, that one is taken for it.
    """
    try:
        connection = socket.socket(fileno=descriptor)
    except (OSError, ValueError):  # (-1: it came by something that has none)
        return False
    try:
        connection.getpeername()
        return bool(connection.getsockname()[1] == port)
    except (OSError, IndexError):
        return False
    finally:
        connection.detach()


def _descriptor_of(frame: zmq.Frame) -> int:
    """By which connection it came; -1: by one of ZeroMQ's oldest protocols, which do not say."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _received(descriptor: int) -> int:
    """What a TCP connection has brought, bytes; 0 where that is not known.

    One call of the system, for its number may be somebody else's by the next.
    """
    told, size = ctypes.create_string_buffer(_RECEIVED_AT + 8), ctypes.c_int(_RECEIVED_AT + 8)
    _libc.getsockopt(descriptor, socket.IPPROTO_TCP, _TCP_INFO, told, ctypes.byref(size))
    return int.from_bytes(told.raw[_RECEIVED_AT:], sys.byteorder)


_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
"""From <asm-generic/socket.h>; Linux alone has them."""


def _program(*instructions: tuple[int, int, int, int]) -> bytes:
    """A packet filter in the kernel's form (<linux/filter.h>): code, two jumps, operand."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


_DROP_ALL = _program((0x06, 0, 0, 0))
_DROP_DATA = _program(
    (0x30, 0, 0, 12),  # the byte that holds the length of TCP's header, …
    (0x74, 0, 0, 4),
    (0x64, 0, 0, 2),  # … in bytes;
    (0x07, 0, 0, 0),
    (0x80, 0, 0, 0),  # if the packet is as long as that,
    (0x1D, 1, 0, 0),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),  # it acknowledges or ends something: let it in
)

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def drop_all_packets(descriptor: int) -> None:
    """Have a TCP socket take in nothing at all (Linux; elsewhere nothing happens)."""
    _filter_packets(descriptor, _DROP_ALL)


def take_all_packets(descriptor: int) -> None:
    """Undo that."""
    _filter_packets(descriptor, b"")


def _filter_packets(descriptor: int, instructions: bytes) -> None:
    if sys.platform != "linux":
        return
    held = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(held))
    option = _SO_ATTACH_FILTER if instructions else _SO_DETACH_FILTER
    _libc.setsockopt(
        descriptor, socket.SOL_SOCKET, option, ctypes.byref(program), ctypes.sizeof(program)
    )


def _resident() -> int:
    """The memory that this process takes, bytes; 0 where that is not known."""
    with suppress(OSError):
        return int(_MEMORY.read_bytes().split()[1]) * mmap.PAGESIZE
    return 0


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""From <malloc.h>."""


def return_large_blocks(least_bytes: int) -> None:
    """Have glibc give blocks of this size back to the system as soon as they are free.

    Else a flood's large messages would have this process stay as large as it was at its peak.
    """
    with suppress(AttributeError):  # (another library of C)
        _libc.mallopt(_M_MMAP_THRESHOLD, least_bytes)
        _libc.mallopt(_M_TRIM_THRESHOLD, 2 * least_bytes)  # (it no longer follows by itself)


def check_count(count: int, limit: int) -> None:
    """Raise `OversizedFrame` for a frame of too many messages: they take far more in memory."""
    if count > limit:
        raise OversizedFrame(
            f"a frame holds {count} messages; at most {limit} are allowed: send smaller frames"
        )


def check_sender(sender: int, senders: Collection[int], port_name: str) -> None:
    """Raise `ForeignFrame` for a sender that may not speak on a port."""
    if sender not in senders:
        raise unexpected(sender, port_name)


def unexpected(sender: int, port_name: str) -> ForeignFrame:
    """The error of a frame whose sender has taken a port for another."""
    who = f"server {sender}" if sender else "a client"
    return ForeignFrame(
        f"{who} is not expected on the {port_name}: correct the address that it calls"
    )
