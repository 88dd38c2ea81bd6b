"""The wire form of messages: a fixed header in front of a msgpack list of tagged structs.

Header, big-endian, 24 bytes:

| bytes | field | meaning |
|---|---|---|
| 4 | magic | `PAXN` |
| 2 | version | protocol version; a receiver refuses any other |
| 2 | sender | the sending server's id; 0 for a client |
| 8 | cluster | BLAKE2b of the cluster id; all zeros: "any cluster" (clients that do not know it) |
| 8 | incarnation | which disk the sender is running on; 0 for a client |
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from paxon.transport.errors import ForeignFrame, MalformedFrame, OversizedFrame

__all__ = ["FrameCodec", "HEADER_BYTES", "MAGIC", "MAX_FRAME_BYTES", "cluster_hash"]

SendT = TypeVar("SendT")
ReceiveT = TypeVar("ReceiveT")

MAGIC = b"PAXN"
_HEADER = struct.Struct("!4sHH8sQ")
HEADER_BYTES = _HEADER.size
_ANY_CLUSTER = bytes(8)
_KNOWN_HEADERS = 1024
"""How many checked headers a codec remembers, so that a flood of made-up ones costs no memory."""

MAX_FRAME_BYTES = 32 << 20
"""Nobody's setting, for all must read what any of them sends: a constant above the largest command
that a cluster may agree on (16 MiB) and what else its frame may carry."""


def cluster_hash(cluster: str) -> bytes:
    """The 8 bytes that stand for a cluster id in a header; zeros for "", any cluster."""
    if not cluster:
        return _ANY_CLUSTER
    return hashlib.blake2b(cluster.encode(), digest_size=8).digest()


class FrameCodec(Generic[SendT, ReceiveT]):
    """Encodes messages of one union of tagged msgspec structs and decodes those of another.

    Servers among each other use one union for both; a server's client port encodes replies and
    decodes requests, a client the other way round. Built once, used for every frame, by one thread
    at a time.
    """

    __slots__ = (
        "_accept_any_cluster",
        "_cluster",
        "_decode",
        "_encode_into",
        "_header",
        "_known",
        "_version",
        "max_frame_bytes",
    )

    def __init__(
        self,
        encodes: Any,
        decodes: Any,
        *,
        protocol_version: int,
        cluster: str = "",
        sender: int = 0,
        incarnation: int = 0,
        accept_any_cluster: bool = False,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        """Build encoder, decoder and header.

        Args:
            encodes: the union of structs that `encode` takes (`SendT`).
            decodes: the union of structs that `decode` gives (`ReceiveT`).
            protocol_version: sent, and demanded of what is received.
            cluster: the cluster's id; "" for a client that takes any (then nothing is compared).
            sender: this server's id; 0 for a client.
            incarnation: which disk this server is running on; 0 for a client.
            accept_any_cluster: take frames that name no cluster (a server's client port).
            max_frame_bytes: limit on a whole frame, both ways.

        Raises:
            TypeError: a union's structs cannot be told apart (each needs a `tag` of its own).
        """
        self._version = protocol_version
        self._cluster = cluster_hash(cluster)
        self._accept_any_cluster = accept_any_cluster
        self.max_frame_bytes = max_frame_bytes
        self._header = _HEADER.pack(MAGIC, protocol_version, sender, self._cluster, incarnation)
        self._encode_into = msgspec.msgpack.Encoder().encode_into
        decoder: msgspec.msgpack.Decoder[list[ReceiveT]] = msgspec.msgpack.Decoder(list[decodes])
        self._decode = decoder.decode
        # Encoding needs no type, but the receiver will: find out here that tags are missing.
        msgspec.msgpack.Decoder(list[encodes])
        self._known: dict[bytes, tuple[int, int]] = {}

    def encode(self, messages: Sequence[SendT]) -> bytes:
        """One frame with these messages. Raises `OversizedFrame`."""
        buffer = bytearray()
        self.encode_into(messages, buffer)
        return bytes(buffer)

    def encode_into(self, messages: Sequence[SendT], buffer: bytearray) -> None:
        """Like `encode`, into a buffer that may be used again and again; it takes the frame's size.

        Raises `OversizedFrame`; the buffer's content is of no use then.
        """
        buffer[:HEADER_BYTES] = self._header
        self._encode_into(messages, buffer, HEADER_BYTES)
        if len(buffer) > self.max_frame_bytes:
            raise OversizedFrame(
                f"a frame of {len(buffer)} bytes exceeds max_frame_bytes ({self.max_frame_bytes}): "
                "send less at once"
            )

    def decode(self, frame: bytes | bytearray | memoryview) -> tuple[int, int, list[ReceiveT]]:
        """Sender's id, sender's incarnation, and the messages of a frame; copies only byte fields.

        Raises `MalformedFrame`, `ForeignFrame` or `OversizedFrame`, and nothing else.
        """
        view = memoryview(frame)
        size = len(view)
        if size > self.max_frame_bytes:
            raise OversizedFrame(
                f"a frame of {size} bytes exceeds max_frame_bytes ({self.max_frame_bytes}): "
                "send smaller frames"
            )
        header = bytes(view[:HEADER_BYTES])
        origin = self._known.get(header)
        if origin is None:
            origin = self._check(header)
        try:
            return (*origin, self._decode(view[HEADER_BYTES:]))
        except Exception as error:
            # A decoder of untrusted bytes may raise DecodeError, ValidationError, RecursionError,
            # UnicodeDecodeError or what a struct's own __post_init__ raises: all mean the same.
            raise MalformedFrame(f"the frame's body cannot be decoded: {error}") from error

    def _check(self, header: bytes) -> tuple[int, int]:
        """Compare a header seen for the first time with what this codec expects."""
        if len(header) < HEADER_BYTES:
            raise MalformedFrame(
                f"a frame of {len(header)} bytes is shorter than a header ({HEADER_BYTES} bytes)"
            )
        magic, version, sender, cluster, incarnation = _HEADER.unpack(header)
        if magic != MAGIC:
            raise MalformedFrame(f"a frame begins with {magic!r} instead of {MAGIC!r}")
        who = f"server {sender}" if sender else "a client"
        if version != self._version:
            raise ForeignFrame(
                f"{who} speaks protocol version {version}, this is version {self._version}: "
                "run the same release on both sides"
            )
        anonymous = cluster == _ANY_CLUSTER and self._accept_any_cluster
        if self._cluster not in (cluster, _ANY_CLUSTER) and not anonymous:
            raise ForeignFrame(
                f"{who} belongs to another cluster (hash {cluster.hex()}, ours is "
                f"{self._cluster.hex()}): correct its cluster id or the address that it calls"
            )
        if len(self._known) >= _KNOWN_HEADERS:
            self._known.clear()
        self._known[header] = (sender, incarnation)
        return sender, incarnation
