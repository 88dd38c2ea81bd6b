"""The server's end of one HTTP/2 connection. No I/O: bytes in, bytes out.

Header blocks are hpack's work. The frames around them are done here, as gRPC uses them: for a call
of one request and one answer h2 takes some 300 µs, grpcio as much, and this 50 (docs/etcd.md).
Answers use no dynamic table, so their header blocks are constants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from paxon.kvstore.etcd.messages import Missing

__all__ = [
    "MOST_CALLS", "PREFACE", "ConnectionFault", "Http2", "Receiver", "Stream", "Tally",
    "header_block",
]  # fmt: skip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 3, 4, 5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR = 6, 7, 9
ENHANCE_YOUR_CALM = 11

_HEAD_BYTES = 9
_MAX_FRAME = 16_384
_MAX_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_STREAM_WINDOW = 4 << 20
"""More than one message may have, so that those of one request need no more."""
_CONNECTION_WINDOW = 16 << 20
"""What a client may have sent of messages that are not complete."""
_MAX_STREAMS = 4096
MOST_CALLS = 50_000
"""Under way on all connections: beyond it, whoever calls is told to try again."""
_MAX_HEADERS = 16 << 10
"""Bytes of one header block, and of what it decodes to."""
_MAX_RESETS = 1000
"""So many more calls than were answered a client may take back."""
_MAX_BLOCKED = 192 << 20
"""Bytes of answers that a client did not take yet: more than one may have."""
_MOST_BLOCKED, _SOME_BLOCKED = 1 << 30, 1 << 20
"""The same of all clients; beyond it nobody may be owed more than a little."""
_MAX_OUTGOING = 256 << 10
"""Bytes that are made ready for the socket at a time; what is left waits as if for a window."""
_INITIAL_WINDOW = 4
"""A setting: the window that streams begin with."""
_OUR_SETTINGS = (
    (3).to_bytes(2, "big") + _MAX_STREAMS.to_bytes(4, "big")
    + _INITIAL_WINDOW.to_bytes(2, "big") + _STREAM_WINDOW.to_bytes(4, "big")
    + (6).to_bytes(2, "big") + _MAX_HEADERS.to_bytes(4, "big")
)  # fmt: skip

Headers = dict[bytes, bytes]


class ConnectionFault(Exception):
    """The client does not keep to HTTP/2, or to what is allowed: its connection ends."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Tally:
    """The counts of all connections together."""

    def __init__(self) -> None:
        self.calls = 0
        """Requests that are not answered yet."""
        self.blocked = 0
        """Bytes of answers that wait for those who asked."""

    def has_room(self, size: int) -> bool:
        """Whether a client may be owed so many bytes: many only if all are not owed too many."""
        return size <= _SOME_BLOCKED or self.blocked + size <= _MOST_BLOCKED


class Receiver(Protocol):
    """The handler of one request."""

    def data(self, data: bytes) -> None:
        """More of its body; give it back with `Stream.consumed`."""

    def end(self) -> None:
        """Its body is complete."""

    def aborted(self) -> None:
        """The client wants no answer any more."""

    def writable(self) -> None:
        """All that was to be sent has left."""


def _integer(value: int, bits: int) -> bytes:
    """A number of hpack's, where all bits of its first byte besides the prefix are zero."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    value -= most
    out = bytearray((most,))
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def header_block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block whose fields enter no table, so that it is the same at any time."""
    block = b""
    for name, value in fields:
        block += b"\0" + _integer(len(name), 7) + name + _integer(len(value), 7) + value
    return block


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"%b%c%c%b%b" % (
        len(payload).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), payload,
    )  # fmt: skip


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


