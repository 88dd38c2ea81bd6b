"""What every endpoint counts, and how it speaks of refused frames without flooding the log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from paxon.transport.errors import ForeignFrame, FrameError, OversizedFrame
from paxon.transport.log import logger
from paxon.transport.options import EndpointOptions

__all__ = [
    "Counters",
    "Ledger",
    "Share",
    "check_count",
    "check_sender",
    "unexpected",
    "COMPLAINT_INTERVAL",
]

T = TypeVar("T")

COMPLAINT_INTERVAL = 5.0
"""Seconds between two log lines of the same kind about the same peer."""
_WASTED_FRAMES = 2
"""After so many frames of clients that were thrown away a burst takes no more of them. A ROUTER
gives those of all in turns: whoever else had one has given it, and need not wait for the rest."""
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

    __slots__ = ("_monotonic", "_recent", "counters")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.counters = Counters()
        self._monotonic = monotonic
        self._recent: dict[tuple[str, str], _Complaint] = {}

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self.counters)

    def sent(self, messages: int, size: int, times: int = 1) -> None:
        """Count a frame that left, perhaps for several."""
        counters = self.counters
        counters.frames_sent += times
        counters.messages_sent += times * messages
        counters.bytes_sent += times * size

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

    def _forget(self, now: float) -> None:
        """Drop the pairs that have been quiet long enough to get a line again anyway."""
        self._recent = {
            key: complaint
            for key, complaint in self._recent.items()
            if now - complaint.last < COMPLAINT_INTERVAL
        }


class Share:
    """What clients have given to one burst, so that it takes no more than is good for all."""

    __slots__ = ("_frames", "_messages_left", "_most", "_wasted")

    def __init__(self, options: EndpointOptions) -> None:
        self._frames: dict[bytes, int] = {}
        self._most = options.client_burst_frames
        self._wasted = 0
        self._messages_left = options.client_burst_messages

    def is_spent(self, client: bytes, messages: int) -> bool:
        """Count a frame; whether it was the burst's last."""
        frames = self._frames[client] = self._frames.get(client, 0) + 1
        self._messages_left -= messages
        return frames >= self._most or self._messages_left <= 0

    def is_wasted(self) -> bool:
        """Count a frame that is thrown away; whether it was the burst's last."""
        self._wasted += 1
        return self._wasted >= _WASTED_FRAMES


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
