"""The wire form of messages: a fixed header in front of a msgpack list of tagged structs.

Header, big-endian, 24 bytes:

| bytes | field | meaning |
|---|---|---|
| 4 | magic | `PAXN` |
| 2 | version | protocol version; a receiver refuses any other |
| 2 | sender | the sending server's id; 0 for a client |
| 8 | cluster | the cluster's identity; 0: none yet, or not known |
| 8 | incarnation | which disk the sender is running on; 0 for a client |
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from paxon.transport.errors import (
    ForeignCluster,
    FrameError,
    MalformedFrame,
    OtherVersion,
    OversizedFrame,
)

__all__ = ["FrameCodec", "HEADER_BYTES", "MAGIC", "MAX_FRAME_BYTES"]

SendT = TypeVar("SendT")
ReceiveT = TypeVar("ReceiveT")

MAGIC = b"PAXN"
_HEADER = struct.Struct("!4sHHQQ")
HEADER_BYTES = _HEADER.size
_KNOWN_HEADERS = 1024
"""How many checked headers a codec remembers, so that a flood of made-up ones costs no memory."""

MAX_FRAME_BYTES = 32 << 20
"""Nobody's setting, for all must read what any of them sends: a constant above the largest command
that a cluster may agree on (16 MiB) and what else its frame may carry."""


class FrameCodec(Generic[SendT, ReceiveT]):
    """Encodes messages of one union of tagged msgspec structs and decodes those of another.

    A frame counts only between members of one cluster, whose identity is told by `identify` once
    it is known. What may pass without is said at the construction: *introductions* between servers,
    and the frames of clients that know no cluster yet.

    Servers among each other use one union for both; a server's client port encodes replies and
    decodes requests, a client the other way round. Built once, used for every frame, by one thread
    at a time.
    """

    __slots__ = (
        "_accept_any_cluster",
        "_decode",
        "_encode",
        "_encode_into",
        "_header",
        "_incarnation",
        "_introductions",
        "_known",
        "_pins",
        "_sender",
        "_stranger",
        "_version",
        "identity",
        "max_frame_bytes",
    )

    def __init__(
        self,
        encodes: Any,
        decodes: Any,
        *,
        protocol_version: int,
        identity: int = 0,
        sender: int = 0,
        incarnation: int = 0,
        accept_any_cluster: bool = False,
        pins: bool = False,
        introductions: tuple[type, ...] = (),
        stranger: Callable[[int], ReceiveT] | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        """Build encoder, decoder and header.

        Args:
            encodes: the union of structs that `encode` takes (`SendT`).
            decodes: the union of structs that `decode` gives (`ReceiveT`).
            protocol_version: sent, and demanded of what is received.
            identity: the cluster's, if it is known already.
            sender: this server's id; 0 for a client.
            incarnation: which disk this server is running on; 0 for a client.
            accept_any_cluster: take frames that name no cluster, and while our own is not known
                those of any (clients, and a server's client port).
            pins: belong to the cluster of the first frame that names one, from then on (a client).
            introductions: types of messages that pass whatever the clusters of both sides.
            stranger: what to hand over in place of a frame of another cluster, given its identity.
            max_frame_bytes: limit on a whole frame, both ways.

        Raises:
            TypeError: a union's structs cannot be told apart (each needs a `tag` of its own).
        """
        self._version = protocol_version
        self._sender = sender
        self._incarnation = incarnation
        self._accept_any_cluster = accept_any_cluster
        self._pins = pins
        self._introductions = introductions
        self._stranger = stranger
        self.max_frame_bytes = max_frame_bytes
        encoder = msgspec.msgpack.Encoder()
        self._encode, self._encode_into = encoder.encode, encoder.encode_into
        decoder: msgspec.msgpack.Decoder[list[ReceiveT]] = msgspec.msgpack.Decoder(list[decodes])
        self._decode = decoder.decode
        # Encoding needs no type, but the receiver will: find out here that tags are missing.
        msgspec.msgpack.Decoder(list[encodes])
        self._known: dict[bytes, tuple[int, int]] = {}
        self.identify(identity)

    @property
    def own(self) -> int:
        """Whom frames that are encoded here name as their sender."""
        return self._sender

    def identify(self, identity: int) -> None:
        """Belong to the cluster of this identity from now on; 0: to none."""
        self.identity = identity
        self._header = _HEADER.pack(MAGIC, self._version, self._sender, identity, self._incarnation)
        self._known.clear()

    def encode(self, messages: Sequence[SendT]) -> bytes:
        """One frame with these messages. Raises `OversizedFrame`."""
        frame = self._header + self._encode(messages)
        self._check_size(len(frame))
        return frame

    def encode_into(self, messages: Sequence[SendT], buffer: bytearray) -> None:
        """Like `encode`, into a buffer that may be used again and again; it takes the frame's size.

        Raises `OversizedFrame`; the buffer's content is of no use then.
        """
        buffer[:HEADER_BYTES] = self._header
        self._encode_into(messages, buffer, HEADER_BYTES)
        self._check_size(len(buffer))

    def _check_size(self, size: int) -> None:
        if size > self.max_frame_bytes:
            raise OversizedFrame(
                f"a frame of {size} bytes exceeds max_frame_bytes ({self.max_frame_bytes}): "
                "send less at once"
            )

    @staticmethod
    def count(frame: bytes | bytearray | memoryview) -> int:
        """How many messages a frame says that it holds; 0 if it says nothing of the kind."""
        head = bytes(frame[HEADER_BYTES : HEADER_BYTES + 5])
        if not head or frame[: len(MAGIC)] != MAGIC:
            return 0
        match head[0]:
            case 0xDC:
                return int.from_bytes(head[1:3], "big")
            case 0xDD:
                return int.from_bytes(head[1:5], "big")
            case kind:
                return kind & 0x0F if kind & 0xF0 == 0x90 else 0

    def sender(self, frame: bytes | bytearray | memoryview) -> int | None:
        """The sender that a frame names; None if its header is none of this release."""
        try:
            return self._check(bytes(frame[:HEADER_BYTES]))[0]
        except FrameError:
            return None

    def decode(self, frame: bytes | bytearray | memoryview) -> tuple[int, int, list[ReceiveT]]:
        """Sender's id, sender's incarnation, and the messages of a frame; copies only byte fields.

        Raises `MalformedFrame`, `ForeignFrame` or `OversizedFrame`, and nothing else.
        """
        size = len(frame)
        if size > self.max_frame_bytes:
            raise OversizedFrame(
                f"a frame of {size} bytes exceeds max_frame_bytes ({self.max_frame_bytes}): "
                "send smaller frames"
            )
        header = bytes(frame[:HEADER_BYTES])  # (of bytes it is no further copy)
        view = memoryview(frame)[HEADER_BYTES:]
        origin = self._known.get(header)
        if origin is not None:
            sender, incarnation = origin
            try:
                return sender, incarnation, self._decode(view)
            except Exception as error:
                raise _undecodable(error) from error
        sender, identity, incarnation = self._check(header)
        if self._passes(identity):
            if len(self._known) >= _KNOWN_HEADERS:
                self._known.clear()
            self._known[header] = (sender, incarnation)
            return sender, incarnation, self._decode_body(view)
        if self._stranger is not None:
            return sender, incarnation, [self._stranger(identity)]
        return sender, incarnation, self._introduced(sender, identity, self._decode_body(view))

    def _decode_body(self, view: memoryview) -> list[ReceiveT]:
        try:
            return self._decode(view)
        except Exception as error:
            raise _undecodable(error) from error

    def _check(self, header: bytes) -> tuple[int, int, int]:
        """Sender, cluster and incarnation in a header that is not known yet."""
        if len(header) < HEADER_BYTES:
            raise MalformedFrame(
                f"a frame of {len(header)} bytes is shorter than a header ({HEADER_BYTES} bytes)"
            )
        magic, version, sender, identity, incarnation = _HEADER.unpack(header)
        if magic != MAGIC:
            raise MalformedFrame(f"a frame begins with {magic!r} instead of {MAGIC!r}")
        if version != self._version:
            raise OtherVersion(
                f"{_who(sender)} speaks protocol version {version}, this is version "
                f"{self._version}: run the same release on both sides"
            )
        return sender, identity, incarnation

    def _passes(self, identity: int) -> bool:
        """Whether frames of this cluster count here."""
        if identity == self.identity:
            return True
        if self._pins and not self.identity:
            self.identify(identity)
            return True
        return self._accept_any_cluster and not (identity and self.identity)

    def _introduced(self, sender: int, identity: int, messages: list[ReceiveT]) -> list[ReceiveT]:
        """The messages that pass from a frame of another cluster.

        Where either belongs to none they are taken out of what else there is; else they come alone.
        """
        kept = [message for message in messages if isinstance(message, self._introductions)]
        if kept and (not identity or len(kept) == len(messages)):
            return kept
        if not self.identity and self._introductions:
            return kept
        raise ForeignCluster(_who(sender), identity, self.identity)


def _undecodable(error: Exception) -> MalformedFrame:
    """The one error for whatever a decoder of untrusted bytes raises.

    That may be DecodeError, ValidationError, RecursionError, UnicodeDecodeError, or what a struct's
    own __post_init__ raises: all mean the same.
    """
    return MalformedFrame(f"the frame's body cannot be decoded: {error}")


def _who(sender: int) -> str:
    return f"server {sender}" if sender else "a client"
