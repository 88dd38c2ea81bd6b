"""gRPC over HTTP/2, as much as a load generator needs of it: one connection, one method.

A client that costs more than the server measures itself. Frames and header blocks are hyperframe's
and hpack's; what h2 and grpcio do beyond that for each call costs several times as much
(docs/peers.md has the figures). No sockets, no clock: bytes in, bytes out.

Headers that come back are not decoded: a call of one answer has worked exactly if a message came
before the end of its stream.
"""

from __future__ import annotations

import importlib
import itertools
import struct
from typing import Any

from paxon.bench.harness.errors import BenchError

__all__ = ["GrpcConnection", "frame_message", "library", "MAX_FRAME_BYTES"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER_BYTES = 9
_PREFIX_BYTES = 5
"""In front of each message: one byte "not compressed", four bytes of length."""
MAX_FRAME_BYTES = 16_384
"""Of a frame's payload, by default of HTTP/2; no request here is longer."""

_DEFAULT_WINDOW = 65_535
_OUR_WINDOW = 2**31 - 1
"""So large that it need not be looked after for each answer."""
_RENEW_WINDOW = 2**30
"""After so many bytes received the connection's window is opened again."""


def library(name: str) -> Any:
    """A module that only the load on etcd needs. Raises `BenchError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BenchError(
            "the load on etcd needs protobuf, hpack and hyperframe: pip install 'paxon[bench]'"
        ) from None


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
        """`method` is a path such as `/etcdserverpb.KV/Put`. Raises `BenchError`."""
        self._frames: Any = library("hyperframe.frame")
        self._refusals: Any = library("hyperframe.exceptions").HyperframeError
        encoder = library("hpack").Encoder()
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", method),
            (":authority", authority), ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        # The first block puts its fields into the server's table; all others refer to them.
        self._block: bytes = encoder.encode(fields, huffman=False)
        self._later_block: bytes = encoder.encode(fields, huffman=False)
        self.outgoing = bytearray(_PREFACE)
        window = self._frames.SettingsFrame.INITIAL_WINDOW_SIZE
        self._say(self._frames.SettingsFrame(settings={window: _OUR_WINDOW}))
        self._open_window(_OUR_WINDOW - _DEFAULT_WINDOW)
        self._streams = itertools.count(1, 2)
        self._incoming = b""
        self._answers: dict[int, bytes] = {}
        """What has come of calls that have not ended."""
        self._open: set[int] = set()
        """Calls with any number of messages, either way."""
        self._window = _DEFAULT_WINDOW
        """Bytes of DATA that the server still takes."""
        self._received = 0

    def _say(self, frame: Any) -> None:
        self.outgoing += frame.serialize()

    def _open_window(self, by: int) -> None:
        self._say(self._frames.WindowUpdateFrame(0, window_increment=by))

    def room_for(self, payload: bytes) -> bool:
        """Whether the server takes another request now; else wait for what it sends."""
        return len(payload) <= self._window

    def request(self, payload: bytes, *, stays_open: bool = False) -> int:
        """Queue a call with a framed message; returns the number that its end will have.

        One that stays open is answered by any number of messages, and may `say` more.
        """
        stream = next(self._streams)
        self._say(self._frames.HeadersFrame(stream, self._block, flags=("END_HEADERS",)))
        self._block = self._later_block
        if stays_open:
            self._open.add(stream)
        self.say(stream, payload)
        return stream

    def say(self, stream: int, payload: bytes) -> None:
        """Queue a framed message of a call.

        Only the connection's window is watched: wait for answers before saying more on one stream.
        """
        self._window -= len(payload)
        flags = () if stream in self._open else ("END_STREAM",)
        self._say(self._frames.DataFrame(stream, payload, flags=flags))

    def feed(self, data: bytes) -> list[tuple[int, bytes | None]]:
        """Take in what was received: the calls that have ended, each with its answer.

        The answer is None for a call that the server refused, or an open one that it ended. Raises
        `BenchError` if the server closes the connection or speaks no HTTP/2.
        """
        incoming = memoryview(self._incoming + data)
        ended: list[tuple[int, bytes | None]] = []
        place = 0
        try:
            while len(incoming) - place >= _FRAME_HEADER_BYTES:
                start = place + _FRAME_HEADER_BYTES
                frame, size = self._frames.Frame.parse_frame_header(incoming[place:start])
                if size > MAX_FRAME_BYTES:
                    raise BenchError("the server does not speak HTTP/2")
                if len(incoming) - start < size:
                    break
                place = start + size
                frame.parse_body(incoming[start:place])
                self._take(frame, size, ended)
        except self._refusals as error:
            raise BenchError(f"the server does not speak HTTP/2: {error}") from None
        self._incoming = bytes(incoming[place:])
        if self._received >= _RENEW_WINDOW:
            self._open_window(self._received)
            self._received = 0
        return ended

    def _take(self, frame: Any, size: int, ended: list[tuple[int, bytes | None]]) -> None:
        """One frame of the server's."""
        kinds, stream = self._frames, frame.stream_id
        match frame:
            case kinds.DataFrame():
                self._received += size
                self._answers[stream] = self._answers.get(stream, b"") + frame.data
                if stream in self._open:
                    self._split(stream, ended)
            case kinds.WindowUpdateFrame():
                if stream == 0:
                    self._window += frame.window_increment
            case kinds.SettingsFrame() if "ACK" not in frame.flags:
                self._say(kinds.SettingsFrame(flags=("ACK",)))
            case kinds.PingFrame() if "ACK" not in frame.flags:
                self._say(kinds.PingFrame(0, frame.opaque_data, flags=("ACK",)))
            case kinds.GoAwayFrame():
                reason = frame.additional_data.decode("utf-8", "replace") or "no reason given"
                raise BenchError(f"the server has closed the connection: {reason}")
            case kinds.RstStreamFrame():
                self._answers.pop(stream, None)
                ended.append((stream, None))
            case _:
                pass
        if "END_STREAM" in frame.flags:
            answer = self._answers.pop(stream, None)
            ended.append((stream, answer[_PREFIX_BYTES:] if answer else None))

    def _split(self, stream: int, found: list[tuple[int, bytes | None]]) -> None:
        """The whole messages of a call that stays open."""
        data = self._answers[stream]
        while len(data) >= _PREFIX_BYTES:
            end = _PREFIX_BYTES + int.from_bytes(data[1:_PREFIX_BYTES], "big")
            if end > len(data):
                break
            found.append((stream, data[_PREFIX_BYTES:end]))
            data = data[end:]
        self._answers[stream] = data
