"""Just enough of ZeroMQ's wire protocol (ZMTP 3.x, rfc.zeromq.org/spec/23) to drop whole messages.

A stream is a greeting of 64 bytes, then frames: a byte of flags, the body's size in one byte or in
eight, the body. Commands (READY, PING, PONG) are frames with a flag of their own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Kind", "Piece", "Splitter", "identity", "without_identity"]

GREETING_BYTES = 64
_MORE = 1
_LONG = 2
_COMMAND = 4
_READY = b"\x05READY"
_IDENTITY = b"Identity"


class Kind(Enum):
    """What a piece of a stream is."""

    GREETING = "greeting"
    READY = "ready"
    COMMAND = "command"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a stream that travel, or are lost, together."""

    kind: Kind
    data: bytes


@dataclass(slots=True)
class Splitter:
    """Cuts one direction of a connection into pieces; parts of a message stay together."""

    _buffer: bytearray = field(default_factory=bytearray)
    _greeting_left: int = GREETING_BYTES
    _scanned: int = 0
    """Bytes of the buffer that are earlier parts of an unfinished message."""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes; of the greeting whatever came."""
        pieces: list[Piece] = []
        if self._greeting_left:
            head = data[: self._greeting_left]
            data = data[self._greeting_left :]
            self._greeting_left -= len(head)
            pieces.append(Piece(Kind.GREETING, head))
        self._buffer += data
        while True:
            end = self._end_of_message()
            if end < 0:
                return pieces
            body = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._scanned = 0
            pieces.append(Piece(_kind(body), body))

    def _end_of_message(self) -> int:
        """Where the message at the buffer's start ends; -1 if it is not complete."""
        buffer = self._buffer
        while len(buffer) >= self._scanned + 2:
            at = self._scanned
            flags = buffer[at]
            if flags & _LONG:
                if len(buffer) < at + 9:
                    return -1
                end = at + 9 + int.from_bytes(buffer[at + 1 : at + 9], "big")
            else:
                end = at + 2 + buffer[at + 1]
            if len(buffer) < end:
                return -1
            if not flags & _MORE:
                return end
            self._scanned = end
        return -1


def _kind(frame: bytes) -> Kind:
    if not frame[0] & _COMMAND:
        return Kind.MESSAGE
    return Kind.READY if _body(frame).startswith(_READY) else Kind.COMMAND


def _body(frame: bytes) -> bytes:
    return frame[9:] if frame[0] & _LONG else frame[2:]


def _properties(ready: bytes) -> list[tuple[bytes, bytes]]:
    rest = _body(ready)[len(_READY) :]
    found = []
    while rest:
        name_end = 1 + rest[0]
        (size,) = struct.unpack_from("!I", rest, name_end)
        value_end = name_end + 4 + size
        found.append((rest[1:name_end], rest[name_end + 4 : value_end]))
        rest = rest[value_end:]
    return found


def identity(ready: bytes) -> str:
    """The routing id that a READY command carries; "" if none."""
    values = [v for name, v in _properties(ready) if name.lower() == _IDENTITY.lower()]
    return values[0].decode() if values else ""


def without_identity(ready: bytes) -> bytes:
    """The same READY command with its routing id taken out."""
    body = _READY
    for name, value in _properties(ready):
        kept = b"" if name.lower() == _IDENTITY.lower() else value
        body += bytes([len(name)]) + name + struct.pack("!I", len(kept)) + kept
    if len(body) < 256:
        return bytes([_COMMAND, len(body)]) + body
    return bytes([_COMMAND | _LONG]) + struct.pack("!Q", len(body)) + body
