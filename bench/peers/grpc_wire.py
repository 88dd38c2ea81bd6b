"""gRPC over HTTP/2, as much as a load generator needs of it: one connection, one method.

A client that costs more than the server measures itself. A general gRPC library spends about as
much CPU on a call as etcd spends on serving it (docs/peers.md has the figures), so this one does
only what has to be done: it sends a request's two frames, many requests in one piece, and finds in
the bytes that come back which calls have ended and how. No sockets, no clock: bytes in, bytes out.

The header block of the first request puts its fields into the server's table (RFC 7541, 6.2.1);
all others are six bytes that refer to them. Headers that come back are not decoded: a call of one
answer ("unary") has worked exactly if a message came before the end of its stream.
"""

from __future__ import annotations

import struct

from paxon.bench.harness.errors import BenchError

__all__ = ["GrpcConnection", "frame_message", "MAX_FRAME_BYTES"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0, 1, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
_ACK = 0x1
_END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8

_FRAME_HEADER_BYTES = 9
_PREFIX_BYTES = 5
"""In front of each message: one byte "not compressed", four bytes of length."""
MAX_FRAME_BYTES = 16_384
"""Of a frame's payload, by default of HTTP/2; no request here is longer."""

_SETTINGS_INITIAL_WINDOW_SIZE = 4
_DEFAULT_WINDOW = 65_535
_OUR_WINDOW = 2**31 - 1
"""So large that it need not be looked after for each answer."""
_RENEW_WINDOW = 2**30
"""After so many bytes received the connection's window is opened again."""


def frame_message(message: bytes) -> bytes:
    """A message as the DATA frames of gRPC carry it. Raises ValueError if one frame is too small.

    Done once for each distinct request, not once for each call.
    """
    payload = struct.pack(">BL", 0, len(message)) + message
    if len(payload) > MAX_FRAME_BYTES:
        raise ValueError(f"{len(message)} bytes do not fit one frame")
    return payload


class GrpcConnection:
    """The client's end of one connection that calls one method. Bytes go in and out by the caller.

    `outgoing` is to be sent and cleared after each call of `__init__`, `request` or `feed`.
    """

    def __init__(self, method: str, authority: str) -> None:
        """`method` is a path such as `/etcdserverpb.KV/Put`."""
        self.outgoing = bytearray(_PREFACE)
        self.outgoing += _frame(
            _SETTINGS, 0, 0, struct.pack(">HL", _SETTINGS_INITIAL_WINDOW_SIZE, _OUR_WINDOW)
        )
        self.outgoing += _frame(
            _WINDOW_UPDATE, 0, 0, struct.pack(">L", _OUR_WINDOW - _DEFAULT_WINDOW)
        )
        self._first_block: bytes | None = _first_header_block(method, authority)
        self._next_stream = 1
        self._incoming = bytearray()
        self._answers: dict[int, bytes] = {}
        """Messages of calls that have not ended."""
        self._window = _DEFAULT_WINDOW
        """Bytes of DATA that the server still takes."""
        self._received = 0

    def room_for(self, payload: bytes) -> bool:
        """Whether the server takes another request now; else wait for what it sends."""
        return len(payload) <= self._window

    def request(self, payload: bytes) -> int:
        """Queue a call with a framed message; returns the number that its end will have."""
        stream = self._next_stream
        self._next_stream += 2
        self._window -= len(payload)
        block = _LATER_HEADER_BLOCK
        if self._first_block is not None:
            block, self._first_block = self._first_block, None
        size = len(payload)
        out = self.outgoing
        out += _pack_frame_header(0, len(block), _HEADERS, _END_HEADERS, stream)
        out += block
        out += _pack_frame_header(size >> 16, size & 0xFFFF, _DATA, _END_STREAM, stream)
        out += payload
        return stream

    def feed(self, data: bytes) -> list[tuple[int, bytes | None]]:
        """Take in what was received: the calls that have ended, each with its answer.

        The answer is None for a call that the server refused. Raises `BenchError` if the server
        closes the connection or speaks no HTTP/2.
        """
        incoming = self._incoming
        incoming += data
        ended: list[tuple[int, bytes | None]] = []
        answers = self._answers
        place = 0
        available = len(incoming)
        while available - place >= _FRAME_HEADER_BYTES:
            high, low, kind, flags, stream = _unpack_frame_header(incoming, place)
            size = high << 16 | low
            if size > MAX_FRAME_BYTES:
                raise BenchError("the server does not speak HTTP/2")
            start = place + _FRAME_HEADER_BYTES
            if available - start < size:
                break
            place = start + size
            if kind == _DATA:
                self._received += size
                if flags & _PADDED:
                    raise BenchError("the server pads its answers, which this client cannot read")
                answers[stream] = answers.get(stream, b"") + bytes(incoming[start:place])
            elif kind not in (_HEADERS, _CONTINUATION):
                self._control(kind, flags, stream, bytes(incoming[start:place]))
            if (kind <= _HEADERS and flags & _END_STREAM) or kind == _RST_STREAM:
                answer = answers.pop(stream, None)
                whole = answer is not None and kind != _RST_STREAM
                ended.append((stream, answer[_PREFIX_BYTES:] if answer and whole else None))
        del incoming[:place]
        if self._received >= _RENEW_WINDOW:
            self.outgoing += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", self._received))
            self._received = 0
        return ended

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What a server says about the connection."""
        if kind == _WINDOW_UPDATE:
            if stream == 0:
                self._window += int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF
        elif kind == _PING:
            if not flags & _ACK:
                self.outgoing += _frame(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self.outgoing += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _GOAWAY:
            reason = payload[8:].decode("utf-8", "replace")
            raise BenchError(f"the server has closed the connection: {reason or 'no reason given'}")
        elif kind != _RST_STREAM:
            raise BenchError(f"the server has sent a frame of the unexpected kind {kind}")


_frame_header = struct.Struct(">BHBBL")
_pack_frame_header = _frame_header.pack
_unpack_frame_header = _frame_header.unpack_from


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _pack_frame_header(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


# --- header blocks (RFC 7541) --------------------------------------------------------------------

_METHOD_POST = b"\x83"
_SCHEME_HTTP = b"\x86"
_LATER_HEADER_BLOCK = _METHOD_POST + _SCHEME_HTTP + b"\xc1\xc0\xbf\xbe"
"""The four last fields that were put into the table have the places 62 (the last) to 65."""


def _first_header_block(method: str, authority: str) -> bytes:
    """All fields in full, four of them to be put into the server's table."""
    return (
        _METHOD_POST
        + _SCHEME_HTTP
        + b"\x44" + _text(method)  # :path is at place 4 of the fixed table
        + b"\x41" + _text(authority)  # :authority is at place 1
        + b"\x5f" + _text("application/grpc")  # content-type is at place 31
        + b"\x40" + _text("te") + _text("trailers")
    )  # fmt: skip


def _text(text: str) -> bytes:
    """A string literal, not Huffman-coded. Raises ValueError if its length takes two bytes."""
    raw = text.encode("ascii")
    if len(raw) >= 127:
        raise ValueError(f"{text!r} is too long for a header here")
    return bytes([len(raw)]) + raw