class Stream:
    """One request and its answer."""

    __slots__ = ("_connection", "_ending", "_pending", "_room", "closed", "credit", "headers",
                 "id", "open", "receiver")  # fmt: skip

    def __init__(self, connection: Http2, number: int, headers: Headers) -> None:
        self._connection = connection
        self.id = number
        self.headers = headers
        self.credit = 0
        """Bytes that the client still takes, beyond the window that all streams begin with."""
        self._room = _STREAM_WINDOW
        """Bytes that it may still send."""
        self._pending: deque[memoryview] | None = None
        """What waits for the client's windows."""
        self._ending: bytes | None = None
        """The block of trailers that comes after it."""
        self.open = True
        """The client may send more."""
        self.closed = False
        self.receiver: Receiver | None = None

    @property
    def window(self) -> int:
        """Bytes that the client still takes."""
        return self._connection.initial_window + self.credit

    @property
    def blocked(self) -> bool:
        """Whether something waits for the client."""
        return self._pending is not None or self._connection.paused

    def begin(self, block: bytes) -> None:
        """Send the head of the answer."""
        if not self.closed:
            self._connection.write(_frame(_HEADERS, _END_HEADERS, self.id, block))

    def send(self, data: bytes) -> None:
        """Send a part of the answer's body."""
        if self.closed or not data:
            return
        rest = memoryview(data)  # (what waits is cut off often: it must not be copied each time)
        if self._pending is None:
            rest = self._connection.write_data(self, rest)
        if rest:
            if self._pending is None:
                self._pending = deque()
                self._connection.blocked[self.id] = self
            self._pending.append(rest)
            self._connection.count_blocked(len(rest))

    def finish(self, block: bytes) -> None:
        """End the answer with a block of headers or trailers."""
        if self.closed:
            return
        if self._pending is not None:
            self._ending = block
            return
        connection = self._connection
        connection.write(_frame(_HEADERS, _END_HEADERS | _END_STREAM, self.id, block))
        if self.open:  # an answer before the end of the request: no more of it, please
            connection.write(_frame(_RST_STREAM, 0, self.id, NO_ERROR.to_bytes(4, "big")))
        connection.forget(self)

    def answer(self, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole answer: at once, unless it can travel with others of this connection."""
        connection = self._connection
        connection.holds = not connection.outgoing and connection.streams == 1
        try:
            self.begin(head)
            self.send(data)
            self.finish(trailers)
        finally:
            if connection.holds:
                connection.holds = False
                connection.flush()

    def go_on(self) -> bool:
        """Send what waits, as the windows allow; whether all of it has left."""
        pending = self._pending
        while pending:
            data = pending.popleft()
            rest = self._connection.write_data(self, data)
            self._connection.count_blocked(len(rest) - len(data))
            if rest:
                pending.appendleft(rest)
                return False
        self._pending = None
        if self._ending is not None:
            self.finish(self._ending)
        return True

    def drop_pending(self) -> None:
        """Nobody reads it."""
        if self._pending is not None:
            self._connection.count_blocked(-sum(map(len, self._pending)))
            self._pending = None

    def give_up(self, fault: ConnectionFault) -> None:
        """End the connection."""
        self._connection.fault = fault.with_traceback(None)  # (its frames hold the answer)
        self._connection.plan()

    def took(self, size: int) -> None:
        """So much has come. Raises `ConnectionFault`."""
        self._room -= size
        if self._room < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the stream's window takes")

    def consumed(self, size: int) -> None:
        """So much of what came is no longer held: the client may send as much again."""
        self._connection.consumed(size)
        if self.open and not self.closed and self._room < _STREAM_WINDOW // 2:
            by = _STREAM_WINDOW - self._room
            self._connection.write(_frame(_WINDOW_UPDATE, 0, self.id, by.to_bytes(4, "big")))
            self._room = _STREAM_WINDOW


class Http2:
    """One connection. `outgoing` is to be sent, and cleared, after each call."""

    def __init__(
        self, accept: Callable[[Stream], Receiver], plan: Callable[[], None],
        flush: Callable[[], None], tally: Tally,
    ) -> None:  # fmt: skip
        """Args:

        accept: is given each request with its headers, and says what becomes of it.
        plan: is called when there is something to send, to which more may come.
        flush: is called to send it now.
        tally: counts the requests of all connections.
        """
        try:
            import hpack  # noqa: PLC0415 (part of an extra)
        except ImportError:
            raise Missing(
                "etcd's API needs protobuf, hpack and h11: pip install 'paxon[etcd]'"
            ) from None
        self._accept = accept
        self.plan, self.flush = plan, flush
        self._tally = tally
        self.holds = False
        """What is written will be flushed anyway: there is nothing to plan."""
        self.fault: ConnectionFault | None = None
        """Why the connection has to end, found out while nothing was received."""
        self._decoder: Any = hpack.Decoder(max_header_list_size=_MAX_HEADERS)
        self._decoder.max_allowed_table_size = 4096
        self._faults: Any = hpack.HPACKError
        self._known: dict[bytes, Headers] = {}
        """Blocks of indexed fields alone, decoded, as long as the table stays as it is."""
        self.outgoing = bytearray()
        self.paused = False
        """The socket takes no more for now."""
        self.moved = 0
        """Bytes of answers that were made ready for the socket."""
        self._held_back = False
        """Something waits for nothing but the socket."""
        self.blocked: dict[int, Stream] = {}
        """Streams with something that waits for the client's windows, in turn."""
        self.blocked_bytes = 0
        """Of what they hold."""
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._resets = 0
        self._incoming = b""
        self._greeted = False
        self._window = _DEFAULT_WINDOW
        self.initial_window = _DEFAULT_WINDOW
        """What the client takes of a stream before it says more: for all streams, old ones too."""
        self._opened = False
        """Windows have opened of which it is not known whose answers go on."""
        self._room = _CONNECTION_WINDOW
        self._consumed = 0
        self._head: tuple[int, int, bytearray] | None = None
        """Stream, flags and block of headers that are not complete."""
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            _DATA: self._on_data,
            _HEADERS: self._on_headers,
            _RST_STREAM: self._on_reset,
            _SETTINGS: self._on_settings,
            _PUSH_PROMISE: self._on_promise,
            _PING: self._on_ping,
            _WINDOW_UPDATE: self._on_window,
            _CONTINUATION: self._on_continuation,
        }
        self.write(_frame(_SETTINGS, 0, 0, _OUR_SETTINGS))
        self._open_window(_CONNECTION_WINDOW - _DEFAULT_WINDOW)

    # --- sending -----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Have bytes sent."""
        if not self.outgoing and not self.holds:
            self.plan()
        self.outgoing += data

    def write_data(self, stream: Stream, data: memoryview) -> memoryview:
        """Send as much of a stream's data as windows and socket allow; what is left."""
        window = min(self._window, self.initial_window + stream.credit, len(data))
        room = 0 if self.paused else max(0, _MAX_OUTGOING - len(self.outgoing))
        if window > room:
            window, self._held_back = room, True
        at = 0
        if window > 0 and not self.outgoing and not self.holds:
            self.plan()
        while at < window:
            part = bytes(data[at : min(at + _MAX_FRAME, window)])
            self.outgoing += _frame(_DATA, 0, stream.id, part)
            at += len(part)
        self._window -= at
        stream.credit -= at
        self.moved += at
        return data[at:]

    def count_blocked(self, size: int) -> None:
        """So much more (or less) waits for the client. Raises `ConnectionFault`."""
        self.blocked_bytes += size
        self._tally.blocked += size
        if size > 0 and (
            self.blocked_bytes > _MAX_BLOCKED
            or (self.blocked_bytes > _SOME_BLOCKED and self._tally.blocked > _MOST_BLOCKED)
        ):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "answers are not read")

    def sent(self) -> None:
        """What was outgoing is the socket's: more may follow."""
        if self._held_back and not self.paused:
            self._go_on()

    def _open_window(self, by: int) -> None:
        self.write(_frame(_WINDOW_UPDATE, 0, 0, by.to_bytes(4, "big")))

    def consumed(self, size: int) -> None:
        """So much of what came is no longer held."""
        self._consumed += size
        if self._consumed >= _CONNECTION_WINDOW // 4:
            self._open_window(self._consumed)
            self._room += self._consumed
            self._consumed = 0

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        stream.closed = True
        stream.receiver = None  # (what they hold is free at once, not when garbage is collected)
        stream.drop_pending()
        if self._streams.pop(stream.id, None) is not None:
            self._tally.calls -= 1
        self.blocked.pop(stream.id, None)
        self._resets = max(0, self._resets - 1)

    def resumed(self) -> None:
        """The socket takes more again."""
        self.paused = False
        self._go_on()
        for stream in list(self._streams.values()):
            if stream.receiver is not None and not stream.blocked:
                stream.receiver.writable()

    def _go_on(self) -> None:
        """Windows have opened, or the socket takes more: each stream in its turn."""
        self._held_back = False
        for number, stream in list(self.blocked.items()):
            if self._window <= 0 or self._held_back:
                return
            if self.initial_window + stream.credit > 0:
                self._go_on_with(number, stream)

    def _go_on_with(self, number: int, stream: Stream) -> None:
        if stream.go_on():
            self.blocked.pop(number, None)
            if stream.receiver is not None and not stream.closed and not self.paused:
                stream.receiver.writable()

    def go_away(self, fault: ConnectionFault) -> None:
        """Say why the connection ends."""
        body = self._last.to_bytes(4, "big") + fault.code.to_bytes(4, "big")
        self.write(_frame(_GOAWAY, 0, 0, body + str(fault).encode()))

    def lost(self) -> None:
        """The connection has ended."""
        for stream in list(self._streams.values()):
            self._abort(stream)

    def _abort(self, stream: Stream) -> None:
        receiver = stream.receiver
        self.forget(stream)
        if receiver is not None:
            receiver.aborted()

    @property
    def streams(self) -> int:
        """Requests that are not answered yet."""
        return len(self._streams)

    # --- receiving ---------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take in what came. Raises `ConnectionFault`."""
        buffer = self._incoming + data if self._incoming else data
        at, size = 0, len(buffer)
        if not self._greeted:
            if not buffer.startswith(PREFACE):
                if len(buffer) < len(PREFACE) and PREFACE.startswith(buffer):
                    self._incoming = buffer
                    return
                raise ConnectionFault(PROTOCOL_ERROR, "this is not HTTP/2")
            self._greeted, at = True, len(PREFACE)
        while size - at >= _HEAD_BYTES:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if length > _MAX_FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is too long")
            start = at + _HEAD_BYTES
            if size - start < length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : start], "big") & _MAX_WINDOW
            at = start + length
            if self._head is not None and kind != _CONTINUATION:
                raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
            handler = self._handlers.get(kind)
            if handler is not None:  # (others mean nothing here, or nothing at all)
                handler(flags, number, buffer[start:at])
        self._incoming = buffer[at:]
        if self._opened:  # (once for all that came: a window of a byte costs its sender more)
            self._opened = False
            self._go_on()

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._room -= size
        if self._room < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the window takes")
        stream = self._streams.get(number)
        if stream is None or not stream.open:
            if number == 0 or number > self._last or stream is not None:
                raise ConnectionFault(PROTOCOL_ERROR, "data of no request")
            self.consumed(size)  # of one that was answered or reset meanwhile
            return
        stream.took(size)
        data = _without_padding(flags, payload)
        if size != len(data):
            stream.consumed(size - len(data))
        assert stream.receiver is not None
        if data:
            stream.receiver.data(data)
        if flags & _END_STREAM and not stream.closed:
            stream.open = False
            stream.receiver.end()

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a request has an even number")
        block = _without_padding(flags, payload)
        if flags & _PRIORITY:
            if len(block) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is too short")
            block = block[5:]
        if flags & _END_HEADERS:
            self._headers(number, flags, block)
        else:
            self._head = number, flags, bytearray(block)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._head is None or self._head[0] != number:
            raise ConnectionFault(PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, block = self._head
        block += payload
        if len(block) > _MAX_HEADERS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & _END_HEADERS:
            self._head = None
            self._headers(number, first_flags, bytes(block))

    def _headers(self, number: int, flags: int, block: bytes) -> None:
        headers = self._decode(block)
        stream = self._streams.get(number)
        if stream is not None:  # trailers
            if not flags & _END_STREAM or not stream.open:
                raise ConnectionFault(PROTOCOL_ERROR, "a request has two heads")
            stream.open = False
            assert stream.receiver is not None
            stream.receiver.end()
            return
        if number <= self._last:
            raise ConnectionFault(STREAM_CLOSED, "a request has the number of an earlier one")
        self._last = number
        if len(self._streams) >= _MAX_STREAMS or self._tally.calls >= MOST_CALLS:
            self.write(_frame(_RST_STREAM, 0, number, REFUSED_STREAM.to_bytes(4, "big")))
            return
        stream = self._streams[number] = Stream(self, number, headers)
        self._tally.calls += 1
        receiver = self._accept(stream)
        if stream.closed:
            return
        stream.receiver = receiver
        if flags & _END_STREAM:
            stream.open = False
            receiver.end()

    def _decode(self, block: bytes) -> Headers:
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            fields = self._decoder.decode(block, raw=True)
        except self._faults as error:
            raise ConnectionFault(
                COMPRESSION_ERROR, f"a header block is malformed: {error}"
            ) from None
        except Exception as error:  # (whatever a library's bug may raise on a stranger's bytes)
            raise ConnectionFault(COMPRESSION_ERROR, type(error).__name__) from None
        headers = {bytes(name): bytes(value) for name, value in fields}
        if block and min(block) >= 0x80 and 0xFF not in block:
            self._known[block] = headers  # nothing but places of tables, which stay
            if len(self._known) > 256:
                self._known.clear()
        else:
            self._known.clear()
        return headers

    def _on_reset(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame has a wrong length")
        if number == 0 or number > self._last:
            raise ConnectionFault(PROTOCOL_ERROR, "a reset of no request")
        stream = self._streams.get(number)
        if stream is not None:
            self._resets += 2  # (`forget` takes one back)
            if self._resets > _MAX_RESETS:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too many requests are taken back")
            self._abort(stream)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise ConnectionFault(PROTOCOL_ERROR, "settings of a stream")
        if len(payload) % 6 or (flags & _ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame has a wrong length")
        if flags & _ACK:
            return
        for at in range(0, len(payload), 6):
            name = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == _INITIAL_WINDOW:
                if value > _MAX_WINDOW:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "a window is too large")
                self._opened |= value > self.initial_window
                self.initial_window = value
        self.write(_frame(_SETTINGS, _ACK, 0, b""))

    def _on_promise(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "a client promises nothing")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise ConnectionFault(PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame has a wrong length")
        if not flags & _ACK:
            self.write(_frame(_PING, _ACK, 0, payload))

    def _on_window(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame has a wrong length")
        by = int.from_bytes(payload, "big") & _MAX_WINDOW
        if by == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "a window is opened by nothing")
        if number == 0:
            self._opened |= self._window <= 0  # (else streams wait for windows of their own)
            self._window += by
            if self._window > _MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a window is too large")
            return
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last:
                raise ConnectionFault(PROTOCOL_ERROR, "a window of no request")
            return
        stream.credit += by
        if stream.window > _MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "a window is too large")
        if number in self.blocked and self._window > 0:
            self._go_on_with(number, stream)
